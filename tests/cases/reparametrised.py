"""Weights that the program computes from parameters before they meet data: W = h(p)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cases._case import Case, Layer, normal, one

X, T = normal(6, 3), normal(2, 5, 4)
V, W, G, B = normal(3, 3), normal(3, 3, seed=1), normal(3), normal(3, seed=1)
MASK, FROZEN = np.tri(3), normal(3, 3, seed=2)


def standardised(weight):
    """Columns of mean 0 and variance 1."""
    return (weight - weight.mean(0)) / weight.std(0)


def norm(weight):
    """The length of each column."""
    return jnp.linalg.norm(weight, axis=0)


def spectral(weight, u, steps=2):
    """The weight over an estimate of its largest singular value, whose vectors are not differentiated."""
    for _ in range(steps):
        v = u @ weight
        v = v / jnp.linalg.norm(v)
        u = weight @ v
        u = u / jnp.linalg.norm(u)
    u, v = lax.stop_gradient((u, v))
    return weight / (u @ weight @ v)


def over_norm(weight, u):
    """The weight over a form of it with a given vector."""
    return weight / (u @ weight @ u)


def quantised(weight):
    """Rounded to eighths, with the derivative of the identity."""
    return weight + lax.stop_gradient(jnp.round(weight * 8) / 8 - weight)


def relaxed(weight):
    """The same with a derivative of its own."""

    @jax.custom_vjp
    def round_to_eighths(x):
        return jnp.round(x * 8) / 8

    round_to_eighths.defvjp(lambda x: (round_to_eighths(x), x), lambda x, g: (g * jnp.cos(x),))
    return round_to_eighths(weight)


@jax.custom_jvp
def same(weight):
    """The identity, with a derivative of its own."""
    return weight


same.defjvp(lambda primals, tangents: (same(*primals), 2 * tangents[0]))


def scanned(weight, x):
    """A loop that starts from a function of the weight."""
    return x + jax.lax.scan(lambda h, _: (jnp.sin(h), None), jnp.tanh(weight), length=2)[0].sum()


@jax.custom_vjp
def looped(weight, x):
    """The same in a loop of unknown length."""
    start = (jnp.tanh(weight), 0)
    return x + jax.lax.while_loop(lambda c: c[1] < 2, lambda c: (jnp.sin(c[0]), c[1] + 1), start)[0].sum()


looped.defvjp(
    lambda weight, x: (looped(weight, x), (weight, x)),
    lambda saved, g: jax.vjp(scanned, *saved)[1](g),
)


def splines(coefficients, x):
    """A layer of a Kolmogorov-Arnold network: a sum of bumps of each input, [n, i] to [n, o]."""
    bumps = jnp.exp(-jnp.square(x[:, :, None] - jnp.linspace(-1, 1, 4)))
    return jnp.einsum("nik,iok->no", bumps, coefficients)


def weight(name, apply, params, size, args=(X,), samples=6):
    """A network that is one neuron, whose weights are computed from all of its parameters."""
    return one(name, apply, params, args, "reparametrised", (1, size, 1), samples)


def attended(query, x):
    """Queries [b, q, d] attending to x [b, t, d]."""
    return jnp.einsum("bqd,btd->bqt", query, x)


def together(*outputs):
    """The outputs of one neuron's uses, each of the same number of samples."""
    return jnp.concatenate([output.ravel() for output in outputs])


def used_twice(name, other, kind="reparametrised", samples=6):
    """`x @ v`, and another use of `v` beside it."""
    own = Layer(("v",), kind, (1, 9, 1), 6 + samples, lambda s, p, x: together(x @ s["v"], other(s["v"], x)[1]))
    beside = Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"])
    return Case(
        name,
        lambda p, x: jnp.sin(x @ p["w"]) + other(p["v"], x)[0] + jnp.sin(x @ p["v"]),
        {"v": V, "w": W},
        (X,),
        (own, beside),
    )


PROBE, K = normal(1, 2, 4), normal(4, 4, seed=3)

