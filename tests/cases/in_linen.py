"""Flax Linen: its layers, and its transformations around them."""

import jax.numpy as jnp
import numpy as np
from flax import linen

from cases._case import Layer, normal
from cases._frameworks import flax_linen
from cases.control_flow import through_layers

X, T = normal(6, 4), normal(3, 5, 4)
WHOLE = ("['bias']", "['kernel']")
NORM = ("['bias']", "['scale']")


def layer(name, module, x, kind, sizes, samples, keys=WHOLE):
    """A module that is one layer."""
    return flax_linen(name, module, (x,), [Layer(keys, kind, sizes, samples)])


class Step(linen.Module):
    """A layer for a scan."""

    @linen.compact
    def __call__(self, x, _):
        return jnp.tanh(linen.Dense(4)(x)), None


class Scanned(linen.Module):
    """Three layers, their parameters stacked."""

    body: type

    @linen.compact
    def __call__(self, x):
        scan = linen.scan(self.body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan(name="stack")(x, None)[0]


class Recomputed(linen.Module):
    """A layer that is checkpointed."""

    @linen.compact
    def __call__(self, x):
        return jnp.tanh(linen.remat(linen.Dense)(3, name="dense")(x))


class Fused(linen.Module):
    """Attention of two heads, whose query, key and value are one layer."""

    @linen.compact
    def __call__(self, x):
        q, k, v = jnp.moveaxis(linen.DenseGeneral((3, 2, 2), name="qkv")(x), -3, 0)
        return linen.dot_product_attention(q, k, v)


class Tied(linen.Module):
    """An embedding and the same embedding as the head."""

    @linen.compact
    def __call__(self, i):
        embed = linen.Embed(7, 3, name="embed")
        return embed.attend(jnp.tanh(embed(i)))


DENSE = (linen.Dense, linen.DenseGeneral, linen.Embed)
STACK_KEYS = ("['stack']['Dense_0']['bias']", "['stack']['Dense_0']['kernel']")


def stack_output(chosen, params, x):
    """What the scanned layers give, layer by layer: Flax's scan refuses the callbacks that capture calls."""
    dense = params["stack"]["Dense_0"]
    bias, kernel = (chosen[key] for key in STACK_KEYS)
    inputs = through_layers({"w": dense["kernel"], "b": dense["bias"]}, x)
    return jnp.einsum("lni,lio->lno", inputs, kernel) + bias[:, None]


STACK = [Layer(STACK_KEYS, "dense", (3, 4, 4), 6, stack_output)]

LINEN = [
    layer("`linen.Dense`", linen.Dense(3), X, "dense", (1, 4, 3), 6),
    layer("`linen.DenseGeneral`, two axes out", linen.DenseGeneral((3, 2)), X, "dense", (1, 4, 6), 6),
    layer(
        "`linen.DenseGeneral`, two axes in",
        linen.DenseGeneral(3, axis=(-2, -1)),
        normal(5, 2, 2),
        "dense",
        (1, 4, 3),
        5,
    ),
    layer("`linen.Conv`", linen.Conv(3, (3,)), normal(2, 5, 4), "convolution", (1, 12, 3), 10),
    layer("`linen.ConvTranspose`", linen.ConvTranspose(3, (2,), (2,)), normal(2, 3, 4), "convolution", (1, 8, 3), 12),
    layer(
        "`linen.Embed`", linen.Embed(7, 3), np.array([[1, 2], [3, 3]]), "embedding", (1, 7, 3), 4, ("['embedding']",)
    ),
    flax_linen(
        "`linen.Embed`, and its `attend` as the head",
        Tied(),
        (np.array([[1, 2], [3, 3]]),),
        [Layer(("['embed']['embedding']",), "tied", (1, 7, 3), 8)],
        DENSE,
    ),
    layer("`linen.LayerNorm`", linen.LayerNorm(), T, "scale", (4, 1, 1), 15, NORM),
    layer("`linen.RMSNorm`", linen.RMSNorm(), T, "scale", (4, 1, 1), 15, ("['scale']",)),
    layer("`linen.GroupNorm`", linen.GroupNorm(2), T, "scale", (4, 1, 1), 15, NORM),
    layer(
        "`linen.BatchNorm` with its state, `has_aux=True`",
        linen.BatchNorm(use_running_average=False),
        T,
        "scale",
        (4, 1, 1),
        15,
        NORM,
    ),
    flax_linen(
        "`linen.MultiHeadDotProductAttention`",
        linen.MultiHeadDotProductAttention(2),
        (T,),
        [
            Layer((f"['{name}']['bias']", f"['{name}']['kernel']"), "dense", (1, 4, 4), 15)
            for name in ("key", "out", "query", "value")
        ],
        DENSE,
    ),
    flax_linen(
        "fused attention: `linen.DenseGeneral((3, heads, d))`, unpacked",
        Fused(),
        (T,),
        [Layer(("['qkv']['bias']", "['qkv']['kernel']"), "dense", (1, 4, 12), 15, cut=(4, 4, 4))],
        DENSE,
    ),
    flax_linen("`linen.scan` over layers", Scanned(Step), (X,), STACK),
    flax_linen("`linen.scan` over layers, each under `linen.remat`", Scanned(linen.remat(Step)), (X,), STACK),
    flax_linen(
        "`linen.remat` of a layer",
        Recomputed(),
        (X,),
        [Layer(("['dense']['bias']", "['dense']['kernel']"), "dense", (1, 4, 3), 6)],
        DENSE,
    ),
]
