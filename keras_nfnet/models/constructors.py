"""The public constructors, with the signature of `keras.applications`."""

import dataclasses
import inspect
from typing import Any

from keras_nfnet.models.nfnet import ChangedVariant, NFNet
from keras_nfnet.utils.arguments import boolean
from keras_nfnet.utils.types import Constructor, ResNetConstructor
from keras_nfnet.variants import VARIANTS, default_name

_USE_SE = """    use_se: Whether every block ends in squeeze-and-excite. Its
        hidden channels are a quarter of the block's.
"""
# What `NFNet` says of its arguments, without the first.
_, _, _ARGUMENTS = inspect.cleandoc(NFNet.__doc__ or "").partition(
    "`keras_nfnet.NFNetConfig`.\n"
)
_ARGUMENTS, _, _ = _ARGUMENTS.partition("\nExample:")


def _signature(variant):
    signature = inspect.signature(NFNet)
    parameters = dict(signature.parameters)
    del parameters["config"]
    parameters["name"] = parameters["name"].replace(
        default=default_name(variant)
    )
    if variant.startswith("ResNet"):
        parameters["use_se"] = inspect.Parameter(
            "use_se",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=bool,
        )
    return signature.replace(parameters=parameters.values())


def _constructor(name: str, variant: str, reference: str) -> Any:
    signature = _signature(variant)

    def construct(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments, config = bound.arguments, variant
        if boolean("use_se", arguments.pop("use_se", False)):
            changed = dataclasses.replace(VARIANTS[variant], attention="se")
            config = ChangedVariant(changed, variant)
        return NFNet(config, **arguments)

    row = VARIANTS[variant]
    documented = _ARGUMENTS
    if "use_se" in signature.parameters:
        documented = documented.replace("\nReturns:", f"{_USE_SE}\nReturns:", 1)
    construct.__signature__ = signature
    construct.__name__ = construct.__qualname__ = name
    construct.__doc__ = f"""Builds the network {variant}.

Trained at {row.train_size} px, evaluated at {row.test_size} px.

Args:
{documented}
Example:

>>> model = keras_nfnet.{name}(weights=None, classes=10)
>>> model.output_shape
(None, 10)

Reference: {reference}
"""
    return construct


def _nfnet(name: str, variant: str) -> Constructor:
    return _constructor(name, variant, "arXiv:2102.06171, table 1.")


def _nf_regnet(name: str, variant: str) -> Constructor:
    return _constructor(name, variant, "arXiv:2101.08692, section 5.")


def _nf_resnet(name: str, variant: str) -> ResNetConstructor:
    return _constructor(name, variant, "arXiv:2101.08692, section 5.")


def _timm(name: str, variant: str) -> Constructor:
    reference = f"arXiv:2101.08692; timm 1.0.31, `{variant}`."
    return _constructor(name, variant, reference)


NFNetF0 = _nfnet("NFNetF0", "F0")
NFNetF1 = _nfnet("NFNetF1", "F1")
NFNetF2 = _nfnet("NFNetF2", "F2")
NFNetF3 = _nfnet("NFNetF3", "F3")
NFNetF4 = _nfnet("NFNetF4", "F4")
NFNetF5 = _nfnet("NFNetF5", "F5")
NFNetF6 = _nfnet("NFNetF6", "F6")
NFNetF7 = _nfnet("NFNetF7", "F7")
NFNetF0Plus = _nfnet("NFNetF0Plus", "F0+")
NFNetF1Plus = _nfnet("NFNetF1Plus", "F1+")
NFNetF2Plus = _nfnet("NFNetF2Plus", "F2+")
NFNetF3Plus = _nfnet("NFNetF3Plus", "F3+")
NFNetF4Plus = _nfnet("NFNetF4Plus", "F4+")
NFNetF5Plus = _nfnet("NFNetF5Plus", "F5+")
NFNetF6Plus = _nfnet("NFNetF6Plus", "F6+")
NFNetF7Plus = _nfnet("NFNetF7Plus", "F7+")
NFRegNetB0 = _nf_regnet("NFRegNetB0", "RegNet-B0")
NFRegNetB1 = _nf_regnet("NFRegNetB1", "RegNet-B1")
NFRegNetB2 = _nf_regnet("NFRegNetB2", "RegNet-B2")
NFRegNetB3 = _nf_regnet("NFRegNetB3", "RegNet-B3")
NFRegNetB4 = _nf_regnet("NFRegNetB4", "RegNet-B4")
NFRegNetB5 = _nf_regnet("NFRegNetB5", "RegNet-B5")
NFResNet50 = _nf_resnet("NFResNet50", "ResNet-50")
NFResNet101 = _nf_resnet("NFResNet101", "ResNet-101")
NFResNet152 = _nf_resnet("NFResNet152", "ResNet-152")
NFNetL0 = _timm("NFNetL0", "nfnet_l0")
ECANFNetL0 = _timm("ECANFNetL0", "eca_nfnet_l0")
ECANFNetL1 = _timm("ECANFNetL1", "eca_nfnet_l1")
ECANFNetL2 = _timm("ECANFNetL2", "eca_nfnet_l2")
ECANFNetL3 = _timm("ECANFNetL3", "eca_nfnet_l3")
TimmNFRegNetB0 = _timm("TimmNFRegNetB0", "nf_regnet_b0")
TimmNFRegNetB1 = _timm("TimmNFRegNetB1", "nf_regnet_b1")
TimmNFRegNetB2 = _timm("TimmNFRegNetB2", "nf_regnet_b2")
TimmNFRegNetB3 = _timm("TimmNFRegNetB3", "nf_regnet_b3")
TimmNFRegNetB4 = _timm("TimmNFRegNetB4", "nf_regnet_b4")
TimmNFRegNetB5 = _timm("TimmNFRegNetB5", "nf_regnet_b5")
TimmNFResNet26 = _timm("TimmNFResNet26", "nf_resnet26")
TimmNFResNet50 = _timm("TimmNFResNet50", "nf_resnet50")
TimmNFResNet101 = _timm("TimmNFResNet101", "nf_resnet101")
TimmNFSEResNet26 = _timm("TimmNFSEResNet26", "nf_seresnet26")
TimmNFSEResNet50 = _timm("TimmNFSEResNet50", "nf_seresnet50")
TimmNFSEResNet101 = _timm("TimmNFSEResNet101", "nf_seresnet101")
TimmNFECAResNet26 = _timm("TimmNFECAResNet26", "nf_ecaresnet26")
TimmNFECAResNet50 = _timm("TimmNFECAResNet50", "nf_ecaresnet50")
TimmNFECAResNet101 = _timm("TimmNFECAResNet101", "nf_ecaresnet101")

__all__ = [
    "ECANFNetL0",
    "ECANFNetL1",
    "ECANFNetL2",
    "ECANFNetL3",
    "NFNetF0",
    "NFNetF0Plus",
    "NFNetF1",
    "NFNetF1Plus",
    "NFNetF2",
    "NFNetF2Plus",
    "NFNetF3",
    "NFNetF3Plus",
    "NFNetF4",
    "NFNetF4Plus",
    "NFNetF5",
    "NFNetF5Plus",
    "NFNetF6",
    "NFNetF6Plus",
    "NFNetF7",
    "NFNetF7Plus",
    "NFNetL0",
    "NFRegNetB0",
    "NFRegNetB1",
    "NFRegNetB2",
    "NFRegNetB3",
    "NFRegNetB4",
    "NFRegNetB5",
    "NFResNet50",
    "NFResNet101",
    "NFResNet152",
    "TimmNFECAResNet26",
    "TimmNFECAResNet50",
    "TimmNFECAResNet101",
    "TimmNFRegNetB0",
    "TimmNFRegNetB1",
    "TimmNFRegNetB2",
    "TimmNFRegNetB3",
    "TimmNFRegNetB4",
    "TimmNFRegNetB5",
    "TimmNFResNet26",
    "TimmNFResNet50",
    "TimmNFResNet101",
    "TimmNFSEResNet26",
    "TimmNFSEResNet50",
    "TimmNFSEResNet101",
]
