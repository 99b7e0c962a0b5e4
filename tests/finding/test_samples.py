"""n of neurons without a canonical form: as many samples as the same function has in canonical form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")


def ones(*shape):
    return jnp.ones(shape)


def found(layer, params, *args):
    """The one neuron of a layer."""
    (neuron,) = lnb.find_neurons(lambda p, *args: jnp.sum(jnp.sin(layer(p, *args))), params, *args)
    return neuron


def dense(p, x):
    return x @ p


DENSE_TWINS = {
    "masked": lambda p, x: x @ jnp.tril(p),
    "times a constant matrix": lambda p, x: x @ (p * np.cos(np.arange(p.size)).reshape(p.shape)),
    "summed along an axis": lambda p, x: x @ jnp.cumsum(p, 0),
    "padded": lambda p, x: jnp.pad(x, ((0, 0), (0, 2))) @ jnp.pad(p, ((0, 2), (0, 0))),
    "a slice of another array": lambda p, x: x @ jnp.tril(jnp.concatenate([p, p]).reshape(2, *p.shape)[1]),
    "repeated for each sample": lambda p, x: jnp.einsum("ni,nio->no", x, jnp.broadcast_to(p, (len(x), *p.shape))),
    "rows read twice": lambda p, x: jnp.tile(x, 2) @ jnp.tile(p, (2, 1)),
    "masked, in a loop": lambda p, x: lax.map(lambda row: row @ jnp.tril(p), x),
    "masked, in batches": lambda p, x: jnp.einsum("bni,io->bno", x[None], jnp.tril(p)),
}


@settings(max_examples=5)
@given(st.integers(2, 7), st.integers(2, 5), st.integers(2, 5))
@pytest.mark.parametrize("name", DENSE_TWINS)
def test_a_layer_of_rows_has_a_sample_for_each(name, rows, inputs, outputs):
    params, x = ones(inputs, outputs), ones(rows, inputs)
    neuron, twin = found(DENSE_TWINS[name], params, x), found(dense, params, x)
    assert (neuron.kind, twin.kind) == ("dense" if name == "repeated for each sample" else "reparametrised", "dense")
    assert neuron.samples == twin.samples == rows
    rows_of_weight = 2 * inputs if name == "rows read twice" else inputs
    assert (neuron.side or min(neuron.shape[1:])) == min(rows_of_weight, outputs)


def scale(p, x):
    return x * p[0]


SCALE_TWINS = {
    "sums of its elements": lambda p, x: x * jnp.cumsum(p[0]),
    "in place of data": lambda p, x: jnp.where(x > 2, p[0], x),
    "set beside data": lambda p, x: jnp.concatenate([x, x]).at[: len(x)].set(p[0]),
}


@settings(max_examples=5)
@given(st.integers(2, 7), st.integers(2, 5), st.integers(2, 3))
@pytest.mark.parametrize("name", SCALE_TWINS)
def test_elements_have_a_sample_for_each_repetition(name, rows, width, others):
    """Of the elements that are used: the leaf has others, which count nothing."""
    params, x = ones(others, width), ones(rows, width)
    neuron, twin = found(SCALE_TWINS[name], params, x), found(scale, params, x)
    assert (neuron.kind, twin.kind) == ("reparametrised" if name == "sums of its elements" else "general", "scale")
    assert neuron.samples == twin.samples == rows
    assert neuron.side == 1


@settings(max_examples=5)
@given(st.integers(2, 4), st.integers(2, 3), st.integers(2, 4), st.integers(2, 4))
def test_experts_have_their_share_of_the_rows(share, experts, inputs, outputs):
    rows, params = share * experts, ones(experts, inputs, outputs)
    x, owners, sizes = ones(rows, inputs), jnp.arange(rows) % experts, jnp.full(experts, share)
    constant = np.arange(rows) % experts
    twin = found(lambda p, x: jnp.einsum("eni,eio->eno", x.reshape(experts, share, inputs), p), params, x)
    assert twin.samples == share
    forms = {
        "ragged, masked": (lambda p, x: lax.ragged_dot(x, jnp.tril(p), sizes), "reparametrised"),
        "ragged": (lambda p, x: lax.ragged_dot(x, p, sizes), "ragged"),
        "chosen": (lambda p, x, i: jnp.einsum("ni,nio->no", x, p[i]), "ragged"),
        "chosen, masked": (lambda p, x, i: jnp.einsum("ni,nio->no", x, jnp.tril(p)[i]), "reparametrised"),
        "constant indices": (lambda p, x: jnp.einsum("ni,nio->no", x, p[constant]), "ragged"),
    }
    for name, (layer, kind) in forms.items():
        neuron = found(layer, params, x, *([owners] if "chosen" in name else []))
        assert (name, neuron.kind, neuron.samples) == (name, kind, share)


@settings(max_examples=5)
@given(st.integers(1, 5), st.integers(2, 6))
def test_a_circulant_product_steps_as_a_convolution(rows, size):
    """Its rows are samples of all outputs together: n is smaller and s is larger by as much."""
    kernel, x = ones(size), ones(rows, size)
    shifts = (np.arange(size)[:, None] - np.arange(size)) % size
    neuron = found(lambda p, x: x @ p[shifts], kernel, x)
    twin = found(
        lambda p, x: lax.conv_general_dilated(
            jnp.pad(x, ((0, 0), (0, size - 1)), mode="wrap")[:, None], p.reshape(1, 1, size), (1,), "VALID"
        ),
        kernel,
        x,
    )
    assert (neuron.kind, twin.kind) == ("reparametrised", "convolution")
    assert twin.samples == neuron.samples * size
    assert neuron.side == size


BATCH, TIME, WIDTH, INNER, RANK, STATES, TAPS = 4, 12, 6, 8, 5, 4, 3

MAMBA = {
    "in": (WIDTH, 2 * INNER),
    "conv": (TAPS, INNER),
    "conv bias": (INNER,),
    "x": (INNER, RANK + 2 * STATES),
    "dt": (RANK, INNER),
    "dt bias": (INNER,),
    "log a": (INNER, STATES),
    "d": (INNER,),
    "out": (INNER, WIDTH),
}


def mamba(p, x, step_sizes):
    """A selective state space block: `step_sizes` gives dt before its softplus."""
    u, gate = x @ p["in"][:, :INNER], x @ p["in"][:, INNER:]
    padded = jnp.pad(u, ((0, 0), (TAPS - 1, 0), (0, 0)))
    taps = sum(padded[:, k : k + TIME] * p["conv"][k] for k in range(TAPS))
    u = jax.nn.silu(taps + p["conv bias"])
    projected = u @ p["x"]
    low, b, c = (projected[..., s] for s in (slice(RANK), slice(RANK, RANK + STATES), slice(RANK + STATES, None)))
    dt = jax.nn.softplus(step_sizes(p, low))
    decay = jnp.exp(-dt[..., None] * jnp.exp(p["log a"]))
    added = (dt * u)[..., None] * b[:, :, None]

    def step(state, inputs):
        decay, added, c = inputs
        state = decay * state + added
        return state, (state * c[:, None]).sum(-1)

    by_time = jax.tree.map(lambda a: a.swapaxes(0, 1), (decay, added, c))
    _, y = lax.scan(step, jnp.zeros((BATCH, INNER, STATES)), by_time)
    return ((y.swapaxes(0, 1) + u * p["d"]) * jax.nn.silu(gate)) @ p["out"]


DT = {
    "product": (lambda p, low: low @ p["dt"] + p["dt bias"], "dense"),
    "slice": (lambda p, low: low @ jnp.concatenate([p["dt"], p["dt bias"][None]])[:RANK] + p["dt bias"], "dense"),
    "masked": (lambda p, low: low @ jnp.tril(p["dt"]) + p["dt bias"], "reparametrised"),
    "element by element": (lambda p, low: (low[..., None] * p["dt"]).sum(-2) + p["dt bias"], "general"),
    "one rank": (lambda p, low: jnp.where(low[..., :1] > 0, p["dt"][0], low[..., :1]) + p["dt bias"], "general"),
}


@pytest.mark.parametrize("how", DT)
def test_all_neurons_of_a_mamba_block_have_its_tokens_as_samples(how):
    params = {name: jnp.ones(shape) for name, shape in MAMBA.items()}
    step_sizes, kind = DT[how]
    neurons = lnb.find_neurons(lambda p, x: jnp.sum(jnp.sin(mamba(p, x, step_sizes))), params, ones(BATCH, TIME, WIDTH))
    assert neurons.uncovered == ()
    assert {neuron.samples for neuron in neurons} == {BATCH * TIME}
    assert {neuron.kind for neuron in neurons if "['dt']" in neuron.paths} == {kind}
