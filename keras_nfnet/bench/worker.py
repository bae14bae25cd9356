"""One runtime in a process of its own, which does as it is told by lines.

Run as a file, not as a module: importing the package would load Keras beside
the runtime and count as its memory. The argument is JSON, `{"runtime": a name
in LOADERS, "seen": "pixels" or "normalized", "shape": of one image, "first":
images of the first answer (1), **what the loader takes}`. Lines of JSON come
in and are answered on the standard output: `{"batch", "seconds", "least",
"warm"}` by the seconds of runs; `{"images", "to"}`, two `.npy` files, by
writing what the network says of the images.
"""

import contextlib
import json
import os
import sys
import time

BEGAN = time.perf_counter()
MEAN = (123.675, 116.28, 103.53)  # ImageNet's, of 0–255.
DEVIATION = (58.395, 57.12, 57.375)


def openvino(path, threads, hint="f32"):
    import openvino

    yield "imported"
    compiled = openvino.Core().compile_model(
        path,
        "CPU",
        {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads},
    )
    request = compiled.create_infer_request()
    yield lambda x: request.infer([x])[0]


def onnxruntime(path, threads):
    import onnxruntime

    yield "imported"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    (images,) = (value.name for value in session.get_inputs())
    yield lambda x: session.run(None, {images: x})[0]


def litert(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    yield "imported"
    interpreter = Interpreter(path, num_threads=threads)
    serve = interpreter.get_signature_runner()
    (output,) = serve.get_output_details()
    yield lambda x: serve(images=x)[output]


def saved_model(path, threads):
    import tensorflow as tf

    _limit(tf, threads)
    yield "imported"
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]

    def run(x, loaded=loaded):
        # The log of the softmax, up to a number for each image.
        return tf.math.log(serve(images=tf.constant(x))["probabilities"])

    yield lambda x: run(x).numpy()


def keras(path, threads, variant=None, call="predict", dtype="float32"):
    """A `.keras` file, or a variant with a file's values. On TensorFlow."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow as tf

    _limit(tf, threads)
    import keras

    import keras_nfnet

    yield "imported"
    keras.config.set_dtype_policy(dtype)
    if variant is None:
        model = keras.saving.load_model(path)
    else:
        model = keras_nfnet.NFNet(
            variant, weights=path, classifier_activation=None
        )
    if call == "predict":
        yield lambda x: model.predict(x, verbose=0)
        return
    model = keras_nfnet.fold(model)
    function = tf.function(lambda x: model(x, training=False))
    yield lambda x: tf.cast(function(tf.constant(x)), tf.float32).numpy()


def timm(model, path, threads, compiled=None, autocast=False):
    """timm's network; `compiled`: arguments of `torch.compile`."""
    import timm
    import torch

    yield "imported"
    torch.set_num_threads(threads)
    network = timm.create_model(model, checkpoint_path=path).eval()
    network = network.to(memory_format=torch.channels_last)
    if compiled is not None:
        torch._inductor.config.freezing = compiled.pop("frozen", False)
        network = torch.compile(network, **compiled)

    def run(x):
        with (
            torch.inference_mode() if compiled is None else torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16)
            if autocast
            else contextlib.nullcontext(),
        ):
            x = torch.from_numpy(x)
            x = x.contiguous(memory_format=torch.channels_last)
            return network(x).float().numpy()

    yield run


_ALL = (openvino, onnxruntime, litert, saved_model, keras, timm)
LOADERS = {load.__name__: load for load in _ALL}


def _limit(tf, threads):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def seen(pixels, how):
    """What the network is given for pixels 0–255, channels last."""
    import numpy as np

    if how == "pixels":
        return pixels
    x = (pixels - np.float32(MEAN)) / np.float32(DEVIATION)
    if how == "normalized channels first":
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x, "float32")


def timed(run, x, seconds, least, warm):
    """Seconds of each run, for as long as asked, after those to warm up."""
    for _ in range(warm):
        run(x)
    found, end = [], time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        started = time.perf_counter()
        run(x)
        found.append(time.perf_counter() - started)
    return found


def peak_megabytes():
    """Largest resident memory of this process; `None` where not known."""
    try:
        with open("/proc/self/status") as file:
            (line,) = (row for row in file if row.startswith("VmHWM"))
    except (OSError, ValueError):
        return None
    return int(line.split()[1]) / 1000


def main():
    # What the runtimes print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    import numpy as np

    load, how, shape = (spec.pop(key) for key in ("runtime", "seen", "shape"))
    first = spec.pop("first", 1)
    random = np.random.default_rng(0)

    def images(batch):
        pixels = random.uniform(0, 255, (batch, *shape)).astype("float32")
        return seen(pixels, how)

    start = {}
    steps = LOADERS[load](**spec)
    next(steps)
    start["imported"] = time.perf_counter() - BEGAN
    run = next(steps)
    start["loaded"] = time.perf_counter() - BEGAN
    run(images(first))
    start["answered"] = time.perf_counter() - BEGAN
    start["megabytes"] = peak_megabytes()
    print(json.dumps(start), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        if "images" in asked:
            pixels = np.load(asked["images"])
            outputs = [run(seen(x[None], how))[0] for x in pixels]
            np.save(asked["to"], np.stack(outputs).astype("float32"))
            answer = None
        else:
            x = images(asked.pop("batch"))
            answer = timed(run, x, **asked)
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    # What lies beside this file is not what the runtimes are to import.
    beside = os.path.dirname(os.path.abspath(__file__))
    sys.path = [path for path in sys.path if path != beside]
    main()
