"""Checks of settings: Python, NumPy and JAX numbers alike; a number that is being traced is taken as it is."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from lnb._program import is_traced


def check_number(name: str, value: Any, low: float, high: float, *, closed: bool = False) -> None:
    """Raise unless `value` is a real number in [low, high), or in [low, high] if `closed`.

    Raises:
        TypeError: it is no number, or an array of several.
        ValueError: it is out of the range, or not a number in the sense of NaN.
    """
    dtype = getattr(value, "dtype", np.asarray(value).dtype if isinstance(value, (int, float)) else None)
    is_number = dtype is not None and np.ndim(value) == 0 and not np.issubdtype(dtype, np.bool_)
    if not is_number or not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}.")
    if is_traced(value):
        return
    number = float(value)
    if not (low <= number < high or (closed and number == high)):
        bounds = f"at least {low:g}" if high == inf else f"in [{low:g}, {high:g}{']' if closed else ')'}"
        raise ValueError(f"{name} must be {bounds}, got {value!r}.")
