"""The loaders that `data_speed.py` measures, each with the same recipe.

Each takes the folder of data and the numbers of the recipe, and yields
batches: a pair whose first are the images. Libraries are imported in the
loader, since each runs in a process of its own.
"""

import functools
import os

MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def keras_nfnet(directory, size, batch, mixed=True, **_):
    """`training_dataset` of the TFDS data set, as `train` calls it."""
    from keras_nfnet.data.augmentation import Augmentation
    from keras_nfnet.data.pipeline import training_dataset

    dataset, _ = training_dataset(
        "photographs",
        size=size,
        batch_size=batch,
        augment=Augmentation(
            randaugment_magnitude=5,
            randaugment_layers=4,
            **({} if mixed else {"mixup": 0.0, "cutmix": 0.0}),
        ),
        data_dir=str(directory / "tfds"),
    )
    return dataset


def timm(directory, size, batch, cores, classes):
    """timm's loader, which mixes uint8 images in the workers, its fast way."""
    import timm.data
    import torch

    torch.set_num_threads(1)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(directory / "folder")),
        input_size=(3, size, size),
        batch_size=batch,
        is_training=True,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        interpolation="bicubic",
        auto_augment="rand-m5-n4",
        num_workers=cores,
        collate_fn=timm.data.FastCollateMixup(
            mixup_alpha=0.2,
            cutmix_alpha=1.0,
            mode="elem",  # "half" makes one image of two.
            label_smoothing=0.0,
            num_classes=classes,
        ),
        device=torch.device("cpu"),
        persistent_workers=True,
    )
    while True:
        yield from loader


def torchvision(directory, size, batch, cores, classes):
    """torchvision's transforms v2 of PIL images, mixed by the batch."""
    import torch
    from torchvision import datasets
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    bicubic = v2.InterpolationMode.BICUBIC
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, interpolation=bicubic),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=4, magnitude=5),
            v2.ToImage(),
            v2.ToDtype(torch.float32),
            v2.Normalize(MEAN, DEVIATION),
        ]
    )
    mix = v2.RandomChoice(
        [
            v2.MixUp(alpha=0.2, num_classes=classes),
            v2.CutMix(alpha=1.0, num_classes=classes),
        ]
    )
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(directory / "folder", transform),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=cores,
        collate_fn=lambda rows: mix(*torch.utils.data.default_collate(rows)),
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    while True:
        yield from loader


def grain(directory, size, batch, cores, classes):
    """grain's workers with PIL; its images are augmented by timm's PIL code."""
    import grain.python as grain
    import numpy as np
    from absl import flags
    from PIL import Image
    from timm.data import auto_augment
    from timm.data.transforms import RandomResizedCropAndInterpolation

    flags.FLAGS.mark_as_parsed()  # grain's workers ask for some.
    files = sorted((directory / "folder").glob("*/*.jpg"))
    crop = RandomResizedCropAndInterpolation(size, interpolation="bicubic")
    augment = auto_augment.rand_augment_transform("rand-m5-n4", {})

    def decode(path):
        with Image.open(path) as image:
            image = crop(image.convert("RGB"))
        if np.random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = np.asarray(augment(image), np.float32)
        label = np.eye(classes, dtype="float32")[int(path.parent.name[5:])]
        return (x - np.float32(MEAN)) / np.float32(DEVIATION), label

    dataset = (
        grain.MapDataset.source(files)
        .shuffle(seed=0)
        .repeat()
        .map(decode)
        .batch(batch, drop_remainder=True)
        .map(lambda rows: _mixed(*rows))
    )
    return dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=1)
    ).mp_prefetch(grain.MultiprocessingOptions(num_workers=cores))


def tf_data(directory, size, batch, cores, classes):
    """tf.data alone, augmented by Keras's own preprocessing layers."""
    import keras
    import tensorflow as tf

    dataset = keras.utils.image_dataset_from_directory(
        directory / "folder",
        label_mode="categorical",
        batch_size=None,
        image_size=(375, 500),  # What the files have.
        verbose=False,
    )

    def crop(image, label):
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((0, 0, 4)),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.ensure_shape(tf.slice(image, begin, extent), (None, None, 3))
        image = tf.image.resize(image, (size, size), "bicubic", antialias=True)
        image = tf.image.random_flip_left_right(image)
        return tf.clip_by_value(image, 0, 255), label

    augment = keras.layers.RandAugment((0, 255), num_ops=4, factor=0.5)
    mix = keras.layers.MixUp(0.2), keras.layers.CutMix(1.0)

    def mixed(images, labels):
        rows = {"images": images, "labels": labels}
        rows = tf.cond(
            tf.random.uniform(()) < 0.5,
            lambda: mix[0](rows, training=True),
            lambda: mix[1](rows, training=True),
        )
        return (rows["images"] - MEAN) / DEVIATION, rows["labels"]

    def augmented(images, labels):
        return augment(images, training=True), labels

    return (
        dataset.map(crop, tf.data.AUTOTUNE)
        .repeat()
        .batch(batch, drop_remainder=True)
        .map(augmented, tf.data.AUTOTUNE)
        .map(mixed, tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def dali(directory, size, batch, cores, classes):
    """DALI on CPU, mixed by the batch."""
    import numpy as np
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import rand_augment

    @pipeline_def(enable_conditionals=True)
    def pipeline():
        files, labels = fn.readers.file(
            file_root=str(directory / "folder"), random_shuffle=True
        )
        images = fn.decoders.image_random_crop(
            files,
            random_area=(0.08, 1.0),
            random_aspect_ratio=(3 / 4, 4 / 3),
        )
        images = fn.resize(
            images, size=(size, size), interp_type=types.INTERP_CUBIC
        )
        images = fn.flip(images, horizontal=fn.random.coin_flip())
        images = rand_augment.rand_augment(images, n=4, m=5)
        images = fn.crop_mirror_normalize(
            images, mean=MEAN, std=DEVIATION, output_layout="HWC"
        )
        return images, labels

    running = pipeline(batch_size=batch, num_threads=cores, device_id=None)
    running.build()
    one_hot = np.eye(classes, dtype="float32")
    while True:
        images, labels = (values.as_array() for values in running.run())
        yield _mixed(images, one_hot[labels[:, 0]])


def _mixed(images, labels):
    """MixUp or CutMix of a batch with itself turned around, by NumPy."""
    import numpy as np

    height, width = images.shape[1:3]
    if np.random.random() < 0.5:
        share = np.float32(np.random.beta(0.2, 0.2))
        images = share * images + (1 - share) * images[::-1]
    else:
        side = np.sqrt(1 - np.random.beta(1.0, 1.0))
        h, w = int(height * side), int(width * side)
        top = np.random.randint(height - h + 1)
        left = np.random.randint(width - w + 1)
        box = slice(top, top + h), slice(left, left + w)
        images = images.copy()
        images[:, box[0], box[1]] = images[::-1][:, box[0], box[1]].copy()
        share = np.float32(1 - h * w / (height * width))
    return images, share * labels + (1 - share) * labels[::-1]


LOADERS = {
    "keras_nfnet": keras_nfnet,
    "keras_nfnet, not mixed": functools.partial(keras_nfnet, mixed=False),
    "timm": timm,
    "torchvision v2": torchvision,
    "grain with PIL": grain,
    "tf.data, Keras's layers": tf_data,
    "DALI": dali,
}


def load(name, *arguments, **recipe):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return LOADERS[name](*arguments, **recipe)
