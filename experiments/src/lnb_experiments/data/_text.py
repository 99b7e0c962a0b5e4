"""A text as numbers. Its first nine tenths train a network, and evenly spaced windows of the rest measure it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lnb_experiments._errors import ExperimentError

if TYPE_CHECKING:
    from jaxtyping import Int

_TRAINING_SHARE = 0.9


class EncodedText(NamedTuple):
    """The characters of a text, each as its place among those that the text has."""

    training: Int[np.ndarray, " n"]
    held_out: Int[np.ndarray, " m"]
    vocabulary: int  # how many different characters there are


def encode_text(text: str) -> EncodedText:
    """The text as numbers, cut into the part that is trained on and the part that is held out.

    >>> tuple(map(len, encode_text("abcabcabca")[:2])), encode_text("abcabcabca").vocabulary
    ((9, 1), 3)
    """
    known, characters = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    cut = int(_TRAINING_SHARE * len(characters))
    training, held_out = np.split(characters.astype(np.int32), [cut])
    return EncodedText(training, held_out, len(known))


def held_out_windows(text: EncodedText, context: int, count: int | None) -> Int[np.ndarray, "m t+1"]:
    """Windows of the held-out text, each with the character that follows it, evenly spaced.

    Args:
        text: the text.
        context: characters in a window, the one that follows left out.
        count: how many windows; None for all that fit side by side.

    Raises:
        ExperimentError: the held-out text has no such number of windows.
    """
    fit = (len(text.held_out) - 1) // context
    count = fit if count is None else count
    if not 1 <= count <= fit:
        raise ExperimentError(
            f"`validation_windows` must be from 1 to {fit}, which the held-out text has for `context`, got {count}."
        )
    starts = context * (np.arange(count) * fit // count)
    return text.held_out[starts[:, None] + np.arange(context + 1)]
