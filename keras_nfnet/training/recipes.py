"""Recipes by name: the paper's, its ablations, fine-tuning, the digits."""

import dataclasses

from keras_nfnet.data.augmentation import Augmentation
from keras_nfnet.training.recipe import Recipe
from keras_nfnet.variants import VARIANTS, NFNetConfig

# Of the paper's tables 1 and 3: top-1 and top-5 in %, and milliseconds of a
# step on TPUv3 and V100. Tested where `VARIANTS` says.
_PAPERS = {
    "f0": (83.6, 96.8, 73.3, 56.7),
    "f1": (84.7, 97.1, 158.5, 133.9),
    "f2": (85.1, 97.3, 295.8, 226.3),
    "f3": (85.7, 97.5, 532.2, 524.5),
    "f4": (85.9, 97.6, 1033.3, 1190.6),
    "f5": (86.0, 97.6, 1398.5, 2177.1),
    "f6": (86.5, 97.9, 2774.1, None),
}
# NOTE: 0.05 is the radius of the authors of SAM, arXiv:2010.01412. As in the
# paper the ascent gradient is taken on a fifth of each batch.
_SAM = {"f6": {"sam_rho": 0.05, "sam_fraction": 0.2}}
# Of the paper's table 2, each on top of the one before: what it is, top-1 in
# % of F0, F1, F2 and F3, and what changes in the model and augmentation.
_ABLATIONS = {
    "nf_1_baseline": (
        "the baseline",
        "A ResNet's widths, one 3×3 convolution in each block, crops and flips",
        (80.4, 81.7, 82.0, 82.3),
        {"widths": (256, 512, 1024, 2048), "use_two_convs": False},
        {"randaugment_layers": 0, "mixup": 0, "cutmix": 0},
    ),
    "nf_2_width": (
        "+ modified width",
        "The NFNets' widths",
        (80.9, 81.8, 82.0, 82.3),
        {"widths": (256, 512, 1536, 1536)},
        {},
    ),
    "nf_3_second_conv": (
        "+ second 3×3",
        "A second 3×3 convolution in each block",
        (81.3, 82.2, 82.4, 82.7),
        {"use_two_convs": True},
        {},
    ),
    "nf_4_mixup": (
        "+ MixUp",
        "MixUp on the whole batch",
        (82.2, 82.9, 83.1, 83.5),
        {},
        {"mixup": 0.2},
    ),
    "nf_5_randaugment": (
        "+ RandAugment",
        "RandAugment",
        (83.2, 84.6, 84.8, 85.0),
        {},
        {"randaugment_layers": 4},
    ),
    "nf_6_cutmix": (
        "+ CutMix",
        "CutMix on half of the batch: this is the NFNet",
        (83.6, 84.7, 85.1, 85.7),
        {},
        {"cutmix": 1.0},
    ),
    "nf_7_default_width": (
        "default width + augmentation",
        "The baseline's widths again",
        (83.1, 84.5, 85.0, 85.5),
        {"widths": (256, 512, 1024, 2048)},
        {},
    ),
}
_DIGITS = """\
The handwritten digits: a small NFNet trained with AGC, in a minute.

Data: scikit-learn's 1797 digits as the TFDS data set `nf_digits`, of
which 1437 are trained on and 360 held out. Expected: at least 99% on the
held-out digits, on 2 CPU cores.

    keras-nfnet train digits
    keras-nfnet demo          # with export and prediction
"""
_FINE_TUNE = """\
Fine-tuning: a pre-trained F1 on images of your own.

The published values of F1, a new classifier, a higher resolution than
they were trained at (its test size), a rate ten times lower and no
mixing. By default on the 102 flowers of TFDS; for a folder of class
folders, set `data` and `classes`. The paper fine-tunes after its
pre-training on 300 million images only, to 89.2% on ImageNet with F4+.
One GPU of 16 GB. Not run by this package's authors on the published
values.

    tfds build oxford_flowers102
    keras-nfnet train fine_tune
    keras-nfnet train fine_tune --set data=images/ --set classes=5

Reference: arXiv:2102.06171, section 6.2.
"""


def names() -> list[str]:
    """Names of all recipes, sorted.

    Returns:
        A list of strings.

    Example:

    >>> from keras_nfnet.training import recipes
    >>> recipes.names()[:3]
    ['digits', 'f0', 'f1']
    """
    return sorted(["digits", "fine_tune", *_PAPERS, *_ABLATIONS])


def recipe(name: str) -> Recipe:
    """The recipe of a name.

    Args:
        name: One of `recipes.names()`, such as `"f0"`.

    Returns:
        A `keras_nfnet.Recipe`.

    Raises:
        ValueError: If there is none of that name.

    Example:

    >>> from keras_nfnet.training import recipes
    >>> recipes.recipe("f1").size
    224
    """
    _check(name)
    if name in _PAPERS:
        return imagenet(name, name.upper(), **_SAM.get(name, {}))
    if name in _ABLATIONS:
        return _ablation(name)
    return _digits() if name == "digits" else _fine_tune()


