"""Gradients that are not finite, huge or tiny, and what a step made of them.

Each configuration is tried in a process of its own: the backend and the
devices are chosen when it starts.
"""

import collections
import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from faults.scorecard import Row

TITLE = "Values that are not finite, or huge"
PROMISE = (
    "A finite gradient is clipped, whatever its size. One that is not finite,\n"
    "or is beyond 1e18 where it is not clipped, changes nothing on any "
    "replica and is counted;\nthe average of the weights does not count it."
)

VALUES = {
    "NaN": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "1e37": 1e37,
    "3e38": 3e38,
    "denormal": 1e-40,
}
# Where in a tensor of `(..., units)` a value is put.
PLACES = ("one value", "one unit", "alternate signs", "everywhere")
SHAPES = {"kernel": (6, 4), "bias": (4,), "head": (4, 3)}
LAST = len(SHAPES) - 1
OPTIMIZERS = ("SGDAGC", "AdamW", "accumulated")
RATE, DECAY = 0.1, 0.9

# What is tried: backend, precision, replicas, optimizer.
CONFIGURATIONS = [
    *itertools.product(
        ("tensorflow", "jax"),
        ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16"),
        (1,),
        OPTIMIZERS,
    ),
    *itertools.product(
        ("tensorflow",),
        ("float32", "mixed_bfloat16", "bfloat16", "float16"),
        (2,),
        ("SGDAGC", "AdamW"),
    ),
]
SHORT = [
    ("tensorflow", "float32", 1, "SGDAGC"),
    ("jax", "float32", 1, "SGDAGC"),
]


def injections(replicas):
    """`(name, {variable: value and place}, replicas that have it)`."""
    targets = [*SHAPES, "all"]
    on = [range(replicas)] + [[r] for r in range(replicas) if replicas > 1]
    for value, place, target, where in itertools.product(
        VALUES, PLACES, targets, on
    ):
        yield value, place, target, list(where)


