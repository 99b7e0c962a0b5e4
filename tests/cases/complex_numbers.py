"""Networks that compute with complex numbers; their parameters are real."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import lax

from cases._case import Case, Layer, normal

X, Z = normal(6, 2), normal(6, 2) + 1j * normal(6, 2, seed=1)
A, B = normal(2, 3), normal(2, 3, seed=1)
U = normal(5, 2, 16)
INDEX = np.array([1, 2, 1, 0, 1, 6])
MODES = {"a": normal(2, 3, 4), "b": normal(2, 3, 4, seed=1)}


def numbers(y):
    """Real and imaginary parts side by side, which the loss is a function of."""
    return jnp.concatenate([y.real, y.imag], -1)


def layer(name, output, params, sizes, samples=6, args=(Z,), kind="dense"):
    """A network whose only layer has complex outputs."""
    own = Layer(tuple(params), kind, sizes, samples, lambda chosen, _, *args: output(chosen, *args))
    return Case(name, lambda p, *args: numbers(output(p, *args)), params, args, (own,))


def modes(u):
    """The lowest Fourier modes."""
    return jnp.fft.rfft(u)[..., :4]


def operator(p, u):
    """A layer of a Fourier neural operator, before its way back."""
    return jnp.einsum("bim,iom->bom", modes(u), p["a"] + 1j * p["b"])


def decay(p):
    """The poles of a linear recurrent unit, within the unit circle."""
    return jnp.exp(-jnp.exp(p["nu"]) + 1j * p["theta"])


def recurrence(p, x):
    """A linear recurrent unit: h = lambda h + B x. Its last state, and the states that lambda meets."""
    inputs = x.astype(complex) @ (p["a"] + 1j * p["b"])
    start = jnp.zeros((x.shape[0], 3), inputs.dtype)
    return lax.scan(lambda h, u: (decay(p) * h + u, h), start, inputs.swapaxes(0, 1))


def states(p, x):
    """The states that lambda meets."""
    return recurrence(p, x)[1]


_CASES = [
    layer("`z @ (a + 1j * b)`", lambda p, z: z @ (p["a"] + 1j * p["b"]), {"a": A, "b": B}, (1, 4, 3)),
    layer("`z @ lax.complex(a, b)`", lambda p, z: z @ lax.complex(p["a"], p["b"]), {"a": A, "b": B}, (1, 4, 3)),
    layer("`z @ a`", lambda p, z: z @ p["a"].astype(complex), {"a": A}, (1, 2, 3)),
    layer(
        "`x @ (a + 1j * b)`, x real",
        lambda p, x: x.astype(complex) @ (p["a"] + 1j * p["b"]),
        {"a": A, "b": B},
        (1, 4, 3),
        args=(X,),
    ),
    layer("`z @ ((1 + 2j) * a)`", lambda p, z: z @ ((1 + 2j) * p["a"]), {"a": A}, (1, 2, 3)),
    layer("`x @ (2j * a)`, x real", lambda p, x: x.astype(complex) @ (2j * p["a"]), {"a": A}, (1, 2, 3), args=(X,)),
    layer(
        "`e[i]` of a complex table",
        lambda p, i: (p["a"] + 1j * p["b"])[i],
        {"a": normal(7, 3), "b": normal(7, 3, seed=1)},
        (1, 7, 6),
        args=(INDEX,),
        kind="embedding",
    ),
    layer(
        "`z * (a + 1j * b)`",
        lambda p, z: z * (p["a"] + 1j * p["b"]),
        {"a": normal(2), "b": normal(2, seed=1)},
        (2, 2, 1),
        kind="scale",
    ),
    layer("`z * a`", lambda p, z: z * p["a"], {"a": normal(2)}, (2, 1, 1), kind="scale"),
    layer(
        "a filter: `rfft(u) * (a + 1j * b)`",
        lambda p, u: jnp.fft.rfft(u) * (p["a"] + 1j * p["b"]),
        {"a": normal(9), "b": normal(9, seed=1)},
        (9, 2, 1),
        10,
        (U,),
        "scale",
    ),
    layer(
        "a learnt filter: `rfft(u) * rfft(a)`",
        lambda p, u: jnp.fft.rfft(u) * jnp.fft.rfft(p["a"]),
        {"a": normal(16)},
        (1, 16, 1),
        10,
        (U,),
        "reparametrised",
    ),
    layer(
        "Fourier neural operator: `einsum('bim,iom->bom', rfft(u), a + 1j * b)`", operator, MODES, (4, 4, 3), 5, (U,)
    ),
    Case(
        "`(z @ (a + 1j * b)) + (c + 1j * d)`",
        lambda p, z: numbers(z @ (p["a"] + 1j * p["b"]) + (p["c"] + 1j * p["d"])),
        {"a": A, "b": B, "c": normal(3), "d": normal(3, seed=1)},
        (Z,),
        (
            Layer(("a", "b"), "dense", (1, 4, 3), 6, lambda s, p, z: z @ (s["a"] + 1j * s["b"])),
            Layer(("c", "d"), "identity", (6, 0, 1), 6, lambda s, p, z: jnp.broadcast_to(s["c"] + 1j * s["d"], (6, 3))),
        ),
    ),
    Case(
        "a linear recurrent unit, its poles `exp(-exp(nu) + 1j * theta)`",
        lambda p, x: numbers(recurrence(p, x)[0]),
        {"a": A, "b": B, "nu": normal(3), "theta": normal(3, seed=1)},
        (normal(4, 5, 2),),
        (
            Layer(("a", "b"), "dense", (1, 4, 3), 20, lambda s, p, x: x.astype(complex) @ (s["a"] + 1j * s["b"])),
            Layer(("nu", "theta"), "reparametrised", (1, 6, 1), 20, lambda s, p, x: states(p, x) * decay(s)),
        ),
    ),
    Case(
        "complex layers in a `scan` over layers",
        lambda p, z: numbers(lax.scan(lambda h, q: (h @ (q["a"] + 1j * q["b"]), None), z, p)[0]),
        {"a": normal(1, 2, 2), "b": normal(1, 2, 2, seed=1)},
        (Z,),
        (Layer(("a", "b"), "dense", (1, 4, 2), 6, lambda s, p, z: z @ (s["a"] + 1j * s["b"])[0]),),
    ),
]
COMPLEX = [replace(case, promotion="standard") for case in _CASES]
