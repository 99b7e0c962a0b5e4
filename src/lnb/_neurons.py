"""The neurons of a loss: `find_neurons`, and what it returns."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import keystr

from lnb._batch import Features
from lnb._explicit_axes import with_automatic_axes
from lnb._neuron import Neuron
from lnb._numerics import of_parts, real_parts
from lnb._table import table

if TYPE_CHECKING:
    from lnb._finding import Plan

PyTree = Any

_LEAST_COVERAGE = 0.8  # below it `find_neurons` warns


class Neurons(Sequence[Neuron]):
    """The neurons of a loss: printable, iterable, and able to evaluate the loss so that their features come out."""

    def __init__(
        self,
        loss_fn: Callable[..., Any],
        has_aux: bool,
        treedef: Any,
        keys: tuple[Any, ...],
        paths: tuple[str, ...],
        shapes: tuple[jax.ShapeDtypeStruct, ...],
        ignored: frozenset[int],
        found: Plan,
    ) -> None:
        self._loss_fn = loss_fn
        self._has_aux = has_aux
        self.treedef = treedef
        """The structure of `params`."""
        self._keys = keys
        self._paths = paths
        self._shapes = shapes
        self._is_complex = any(jnp.issubdtype(shape.dtype, jnp.complexfloating) for shape in shapes)
        self.ignored = tuple(paths[leaf] for leaf in sorted(ignored))
        """The paths of the ignored parameters, which an optimizer of these neurons does not train."""
        self.ignored_leaves = ignored
        """The places of these parameters among the leaves of `params`."""
        self.uncovered = tuple((paths[leaf], reason) for leaf, reason in found.uncovered.items())
        """(path, reason) of each parameter that no neuron covers; they are trained with the identity metric."""
        self._uncovered_leaves = tuple(found.uncovered)
        self._neurons = found.neurons
        self.signature = _signature(treedef, found)

    def __len__(self) -> int:
        return len(self._neurons)

    def __getitem__(self, index: Any) -> Any:
        return self._neurons[index]

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self._neurons)

    @property
    def sharing(self) -> tuple[int, ...]:
        """For each neuron, the index of the first neuron that reads the same features; they share its statistics."""
        return self.signature[2]

    @property
    def coverage(self) -> float:
        """The fraction of the parameter elements that belong to a neuron, not counting ignored ones, 0 to 1."""
        total = sum(prod(shape.shape) for leaf, shape in enumerate(self._shapes) if leaf not in self.ignored_leaves)
        missing = sum(prod(self._shapes[leaf].shape) for leaf in self._uncovered_leaves)
        return 1.0 - missing / total if total else 1.0

    def value_and_grad(self, params: PyTree, *args: Any, **kwargs: Any) -> tuple[Any, PyTree, Features]:
        """Evaluate the loss, its gradient and the neurons' features in one forward and one backward pass.

        It evaluates `jax.value_and_grad` of the loss. Call it inside `jax.jit`. As with every optimizer of Optax, give
        `update` the conjugate of a complex parameter's gradient.

        Args:
            params: a tree of the structure and shapes that the neurons were found with.
            *args, **kwargs: the loss's other arguments; their shapes may differ from call to call.

        Returns:
            `(value, grads, features)`; with `has_aux=True`, `((value, aux), grads, features)`.

        Raises:
            ValueError: `params` is of another structure, or the loss's neurons are not those that were found.
        """
        leaves = self._check_params(params)
        found, inputs, result_tree = _trace(
            self._loss_fn, params, args, kwargs, self._has_aux, self._paths, self.ignored_leaves
        )
        signature = _signature(self.treedef, found)
        if signature != self.signature:
            raise ValueError(
                "the loss has other neurons with these arguments than with those given to `find_neurons`: "
                f"{_difference(self.signature[1], signature[1], self._paths)}. Find the neurons of this loss "
                "with `lnb.find_neurons`, and give the optimizer those."
            )

        def evaluate(leaves: list[Array]) -> tuple[Array, tuple[list[Any], list[Any]]]:
            parts = [real_parts(leaf) for leaf in leaves]
            (value, *aux), recorded = found.program.evaluate([*parts, *inputs], found.recorder)
            return value, (aux, recorded)

        (value, (aux, recorded)), gradients = jax.value_and_grad(evaluate, has_aux=True)(leaves)
        needed = found.recorded_places()
        arrays = tuple(array if place in needed else None for place, array in enumerate(recorded))
        features = Features(arrays, tuple(neuron.features for neuron in found.neurons), signature)
        value = jax.tree.unflatten(result_tree, [value, *aux])
        return value, jax.tree.unflatten(self.treedef, gradients), features

    def metric_product(self, features: Features, vectors: PyTree) -> PyTree:
        """Multiply a tree `vectors` like `params` by each neuron's metric M of eq. (11), without a ridge.

        Parameters with the identity metric come back as they are.
        """
        self.check_features(features)
        leaves = [real_parts(leaf) for leaf in self._check_params(vectors, "vectors")]

        def multiply(arrays: Sequence[Array], leaves: list[Array]) -> list[Array]:
            parts = [identity_parts(identity_masks(self, range(len(leaves))), dict(enumerate(leaves)))]
            for neuron, feature_set in zip(self, features.sets, strict=True):
                if feature_set is not None:
                    parts.append(neuron.unpack_leaves(feature_set.product(arrays, neuron.pack_leaves(leaves))))
            return list(sum_parts(parts, range(len(leaves))).values())

        products = with_automatic_axes(multiply, features.arrays, leaves, like=leaves)
        return jax.tree.unflatten(self.treedef, self.as_given(products))

    def as_given(self, leaves: Sequence[Array | None]) -> list[Array | None]:
        """Leaves that `leaves_of` gave, or like them, in the types of `params`."""
        if not self._is_complex:
            return list(leaves)
        pairs = zip(leaves, self._shapes, strict=True)
        return [None if leaf is None else of_parts(leaf, shape.dtype) for leaf, shape in pairs]

    def without(self, left_out: frozenset[int]) -> tuple[Neuron, ...]:
        """The neurons that are left when something else trains these leaves."""
        return tuple(kept for neuron in self if (kept := neuron.without(left_out)) is not None)

    def leaves_of(self, tree: PyTree, argument: str) -> list[Array | None]:
        """Flatten a tree like `params`, with None for each leaf that `optax.masked` or `optax.partition` masks.

        A complex leaf comes as its real and imaginary part, [2, ...].

        An array may stand where `params` has a node of one leaf: `nnx.Optimizer` gives arrays for `nnx.Param`s.

        Raises:
            ValueError: the tree is of another structure.
        """
        import optax

        def is_masked(node: Any) -> bool:
            return isinstance(node, optax.MaskedNode)

        found = dict(jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked)[0])
        masked = {key for key, leaf in found.items() if is_masked(leaf)}
        below = Counter(key[:length] for key in self._keys for length in range(len(key) + 1))
        leaves: list[Array | None] = []
        for key, path, shape in zip(self._keys, self._paths, self._shapes, strict=True):
            own = next((key[:length] for length in range(len(key) + 1) if key[:length] in found), None)
            if own is None or (below[own] > 1 and own not in masked):
                leaves.clear()
                break
            leaves.append(None if own in masked else found[own])
            if own not in masked and jnp.shape(found[own]) != shape.shape:
                raise ValueError(f"`{argument}`{path} has shape {jnp.shape(found[own])}, expected {shape.shape}.")
        if sum(leaf is not None for leaf in leaves) != len(found) - len(masked):
            raise ValueError(
                f"`{argument}` has another structure than the params that the neurons were found with: "
                f"got {jax.tree.structure(tree)}, expected {self.treedef}. Wrappers that change the tree, such as "
                "`optax.flatten`, hide the layers: put them inside of LNB's or leave them out."
            )
        if not self._is_complex:
            return leaves
        return [None if leaf is None else real_parts(jnp.asarray(leaf)) for leaf in leaves]

    def check_features(self, features: Any) -> None:
        """Raise unless `features` are these neurons'."""
        if features is None:
            raise ValueError(
                "`features` is missing: call `optimizer.update(grads, state, params, features=features)` with the "
                "features that `neurons.value_and_grad(params, ...)` returned. Wrappers such as `optax.lookahead` and "
                "`optax.contrib.sam` pass on no extra arguments: make them in the step, around LNB with its features."
            )
        if not isinstance(features, Features):
            raise TypeError(f"`features` must come from `neurons.value_and_grad`, got {type(features).__name__}.")
        if features.signature != self.signature:
            raise ValueError(
                "`features` come from another network than the neurons that the optimizer was made for: "
                "take both from the same `lnb.find_neurons`."
            )

    def _check_params(self, params: PyTree, argument: str = "params") -> list[Array]:
        leaves, treedef = jax.tree.flatten(params)
        if treedef != self.treedef:
            raise ValueError(
                f"`{argument}` has another structure than the params that the neurons were found with: "
                f"got {treedef}, expected {self.treedef}."
            )
        for path, leaf, shape in zip(self._paths, leaves, self._shapes, strict=True):
            if jnp.shape(leaf) != shape.shape:
                raise ValueError(f"`{argument}`{path} has shape {jnp.shape(leaf)}, expected {shape.shape}.")
        return leaves

    def __repr__(self) -> str:
        return f"Neurons({len(self)} neurons, coverage {self.coverage:.1%})"

    def __str__(self) -> str:
        return table(self, self.sharing, self.coverage, self.uncovered, self.ignored)