def _placed(gradient, value, place):
    gradient = gradient.copy()
    if place == "one value":
        gradient.flat[gradient.size // 2] = value
    elif place == "one unit":
        gradient[..., 1] = value
    else:
        gradient[...] = value
        if place == "alternate signs":
            gradient.flat[1::2] *= -1
    return gradient


class Step:
    """One optimizer with its three variables, and a step of it."""

    def __init__(self, precision, replicas, optimizer):
        import keras

        import keras_nfnet

        self.replicas = replicas
        self.parts = 2 if optimizer == "accumulated" else 1
        self.scaled = precision == "mixed_float16"
        self.dtype = "float32" if precision.startswith("mixed") else precision
        self._jax = keras.backend.backend() == "jax"
        with self._scope():
            generator = np.random.Generator(np.random.PCG64(0))
            self.variables = [
                keras.Variable(
                    generator.standard_normal(shape),
                    dtype=self.dtype,
                    name=name,
                )
                for name, shape in SHAPES.items()
            ]
            options = {
                "exclude_from_clipping": ["head"],
                "ema_decay": DECAY,
                "gradient_accumulation_steps": (
                    self.parts if self.parts > 1 else None
                ),
            }
            if optimizer == "AdamW":
                make = keras_nfnet.with_agc(keras.optimizers.AdamW)
                # 0.999 is 1 in bfloat16: Adam would make no step.
                self.inner = make(RATE, beta_2=0.9, epsilon=1e-3, **options)
            else:
                self.inner = keras_nfnet.SGDAGC(RATE, weight_decay=0, **options)
            self.optimizer = self.inner
            if self.scaled:
                self.optimizer = keras.optimizers.LossScaleOptimizer(self.inner)
            self.optimizer.build(self.variables)
        self._state = [*self.variables, *self.optimizer.variables]
        self._initial = [_array(v) for v in self._state]
        self.healthy = [
            0.1 * generator.standard_normal(shape) for shape in SHAPES.values()
        ]
        self._compiled = self._compile()

    def _scope(self):
        import contextlib

        if self.replicas == 1:
            return contextlib.nullcontext()
        import tensorflow as tf

        if not hasattr(self, "_strategy"):
            self._strategy = tf.distribute.MirroredStrategy(
                [f"CPU:{i}" for i in range(self.replicas)]
            )
        return self._strategy.scope()

    def _compile(self):
        if self._jax:
            import jax

            return jax.jit(self.optimizer.stateless_apply)
        import tensorflow as tf

        if self.replicas == 1:
            return tf.function(self.optimizer.apply, jit_compile=True)

        def step(stacked):
            replica = tf.distribute.get_replica_context()
            index = replica.replica_id_in_sync_group
            self.optimizer.apply([values[index] for values in stacked])

        return tf.function(lambda stacked: self._strategy.run(step, (stacked,)))

    def reset(self):
        for variable, value in zip(self._state, self._initial, strict=True):
            variable.assign(value)

    def take(self, gradients):
        """Makes a step of `[replica][variable]`, in float64."""
        from keras import ops

        def cast(value):
            with np.errstate(over="ignore"):
                return ops.convert_to_tensor(value, self.dtype)

        if self._jax:
            new, state = self._compiled(
                [v.value for v in self.optimizer.variables],
                [cast(g) for g in gradients[0]],
                [v.value for v in self.variables],
            )[::-1]
            for variable, value in zip(
                self._state, [*state, *new], strict=True
            ):
                variable.assign(value)
        elif self.replicas == 1:
            self._compiled([cast(g) for g in gradients[0]])
        else:
            self._compiled(
                [cast(np.stack(g)) for g in zip(*gradients, strict=True)]
            )

    def weights(self):
        return [_double(v) for v in self.variables]

    def averages(self):
        return [_double(average) for _, average in self.inner.averages]

    def state(self):
        """All that a skipped step leaves as it was."""
        counts = ("iteration", "learning_rate_used", "clipped_units")
        return [
            _double(v)
            for v in [*self.variables, *self.inner.variables]
            if not any(name in v.path for name in counts)
        ]

    def rounded(self, gradient):
        """A gradient as the step gets it, in float64."""
        import ml_dtypes

        dtype = getattr(ml_dtypes, self.dtype, None) or np.dtype(self.dtype)
        with np.errstate(over="ignore"):
            gradient = gradient.astype(dtype)
        return gradient.astype(np.float64)


def _array(variable):
    from keras import ops

    return np.asarray(ops.convert_to_numpy(variable))


def _double(variable):
    return _array(variable).astype(np.float64)


def expected(step, gradients):
    """The weights after a first step of SGD, or `None` if it is skipped.

    Args:
        step: A `Step` at its start.
        gradients: `[replica][variable]`, as `step.rounded`.
    """
    import ml_dtypes

    largest = float(ml_dtypes.finfo(step.dtype).max)
    weights = step.weights()
    new = []
    for index, w in enumerate(weights):
        parts = np.stack([replica[index] for replica in gradients])
        # Their sum must be finite.
        bound = largest / step.replicas / step.parts
        if index == LAST:
            bound = min(bound, 1e18 / step.replicas)
        if not (np.abs(parts) <= bound).all():
            return None
        gradient = parts.sum(0)
        if index != LAST:
            axes = tuple(range(max(w.ndim - 1, 1)))
            norm = np.sqrt((gradient**2).sum(axes, keepdims=True))
            limit = 0.01 * np.sqrt((w**2).sum(axes, keepdims=True))
            gradient = gradient * np.minimum(1, limit / np.maximum(norm, 1e-30))
        new.append(w - RATE * 1.9 * gradient)  # Nesterov's first step.
    return new


def outcome(step, value, place, target, replicas, is_sgd):
    """`(what came of an injection, whether that is what was promised)`."""
    step.reset()
    scale = 2.0**15 if step.scaled else 1.0
    gradients = [
        [
            _placed(g * scale, VALUES[value], place)
            if target in (name, "all") and replica in replicas
            else g * scale
            for name, g in zip(SHAPES, step.healthy, strict=True)
        ]
        for replica in range(step.replicas)
    ]
    received = [
        [step.rounded(g) / scale for g in replica] for replica in gradients
    ]
    weights, before = step.weights(), step.state()
    healthy = [[g * scale for g in step.healthy]] * step.replicas
    wanted = expected(step, received)
    for _ in range(step.parts - 1):
        step.take(gradients)
    step.take(gradients)
    after, skipped = step.weights(), int(step.inner.skipped_steps)
    if wanted is None:
        same = all(map(np.array_equal, before, step.state()))
        averaged = all(map(np.array_equal, weights, step.averages()))
        # A step that the loss scale leaves out is none at all.
        counted = skipped == 1 or step.scaled
        if not (same and averaged and counted):
            return "a skipped step that changed something", False
        for _ in range(step.parts):
            step.take(healthy)
        made = step.weights()
        tolerance = _tolerance(step)
        follows = all(
            np.allclose(average, 0.1 * old + 0.9 * new, **tolerance)
            for average, old, new in zip(
                step.averages(), weights, made, strict=True
            )
        )
        moved = not all(map(np.array_equal, weights, made))
        finite = all(np.isfinite(w).all() for w in made)
        if not (follows and moved and finite):
            return "wrong after a skipped step", False
        return "skipped, whole and counted", True
    if skipped or not all(np.isfinite(w).all() for w in after):
        return "a finite gradient that was skipped or left infinities", False
    if is_sgd:
        right = all(
            np.allclose(new, w, **_tolerance(step))
            for new, w in zip(after, wanted, strict=True)
        )
    else:  # Adam's first step is of the rate, and of the decay.
        right = all(
            (np.abs(new - old) <= 1.1 * RATE + 0.01 * np.abs(old)).all()
            for new, old in zip(after, weights, strict=True)
        )
    if not right:
        return "a finite gradient that was not clipped", False
    return "clipped as in float64", True


def _tolerance(step):
    relative = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
    return {"rtol": relative[step.dtype], "atol": relative[step.dtype] / 10}


def inject(precision, replicas, optimizer):
    """`({outcome: count}, [what was wrong])` of one configuration."""
    step = Step(precision, replicas, optimizer)
    counts, wrong = collections.Counter(), []
    for injection in injections(replicas):
        came, is_right = outcome(step, *injection, optimizer != "AdamW")
        counts[came] += 1
        if not is_right:
            wrong.append(f"{injection}: {came}")
    return dict(counts), wrong


def in_process(backend, replicas, configurations):
    """As `inject` of each configuration, in another process."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "faults.values",
            json.dumps([replicas, configurations]),
        ],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def rows(full, folder, say):
    """The rows of the scorecard."""
    chosen = CONFIGURATIONS if full else SHORT
    # Several strategies in one process get in each other's way.
    for (backend, replicas, _), group in itertools.groupby(
        chosen, key=lambda c: (c[0], c[2], c if c[2] > 1 else None)
    ):
        wanted = [(c[1], c[2], c[3]) for c in group]
        if not full and backend == "tensorflow":
            results = list(itertools.starmap(inject, wanted))
        else:
            results = in_process(backend, replicas, wanted)
        for (precision, _, optimizer), (counts, wrong) in zip(
            wanted, results, strict=True
        ):
            for line in wrong:
                say(line)
            on = f"{replicas} replicas" if replicas > 1 else "one device"
            yield Row(
                f"gradients: {backend}, {precision}, {optimizer}, {on}",
                counts,
                f"{len(wrong)} not as promised" if wrong else "",
            )


def _main():
    replicas, configurations = json.loads(sys.argv[1])
    import keras

    if keras.backend.backend() == "tensorflow" and replicas > 1:
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * replicas,
        )
    print(json.dumps(list(itertools.starmap(inject, configurations))))


if __name__ == "__main__":
    _main()
