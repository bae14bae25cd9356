"""What an export tells about the file it wrote."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """The outcome of an export, compared with the model it came from.

    Args:
        path: The file or directory written.
        size: Its bytes, all files together.
        largest_difference: Largest absolute difference of an output.
        top1_agreement: Fraction of the pictures with the same best class.
        pictures: Number of pictures compared.
        seconds_per_picture: Of the export, alone in its batch, on this
            machine. Of an ONNX file as it lies: ONNX Runtime is up to twice
            as fast where it may store the kernels once more, in a layout of
            its own, as it does by default.
        input_size: `(height, width)` in pixels of the comparison, and of
            what encoded pictures are brought to.
        precision: Of the weights: `"float32"`, `"float16"`,
            `"dynamic_int8"` or `"int8"`.
        cosine: Cosine of the outputs and the model's, all pictures together.
        float_layers: Names of the layers that an int8 export for OpenVINO
            left in float, since they cost too much agreement.

    Example:

    >>> config = keras_nfnet.NFNetConfig((32, 64), (1, 1), group_width=16)
    >>> model = keras_nfnet.NFNet(config, weights=None, classes=10)
    >>> report = keras_nfnet.export.to_onnx(model, "nfnet.onnx", size=32)
    >>> report.precision, report.pictures, report.input_size
    ('float32', 4, (32, 32))
    """

    path: str
    size: int
    largest_difference: float
    top1_agreement: float
    pictures: int
    seconds_per_picture: float
    input_size: tuple
    precision: str = "float32"
    cosine: float = 1.0
    float_layers: tuple = ()

    def __str__(self):
        return (
            f"{self.path}: {self.precision}, {self.size / 1e6:.1f} MB; "
            f"{self.pictures} pictures of {self.input_size[0]}x"
            f"{self.input_size[1]} px: largest difference "
            f"{self.largest_difference:.1e}, cosine {self.cosine:.6f}, top-1 "
            f"agreement {self.top1_agreement:.0%}, "
            f"{self.seconds_per_picture:.4f} s per picture"
            + "; in float: " * bool(self.float_layers)
            + ", ".join(self.float_layers)
        )
