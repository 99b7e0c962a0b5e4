"""Networks and what must be found in them; each neuron's output is written out by hand for the dense Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True)
class Layer:
    """A neuron: its parameters' keys, its form, and its output `output(sub_params, params, *args)`."""

    keys: tuple[str, ...]
    kind: str
    sizes: tuple[int, int, int]  # g, i, o
    samples: int
    output: Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A network `apply(params, *args)`, whose parameters are a dict of arrays, and its neurons."""

    name: str
    apply: Callable[..., Any]
    params: dict[str, np.ndarray]
    args: tuple[np.ndarray, ...]
    layers: tuple[Layer, ...]

    def loss_fn(self, params, *args):
        """A nonlinear loss of the network's output."""
        return jnp.mean(jnp.sin(self.apply(params, *args)) ** 2)

    def inputs(self):
        """Parameters and arguments as arrays of the precision in force."""
        return jax.tree.map(jnp.asarray, (self.params, self.args))


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def one(name, apply, params, args, kind, sizes, samples):
    """A network that is one neuron."""
    layer = Layer(tuple(params), kind, sizes, samples, lambda sub, params, *args: apply(sub, *args))
    return Case(name, apply, params, args, (layer,))


def conv(spec, strides, padding, **options):
    def apply(p, x):
        y = lax.conv_general_dilated(x, p["w"], strides, padding, dimension_numbers=spec, **options)
        if "b" not in p:
            return y
        shape = [1] * y.ndim
        shape[spec[2].index("C")] = -1
        return y + p["b"].reshape(shape)

    return apply


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def equinox_linear(p, x):
    linear = eqx.nn.Linear(4, 3, key=jax.random.key(0))
    return jax.vmap(eqx.tree_at(lambda m: (m.weight, m.bias), linear, (p["w"], p["b"])))(x)


X, T = normal(6, 4), normal(2, 5, 4)
W, B = normal(4, 3, seed=1), normal(3, seed=2)
MASK = np.triu(np.ones((4, 3)))
INDEX = np.array([[1, 2, 1], [0, 1, 6]])
NHWC, NCHW = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")

DENSE = [
    one("product", lambda p, x: x @ p["w"] + p["b"], {"w": W, "b": B}, (X,), "dense", (1, 4, 3), 6),
    one("no bias", lambda p, x: x @ p["w"], {"w": W}, (X,), "dense", (1, 4, 3), 6),
    one("transposed", lambda p, x: x @ p["w"].T + p["b"], {"w": W.T, "b": B}, (X,), "dense", (1, 4, 3), 6),
    one("tokens", lambda p, x: x @ p["w"] + p["b"], {"w": W, "b": B}, (T,), "dense", (1, 4, 3), 10),
    one("per example", lambda p, x: jax.vmap(lambda x: p["w"] @ x)(x), {"w": W.T}, (X,), "dense", (1, 4, 3), 6),
    one("equinox", equinox_linear, {"w": W.T, "b": B}, (X,), "dense", (1, 4, 3), 6),
    one(
        "heads out",
        lambda p, x: jnp.einsum("btd,dhk->bthk", x, p["w"]) + p["b"],
        {"w": normal(4, 2, 3), "b": normal(2, 3)},
        (T,),
        "dense",
        (1, 4, 6),
        10,
    ),
    one(
        "heads in",
        lambda p, x: jnp.einsum("bthk,hkd->btd", x, p["w"]) + p["b"],
        {"w": normal(2, 3, 4), "b": normal(4)},
        (normal(2, 5, 2, 3),),
        "dense",
        (1, 6, 4),
        10,
    ),
    one(
        "experts",
        lambda p, x: jnp.einsum("bhi,hio->bho", x, p["w"]) + p["b"],
        {"w": normal(3, 4, 2), "b": normal(3, 2)},
        (normal(5, 3, 4),),
        "dense",
        (3, 4, 2),
        5,
    ),
    one(
        "sum of two weights",
        lambda p, x, h: x @ p["u"] + h @ p["w"] + p["b"],
        {"u": normal(2, 3), "w": W, "b": B},
        (normal(6, 2), X),
        "dense",
        (1, 6, 3),
        6,
    ),
    one(
        "residual before the bias",
        lambda p, x: x + x @ p["w"] + p["b"],
        {"w": normal(4, 4), "b": normal(4)},
        (X,),
        "dense",
        (1, 4, 4),
        6,
    ),
    one("scaled", lambda p, x: x @ (0.5 * p["w"]) + p["b"], {"w": W, "b": B}, (X,), "dense", (1, 4, 3), 6),
    one("scaled output", lambda p, x: (x @ p["w"]) / 2 + p["b"], {"w": W, "b": B}, (X,), "dense", (1, 4, 3), 6),
    one(
        "stacked",
        lambda p, x: jnp.einsum("bi,kio->bko", x, jnp.stack([p["u"], p["v"]])),
        {"u": normal(4, 2), "v": normal(4, 2, seed=1)},
        (X,),
        "dense",
        (1, 4, 4),
        6,
    ),
    one(
        "side by side",
        lambda p, x: x @ jnp.concatenate([p["u"], p["v"]], 1) + jnp.concatenate([p["a"], p["b"]]),
        {"a": normal(2), "b": normal(3), "u": normal(4, 2), "v": normal(4, 3)},
        (X,),
        "dense",
        (1, 4, 5),
        6,
    ),
    one("masked", lambda p, x: x @ (p["w"] * MASK) + p["b"], {"w": W, "b": B}, (X,), "general", (1, 15, 1), 6),
    one(
        "product by hand",
        lambda p, x: (x[:, :, None] * p["w"]).sum(1) + p["b"],
        {"w": W, "b": B},
        (X,),
        "general",
        (1, 15, 1),
        6,
    ),
    one(
        "jit in jit",
        lambda p, x: jax.jit(lambda p, x: jax.jit(jnp.dot)(x, p["w"]) + p["b"])(p, x),
        {"w": W, "b": B},
        (X,),
        "dense",
        (1, 4, 3),
        6,
    ),
]

