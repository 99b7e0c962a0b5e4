"""The shapes that public signatures announce are those of the arrays that go in and come out."""

import inspect
import types
import typing
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from cases import normal
from jax import Array
from lists import SOLVERS, STEPS

import lnb
from lnb._metric import GramMetric

NAMES = {name: getattr(jaxtyping, name) for name in ("Float", "Int", "Real")}
METHODS = {
    lnb.Neuron: ("pack", "pack_leaves", "unpack", "unpack_leaves", "moments", "gram"),
    lnb.Features: ("weighted",),
    lnb.Metric: ("product",),
    GramMetric: ("moments", "gram", "count"),
    lnb.Solver: ("update", "solve"),
    lnb.StepRule: ("per_neuron", "per_leaf", "whole"),
}
PARAMS = {
    "w": normal(5, 4),
    "b": normal(4),
    "table": normal(7, 4),
    "scale": normal(4),
    "kernel": normal(3, 3, 2, 4),
    "tied": normal(4, 6),
    "free": normal(6),
    "start": normal(3, 5),
}


def loss_fn(params, x, tokens, images):
    h = jnp.tanh((x + params["start"]) @ params["w"] + params["b"]) + params["table"][tokens]
    pixels = jax.lax.conv_general_dilated(
        images, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = jnp.tanh(h * params["scale"] + jnp.tanh(pixels).mean((1, 2)))
    return jnp.sum(jnp.square(jnp.tanh(jnp.tanh(h @ params["tied"] + params["free"]) @ params["tied"].T)))


def hints_of(method):
    """The annotations of a method as types; names that are imported for the type checker alone are jaxtyping's."""
    return typing.get_type_hints(method, globalns={**method.__globals__, **NAMES}, localns={"Array": Array})


def check(value, hint, where, checked):
    """Compare a value with its annotation wherever that says a shape; a letter means one size within one call."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        assert isinstance(value, hint), f"{where} is {value.dtype}{jnp.shape(value)}, announced as {hint}"
        checked.add(where)
    elif hint is lnb.Solution:
        for name, each in solution_hints().items():
            check(getattr(value, name), each, f"{where}.{name}", checked)
    elif origin in (typing.Union, types.UnionType):
        arrays = tuple(part for part in parts if inspect.isclass(part) and issubclass(part, jaxtyping.AbstractArray))
        assert value is None or not arrays or isinstance(value, arrays), f"{where}: {jnp.shape(value)} is not {hint}"
    elif origin is tuple and Ellipsis not in parts:
        for k, (each, part) in enumerate(zip(value, parts, strict=True)):
            check(each, part, f"{where}[{k}]", checked)
    elif origin is dict:
        for each in value.values():
            check(each, parts[1], where, checked)


def solution_hints():
    scope = {**vars(inspect.getmodule(lnb.Solution)), **NAMES}
    return typing.get_type_hints(lnb.Solution, globalns=scope)


def checking(method, announced, checked):
    """A method that checks what goes in and comes out against what `announced` says."""
    signature, hints = inspect.signature(announced), hints_of(announced)
    name = announced.__qualname__

    def call(*args, **kwargs):
        with jaxtyping.jaxtyped("context"):
            arguments = signature.bind(*args, **kwargs).arguments
            for argument, value in arguments.items():
                if argument in hints:
                    check(value, hints[argument], f"{name}({argument})", checked)
            result = method(*args, **kwargs)
            check(result, hints["return"], name, checked)
        return result

    return call


@pytest.fixture
def checked(monkeypatch):
    """The places that have been compared; every public method compares its own while a test runs."""
    places = set()
    for kind, names in METHODS.items():
        announced = {name: getattr(kind, name) for name in names}
        for owner in {kind, *(each for each in all_below(kind) if each.__module__.startswith("lnb."))}:
            for name in vars(owner).keys() & set(names):
                monkeypatch.setattr(owner, name, checking(vars(owner)[name], announced[name], places))
    return places


def all_below(kind):
    for each in kind.__subclasses__():
        yield each
        yield from all_below(each)


def test_arrays_have_the_shapes_that_signatures_announce(checked):
    params = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), PARAMS)
    batch = (jnp.asarray(normal(3, 5), jnp.float32), jnp.asarray([1, 4, 1]), jnp.ones((3, 5, 5, 2)))
    neurons = lnb.find_neurons(loss_fn, params, *batch)
    assert {neuron.kind for neuron in neurons} >= {"dense", "embedding", "scale", "convolution", "tied", "identity"}
    value, grads, features = neurons.value_and_grad(params, *batch)
    features = features.weighted(jnp.asarray([1.0, 2.0, 0.5]))

    def use(params, value, grads, features):  # shapes alone are looked at, so nothing needs to be computed
        for make in SOLVERS.values():
            for step in STEPS.values():
                optimizer = lnb.lnb(neurons, 0.1, solver=make(), step=step())
                optimizer.update(grads, optimizer.init(params), params, features=features, value=value)
        for neuron in neurons:
            assert set(neuron.unpack(neuron.pack(params))) == set(neuron.paths)
            if neuron.kind != "tied" and neuron.features is not None:
                neuron.moments(features)
                neuron.gram(features)

    jax.eval_shape(use, params, value, grads, features)
    missing = {f"{kind.__name__}.{name}" for kind, names in METHODS.items() for name in names} - {
        place.partition("(")[0].partition("[")[0].removesuffix(".direction").removesuffix(".squared_norm")
        for place in checked
    }
    assert not missing, f"nothing was compared in {sorted(missing)}"


def test_a_wrong_shape_is_seen(checked):
    neurons = lnb.find_neurons(lambda p, x: jnp.sum(jnp.tanh(x @ p)), jnp.ones((3, 2)), jnp.ones((4, 3)))
    with pytest.raises(AssertionError, match=r"Neuron.unpack\(packed\) is float32\(3, 2\), announced as .*Float"):
        jax.eval_shape(neurons[0].unpack, jnp.ones((3, 2)))
