"""Data sets as NumPy arrays.

`digits` comes with scikit-learn. The others come through the `datasets` library: from the folder
`$LNB_DATA_DIR/<name>` if there is one, else from the hub; both have the same columns.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lnb_experiments._errors import ExperimentError

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

HUB_IDS: Mapping[str, str] = {
    "mnist": "ylecun/mnist",
    "cifar10": "uoft-cs/cifar10",
    "tinyshakespeare": "karpathy/tiny_shakespeare",
    "voc2012": "nateraw/pascal-voc-2012",
}
"""The hub id of each data set that does not come with an installed package."""

# A fixed split: the seed of a run changes its weights and batches, never what it is tested on.
_DIGITS_SPLIT_SEED = 0
_DIGITS_TRAINING = 1500


class Split(NamedTuple):
    """Labelled images, flat."""

    images: Float32[np.ndarray, "n i"]  # intensities in [0, 1]
    labels: Int32[np.ndarray, " n"]  # classes from 0


class LabelledImages(NamedTuple):
    """A data set for classification."""

    train: Split
    test: Split
    classes: int


class ColourSplit(NamedTuple):
    """Labelled images in colour."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]  # classes from 0


class ColourImages(NamedTuple):
    """A data set of images in colour for classification."""

    train: ColourSplit
    test: ColourSplit
    classes: int


def load_digits() -> LabelledImages:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, 1,500 of them for training.

    Returns:
        Images with 64 intensities in [0, 1]; which ones are for training is the same on every call.

    Source: Alpaydin and Kaynak (1998), optical recognition of handwritten digits.
    """
    from sklearn import datasets as embedded

    images, labels = embedded.load_digits(return_X_y=True)
    order = np.random.default_rng(_DIGITS_SPLIT_SEED).permutation(len(labels))
    images = np.asarray(images, np.float32)[order] / np.float32(16)
    labels = np.asarray(labels, np.int32)[order]
    train = Split(images[:_DIGITS_TRAINING], labels[:_DIGITS_TRAINING])
    return LabelledImages(train, Split(images[_DIGITS_TRAINING:], labels[_DIGITS_TRAINING:]), 10)


def load_mnist() -> LabelledImages:
    """MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels.

    Returns:
        Images with 784 intensities in [0, 1].

    Raises:
        ExperimentError: there is neither a folder with the data nor a network to fetch it.

    Source: LeCun et al. (1998), Gradient-based learning applied to document recognition.
    """
    data = load_dataset("mnist")
    return LabelledImages(_labelled(data["train"]), _labelled(data["test"]), 10)


@functools.cache  # decoding takes seconds, and the problems of several seeds read the same images
def load_cifar10() -> ColourImages:
    """CIFAR-10: 50,000 + 10,000 photographs of 32 x 32 pixels in ten classes.

    Raises:
        ExperimentError: there is neither a folder with the data nor a network to fetch it.

    Source: Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    data = load_dataset("cifar10")
    train, test = (
        ColourSplit(_decode(data[split], "img"), np.asarray(data[split]["label"], np.int32))
        for split in ("train", "test")
    )
    return ColourImages(train, test, 10)


def load_tinyshakespeare() -> str:
    """The 1.1 million characters of Shakespeare's plays that character models are tried on.

    Read from the file `$LNB_DATA_DIR/tinyshakespeare.txt` if there is one, else from the hub.

    Raises:
        ExperimentError: there is neither the file nor a network to fetch it.

    Source: Karpathy (2015), The unreasonable effectiveness of recurrent neural networks.
    """
    root = os.environ.get("LNB_DATA_DIR")
    path = Path(root).expanduser() / "tinyshakespeare.txt" if root else None
    if path is not None and path.is_file():
        return path.read_text(encoding="utf-8")
    # The hub's own conversion: the data set itself is a script, which the library no longer runs.
    splits = load_dataset("tinyshakespeare", revision="refs/convert/parquet")
    return "".join(text for split in ("train", "validation", "test") for text in splits[split]["text"])


def load_dataset(name: str, revision: str | None = None) -> Mapping[str, Any]:
    """The splits of the data set `name`, from `$LNB_DATA_DIR/<name>` or from the hub.

    Args:
        name: a key of `HUB_IDS`.
        revision: of the hub's repository; None for its main one.

    Returns:
        Split name to `datasets.Dataset`. Nothing is written to the folder: the library keeps its own cache.

    Raises:
        ExperimentError: there is neither a folder with the data nor a network to fetch it.
    """
    import datasets

    root = os.environ.get("LNB_DATA_DIR")
    folder = Path(root).expanduser() / name if root else None
    if folder is not None and folder.is_dir():
        with _without_progress_bars(datasets):
            return datasets.load_dataset(str(folder.resolve()))  # pyright: ignore[reportReturnType]
    try:
        return datasets.load_dataset(HUB_IDS[name], revision=revision)  # pyright: ignore[reportReturnType]
    except OSError as error:  # what `datasets` raises without a network derives from it
        raise ExperimentError(_unavailable(name, folder)) from error


def _unavailable(name: str, folder: Path | None) -> str:
    looked = "`LNB_DATA_DIR` is not set" if folder is None else f"there is no folder {folder}"
    return (
        f"the data set {name!r} is not here and cannot be fetched: {looked}, and no network reaches "
        f"the hub's {HUB_IDS[name]!r}. Set `LNB_DATA_DIR` to a folder that holds {name}/ with the "
        "same columns, or connect to a network. The tasks `digits` and `matrix-factorization`, and "
        "their variants, work without either."
    )


class _without_progress_bars:
    """Read a local folder in silence, and leave the library's setting as it was."""

    def __init__(self, datasets: Any) -> None:
        self._datasets = datasets

    def __enter__(self) -> None:
        self._enabled = self._datasets.is_progress_bar_enabled()
        self._datasets.disable_progress_bars()

    def __exit__(self, *raised: object) -> None:
        if self._enabled:
            self._datasets.enable_progress_bars()


def _labelled(data: Any) -> Split:
    images = _decode(data, "image")
    flat = images.reshape(len(images), -1).astype(np.float32) / np.float32(255)  # [n, h, w] -> [n, h * w]
    return Split(flat, np.asarray(data["label"], np.int32))


def _decode(data: Any, column: str) -> UInt8[np.ndarray, "n h w *c"]:
    import datasets
    from PIL import Image

    # Opening the files here is several times as fast as the library's decoding, row by row, with its checks.
    encoded = data.cast_column(column, datasets.Image(decode=False))[column]
    return np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in encoded])