CONVOLUTION = [
    one(
        "1-D",
        conv(("NHC", "HIO", "NHC"), (2,), [(1, 2)]),
        {"w": normal(3, 2, 4), "b": normal(4)},
        (normal(2, 7, 2),),
        "convolution",
        (1, 6, 4),
        8,
    ),
    one(
        "2-D channels last",
        conv(NHWC, (1, 2), "SAME"),
        {"w": normal(3, 2, 2, 4), "b": normal(4)},
        (normal(2, 5, 6, 2),),
        "convolution",
        (1, 12, 4),
        30,
    ),
    one(
        "2-D channels first, no bias",
        conv(NCHW, (1, 1), "VALID"),
        {"w": normal(4, 2, 3, 2)},
        (normal(2, 2, 5, 6),),
        "convolution",
        (1, 12, 4),
        30,
    ),
    one(
        "dilated",
        conv(NCHW, (1, 1), [(2, 2), (1, 0)], rhs_dilation=(2, 1)),
        {"w": normal(4, 2, 3, 2), "b": normal(4)},
        (normal(1, 2, 5, 6),),
        "convolution",
        (1, 12, 4),
        30,
    ),
    one(
        "groups",
        conv(NHWC, (1, 1), "VALID", feature_group_count=2),
        {"w": normal(2, 2, 2, 6), "b": normal(6)},
        (normal(2, 4, 4, 4),),
        "convolution",
        (2, 8, 3),
        18,
    ),
    one(
        "depthwise",
        conv(NCHW, (1, 1), "SAME", feature_group_count=3),
        {"w": normal(3, 1, 3, 3), "b": normal(3)},
        (normal(2, 3, 4, 4),),
        "convolution",
        (3, 9, 1),
        32,
    ),
    one(
        "transposed",
        conv(NHWC, (1, 1), [(1, 1), (1, 1)], lhs_dilation=(2, 2)),
        {"w": normal(2, 2, 2, 3), "b": normal(3)},
        (normal(1, 3, 3, 2),),
        "convolution",
        (1, 8, 3),
        36,
    ),
    one(
        "3-D",
        conv(("NCDHW", "OIDHW", "NCDHW"), (1, 1, 1), "VALID"),
        {"w": normal(2, 2, 2, 1, 2), "b": normal(2)},
        (normal(1, 2, 3, 3, 3),),
        "convolution",
        (1, 8, 2),
        12,
    ),
]

