"""What is rightly not covered, and the reason that the user is told."""

import jax

from cases._case import Case, Layer, normal

X = normal(6, 3)
V, W = normal(3, 3), normal(3, 3, seed=1)
OTHER = Layer(("w",), "dense", (1, 3, 3), 6, lambda s, p, x: x @ s["w"])


def missing(name, apply, params, reasons, layers=(), args=(X,)):
    """A case whose parameters are not covered for these reasons."""
    return Case(name, apply, params, args, layers, {f"['{key}']": reason for key, reason in reasons.items()})


UNCOVERED = [
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
        "never used",
        lambda p, x: x @ p["w"],
        {"v": V, "w": W},
        {"v": "never reaches the loss"},
        (OTHER,),
    ),
]
