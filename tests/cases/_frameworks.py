"""Networks of Equinox, Flax NNX and Flax Linen as cases, and their layers' calls captured where they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import numpy as np
from flax import linen, nnx

from cases._case import Call, Case, filled, record


@contextmanager
def patched(classes: tuple[type, ...], split: Callable[[Any], Any], calls: list[Call]) -> Iterator[None]:
    """Record every call of modules of these classes; `split` gives a module's leaves and how to make it of them."""

    def recording(original):
        def call(self, *inputs, **options):
            leaves, rebuild = split(self)
            record(calls, lambda leaves, *inputs: original(rebuild(leaves), *inputs), leaves, inputs)
            return original(self, *inputs, **options)

        return call

    methods = [(each, name) for each in classes for name in ("__call__", "attend") if name in vars(each)]
    patches = [mock.patch.object(each, name, recording(getattr(each, name))) for each, name in methods]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def split_equinox(module):
    """A module's parameters, and the module of others."""
    params, static = eqx.partition(module, eqx.is_inexact_array)
    leaves, treedef = jax.tree.flatten(params)
    return leaves, lambda leaves: eqx.combine(jax.tree.unflatten(treedef, leaves), static)


def split_nnx(module):
    """A module's parameters, and the module of others."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    leaves, treedef = jax.tree.flatten(params)
    return leaves, lambda leaves: nnx.merge(graph, jax.tree.unflatten(treedef, leaves), rest, copy=True)


def equinox(name, make, apply, args, layers, watch=(), **options):
    """A model `make(key)` as `apply(model, *args)`; `watch`: classes whose calls are captured."""
    model = eqx.filter_eval_shape(make, jax.random.key(0))
    shapes, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    capture = (lambda calls: patched(watch, split_equinox, calls)) if watch else None

    def of_params(params, *args):
        return apply(eqx.combine(params, static), *args)

    return Case(name, of_params, filled(shapes), args, tuple(layers), capture=capture, **options)


def state_like(leaf):
    """Keys, counters and statistics of a shape."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(1), leaf.shape) if leaf.shape else jax.random.key(1)
    floating = jax.dtypes.issubdtype(leaf.dtype, np.floating)
    return np.ones(leaf.shape, np.float64 if floating else leaf.dtype)


def flax_nnx(name, make, args, layers, apply=lambda model, *args: model(*args), watch=(), **options):
    """A model `make(rngs)` as `apply(model, *args)`, split into parameters and the rest."""
    graph, params, rest = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)
    rest = jax.tree.map(state_like, rest)
    capture = (lambda calls: patched(watch, split_nnx, calls)) if watch else None

    def of_params(params, rest, *args):
        return apply(nnx.merge(graph, params, rest, copy=True), *args)

    arguments = (rest, *args)
    return Case(
        name, of_params, filled(params), arguments, tuple(layers), capture=capture, promotion="standard", **options
    )


@contextmanager
def intercepted(classes: tuple[type, ...], calls: list[Call]) -> Iterator[None]:
    """Record every call of Linen modules of these classes."""

    def intercept(next_function, args, kwargs, context):
        module = context.module
        if type(module) in classes and context.method_name in ("__call__", "attend"):
            leaves, treedef = jax.tree.flatten(dict(module.variables["params"]))
            alone = module.clone(parent=None)

            def function(leaves, *inputs, method=context.method_name):
                return alone.apply({"params": jax.tree.unflatten(treedef, leaves)}, *inputs, method=method)

            record(calls, function, leaves, args)
        return next_function(*args, **kwargs)

    with linen.intercept_methods(intercept):
        yield


def flax_linen(name, module, args, layers, watch=(), **options):
    """A Linen module as `module.apply`; what is no parameter is an argument, and its new value is aux."""
    variables = dict(jax.eval_shape(module.init, jax.random.key(0), *args))
    params = filled(variables.pop("params"))
    capture = (lambda calls: intercepted(watch, calls)) if watch else None
    if not variables:

        def of_params(params, *args):
            return module.apply({"params": params}, *args)

        return Case(name, of_params, params, args, tuple(layers), capture=capture, promotion="standard", **options)

    def with_state(params, state, *args):
        return module.apply({"params": params, **state}, *args, mutable=list(state))

    arguments = (jax.tree.map(state_like, variables), *args)
    return Case(name, with_state, params, arguments, tuple(layers), has_aux=True, promotion="standard", **options)
