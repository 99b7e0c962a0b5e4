"""Statistics and solves on a mesh whose axes are explicit, as `jax.make_mesh` makes them.

With explicit axes an array's sharding is part of its type, and an operation that leaves open how its result is sharded,
such as a sum over a sharded batch, is an error. What a solver does with a batch is such an operation throughout. It is
traced with the same axes automatic, so that XLA shards what lies between, and its results are sharded like arrays that
the caller already has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes


def with_automatic_axes(function: Callable[..., Any], *arguments: Any, like: Any = None, out: Any = None) -> Any:
    """`function(*arguments)`, traced with every explicit axis of the arguments' mesh automatic.

    Args:
        function: of trees of arrays.
        *arguments: its arguments.
        like: a tree of the result's structure; each array of the result is sharded like the one in its place.
        out: the result's shardings, where `like` is None. None: the result is replicated.
    """
    mesh = _explicit_mesh(arguments)
    if mesh is None:
        return function(*arguments)
    shardings = NamedSharding(mesh, PartitionSpec()) if out is None else out
    if like is not None:
        shardings = jax.tree.map(lambda array: _sharding_on(mesh, array), like)
    return auto_axes(function, axes=_explicit_axes(mesh), out_sharding=shardings)(*arguments)


def explicit_axes_of(array: Any) -> tuple[str, ...]:
    """The explicit axes of the mesh that an array is typed with."""
    mesh = getattr(getattr(jax.typeof(array), "sharding", None), "mesh", None)
    return () if mesh is None else _explicit_axes(mesh)


def _explicit_axes(mesh: Any) -> tuple[str, ...]:
    kinds = mesh.axis_types or ()
    return tuple(name for name, kind in zip(mesh.axis_names, kinds, strict=False) if kind == AxisType.Explicit)


def _explicit_mesh(tree: Any) -> Any:
    """The mesh that an array of the tree is typed with, if one of its axes is explicit."""
    return next((jax.typeof(array).sharding.mesh for array in jax.tree.leaves(tree) if explicit_axes_of(array)), None)


def _sharding_on(mesh: Any, array: Any) -> NamedSharding:
    sharding: Any = jax.typeof(array).sharding
    return NamedSharding(mesh, sharding.spec if sharding.mesh == mesh else PartitionSpec())