REPARAMETRISED = [
    weight(
        "weight norm: `x @ (g * v / norm(v)) + b`",
        lambda p, x: x @ (p["g"] * p["v"] / norm(p["v"])) + p["b"],
        {"v": V, "g": G, "b": B},
        15,
    ),
    weight(
        "weight norm of a convolution",
        lambda p, x: lax.conv_general_dilated(
            x,
            p["g"] * p["v"] / jnp.sqrt(jnp.square(p["v"]).sum((0, 1))),
            (1,),
            "SAME",
            None,
            None,
            ("NWC", "WIO", "NWC"),
        ),
        {"v": normal(3, 4, 2), "g": normal(2)},
        26,
        (T,),
        10,
    ),
    weight(
        "spectral norm, its vector kept as data: `x @ (v / (u @ v @ u))`",
        lambda p, x, u: x @ (p["v"] / (u @ p["v"] @ u)),
        {"v": V},
        9,
        (X, normal(3, seed=6)),
    ),
    weight(
        "spectral norm, two vectors kept as data: `x @ (v / (b @ (a @ v)))`",
        lambda p, x, a, b: x @ (p["v"] / (b @ (a @ p["v"]))),
        {"v": V},
        9,
        (X, normal(3, seed=6), normal(3, seed=7)),
    ),
    weight(
        "spectral norm of a masked weight with a scale, its vector kept as data",
        lambda p, x, u: x @ (p["g"] * over_norm(p["v"] * MASK, u)),
        {"v": V, "g": G},
        12,
        (X, normal(3, seed=6)),
    ),
    weight(
        "spectral norm, by power iteration",
        lambda p, x, u: x @ spectral(p["v"], u),
        {"v": V},
        9,
        (X, normal(3, seed=6)),
    ),
    weight(
        "weight standardisation: `x @ ((v - mean(v)) / std(v))`",
        lambda p, x: x @ standardised(p["v"]),
        {"v": V},
        9,
    ),
    weight("weight factorisation: `x @ (g * v)`", lambda p, x: x @ (p["g"] * p["v"]), {"v": V, "g": G}, 12),
    weight(
        "merged LoRA: `x @ (frozen + v @ w)`",
        lambda p, x: x @ (FROZEN + p["v"] @ p["w"]),
        {"v": normal(3, 2), "w": normal(2, 3)},
        12,
    ),
    weight(
        "merged LoRA: `x @ (u + v @ w)`",
        lambda p, x: x @ (p["u"] + p["v"] @ p["w"]),
        {"u": normal(3, 3, seed=2), "v": normal(3, 2), "w": normal(2, 3)},
        21,
    ),
    weight("mask: `x @ (w * mask) + b`", lambda p, x: x @ (p["w"] * MASK) + p["b"], {"w": W, "b": B}, 12),
    weight("mask: `x @ where(mask, w, 0)`", lambda p, x: x @ jnp.where(MASK > 0, p["w"], 0.0), {"w": W}, 9),
    weight("`x @ where(mask, exp(w), w)`", lambda p, x: x @ jnp.where(MASK > 0, jnp.exp(p["w"]), p["w"]), {"w": W}, 9),
    weight("`x @ cumsum(w)`", lambda p, x: x @ jnp.cumsum(p["w"], 0), {"w": W}, 9),
    weight("`x * exp(log_scale)`", lambda p, x: x * jnp.exp(p["g"]), {"g": G}, 3),
    weight("`x * softplus(s) + b`", lambda p, x: x * jax.nn.softplus(p["g"]) + p["b"], {"g": G, "b": B}, 6),
    weight("`x - softplus(s)`", lambda p, x: x - jax.nn.softplus(p["g"]), {"g": G}, 3),
    weight("`x * softmax(s)`", lambda p, x: x * jax.nn.softmax(p["g"]), {"g": G}, 3),
    weight(
        "Mamba's decay: `exp(-exp(s) * abs(x))`",
        lambda p, x: -jnp.exp(p["g"]) * jnp.abs(x),
        {"g": G},
        3,
    ),
    one("rounded, passed straight through", lambda p, x: x @ quantised(p["w"]), {"w": W}, (X,), "dense", (1, 3, 3), 6),
    weight("rounded, with a `custom_vjp`", lambda p, x: x @ relaxed(p["w"]), {"w": W}, 9),
    one(
        "Kolmogorov-Arnold: `splines(c, x)`",
        lambda p, x: splines(p["c"], x),
        {"c": normal(3, 2, 4)},
        (X,),
        "dense",
        (1, 12, 2),
        6,
    ),
    weight(
        "a weight norm in a `scan` over layers",
        lambda p, x: lax.scan(lambda h, q: (h @ (q["g"] * q["v"] / norm(q["v"])), None), x, p)[0],
        {"v": normal(1, 3, 3), "g": normal(1, 3)},
        12,
    ),
    weight(
        "a weight norm outside of a `scan` over time",
        lambda p, x: lax.scan(lambda h, x: (h, x @ (p["g"] * p["v"] / norm(p["v"]))), jnp.zeros(3), x[:, None])[1][
            :, 0
        ],
        {"v": V, "g": G},
        12,
    ),
    Case(
        "learnt queries: `softmax(x @ tanh(q)) @ w`",
        lambda p, x: jax.nn.softmax(x @ jnp.tanh(p["v"])) @ p["w"],
        {"v": V, "w": W},
        (X,),
        (
            Layer(("v",), "reparametrised", (1, 9, 1), 6, lambda s, p, x: x @ jnp.tanh(s["v"])),
            Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: jax.nn.softmax(x @ jnp.tanh(p["v"])) @ s["w"]),
        ),
    ),
    one(
        "learnt queries, tiled over the batch",
        lambda p, x: attended(jnp.tile(p["q"], (2, 1, 1)), x),
        {"q": PROBE},
        (T,),
        "dense",
        (1, 4, 2),
        10,
    ),
    weight(
        "learnt queries, tiled and projected: `tile(q) @ w + b`",
        lambda p, x: attended(jnp.tile(p["q"], (2, 1, 1)) @ p["w"] + p["b"], x),
        {"q": PROBE, "w": K, "b": normal(4)},
        28,
        (T,),
        10,
    ),
    used_twice("`x @ v`, and `tanh(v)` as the start of a `scan`", lambda v, x: (scanned(v, x), jnp.tanh(v)), samples=1),
    used_twice("`x @ v`, and `tanh(v)` as the start of a `while`", lambda v, x: (looped(v, x), jnp.tanh(v)), samples=1),
    used_twice("`x @ v`, and `maximum(v[0], x)`", lambda v, x: 2 * (jnp.maximum(v[0], x),), "general"),
    used_twice(
        "`x @ v`, and `x @ f(v)`, `f` a `custom_jvp` of the weight alone",
        lambda v, x: (jnp.sin(x @ same(v)), x @ same(v)),
    ),
]
