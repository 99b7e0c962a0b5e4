"""Checks of settings. Python, NumPy and JAX numbers are checked alike, and traced numbers are not checked."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from jax.core import Tracer


def is_traced(array: Any) -> bool:
    """Whether an array's values are not known now, but belong to a trace around this one."""
    return isinstance(array, Tracer)


def check_number(name: str, value: Any, low: float, high: float, *, closed: bool = False) -> None:
    """Raise unless `value` is a real number in [low, high), or in [low, high] if `closed`.

    Raises:
        TypeError: it is not a number, or it is an array of several.
        ValueError: it is out of the range, or NaN.
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


def check_range(owner: object, low: float, high: float, *names: str, closed: bool = False) -> None:
    """`check_number` for these settings of an object."""
    for name in names:
        check_number(_name(owner, name), getattr(owner, name), low, high, closed=closed)


def check_fraction(owner: object, *names: str) -> None:
    """Raise unless these settings are Python numbers above 0 and at most 1."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"{_name(owner, name)} must be above 0 and at most 1, got {value!r}.")


def check_count(owner: object, *names: str) -> None:
    """Raise unless these settings are whole numbers of at least 1."""
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{_name(owner, name)} must be a whole number of at least 1, got {value!r}.")


def check_choice(owner: object, name: str, choices: tuple[str, ...]) -> None:
    """Raise unless this setting is one of these words."""
    value = getattr(owner, name)
    if value not in choices:
        raise ValueError(f"{_name(owner, name)} must be {' or '.join(map(repr, choices))}, got {value!r}.")


def _name(owner: object, setting: str) -> str:
    return f"`{setting}` of {type(owner).__name__}"
