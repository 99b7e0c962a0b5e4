"""Photographs and their masks from PASCAL VOC 2012, decoded as section 5.4 of the paper has them.

A photograph is padded to 500 x 500 pixels to the right and below, then made smaller. The paper pads a normalised image
with zeros, which is to pad the image with ImageNet's mean colour (here rounded to 8 bits). In a mask, padding is as
unlabelled as the borders of objects are: neither counts in the loss or in a metric.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._data import load_dataset

if TYPE_CHECKING:
    from jaxtyping import Int, UInt8

CLASSES = 21
"""The background and twenty kinds of objects."""

UNLABELLED = 255
"""The value of a mask where there is no class to predict."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""The mean of red, green and blue, in [0, 1]."""

IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""Their standard deviation."""

_UNLABELLED_COLOUR = (224, 224, 192)
_PADDED = 500


class Encoded(NamedTuple):
    """A photograph and its mask as files."""

    image: bytes
    mask: bytes  # in the colours of `class_colours`


class EncodedSplit(Sequence[Encoded]):
    """The rows of a `datasets.Dataset`, read when they are asked for."""

    def __init__(self, data: Any) -> None:
        """Take a data set with the columns `image` and `mask`."""
        import datasets

        for column in ("image", "mask"):
            data = data.cast_column(column, datasets.Image(decode=False))
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: Any) -> Any:
        row = self._data[index]
        return Encoded(row["image"]["bytes"], row["mask"]["bytes"])


def load_voc() -> Mapping[str, Sequence[Encoded]]:
    """The splits `train` and `val`; nothing is decoded yet.

    Raises:
        ExperimentError: there is neither a folder with the data nor a network to fetch it.

    Source: Everingham et al. (2010), The PASCAL visual object classes (VOC) challenge.
    """
    data = load_dataset("voc2012")
    return {split: EncodedSplit(data[split]) for split in ("train", "val")}


def decode_example(encoded: Encoded, size: int) -> tuple[UInt8[np.ndarray, "h w c"], UInt8[np.ndarray, "h w"]]:
    """The photograph and the class of each pixel, both padded and then made `size` pixels high and wide.

    Raises:
        ExperimentError: the two do not fit together or are larger than 500 pixels, or a colour stands for no class.
    """
    from PIL import Image

    image = Image.open(io.BytesIO(encoded.image)).convert("RGB")
    classes = decode_mask(np.asarray(Image.open(io.BytesIO(encoded.mask)).convert("RGB")))
    if image.size != classes.shape[::-1] or max(image.size) > _PADDED:
        raise ExperimentError(
            f"images and masks must be of one size, at most {_PADDED} pixels; "
            f"got {image.size} and {classes.shape[::-1]}."
        )
    mean = tuple(round(255 * channel) for channel in IMAGENET_MEAN)
    padded = Image.new("RGB", (_PADDED, _PADDED), mean)
    padded.paste(image, (0, 0))
    mask = Image.new("L", (_PADDED, _PADDED), UNLABELLED)
    mask.paste(Image.fromarray(classes), (0, 0))
    small = (size, size)
    return (
        np.asarray(padded.resize(small, Image.Resampling.BILINEAR)),
        np.asarray(mask.resize(small, Image.Resampling.NEAREST)),
    )


def class_colours() -> UInt8[np.ndarray, "k c"]:
    """The colour of each class: the bits of its number in turn, the lowest to the highest bit of red, green and blue.

    >>> class_colours()[[1, 15]].tolist()  # aeroplane, person
    [[128, 0, 0], [192, 128, 128]]
    """
    classes = np.arange(CLASSES)
    colours = np.zeros((CLASSES, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = classes >> (3 * place + channel) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colours


def decode_mask(colours: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w"]:
    """The class of each pixel, `UNLABELLED` for what VOC leaves open.

    Raises:
        ExperimentError: a colour stands for no class; the message says which.
    """
    known = _codes(np.concatenate([class_colours(), np.asarray([_UNLABELLED_COLOUR], np.uint8)]))  # [k + 1]
    values = np.asarray([*range(CLASSES), UNLABELLED], np.uint8)
    order = np.argsort(known)
    codes = _codes(colours)
    places = np.minimum(np.searchsorted(known, codes, sorter=order), CLASSES)
    found = order[places]  # [h, w]
    unknown = known[found] != codes
    if unknown.any():
        raise ExperimentError(
            f"`mask` has a colour that stands for no class of VOC: {tuple(colours[unknown][0].tolist())}, "
            f"at {int(unknown.sum())} of its pixels or more."
        )
    return values[found]


def _codes(colours: UInt8[np.ndarray, "*n c"]) -> Int[np.ndarray, "*n"]:
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue
