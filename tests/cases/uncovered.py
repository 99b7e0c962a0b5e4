"""What is rightly not covered, and the reason that the user is told."""

import jax
import jax.numpy as jnp

from cases._case import Case, Layer, normal

X = normal(6, 3)
V, W, G = normal(3, 3), normal(3, 3, seed=1), normal(3)
OTHER = Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"])
PRODUCT = "multiplied with another parameter by `{}` before either meets data"


def standardised(weight):
    """Columns of mean 0 and variance 1."""
    return (weight - weight.mean(0)) / weight.std(0)


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


def missing(name, apply, params, reasons, layers=(), args=(X,)):
    """A case whose parameters are not covered for these reasons."""
    return Case(name, apply, params, args, layers, {f"['{key}']": reason for key, reason in reasons.items()})


UNCOVERED = [
    missing(
        "weight norm: `x @ (g * v / norm(v)) + b`",
        lambda p, x: x @ (p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0)) + p["b"],
        {"v": V, "g": G, "b": normal(3, seed=1)},
        dict.fromkeys("gv", PRODUCT.format("mul")),
        (Layer(("b",), "identity", (3, 0, 1), 6),),
    ),
    missing(
        "spectral norm: `x @ (v / (u @ v @ u))`",
        lambda p, x, u: x @ (p["v"] / (u @ p["v"] @ u)),
        {"v": V},
        {"v": "divided by a function of itself in `div`"},
        args=(X, normal(3, seed=6)),
    ),
    missing(
        "weight standardisation: `x @ ((v - mean(v)) / std(v))`",
        lambda p, x: x @ standardised(p["v"]),
        {"v": V},
        {"v": "enters nonlinearly through `square`"},
    ),
    missing(
        "`x * exp(log_scale)`",
        lambda p, x: x * jnp.exp(p["g"]),
        {"g": G},
        {"g": "enters nonlinearly through `exp`"},
    ),
    missing(
        "learnt queries: `tanh(q) @ w`",
        lambda p, x: jax.nn.softmax(x @ jnp.tanh(p["v"]) @ p["w"]),
        {"v": V, "w": W},
        {"v": "enters nonlinearly through `tanh`"},
        (Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ jnp.tanh(p["v"]) @ s["w"]),),
    ),
    missing(
        "merged LoRA: `x @ (frozen + v @ w)`",
        lambda p, x, frozen: x @ (frozen + p["v"] @ p["w"]),
        {"v": V, "w": W},
        dict.fromkeys("vw", PRODUCT.format("dot_general")),
        args=(X, normal(3, 3, seed=2)),
    ),
    missing(
        "merged LoRA: `x @ (u + v @ w)`",
        lambda p, x: x @ (p["u"] + p["v"] @ p["w"]),
        {"u": normal(3, 3, seed=2), "v": V, "w": W},
        dict.fromkeys("vw", PRODUCT.format("dot_general")),
        (Layer(("u",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["u"]),),
    ),
    missing(
        "frozen: `x @ stop_gradient(v) + x @ w`",
        lambda p, x: x @ jax.lax.stop_gradient(p["v"]) + x @ p["w"],
        {"v": V, "w": W},
        {"v": "its gradient is stopped by `stop_gradient`"},
        (OTHER,),
    ),
    missing(
        "`while_loop(..., lambda h: h @ v, x)`",
        lambda p, x: (
            x @ p["w"] + jax.lax.stop_gradient(jax.lax.while_loop(lambda h: h.sum() < 0, lambda h: h @ p["v"], x))
        ),
        {"v": V, "w": W},
        {"v": "used inside a `while`, which has no reverse derivative"},
        (OTHER,),
    ),
    missing(
        "`tanh(v)` as the start of a `scan`, and `x @ v`",
        lambda p, x: jnp.sin(x @ p["w"]) + scanned(p["v"], x) + jnp.sin(x @ p["v"]),
        {"v": V, "w": W},
        {"v": "enters nonlinearly through `tanh`"},
        (OTHER,),
    ),
    missing(
        "`tanh(v)` as the start of a `while`, and `x @ v`",
        lambda p, x: jnp.sin(x @ p["w"]) + looped(p["v"], x) + jnp.sin(x @ p["v"]),
        {"v": V, "w": W},
        {"v": "enters nonlinearly through `tanh`"},
        (OTHER,),
    ),
    missing(
        "`maximum(v, x)` and `x @ v`",
        lambda p, x: jnp.sin(x @ p["w"]) + jnp.maximum(p["v"][0], x) + jnp.sin(x @ p["v"]),
        {"v": V, "w": W},
        {"v": "enters nonlinearly through `max`"},
        (OTHER,),
    ),
    missing(
        "`x @ v` and `x @ f(v)`, `f` a `custom_jvp` of the weight alone",
        lambda p, x: jnp.sin(x @ p["w"]) + jnp.sin(x @ p["v"]) + jnp.sin(x @ same(p["v"])),
        {"v": V, "w": W},
        {"v": "comes out of a `custom_jvp_call` without having met any data"},
        (OTHER,),
    ),
    missing(
        "`x @ v + x + b` and `maximum(v, x)`",
        lambda p, x: jnp.tanh(x @ p["v"] + jnp.sin(x) + p["b"]) + jnp.maximum(p["v"][0], x),
        {"v": V, "b": G},
        {"v": "enters nonlinearly through `max`"},
        (Layer(("b",), "general", (1, 3, 1), 6, lambda s, p, x: jnp.broadcast_to(s["b"], (6, 3))),),
    ),
    missing(
        "never used",
        lambda p, x: x @ p["w"],
        {"v": V, "w": W},
        {"v": "never reaches the loss"},
        (OTHER,),
    ),
]