def description(name: str) -> str:
    """What a recipe is, what it gave, and its commands.

    Args:
        name: One of `recipes.names()`.

    Returns:
        Text; its first line is a summary.

    Raises:
        ValueError: If there is none of that name.

    Example:

    >>> from keras_nfnet.training import recipes
    >>> recipes.description("f0").splitlines()[0]
    'NFNet-F0 on ImageNet: 83.6% top-1 in the paper.'
    """
    _check(name)
    if name in _PAPERS:
        return _described_paper(name, *_PAPERS[name])
    if name in _ABLATIONS:
        return _described_ablation(name, *_ABLATIONS[name][:3])
    return _DIGITS if name == "digits" else _FINE_TUNE


def summary(name: str) -> str:
    """The first line of a recipe's description."""
    return description(name).splitlines()[0]


def imagenet(name, variant, **changes):
    """The paper's recipe on ImageNet for a variant.

    Args:
        name: Name of the recipe.
        variant: Its sizes in pixels and RandAugment are the table's.
        **changes: Other values of `Recipe`.

    Returns:
        A `keras_nfnet.Recipe`.

    Reference: arXiv:2102.06171, section 6 and appendix A.
    """
    config = VARIANTS[variant]
    layers, magnitude = config.rand_augment
    fields = {
        "model": variant,
        "data": "imagenet2012",
        "test_split": "validation",
        "classes": 1000,
        "size": config.train_size,
        "test_size": config.test_size,
        "evaluation_margin": 32,
        "augmentation": Augmentation(
            randaugment_layers=layers, randaugment_magnitude=magnitude
        ),
        "stochastic_depth_rate": 0.25,
        "batch_size": 4096,
        "epochs": 360,
        "learning_rate": 0.1,
        "warmup_epochs": 5.0,
        "ema_decay": 0.99999,
        "precision": "mixed_bfloat16",
    }
    return Recipe(name=name, **{**fields, **changes})


def _ablation(name):
    model, augmentation = VARIANTS["F0"], Augmentation()
    for step, (*_, of_model, of_augmentation) in _ABLATIONS.items():
        model = dataclasses.replace(model, **of_model)
        augmentation = augmentation.replace(**of_augmentation)
        if step == name:
            return imagenet(name, "F0", model=model, augmentation=augmentation)


def _digits():
    return Recipe(
        name="digits",
        model=NFNetConfig(
            widths=(32, 64, 96, 96),
            depths=(1, 2, 1, 1),
            group_width=16,
            drop_rate=0.1,
            stochastic_depth_rate=0.1,
            train_size=32,
            test_size=32,
        ),
        data="nf_digits",
        classes=10,
        size=32,
        evaluation_margin=0,
        augmentation="digits",
        batch_size=64,
        epochs=24,
        learning_rate=0.4,
        warmup_epochs=2,
    )


def _fine_tune():
    return Recipe(
        name="fine_tune",
        model="F1",
        weights="imagenet",
        new_head=True,
        data="oxford_flowers102",
        classes=102,
        size=320,
        evaluation_margin=32,
        augmentation=Augmentation(randaugment_layers=0, mixup=0, cutmix=0),
        batch_size=32,
        epochs=20,
        learning_rate=0.01,
        warmup_epochs=1.0,
        ema_decay=0.999,
        precision="mixed_bfloat16",
    )


def _check(name):
    if name not in names():
        raise ValueError(
            f"A recipe must be one of {', '.join(names())}. Received: {name!r}"
        )


def _described_paper(name, top1, top5, tpu, v100):
    config = VARIANTS[name.upper()]
    sam = ", with SAM" if name in _SAM else ""
    times = f"{tpu} ms on TPUv3" + (f" and {v100} ms on a V100" if v100 else "")
    title = f"NFNet-{name.upper()} on ImageNet{sam}"
    return f"""{title}: {top1}% top-1 in the paper.

The paper's: {top1}% top-1 and {top5}% top-5, trained at {config.train_size} px
and tested at {config.test_size} px; batch 4096 and 360 epochs on TPUv3. One
step took {times}.
Not run by this package's authors: it needs accelerators and ImageNet.

    tfds build imagenet2012
    keras-nfnet train {name}
    keras-nfnet train {name} --set batch_size=1024 --strategy mirrored

Reference: arXiv:2102.06171, tables 1 and 3.
"""


def _described_ablation(name, title, what, top1):
    steps = list(_ABLATIONS)
    index = steps.index(name)
    on_top = f", on top of `{steps[index - 1]}`" if index else ""
    return f"""Ablation, {title}: {top1[0]}% top-1 in the paper.

{what}{on_top}, at F0.
The paper's top-1 of F0 / F1 / F2 / F3: {" / ".join(map(str, top1))}; batch
4096 and 360 epochs on TPUv3. Not run by this package's authors.

    keras-nfnet train {name}

Reference: arXiv:2102.06171, table 2.
"""
