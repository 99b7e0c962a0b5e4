"""What a row of the tables holds, and how a layer's calls are captured for its dense Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr


@dataclass(frozen=True)
class Call:
    """A layer as it was called: `function(leaves, *inputs)` is its output."""

    function: Callable[..., Any]
    leaves: list[np.ndarray]
    inputs: tuple[np.ndarray, ...]


def record(calls: list[Call], function: Callable[..., Any], leaves: list[Any], inputs: tuple[Any, ...]) -> None:
    """Append a call with the values that it has when it runs: once an example under `vmap`, once a step in a scan."""

    def append(leaves, inputs):
        calls.append(Call(function, *jax.tree.map(np.asarray, (leaves, inputs))))

    jax.debug.callback(append, leaves, inputs)


@dataclass(frozen=True)
class Layer:
    """A neuron that must be found, and its output.

    Fields:
        keys: its parameters' paths as they are printed; a name `w` stands for `['w']`.
        output: `output(chosen, params, *args)` with the neuron's parameters apart, by key, so that those of earlier
            layers can be held. None: the whole network's, or where the case captures calls, theirs.
        parts: how many neurons of the same size it is found as.
        cut: the sizes of the parts that its outputs are cut into.
    """

    keys: tuple[str, ...]
    kind: str
    sizes: tuple[int, int, int]  # g, i, o
    samples: int
    output: Callable[..., Any] | None = None
    parts: int = 1
    cut: tuple[int, ...] = ()

    @property
    def paths(self) -> dict[str, str]:
        """Each key's path."""
        return {key: key if key[0] in ".[" else f"['{key}']" for key in self.keys}


@dataclass(frozen=True)
class Case:
    """A network, what must be found in it, and what must not.

    Fields:
        name: how it is written, as the page on coverage prints it, code in backticks.
        apply: `apply(params, *args)` is its output, or `(output, aux)` with `has_aux`.
        params, args: trees of NumPy arrays.
        uncovered: path and exact reason of every parameter that belongs to no neuron.
        loss: `loss(params, *args)` where the loss is more than a function of the output.
        capture: `capture(calls)` is a context in which every layer's call is appended to `calls`.
        promotion: the dtype promotion that it needs.
        tolerance: the relative error allowed in M v.
        gram_tolerance: in the Gram matrix; features of low precision have theirs in float32.
    """

    name: str
    apply: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]
    layers: tuple[Layer, ...] = ()
    uncovered: Mapping[str, str] = field(default_factory=dict)
    loss: Callable[..., Any] | None = None
    has_aux: bool = False
    capture: Callable[[list[Call]], AbstractContextManager[Any]] | None = None
    promotion: str = "strict"
    tolerance: float = 1e-10
    gram_tolerance: float = 1e-9

    def loss_fn(self, params, *args):
        """A nonlinear loss of the network's output."""
        if self.loss is not None:
            return self.loss(params, *args)
        output, *aux = self.apply(params, *args) if self.has_aux else (self.apply(params, *args),)
        value = jnp.mean(jnp.sin(output) ** 2)
        return (value, *aux) if self.has_aux else value

    def inputs(self):
        """Parameters and arguments as arrays of the precision in force."""
        return jax.tree.map(jnp.asarray, (self.params, self.args))

    def replaced(self, chosen, layer, params):
        """The parameters with a layer's in place of their own."""
        by_path = {path: chosen[key] for key, path in layer.paths.items()}
        return jax.tree_util.tree_map_with_path(lambda path, leaf: by_path.get(keystr(path), leaf), params)

    def output_of(self, layer, params, args):
        """The layer's output as a function of its own parameters, by key."""
        if layer.output is not None:
            return lambda chosen: layer.output(chosen, params, *args)

        def whole(chosen):
            output = self.apply(self.replaced(chosen, layer, params), *args)
            return output[0] if self.has_aux else output

        return whole


def by_path(tree) -> dict[str, Any]:
    """The leaves of a tree by their paths as JAX prints them."""
    return {keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def normal(*shape, seed=0):
    """Seeded normal numbers, others for another shape or seed."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def filled(tree, seed=100):
    """A tree of shapes as one of numbers, no two parameters equal."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [normal(*leaf.shape, seed=seed + k) for k, leaf in enumerate(leaves)])


def one(name, apply, params, args, kind, sizes, samples, **options):
    """A network that is one neuron, of all its parameters."""
    keys = tuple(params) if isinstance(params, dict) else tuple(by_path(params))
    return Case(name, apply, params, args, (Layer(keys, kind, sizes, samples),), **options)
