"""What each device holds of a network that `layout_map` shards, computed.

    python benchmarks/sharded_memory.py

The network's parameters, SGD's momentum and the moving average of the
weights, all in float32 and laid out alike, on 1 to 64 devices along the
mesh's model axis. From the shapes: nothing is built with values. Gradients,
which a step needs beside them, take as much as the parameters; activations
are not counted. Writes benchmarks/results/sharded_memory.json and .md.
"""

import functools
import math

from pages import write

import keras_nfnet
from keras_nfnet.layers.sharding import sharded_axis
from keras_nfnet.models.nfnet import without_values
from keras_nfnet.optimizers.owners import axes_of_unit, live_layers, owners_of

VARIANTS = ("F0", "F4+", "F7+", "eca_nfnet_l2", "RegNet-B5", "ResNet-152")
DEVICES = (1, 2, 4, 8, 16, 32, 64)
KEPT = ("parameters", "momentum", "average")


def parameters_per_device(model, devices):
    """Bytes of the parameters of a network of the package on each device.

    Args:
        model: The network, with values or without.
        devices: Number of devices along the mesh's model axis.
    """
    total = 0
    variables = model.trainable_variables
    for variable, owners in zip(
        variables, owners_of(variables, live_layers()), strict=True
    ):
        size = 4 * math.prod(variable.shape)
        axes = axes_of_unit(variable, owners)
        is_sharded = sharded_axis(variable.shape, axes, devices) is not None
        total += size // devices if is_sharded else size
    return total


def table(result):
    lines = [
        "# Memory of a sharded network",
        "",
        "GiB on each device: parameters, momentum and average of the weights "
        "in float32, by the number of devices along the mesh's model axis "
        "(`keras_nfnet.layout_map`). Gradients take a third of it more, "
        "activations are not counted. Computed from the shapes by `python "
        "benchmarks/sharded_memory.py`.",
        "",
        "| | parameters | " + " | ".join(map(str, DEVICES)) + " |",
        "|---|---:|" + "---:|" * len(DEVICES),
    ]
    for variant, row in result.items():
        cells = [f"{len(KEPT) * row[str(n)] / 2**30:.2f}" for n in DEVICES]
        lines.append(
            f"| {variant} | {row['1'] // 4:,} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def main():
    result = {}
    for variant in VARIANTS:
        model = without_values(
            functools.partial(keras_nfnet.NFNet, variant, weights=None)
        )
        result[variant] = {
            str(devices): parameters_per_device(model, devices)
            for devices in DEVICES
        }
    write("sharded_memory", result, table)


if __name__ == "__main__":
    main()
