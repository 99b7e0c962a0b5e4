"""How an optimizer's state is laid out over a mesh: as the parameters that it belongs to.

The average of the gradient is laid out as the parameters are. What belongs to a neuron's features, [g, i], [g, i, i] or
[g, i, r], has no axis of the weights' own. Each such array is split along its largest axis that divides, over the mesh
axes that the neuron's parameters are split over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec, use_abstract_mesh

from lnb._checks import is_traced
from lnb._explicit_axes import explicit_axes_of, with_automatic_axes
from lnb._solve_groups import SolveGroup

if TYPE_CHECKING:
    import optax

PyTree = Any


def state_sharding(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """How `optimizer.init(params)` lays its state out, from how the parameters are laid out.

    For `jax.jit(.., out_shardings=..)`, and to restore a checkpoint onto another mesh. `init` itself lays the state out
    if it is called with arrays, outside of `jax.jit`.

    Args:
        optimizer: from `lnb.lnb`, or an Optax chain or wrapper with it inside.
        params: arrays, or `jax.ShapeDtypeStruct` with a `sharding`. At least one is laid out by a `NamedSharding`.

    Returns:
        A tree like the state, of a `NamedSharding` for each array. The average of the gradient is as the parameters.
        Each array of a neuron's statistics is split along its largest axis that divides, over the mesh axes that the
        neuron's parameters are split over. All other arrays are replicated.

    Raises:
        ValueError: no parameter has a `NamedSharding`.

    >>> import jax.numpy as jnp, lnb
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> params = jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("data")))
    >>> neurons = lnb.find_neurons(lambda w, x: jnp.sum(x @ w), jnp.ones((8, 6)), jnp.ones((5, 8)))
    >>> state_sharding(lnb.lnb(neurons, 0.02), params).average[0].spec[0]
    'data'
    """
    leaves, treedef = jax.tree.flatten(params)
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves]
    mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    if mesh is None:
        raise ValueError(
            "`params` has no array with a `NamedSharding`: lay the parameters out over a mesh, or give "
            "`jax.ShapeDtypeStruct(shape, dtype, sharding=..)` in their place."
        )
    # With explicit axes the layout belongs to the types, and every transformation of Optax hands it on.
    explicit = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=(AxisType.Explicit,) * len(mesh.axis_names))

    def typed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        own = NamedSharding(explicit, getattr(sharding, "spec", PartitionSpec()))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own)

    found: list[PyTree] = []

    def init(params: PyTree) -> None:
        state = optimizer.init(params)
        found.append(jax.tree.map(lambda array: NamedSharding(mesh, jax.typeof(array).sharding.spec), state))

    with use_abstract_mesh(explicit):
        jax.eval_shape(init, jax.tree.unflatten(treedef, map(typed, leaves, shardings)))
    return found[0]


def laid_out(init: Callable[[Any], Any], leaves: Mapping[int, Any], groups: Sequence[SolveGroup]) -> Any:
    """The state that `init` makes for these leaves, laid out as they are; no device has more of an array than its part.

    Args:
        init: makes an `LNBState`.
        leaves: of the parameters, by number.
        groups: of their neurons.
    """
    own = {k: _sharding_of(leaf) for k, leaf in leaves.items()}
    mesh = next((sharding.mesh for sharding in own.values() if sharding is not None), None)
    if mesh is None:
        return init(leaves)
    state = jax.eval_shape(init, {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in leaves.items()})
    whole = NamedSharding(mesh, PartitionSpec())
    axes = [_axes_of(group.leaves_of(own)) for group in groups]
    shardings = jax.tree.map(lambda _: whole, state)._replace(
        average=None if state.average is None else tuple(sharding or whole for sharding in own.values()),
        statistics=tuple(_split(tree, mesh, names) for tree, names in zip(state.statistics, axes, strict=True)),
        warm_starts=tuple(_split(tree, mesh, names) for tree, names in zip(state.warm_starts, axes, strict=True)),
    )

    def typed(leaves: Any) -> Any:
        return with_automatic_axes(init, leaves, out=shardings)

    if any(map(is_traced, leaves.values())):
        return typed(leaves)
    return jax.jit(typed, out_shardings=shardings)(leaves)


def _sharding_of(leaf: Any) -> NamedSharding | None:
    """How a leaf is laid out over a mesh, if it is and that is known: of a traced one, if the axes are explicit."""
    if is_traced(leaf):
        return jax.typeof(leaf).sharding if explicit_axes_of(leaf) else None
    sharding = getattr(leaf, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) else None


def _axes_of(shardings: Sequence[NamedSharding | None]) -> tuple[str, ...]:
    """The mesh axes that arrays are split over."""
    entries = [entry for sharding in shardings if sharding is not None for entry in sharding.spec if entry is not None]
    return tuple(dict.fromkeys(name for entry in entries for name in (entry if isinstance(entry, tuple) else (entry,))))


def _split(tree: PyTree, mesh: Any, axes: tuple[str, ...]) -> PyTree:
    """The shardings of a neuron's arrays, whose parameters are split over these axes."""

    def split(array: Any) -> NamedSharding:
        for count in range(len(axes), 0, -1):
            parts = prod(mesh.shape[axis] for axis in axes[:count])
            fits = [k for k, size in enumerate(array.shape) if size and size % parts == 0]
            if fits:
                largest = max(fits, key=lambda k: array.shape[k])
                return NamedSharding(mesh, PartitionSpec(*(None,) * largest, axes[:count] if count > 1 else axes[0]))
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(split, tree)
