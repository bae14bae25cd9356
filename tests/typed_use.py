"""What a user's type checker sees of the public names; mypy reads it.

Nothing runs it: `make lint` checks it. An error that must be found is marked
by an `ignore`, which mypy refuses where there is no such error.
"""

from typing import Any, assert_type

import keras
import numpy as np

import keras_nfnet
from keras_nfnet import data, diagnostics, export, weights
from keras_nfnet.diagnostics.signal_propagation import SignalPropagation
from keras_nfnet.models.classifier import NFNetModel
from keras_nfnet.training import recipes
from keras_nfnet.training.run import TrainingResult

# Networks.
model = keras_nfnet.NFNetF0(weights=None, input_shape=(None, None, 1))
assert_type(model, NFNetModel)
assert_type(keras_nfnet.NFResNet50(use_se=True), NFNetModel)
assert_type(keras_nfnet.NFNet("F0", classes=10, width=0.5), NFNetModel)
config = keras_nfnet.NFNetConfig((16, 32), (1, 1), group_width=8)
assert_type(keras_nfnet.VARIANTS["F0"], keras_nfnet.NFNetConfig)
assert_type(config.scaled(0.5), keras_nfnet.NFNetConfig)
assert_type(model.hidden_dims, list[int])
model.compile(keras_nfnet.SGDAGC(0.1), sam_rho=0.05, clipped_by_stage=True)
keras_nfnet.NFNetF0(use_se=True)  # type: ignore[call-arg]
keras_nfnet.NFNetF0(weight=None)  # type: ignore[call-arg]
keras_nfnet.NFNet(3)  # type: ignore[arg-type]
keras_nfnet.NFNetF0(pooling="mean")  # type: ignore[arg-type]
model.compile(sam_rho="0.05")  # type: ignore[arg-type]

# Training.
schedule = keras_nfnet.WarmupCosine(0.4, total_steps=100, warmup_steps=5)
optimizer = keras_nfnet.SGDAGC(schedule, clipping=None, ema_decay=0.999)
assert_type(optimizer, keras_nfnet.SGDAGC)
keras_nfnet.with_agc(keras.optimizers.AdamW)(1e-3, clipping=0.02)
recipe = recipes.recipe("digits").replace(epochs=3)
assert_type(recipe, keras_nfnet.Recipe)
assert_type(recipes.names(), list[str])
result = keras_nfnet.train(recipe, "runs/digits", verbose=0)
assert_type(result, TrainingResult)
assert_type(result.accuracy, float)
assert_type(result.ema_accuracy, float | None)
keras_nfnet.train("digits")  # type: ignore[arg-type]
keras_nfnet.SGDAGC(0.1, clipping="no")  # type: ignore[arg-type]

# Data.
assert_type(data.decode_picture("photo.jpg"), np.ndarray)
view = data.evaluation_picture(np.zeros((8, 8, 3)), size=256, margin=0.9)
assert_type(view, np.ndarray)
best = keras_nfnet.decode_predictions(np.eye(1000))[0][0]
assert_type(best, tuple[str, str, float])
assert_type(data.Augmentation().mixes, bool)
data.evaluation_picture(view, size="256")  # type: ignore[arg-type]

# Weights, diagnostics, exports.
assert_type(weights.to_haiku_tree(model), dict[str, dict[str, np.ndarray]])
assert_type(weights.convert("a.npz", "b.safetensors"), dict[str, Any])
assert_type(keras_nfnet.signal_propagation(model), SignalPropagation)
assert_type(
    keras_nfnet.check_normalizer_free(model), diagnostics.VarianceReport
)
assert_type(diagnostics.count_macs(model, 224, 224), int)
report = export.to_onnx(model, "nfnet.onnx", size=(256, 256), progress=print)
assert_type(report, export.ExportReport)
assert_type(report.cosine, float)
export.to_onnx(model, "a.onnx", input_range="0-1")  # type: ignore[arg-type]
assert_type(keras_nfnet.layers.activation_gain("gelu"), float)
assert_type(keras_nfnet.layers.Residual().beta, float)