def identity_masks(neurons: Sequence[Neuron], leaves: Iterable[int]) -> dict[int, np.ndarray | None]:
    """For each leaf that has elements with the identity metric, which elements have another; None for none."""
    masks = {}
    for leaf in leaves:
        covered = [n.covered(leaf) for n in neurons if n.features is not None and leaf in n.leaves]
        partial = [mask for mask in covered if mask is not None]
        if len(partial) == len(covered):
            masks[leaf] = np.logical_or.reduce(partial) if partial else None
    return masks


def identity_parts(masks: Mapping[int, np.ndarray | None], leaves: Mapping[int, Array]) -> dict[int, Array]:
    """The leaves of `identity_masks`, with zeros where the metric is not the identity."""
    return {k: leaves[k] if mask is None else jnp.where(mask, 0, leaves[k]) for k, mask in masks.items()}


def sum_parts(parts: Sequence[Mapping[int, Array]], leaves: Iterable[int]) -> dict[int, Array]:
    """These leaves, each the sum of its parts."""
    return {leaf: reduce(jnp.add, [part[leaf] for part in parts if leaf in part]) for leaf in leaves}


def find_neurons(
    loss_fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    has_aux: bool = False,
    strict: bool = False,
    ignore: str | Sequence[str] = (),
    names: Sequence[str] | None = None,
    axis_sizes: Mapping[Any, int] | None = None,
    **kwargs: Any,
) -> Neurons:
    """Find every linear function of a network by tracing its loss.

    Args:
        loss_fn: `loss_fn(params, *args, **kwargs)` gives a scalar, or `(scalar, aux)` with `has_aux=True`.
        params: the parameters to train, any tree of floating-point or complex arrays.
        *args, **kwargs: the loss's other arguments as in training: arrays, or `jax.ShapeDtypeStruct` in their place.
        has_aux: as in `jax.value_and_grad`.
        strict: raise if a parameter belongs to no neuron, instead of listing it.
        ignore: paths of parameters, as the table prints them, that are meant to be left alone: they belong to no
            neuron, count as data, and an optimizer of these neurons leaves them to whatever else trains them. A path
            stands for all that lies below it.
        names: of the leaves of `params`, in their order, to be printed in place of their paths: those of a list of
            variables, as Keras has them, say nothing.
        axis_sizes: the mapped axes that the loss names, as in `jax.lax.pmean(.., "batch")`, and their sizes. Not
            needed inside of the map.

    Returns:
        The neurons. Print them to see what is covered, and what is not and why.

    Raises:
        TypeError: a leaf of `params` is not of a floating-point or complex type, or the loss is not a scalar.
        ValueError: `strict=True`, and a parameter belongs to no neuron; `ignore` has a path that is none; `names` are
            not as many as the leaves, or not distinct.

    Warns:
        UserWarning: the neurons cover less than 80 % of the parameters; it names the largest left out, and why.

    Source: section 3.1 of the paper, where the neurons are given; here they are found.

    >>> import jax.numpy as jnp
    >>> def loss_fn(params, x):
    ...     return jnp.tanh(x @ params["weight"] + params["bias"]).sum()
    >>> params = {"weight": jnp.ones((3, 2)), "bias": jnp.ones(2)}
    >>> [(neuron.kind, neuron.inputs, neuron.outputs) for neuron in find_neurons(loss_fn, params, jnp.ones((5, 3)))]
    [('dense', 3, 2)]
    """
    if not callable(loss_fn):
        raise TypeError(f"`loss_fn` must be a function, got {type(loss_fn).__name__}.")
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    paths = _names(names, [path for path, _ in with_paths])
    if not with_paths:
        raise ValueError("`params` has no leaves: give the tree of arrays to train.")
    for path, (_, leaf) in zip(paths, with_paths, strict=True):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"`params`{path} is {'of type ' + str(dtype) if dtype is not None else repr(leaf)}, and only "
                "floating-point or complex arrays can be trained: pass it to the loss as an argument of its own."
            )
    ignored = _ignored(ignore, [path for path, _ in with_paths], paths)
    traces: list[Plan] = []

    def search() -> None:
        traces.append(_trace(loss_fn, params, args, kwargs, has_aux, paths, ignored)[0])

    try:
        jax.make_jaxpr(search, axis_env=tuple(axis_sizes.items()))() if axis_sizes else search()
    except NameError as error:
        error.add_note("If the loss names a mapped axis, give `find_neurons` its size: `axis_sizes={'batch': 8}`.")
        raise
    (found,) = traces
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for _, leaf in with_paths)
    keys = tuple(path for path, _ in with_paths)
    neurons = Neurons(loss_fn, has_aux, treedef, keys, paths, shapes, ignored, found)
    if strict and neurons.uncovered:
        lines = "\n".join(f"  {path}: {reason}" for path, reason in neurons.uncovered)
        raise ValueError(f"`strict=True`, and these parameters belong to no neuron:\n{lines}")
    if neurons.coverage < _LEAST_COVERAGE:
        sizes = {path: prod(shape.shape) for path, shape in zip(paths, shapes, strict=True)}
        largest = sorted(neurons.uncovered, key=lambda entry: -sizes[entry[0]])[:3]
        lines = "".join(f"\n  {path} ({sizes[path]:,} elements): {reason}" for path, reason in largest)
        warnings.warn(
            f"The neurons cover {neurons.coverage:.1%} of the parameters; the rest has the identity metric, "
            f"which is gradient descent. The largest left out:{lines}\n`print(neurons)` lists all.",
            stacklevel=2,
        )
    return neurons


def _names(names: Sequence[str] | None, paths: Sequence[Any]) -> tuple[str, ...]:
    """The name of each leaf."""
    if names is None:
        return tuple(keystr(path) or "params" for path in paths)
    if isinstance(names, str) or len(names) != len(paths) or len(set(names)) != len(paths):
        raise ValueError(
            f"`names` must be a distinct name for each of the {len(paths)} leaves of `params`, got {names!r}."
        )
    return tuple(map(str, names))


def _ignored(ignore: str | Sequence[str], paths: Sequence[Any], names: Sequence[str]) -> frozenset[int]:
    """The leaves at or below the paths to ignore."""
    ignored: set[int] = set()
    for wanted in (ignore,) if isinstance(ignore, str) else ignore:
        below = {
            leaf
            for leaf, (path, name) in enumerate(zip(paths, names, strict=True))
            if wanted in (name, *(keystr(path[:length]) or "params" for length in range(len(path) + 1)))
        }
        if not below:
            raise ValueError(
                f"`ignore` has {wanted!r}, which is no path in `params`: give paths as the table prints them, "
                f"such as {names[0]!r}, or the beginning of some."
            )
        ignored |= below
    return frozenset(ignored)


def _trace(
    loss_fn: Callable[..., Any],
    params: PyTree,
    args: Any,
    kwargs: Any,
    has_aux: bool,
    paths: Sequence[str],
    ignored: frozenset[int],
) -> tuple[Plan, list[Any], Any]:
    """Trace the loss: its plan, the traced inputs besides the parameters, and the structure of its result."""
    # The search is loaded here because `jax.extend.core`, which it needs, would double the time of `import lnb`.
    from lnb._finding import plan
    from lnb._program import trace

    given, treedef = jax.tree.flatten(params)
    rest, rest_tree = jax.tree.flatten((args, kwargs))
    traced = [k for k, leaf in enumerate(rest) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]

    def function(leaves: list[Any], inputs: list[Any]) -> Any:
        full = list(rest)
        for k, value in zip(traced, inputs, strict=True):
            full[k] = value
        arguments, keywords = jax.tree.unflatten(rest_tree, full)
        own = [of_parts(parts, leaf.dtype) for parts, leaf in zip(leaves, given, strict=True)]
        return loss_fn(jax.tree.unflatten(treedef, own), *arguments, **keywords)

    inputs = [rest[k] for k in traced]
    shapes = [real_parts(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)) for leaf in given]
    is_complex = [jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in given]
    # Shapes stand in for complex leaves alone: an array's sharding belongs to its type.
    leaves = [shape if turned else leaf for leaf, shape, turned in zip(given, shapes, is_complex, strict=True)]
    program, result = trace(function, leaves, inputs)
    _check_result(result, has_aux)
    return plan(program, shapes, paths, ignored), inputs, jax.tree.structure(result)


