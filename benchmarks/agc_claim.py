"""Does AGC carry an NF network to large batches? The paper's claim, tried.

Three networks on the handwritten digits: an NFNet with adaptive gradient
clipping (AGC), the same without, and its batch-normalized twin
(`keras_nfnet.diagnostics.batch_normalized_twin`), over batch sizes at the
linear scaling rule: learning rate = base · batch / 256. All three have the
same base rates, epochs, warm-up, schedule, momentum, weight decay, loss,
images and order of the images; both NFNets start from the same values.
Nothing is chosen per network or batch.

The two base rates were fixed before the sweep began: 0.1 is the paper's, 0.8
that of a first try of this project. All else is the recipe `digits`, but
for speed: the pictures' own 8 pixels in place of 32, and two stages less,
so that the last stage has the recipe's 1×1 pixels; and no dropout,
stochastic depth and augmentation, so that a run has no randomness but its
initial values and the order of the images.

A run diverged if a loss, a gradient or a logit was not finite; it ends
there. (The optimizer would skip such a step, with AGC and without; here
neither is helped by that.)

126 runs of one thread each, two at a time. Finished runs are kept in
agc_claim.jsonl, one a line; the same command goes on where it was stopped.

    python benchmarks/agc_claim.py
    python benchmarks/agc_claim.py --base-rates 0.4   # another base rate
    python benchmarks/agc_claim.py --plot-only

Reference: arXiv:2102.06171, section 4, figure 2.
"""

import argparse
import functools
import json
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The workers' step is TensorFlow's, see `Trainer`.
os.environ["KERAS_BACKEND"] = "tensorflow"

import agc_claim_report as report
import numpy as np
from tqdm import tqdm

NETWORKS = ("agc", "no_agc", "bn")
BATCHES = (16, 32, 64, 128, 256, 512, 1024)
SEEDS = (0, 1, 2)
BASE_RATES = (0.1, 0.8)
RESULTS = Path(__file__).parent / "results"
# Batch normalization's scales and shifts decay as little as the NFNet's
# gains and biases.


def settings(quick=False, epochs=None):
    """What all runs of a sweep share, as JSON values."""
    from keras_nfnet.training import recipes

    digits = recipes.recipe("digits")
    model = digits.model
    widths, depths, group_width = (16, 32), (1, 1), 8
    if not quick:
        widths, depths = model.widths[:2], model.depths[:2]
        group_width = model.group_width
    epochs = epochs or (3 if quick else digits.epochs)
    return {
        "data": digits.data,
        "size": digits.size // 4,
        "widths": list(widths),
        "depths": list(depths),
        "group_width": group_width,
        "epochs": epochs,
        # The recipe's share of the run, so that other epochs warm up too.
        "warmup_epochs": digits.warmup_epochs * epochs / digits.epochs,
        "momentum": digits.momentum,
        "weight_decay": digits.weight_decay,
        "clipping": digits.clipping,
        "eps": digits.eps,
        "label_smoothing": digits.label_smoothing,
    }


@functools.cache
def digits(data_dir, size):
    """Both splits as arrays: images (normalized), one-hot labels."""
    from keras_nfnet.data.pipeline import evaluation_dataset

    arrays = []
    for split in ("train", "test"):
        dataset, _ = evaluation_dataset(
            "nf_digits",
            split,
            size=size,
            batch_size=2048,  # More than there are: one batch.
            margin=0,
            data_dir=data_dir,
        )
        arrays.extend(next(iter(dataset)))
    return arrays


class Trainer:
    """One network with its step, traced once for all batches and seeds.

    Args:
        network: One of `NETWORKS`.
        setting: What `settings` returns.
        data_dir: Where TFDS keeps data sets; `None` for its default.
    """

    def __init__(self, network, setting, data_dir):
        import tensorflow as tf

        from keras_nfnet import SGDAGC

        self.network = network
        self.setting = setting
        self.data = digits(data_dir, setting["size"])
        self.model = self._build()
        variables = self.model.trainable_variables
        self.optimizer = SGDAGC(
            0.0,  # Set before each step.
            momentum=setting["momentum"],
            weight_decay=setting["weight_decay"],
            clipping=setting["clipping"] if network == "agc" else None,
            eps=setting["eps"],
        )
        self.optimizer.build(variables)
        shapes = [
            tf.TensorSpec((None, *array.shape[1:])) for array in self.data[:2]
        ]

        @tf.function(input_signature=shapes)
        def step(images, labels):
            with tf.GradientTape() as tape:
                loss = self._loss(self.model(images, training=True), labels)
            gradients = tape.gradient(loss, variables)
            self.optimizer.apply(gradients, variables)
            total = tf.add_n([tf.reduce_sum(g) for g in gradients])
            return loss + 0.0 * total  # NaN if a gradient is not finite.

        self.step = step
        self.initial_values = functools.cache(self.initial_values)

    def _build(self):
        from keras_nfnet import NFNet, NFNetConfig

        config = NFNetConfig(
            tuple(self.setting["widths"]),
            tuple(self.setting["depths"]),
            group_width=self.setting["group_width"],
        )
        shape = (self.setting["size"], self.setting["size"], 3)
        classes = self.data[1].shape[-1]
        if self.network == "bn":
            from keras_nfnet.diagnostics import batch_normalized_twin

            return batch_normalized_twin(config, shape, classes)
        return NFNet(
            config,
            weights=None,
            input_shape=shape,
            classes=classes,
            classifier_activation=None,
        )

    def initial_values(self, seed):
        """What a run of this seed starts from, as a list of arrays."""
        import keras

        keras.utils.set_random_seed(seed)
        return self._build().get_weights()

    def _loss(self, logits, labels):
        import keras

        return keras.ops.mean(
            keras.losses.categorical_crossentropy(
                labels,
                logits,
                from_logits=True,
                label_smoothing=self.setting["label_smoothing"],
            )
        )

    def run(self, base_rate, batch, seed):
        """Trains once from a seed's initial values and evaluates.

        Args:
            base_rate: Peak rate at batch 256.
            batch: Examples of a batch.
            seed: Of the initial values and of the order of the images.

        Returns:
            A dictionary of JSON values. `accuracy` and `loss` on the
            held-out digits are `None` where the run diverged: a loss, a
            gradient or a logit that is not finite, at the step
            `diverged_at`.
        """
        import tensorflow as tf

        from keras_nfnet import WarmupCosine

        images, labels, test_images, test_labels = self.data
        self.model.set_weights(self.initial_values(seed))
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        examples = len(labels)
        steps = max(1, round(self.setting["epochs"] * examples / batch))
        peak = base_rate * batch / 256
        schedule = WarmupCosine(
            peak,
            total_steps=steps,
            warmup_steps=round(
                self.setting["warmup_epochs"] * examples / batch
            ),
        )
        rates = schedule(np.arange(steps)).numpy()
        # An endless stream of shuffled epochs, cut into batches: the same
        # for every network and batch size.
        generator = np.random.default_rng(seed)
        order = np.concatenate(
            [
                generator.permutation(examples)
                for _ in range(-(-steps * batch // examples))
            ]
        )
        diverged_at = None
        losses = []
        for index, rate in enumerate(rates):
            chosen = order[index * batch : (index + 1) * batch]
            self.optimizer.learning_rate = rate
            loss = self.step(
                tf.gather(images, chosen), tf.gather(labels, chosen)
            )
            losses.append(float(loss))
            if not np.isfinite(losses[-1]):
                diverged_at = index
                break
        accuracy = test_loss = None
        if diverged_at is None:
            if self.network == "bn":
                from keras_nfnet.diagnostics import use_statistics_of

                use_statistics_of(self.model, images)
            logits = self.model(test_images, training=False)
            if np.all(np.isfinite(logits)):
                right = tf.argmax(logits, -1) == tf.argmax(test_labels, -1)
                accuracy = float(np.mean(right))
                test_loss = float(self._loss(logits, test_labels))
            else:
                diverged_at = steps
        last_epoch = losses[-max(1, round(examples / batch)) :]
        return {
            "network": self.network,
            "base_rate": base_rate,
            "batch": batch,
            "seed": seed,
            "learning_rate": peak,
            "steps": steps,
            "accuracy": accuracy,
            "loss": test_loss,
            "training_loss": (
                None if diverged_at is not None else float(np.mean(last_epoch))
            ),
            "diverged_at": diverged_at,
            "parameters": int(
                sum(np.prod(v.shape) for v in self.model.trainable_variables)
            ),
            "test_examples": len(test_labels),
        }


_trainers = {}
_cpu_seconds_reported = 0.0


def one_thread():
    """Two processes of one thread do twice what one of two threads does."""
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)


def work(setting, data_dir, network, base_rate, batch, seed):
    """One run, in a worker process of one thread.

    Its `cpu_seconds` are the worker's since it reported last: the first
    run's hold the imports, a network's first its tracing. So their sum is
    what the sweep took, whatever else the machine did meanwhile.
    """
    import keras
    import tensorflow as tf

    global _cpu_seconds_reported
    key = network, json.dumps(setting)
    if key not in _trainers:
        _trainers[key] = Trainer(network, setting, data_dir)
    row = _trainers[key].run(base_rate, batch, seed)
    versions = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    cpu_seconds = time.process_time() - _cpu_seconds_reported
    _cpu_seconds_reported += cpu_seconds
    return {
        **row,
        "cpu_seconds": round(cpu_seconds, 2),
        "setting": setting,
        "versions": versions,
    }


def sweep(path, setting, tasks, workers, limit_seconds, data_dir):
    """Runs what is not in the file yet; each finished run is added to it.

    Args:
        path: The JSON-lines file.
        setting: What `settings` returns.
        tasks: `(network, base rate, batch, seed)` of each run.
        workers: Processes.
        limit_seconds: Start no run after this many; `None` for no limit.
        data_dir: Where TFDS keeps data sets; `None` for its default.

    Returns:
        How many runs are still to be done.
    """
    rows = report.read(path)
    done = {report.key(row) for row in rows if row["setting"] == setting}
    todo = [task for task in tasks if task not in done]
    print(f"{len(tasks) - len(todo)} of {len(tasks)} runs are there already")
    if not todo:
        return 0
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(
            min(workers, len(todo)), context, initializer=one_thread
        ) as pool,
        tqdm(
            total=len(tasks), initial=len(tasks) - len(todo), unit="run"
        ) as bar,
    ):
        running = set()
        while todo or running:
            late = (
                limit_seconds is not None
                and time.perf_counter() - began > limit_seconds
            )
            while todo and len(running) < workers and not late:
                task = todo.pop(0)
                running.add(pool.submit(work, setting, data_dir, *task))
            if not running:
                break
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                row = future.result()
                rows.append(row)
                report.write(
                    path, "".join(json.dumps(row) + "\n" for row in rows)
                )
                bar.update()
                bar.set_postfix_str(report.describe(row))
    return len(todo)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n    python")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smaller network, 3 epochs, 2 batch sizes, 1 seed: half a "
        "minute, to see that it runs; files are named agc_claim_quick",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the results (default: benchmarks/results, or "
        "runs/benchmarks with --quick)",
    )
    parser.add_argument(
        "--plot-only",
        action="store_true",
        help="draw table and plot again from the JSON lines, run nothing",
    )
    parser.add_argument(
        "--limit-seconds",
        type=float,
        metavar="S",
        help="start no further run after S seconds; call again to go on",
    )
    parser.add_argument(
        "--base-rates",
        type=float,
        nargs="+",
        metavar="RATE",
        help="peak learning rates at batch 256 (default: 0.1 0.8)",
    )
    parser.add_argument(
        "--batches", type=int, nargs="+", metavar="N", help="batch sizes"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="seeds of the runs"
    )
    parser.add_argument("--epochs", type=int, help="(default: the recipe's)")
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes of one thread each (default: 2)",
    )
    parser.add_argument(
        "--data-dir", help="where TFDS keeps data sets (default: its own)"
    )
    options = parser.parse_args(arguments)
    for name in ("base_rates", "batches", "epochs", "workers"):
        value = getattr(options, name)
        if value is not None and np.min(value) <= 0:
            parser.error(
                f"--{name.replace('_', '-')} must be above 0. Received: {value}"
            )
    if options.seeds is not None and min(options.seeds) < 0:
        parser.error(f"--seeds must be 0 or more. Received: {options.seeds}")

    quick = options.quick
    out = options.out or (Path("runs/benchmarks") if quick else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"agc_claim{'_quick' if quick else ''}.jsonl"
    setting = settings(quick, options.epochs)
    left = 0
    if not options.plot_only:
        # Seeds outermost, so that a sweep that was stopped has whole ones;
        # networks before batches, since each must be traced anew.
        tasks = [
            (network, base_rate, batch, seed)
            for seed in options.seeds or (SEEDS[:1] if quick else SEEDS)
            for network in NETWORKS
            for base_rate in options.base_rates or BASE_RATES
            for batch in options.batches or ((64, 256) if quick else BATCHES)
        ]
        left = sweep(
            path,
            setting,
            list(dict.fromkeys(tasks)),
            options.workers,
            options.limit_seconds,
            options.data_dir,
        )
    rows = [row for row in report.read(path) if row["setting"] == setting]
    if not rows:
        parser.error(f"{path} holds no run of this setting yet")
    table = report.table(rows)
    report.write(path.with_suffix(".md"), table)
    report.plot(path.with_suffix(".png"), rows)
    print(f"\n{table}\n{path}, .md, .png")
    if left:
        print(f"{left} runs are still to be done: call again to go on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
