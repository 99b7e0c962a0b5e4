"""Data in the form of the larger tasks' own, a few examples of noise each, and their problems."""

import dataclasses
import io
from functools import cache, partial

import numpy as np
from PIL import Image

import lnb_experiments as ex
from lnb_experiments.data import _data, _voc
from lnb_experiments.tasks import _character_transformer, _segmentation, _vision_transformer

# Each character follows from the one before, but for one in ten.
_STEPS = np.where(np.random.default_rng(0).random(6000) < 0.1, 3, 1)
TEXT = "".join("abcdefg \n"[place % 9] for place in np.cumsum(_STEPS))


@cache
def photographs(train=14, test=8):
    """Like `load_cifar10`."""
    random = np.random.default_rng(0)

    def split(count):
        images = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
        return _data.ColourSplit(images, random.integers(0, 10, count).astype(np.int32))

    return _data.ColourImages(split(train), split(test), 10)


def file(array, **options):
    """The array of bytes as an image file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", **options)
    return stream.getvalue()


@cache
def masked_photographs(train=11, val=5, height=300, width=400):
    """Like `load_voc`, decoded from PNG: two things side by side with a border between them."""
    random = np.random.default_rng(0)

    def encode():
        mask = _voc.class_colours()[np.where(np.arange(width) < width // 2, *random.choice([0, 8, 15], 2))]  # [w, c]
        mask = np.broadcast_to(mask, (height, width, 3)).copy()
        image = mask ^ random.integers(0, 64, mask.shape, np.uint8)
        mask[:, width // 2 : width // 2 + 10] = (224, 224, 192)
        return _voc.Encoded(file(image), file(mask))

    return {"train": [encode() for _ in range(train)], "val": [encode() for _ in range(val)]}


# For each task: what builds its problem from such data, and the settings that make it tiny.
TINY = {
    "vit-cifar10": (
        partial(_vision_transformer.vision_transformer, photographs),
        {"width": 8, "hidden": 8, "heads": 2, "depth": 2, "batch_size": 4, "validation_images": 6},
    ),
    "unet-voc": (
        partial(_segmentation.segmentation, masked_photographs),
        {"size": 16, "width": 4, "depth": 2, "batch_size": 3, "validation_images": 4},
    ),
    "char-transformer": (
        partial(_character_transformer.character_transformer, lambda: TEXT),
        {"width": 8, "heads": 2, "depth": 2, "context": 16, "batch_size": 50, "validation_windows": 2, "dropout": 0.1},
    ),
}


@cache
def tiny(name, seed=0, **changed):
    """The task's problem at a size for tests; the same one if asked for again."""
    build, sizes = TINY[name]
    settings = dataclasses.replace(ex.find_task(name).at("cpu").settings, **{**sizes, **changed})
    return build(settings, seed)
