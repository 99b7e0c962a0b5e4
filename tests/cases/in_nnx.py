"""Flax NNX: its layers, and its transformations around them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cases._case import Layer, normal
from cases._frameworks import flax_nnx

X, T = normal(6, 4), normal(3, 5, 4)
INDEX = np.array([[1, 2], [3, 3]])


def paths(*names, prefix=""):
    """Parameters' paths."""
    return tuple(f"{prefix}['{name}'].value" for name in sorted(names))


WHOLE = paths("kernel", "bias")


def layer(name, make, x, kind, sizes, samples, keys=WHOLE, **options):
    """A model that is one layer."""
    return flax_nnx(name, make, (x,), [Layer(keys, kind, sizes, samples)], **options)


def linear(prefix, sizes, samples):
    """What is found of a layer with kernel and bias whose calls are captured."""
    return Layer(paths("kernel", "bias", prefix=prefix), "dense", sizes, samples)


def stack(rngs):
    """Three layers, their parameters stacked."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return nnx.Linear(4, 4, rngs=rngs)

    return make(rngs)


def scanned(model, x):
    """Stacked layers one after the other."""

    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def run(model, x):
        return jnp.tanh(model(x))

    return run(model, x)


def side_by_side(model, x):
    """Stacked layers of the same input."""
    return nnx.vmap(lambda model, x: jnp.tanh(model(x)), in_axes=(0, None))(model, x)


def cell_states(cell, x):
    """A recurrent cell's steps, and its outputs before each, over all examples and steps."""
    carry = cell.initialize_carry(x[:, 0].shape, nnx.Rngs(0))
    carry = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, x.dtype), carry)
    before = []
    for k in range(x.shape[1]):
        before.append(carry[1] if isinstance(carry, tuple) else carry)
        carry, _ = cell(carry, x[:, k])
    return x.swapaxes(0, 1).reshape(-1, x.shape[-1]), jnp.concatenate(before)


def recurrent(cell):
    """A recurrent network, which starts from zeros of the precision that the tests run in."""
    cell.param_dtype = np.float64
    return nnx.RNN(cell)


def lstm(rngs):
    """A recurrent network of one layer."""
    return recurrent(nnx.LSTMCell(4, 3, rngs=rngs))


LSTM = nnx.split(nnx.eval_shape(lambda: lstm(nnx.Rngs(0))), nnx.Param, ...)


def gate(name):
    """One gate of the LSTM: from the step without a bias, from the state with one."""
    step = f"['cell']['{'if_' if name == 'f' else 'i' + name}']['kernel'].value"
    state = f"['cell']['h{name}']['kernel'].value"
    bias = f"['cell']['h{name}']['bias'].value"

    def output(s, params, rest, x):
        steps, states = cell_states(nnx.merge(LSTM[0], params, rest, copy=True).cell, x)
        return steps @ s[step] + states @ s[state] + s[bias]

    return Layer((bias, state, step), "dense", (1, 7, 3), 15, output)


CLASSIC = (nnx.Linear, nnx.LinearGeneral)
ATTENTION = [linear(f"['{name}']", (1, 4, 4), 15) for name in ("key", "out", "query", "value")]

