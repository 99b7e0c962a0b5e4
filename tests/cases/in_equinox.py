"""Equinox: its layers, and its transformations around them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from cases._case import Layer, normal
from cases._frameworks import equinox, state_like

X, T = normal(6, 4), normal(3, 5, 4)
WHOLE = (".bias", ".weight")


def examples(model, *args):
    """The model of every example."""
    return jax.vmap(model)(*args)


def layer(name, make, x, kind, sizes, samples, keys=WHOLE, apply=examples):
    """A model that is one layer."""
    return equinox(name, make, apply, (x,), [Layer(keys, kind, sizes, samples)])


def linear(prefix, sizes, samples, bias=True):
    """What is found of an `eqx.nn.Linear`, whose calls are captured."""
    keys = (f"{prefix}.bias", f"{prefix}.weight") if bias else (f"{prefix}.weight",)
    return Layer(keys, "dense", sizes, samples)


def states(cell, x, start, output):
    """A recurrent cell's outputs before each step of every example, [n, o], and the steps, [n, i]."""
    before, steps = [], []
    for example in x:
        state = start
        for step in example:
            before.append(output(state))
            steps.append(step)
            state = cell(step, state)
    return jnp.stack(steps), jnp.stack(before)


def gru(cell, x):
    """The last state."""
    return jax.vmap(lambda x: jax.lax.scan(lambda h, s: (cell(s, h), None), jnp.zeros(3, x.dtype), x)[0])(x)


def gru_inputs(cell, x):
    """Steps and states."""
    return states(cell, x, jnp.zeros(3), lambda h: h)


def lstm(cell, x):
    """The last output."""
    start = (jnp.zeros(3, x.dtype), jnp.zeros(3, x.dtype))
    return jax.vmap(lambda x: jax.lax.scan(lambda h, s: (cell(s, h), None), start, x)[0][0])(x)


def lstm_inputs(cell, x):
    """Steps and outputs."""
    return states(cell, x, (jnp.zeros(3), jnp.zeros(3)), lambda state: state[0])


def scanned(models, x):
    """Stacked models one after the other."""
    arrays, static = eqx.partition(models, eqx.is_array)
    return jax.vmap(lambda x: jax.lax.scan(lambda h, m: (eqx.combine(m, static)(h), None), x, arrays)[0])(x)


def ensemble(models, x):
    """Stacked models side by side."""
    return eqx.filter_vmap(lambda model, x: jax.vmap(model)(x), in_axes=(eqx.if_array(0), None))(models, x)


def mlp(key):
    """Two layers."""
    return eqx.nn.MLP(4, 3, 5, 1, key=key)


def mlps(key):
    """Three stacks of two layers."""
    return eqx.filter_vmap(lambda key: eqx.nn.MLP(4, 4, 5, 1, key=key))(jax.random.split(key, 3))


def dropout(model, x, keys):
    """A layer before and after dropout."""
    return jax.vmap(lambda x, key: model[2](model[1](jax.nn.relu(model[0](x)), key=key)))(x, keys)


def batch_norm(model, state, x):
    """The output and the layer's new state."""
    return jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)


def normalised(x):
    """Channels of mean 0 and variance 1 over the batch and its pixels."""
    axes = (0, *range(2, x.ndim))
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + 1e-5)


BATCH_NORM, STATE = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
MLP = [linear(".layers[0]", (1, 4, 5), 6), linear(".layers[1]", (1, 5, 3), 6)]
LINEAR = (eqx.nn.Linear,)


def attention(name, **options):
    """Attention of every example with itself."""
    return equinox(
        name,
        lambda k: eqx.nn.MultiheadAttention(2, 4, key=k, **options),
        lambda model, x: jax.vmap(lambda x: model(x, x, x))(x),
        (T,),
        [
            linear(".query_proj", (1, 4, 4), 15, bias=bool(options)),
            *[linear(f".{name}_proj", (1, 4, 4), 15, bias=False) for name in ("key", "value", "output")],
        ],
        LINEAR,
    )