OTHERS = [
    one("lookup", lambda p, i: p["e"][i], {"e": normal(7, 3)}, (INDEX,), "embedding", (1, 7, 3), 6),
    one("take", lambda p, i: jnp.take(p["e"], i, axis=0), {"e": normal(7, 3)}, (INDEX,), "embedding", (1, 7, 3), 6),
    one(
        "lookup per example",
        lambda p, i: jax.vmap(jax.vmap(lambda i: p["e"][i]))(i),
        {"e": normal(7, 3)},
        (INDEX,),
        "embedding",
        (1, 7, 3),
        6,
    ),
    one(
        "layer norm",
        lambda p, x: layer_norm(x) * p["s"] + p["t"],
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one(
        "scale first, then the deviation",
        lambda p, x: (x - x.mean(-1, keepdims=True)) * (lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p["s"]) + p["t"],
        {"s": normal(4), "t": normal(4, seed=1)},
        (T,),
        "scale",
        (4, 1, 1),
        10,
    ),
    one("one plus scale", lambda p, x: layer_norm(x) * (1 + p["s"]), {"s": normal(4)}, (T,), "scale", (4, 1, 1), 10),
    one(
        "scale of channels first",
        lambda p, x: x * p["s"][:, None] + p["t"][:, None],
        {"s": normal(4), "t": normal(4, seed=1)},
        (normal(3, 4, 5),),
        "scale",
        (4, 1, 1),
        15,
    ),
    one("positions", lambda p, x: x + p["p"], {"p": normal(5, 4)}, (T,), "identity", (20, 0, 1), 2),
    one("bias alone", lambda p, x: x + p["b"], {"b": normal(4)}, (X,), "identity", (4, 0, 1), 6),
    Case(
        "class token",
        lambda p, x: jnp.concatenate([jnp.broadcast_to(p["c"], (2, 1, 4)), x], axis=1),
        {"c": normal(4)},
        (T,),
        (Layer(("c",), "identity", (4, 0, 1), 2, lambda s, p, x: jnp.broadcast_to(s["c"], (2, 1, 4))),),
    ),
]


def _hidden(p, x):
    return jax.nn.gelu(x @ p["w"] + p["b"])


def _attention(p, x):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


NETWORKS = [
    Case(
        "two layers",
        lambda p, x: _hidden(p, x) @ p["v"] + p["c"],
        {"w": W, "b": B, "v": normal(3, 2), "c": normal(2)},
        (X,),
        (
            Layer(("b", "w"), "dense", (1, 4, 3), 6, lambda s, p, x: x @ s["w"] + s["b"]),
            Layer(("c", "v"), "dense", (1, 3, 2), 6, lambda s, p, x: _hidden(p, x) @ s["v"] + s["c"]),
        ),
    ),
    Case(
        "linear network",
        lambda p, x: (x @ p["u"]) @ p["v"],
        {"u": normal(4, 3), "v": normal(3, 2)},
        (X,),
        (
            Layer(("u",), "dense", (1, 4, 3), 6, lambda s, p, x: x @ s["u"]),
            Layer(("v",), "dense", (1, 3, 2), 6, lambda s, p, x: (x @ p["u"]) @ s["v"]),
        ),
    ),
    Case(
        "attention",
        _attention,
        {name: normal(4, 4, seed=k) for k, name in enumerate("qkv")},
        (T,),
        tuple(Layer((k,), "dense", (1, 4, 4), 10, lambda s, p, x: x @ next(iter(s.values()))) for k in "kqv"),
    ),
    Case(
        "layer scale",
        lambda p, x: x + p["g"] * (x @ p["w"] + p["b"]),
        {"g": normal(4), "w": normal(4, 4), "b": normal(4, seed=3)},
        (X,),
        (
            Layer(("b", "w"), "dense", (1, 4, 4), 6, lambda s, p, x: x @ s["w"] + s["b"]),
            Layer(("g",), "scale", (4, 1, 1), 6, lambda s, p, x: s["g"] * (x @ p["w"] + p["b"])),
        ),
    ),
    Case(
        "slices of one matrix",
        lambda p, x: jnp.tanh(x @ p["w"][:, :3]) * (x @ p["w"][:, 3:]),
        {"w": normal(4, 6)},
        (X,),
        (Layer(("w",), "dense", (1, 4, 6), 6, lambda s, p, x: x @ s["w"]),),
    ),
    Case(
        "tied autoencoder",
        lambda p, x: jnp.tanh(x @ p["w"] + p["b"]) @ p["w"].T,
        {"w": W, "b": B},
        (X,),
        (
            Layer(
                ("b", "w"),
                "general",
                (1, 15, 1),
                12,
                lambda s, p, x: jnp.concatenate(
                    [(x @ s["w"] + s["b"]).ravel(), (jnp.tanh(x @ p["w"] + p["b"]) @ s["w"].T).ravel()]
                ),
            ),
        ),
    ),
    Case(
        "siamese",
        lambda p, x, y: jnp.tanh(x @ p["w"] + p["b"])[:2] - jnp.tanh(y @ p["w"] + p["b"]),
        {"w": W, "b": B},
        (X, normal(2, 4, seed=9)),
        (Layer(("b", "w"), "dense", (1, 4, 3), 8, lambda s, p, x, y: jnp.concatenate([x, y]) @ s["w"] + s["b"]),),
    ),
    Case(
        "tied embedding and head",
        lambda p, i: jnp.tanh(p["e"][i]) @ p["e"].T,
        {"e": normal(7, 3)},
        (INDEX,),
        (
            Layer(
                ("e",),
                "general",
                (1, 21, 1),
                12,
                lambda s, p, i: jnp.concatenate([s["e"][i].ravel(), (jnp.tanh(p["e"][i]) @ s["e"].T).ravel()]),
            ),
        ),
    ),
]

CASES = [*DENSE, *CONVOLUTION, *OTHERS, *NETWORKS]
