"""The shapes that public signatures announce are those of the arrays that go in and come out."""

import typing
from collections.abc import Mapping

import jax.numpy as jnp
import jaxtyping

import lnb

NAMES = {name: getattr(jaxtyping, name) for name in ("Bool", "Float", "Int", "PyTree", "Real")}
CHECKED = {
    lnb.Neuron: ("pack", "pack_leaves", "unpack", "unpack_leaves", "moments", "gram"),
    lnb.Features: ("weighted",),
}


def is_shaped(hint):
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def check(value, hint, where):
    """Compare a value with its annotation, wherever that says a shape; the letters of one call mean one size."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if is_shaped(hint):
        assert isinstance(value, hint), f"{where} is {jnp.shape(value)} {value.dtype}, announced as {hint}"
        return 1
    if origin is tuple and parts and parts[-1] is not Ellipsis:
        return sum(check(each, part, where) for each, part in zip(value, parts, strict=True))
    if origin is dict or (origin is not None and isinstance(value, Mapping)):
        return sum(check(each, parts[1], where) for each in value.values())
    return 0
