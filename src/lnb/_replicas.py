"""Replicas of a training step, each of which has a part of the batch, and what they share.

Inside of `shard_map`, `pmap` and `vmap` with an axis name a step sees the features of its own part alone. Replicas that
average their gradients stay alike only if they precondition alike: section 3.5 shares mu and chi as the gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import jax
from jax import Array

Axes = tuple[Any, ...] | None
"""The names of mapped axes whose replicas share statistics; None for those that the types tell."""


def as_axes(axis_name: Any) -> Axes:
    """`axis_name` of `lnb.lnb` as a tuple."""
    return axis_name if axis_name is None or isinstance(axis_name, tuple) else (axis_name,)


def known_axes(axes: Axes) -> Axes:
    """The axes that are given, none outside of a map, and None for those that the types tell.

    Warn of mapped axes of which neither the types nor the caller tells whether replicas share along them.
    """
    from lnb._program import axes_in_scope, varying_axes

    if axes is not None or not (names := axes_in_scope()):
        return axes or ()
    untold = tuple(name for name in names if name not in varying_axes(jax.lax.axis_index(name)))
    if untold:
        name = untold[0] if len(untold) == 1 else untold
        warnings.warn(
            f"The update is mapped over {', '.join(map(repr, untold))}, and each replica takes statistics of its own "
            "part of the batch: replicas that average their gradients will part. Make the optimizer with "
            f"`axis_name={name!r}` to share the statistics, or with `axis_name=()` for replicas that are to differ.",
            stacklevel=2,
        )
    return None


def axes_apart(arrays: Iterable[Any], gradients: Iterable[Array]) -> tuple[Any, ...]:
    """The axes along which, by their types, replicas differ in these arrays and not in these gradients."""
    from lnb._program import varying_axes

    found = frozenset[Any]().union(*map(varying_axes, arrays))
    return tuple(sorted(found.difference(*map(varying_axes, gradients)), key=str))