EQUINOX = [
    layer("`eqx.nn.Linear`", lambda k: eqx.nn.Linear(4, 3, key=k), X, "dense", (1, 4, 3), 6),
    equinox("`eqx.nn.MLP`", mlp, examples, (X,), MLP, LINEAR),
    layer("`eqx.nn.Conv1d`", lambda k: eqx.nn.Conv1d(3, 4, 3, key=k), normal(2, 3, 7), "convolution", (1, 9, 4), 10),
    layer(
        "`eqx.nn.Conv2d`",
        lambda k: eqx.nn.Conv2d(2, 4, 3, stride=2, padding=1, key=k),
        normal(2, 2, 5, 5),
        "convolution",
        (1, 18, 4),
        18,
    ),
    layer(
        "`eqx.nn.Conv3d`", lambda k: eqx.nn.Conv3d(2, 3, 2, key=k), normal(2, 2, 3, 3, 3), "convolution", (1, 16, 3), 16
    ),
    layer(
        "`eqx.nn.ConvTranspose2d`",
        lambda k: eqx.nn.ConvTranspose2d(2, 3, 2, stride=2, key=k),
        normal(2, 2, 3, 3),
        "convolution",
        (1, 8, 3),
        72,
    ),
    layer(
        "`eqx.nn.ConvTranspose2d`, `groups=2`",
        lambda k: eqx.nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2, key=k),
        normal(1, 4, 2, 2),
        "convolution",
        (2, 8, 2),
        16,
    ),
    layer(
        "`eqx.nn.Conv2d`, `groups=channels` (depthwise)",
        lambda k: eqx.nn.Conv2d(3, 3, 3, groups=3, key=k),
        normal(2, 3, 5, 5),
        "convolution",
        (3, 9, 1),
        18,
    ),
    layer(
        "`eqx.nn.Conv2d`, `groups=2`, `dilation=2`",
        lambda k: eqx.nn.Conv2d(4, 6, 2, groups=2, dilation=2, key=k),
        normal(2, 4, 4, 4),
        "convolution",
        (2, 8, 3),
        8,
    ),
    layer(
        "`eqx.nn.Embedding`",
        lambda k: eqx.nn.Embedding(7, 3, key=k),
        np.array([[1, 2, 3], [1, 1, 6]]),
        "embedding",
        (1, 7, 3),
        6,
        (".weight",),
        lambda model, i: jax.vmap(jax.vmap(model))(i),
    ),
    layer("`eqx.nn.LayerNorm`", lambda k: eqx.nn.LayerNorm(4), X, "scale", (4, 1, 1), 6),
    layer("`eqx.nn.GroupNorm`", lambda k: eqx.nn.GroupNorm(2, 4), normal(3, 4, 5), "scale", (4, 1, 1), 15),
    layer("`eqx.nn.RMSNorm`", lambda k: eqx.nn.RMSNorm(4), X, "scale", (4, 1, 1), 6),
    equinox(
        "`eqx.nn.BatchNorm` with its state, `has_aux=True`",
        lambda key: BATCH_NORM,
        batch_norm,
        (jax.tree.map(state_like, STATE), normal(4, 3, 2)),
        [
            Layer(
                WHOLE,
                "scale",
                (3, 1, 1),
                8,
                lambda s, p, state, x: normalised(x) * s[".weight"][:, None] + s[".bias"][:, None],
            )
        ],
        has_aux=True,
    ),
    attention("`eqx.nn.MultiheadAttention`"),
    attention("`eqx.nn.MultiheadAttention`, `use_query_bias=True`", use_query_bias=True),
    equinox(
        "`eqx.nn.GRUCell` under `lax.scan`",
        lambda k: eqx.nn.GRUCell(4, 3, key=k),
        gru,
        (T,),
        [
            Layer(
                (".bias", ".weight_ih"),
                "dense",
                (1, 4, 9),
                15,
                lambda s, p, x: gru_inputs(p, x)[0] @ s[".weight_ih"].T + s[".bias"],
                cut=(3, 3, 3),
            ),
            Layer(
                (".weight_hh",),
                "dense",
                (1, 3, 9),
                15,
                lambda s, p, x: gru_inputs(p, x)[1] @ s[".weight_hh"].T,
                cut=(3, 3, 3),
            ),
            Layer((".bias_n",), "identity", (3, 0, 1), 15, lambda s, p, x: jnp.broadcast_to(s[".bias_n"], (15, 3))),
        ],
    ),
    equinox(
        "`eqx.nn.LSTMCell` under `lax.scan`",
        lambda k: eqx.nn.LSTMCell(4, 3, key=k),
        lstm,
        (T,),
        [
            Layer(
                (".bias", ".weight_hh", ".weight_ih"),
                "dense",
                (1, 7, 12),
                15,
                lambda s, p, x: (
                    lstm_inputs(p, x)[0] @ s[".weight_ih"].T + lstm_inputs(p, x)[1] @ s[".weight_hh"].T + s[".bias"]
                ),
                cut=(3, 3, 3, 3),
            )
        ],
    ),
    equinox(
        "`eqx.nn.Dropout` with keys, between layers",
        lambda k: (eqx.nn.Linear(4, 4, key=k), eqx.nn.Dropout(0.5), eqx.nn.Linear(4, 2, key=k)),
        dropout,
        (X, np.asarray(jax.random.key_data(jax.random.split(jax.random.key(1), 6)))),
        [linear("[0]", (1, 4, 4), 6), linear("[2]", (1, 4, 2), 6)],
        LINEAR,
    ),
    equinox(
        "`eqx.filter_jit` of a model",
        mlp,
        lambda model, x: jax.vmap(lambda x: eqx.filter_jit(lambda model, x: model(x))(model, x))(x),
        (X,),
        MLP,
        LINEAR,
    ),
    equinox(
        "`eqx.filter_checkpoint` of a model",
        mlp,
        lambda model, x: jax.vmap(lambda x: eqx.filter_checkpoint(lambda model, x: model(x))(model, x))(x),
        (X,),
        MLP,
        LINEAR,
    ),
    equinox(
        "`eqx.filter_vmap`'d models run by `lax.scan`",
        mlps,
        scanned,
        (X,),
        [linear(".layers[0]", (3, 4, 5), 6), linear(".layers[1]", (3, 5, 4), 6)],
        LINEAR,
    ),
    equinox(
        "`eqx.filter_vmap`'d models run by `filter_vmap` (ensemble)",
        mlps,
        ensemble,
        (X,),
        [linear(".layers[0]", (1, 4, 15), 6), linear(".layers[1]", (3, 5, 4), 6)],
        LINEAR,
    ),
]