def _signature(treedef: Any, found: Plan) -> tuple[Any, ...]:
    """The data on which an optimizer's neurons and a batch's must agree."""
    sets = [neuron.features for neuron in found.neurons]
    sharing = tuple(k if features is None else sets.index(features) for k, features in enumerate(sets))
    return (treedef, tuple(neuron.signature for neuron in found.neurons), sharing)


def _check_result(result: Any, has_aux: bool) -> None:
    if has_aux and not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"`loss_fn` must return `(loss, aux)` with `has_aux=True`, got {type(result).__name__}.")
    loss = result[0] if has_aux else result
    shape, dtype = getattr(loss, "shape", None), getattr(loss, "dtype", None)
    if shape != () or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = f"a {type(loss).__name__}" if dtype is None else f"{dtype}{list(shape or ())}"
        hint = "" if has_aux else " If it returns more than the loss, pass `has_aux=True`."
        raise TypeError(f"`loss_fn` must return a floating-point scalar, got {got}.{hint}")


def _difference(expected: tuple[Any, ...], got: tuple[Any, ...], paths: tuple[str, ...]) -> str:
    def describe(found: tuple[Any, ...]) -> str:
        kind, leaves, groups, inputs, outputs, _ = found
        return f"{' + '.join(paths[leaf] for leaf in leaves)} is {kind} {inputs} -> {outputs} in {groups} groups"

    changed = [describe(found) for found in got if found not in expected]
    missing = [describe(found) for found in expected if found not in got]
    return "; ".join(changed + [f"and not, as before, {text}" for text in missing]) or "their order differs"