NNX = [
    layer("`nnx.Linear`", lambda r: nnx.Linear(4, 3, rngs=r), X, "dense", (1, 4, 3), 6),
    layer(
        "`nnx.LinearGeneral`, two axes to two",
        lambda r: nnx.LinearGeneral((2, 2), (3, 2), axis=(-2, -1), rngs=r),
        normal(5, 2, 2),
        "dense",
        (1, 4, 6),
        5,
    ),
    layer(
        "`nnx.LinearGeneral`, `batch_axis`",
        lambda r: nnx.LinearGeneral(4, 3, axis=-1, batch_axis={0: 2}, rngs=r),
        normal(2, 5, 4),
        "dense",
        (2, 4, 3),
        5,
    ),
    layer(
        "`nnx.Einsum`",
        lambda r: nnx.Einsum("bhd,hdo->bho", (2, 3, 4), (2, 4), rngs=r),
        normal(5, 2, 3),
        "dense",
        (2, 3, 4),
        5,
    ),
    layer(
        "`nnx.Conv`",
        lambda r: nnx.Conv(2, 4, (3, 3), strides=2, rngs=r),
        normal(2, 5, 5, 2),
        "convolution",
        (1, 18, 4),
        18,
    ),
    layer(
        "`nnx.ConvTranspose`",
        lambda r: nnx.ConvTranspose(2, 3, (2, 2), strides=2, rngs=r),
        normal(2, 3, 3, 2),
        "convolution",
        (1, 8, 3),
        72,
    ),
    layer(
        "`nnx.Embed`",
        lambda r: nnx.Embed(7, 3, dtype=np.float64, rngs=r),
        INDEX,
        "embedding",
        (1, 7, 3),
        4,
        paths("embedding"),
    ),
    flax_nnx(
        "`nnx.Embed`, and its `attend` as the head",
        lambda r: nnx.Embed(7, 3, dtype=np.float64, rngs=r),
        (INDEX,),
        [Layer(paths("embedding"), "tied", (1, 7, 3), 8)],
        lambda model, i: model.attend(jnp.tanh(model(i))),
        (nnx.Embed,),
    ),
    layer("`nnx.LayerNorm`", lambda r: nnx.LayerNorm(4, rngs=r), T, "scale", (4, 1, 1), 15, paths("bias", "scale")),
    layer("`nnx.RMSNorm`", lambda r: nnx.RMSNorm(4, rngs=r), T, "scale", (4, 1, 1), 15, paths("scale")),
    layer("`nnx.GroupNorm`", lambda r: nnx.GroupNorm(4, 2, rngs=r), T, "scale", (4, 1, 1), 15, paths("bias", "scale")),
    flax_nnx(
        "`nnx.BatchNorm` with its state, `has_aux=True`",
        lambda r: nnx.BatchNorm(4, rngs=r),
        (T,),
        [Layer(paths("bias", "scale"), "scale", (4, 1, 1), 15)],
        lambda model, x: (model(x), nnx.state(model, nnx.BatchStat)),
        has_aux=True,
    ),
    layer(
        "`nnx.BatchNorm`, `use_running_average=True`",
        lambda r: nnx.BatchNorm(4, use_running_average=True, rngs=r),
        T,
        "scale",
        (4, 1, 1),
        15,
        paths("bias", "scale"),
    ),
    flax_nnx(
        "`nnx.MultiHeadAttention`",
        lambda r: nnx.MultiHeadAttention(2, 4, decode=False, rngs=r),
        (T,),
        ATTENTION,
        watch=CLASSIC,
    ),
    flax_nnx(
        "`nnx.LoRALinear`",
        lambda r: nnx.LoRALinear(4, 3, lora_rank=2, rngs=r),
        (X,),
        [
            Layer(
                (*WHOLE, "['lora']['lora_b'].value"),
                "dense",
                (1, 6, 3),
                6,
                lambda s, p, rest, x: (
                    x @ s["['kernel'].value"]
                    + s["['bias'].value"]
                    + (x @ p["lora"]["lora_a"][...]) @ s["['lora']['lora_b'].value"]
                ),
            ),
            Layer(
                ("['lora']['lora_a'].value",),
                "dense",
                (1, 4, 2),
                6,
                lambda s, p, rest, x: x @ s["['lora']['lora_a'].value"],
            ),
        ],
    ),
    flax_nnx("`nnx.RNN` of `nnx.LSTMCell`", lstm, (T,), [gate(name) for name in "figo"]),
    flax_nnx(
        "`nnx.RNN` of `nnx.GRUCell`",
        lambda r: recurrent(nnx.GRUCell(4, 3, rngs=r)),
        (T,),
        [
            Layer(paths("kernel", prefix="['cell']['dense_h']"), "dense", (1, 3, 9), 15, cut=(3, 3, 3)),
            replace(linear("['cell']['dense_i']", (1, 4, 9), 15), cut=(3, 3, 3)),
        ],
        watch=CLASSIC,
    ),
    flax_nnx(
        "`nnx.remat` of a layer",
        lambda r: nnx.Linear(4, 3, rngs=r),
        (X,),
        [linear("", (1, 4, 3), 6)],
        lambda model, x: nnx.remat(lambda model, x: jnp.tanh(model(x)))(model, x),
        CLASSIC,
    ),
    flax_nnx("`nnx.vmap`'d layers run by `nnx.scan`", stack, (X,), [linear("", (3, 4, 4), 6)], scanned, CLASSIC),
    flax_nnx("`nnx.vmap`'d layers run by `nnx.vmap`", stack, (X,), [linear("", (1, 4, 12), 6)], side_by_side, CLASSIC),
]
