"""A part of a fused weight takes the step that it would take as a weight of its own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnb
from lnb._numerics import inner
from lnb.steps._spectral import spectral_step

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SOLVERS = {
    "Cholesky": lnb.Cholesky(update_period=1),
    "Diagonal": lnb.Diagonal(),
    "LowRank": lnb.LowRank(rank=3, update_period=1),
}


def attention(q, k, v):
    return jnp.sin(jax.nn.softmax(q @ k.swapaxes(-1, -2)) @ v)


def gated(gate, up):
    return jax.nn.silu(gate) * up


def fields(velocity, pressure):
    """Three components, and one number."""
    return jnp.sin(velocity).sum(-1, keepdims=True) * jnp.cos(pressure)


def updates_of(function, params, x, solver, step, steps=2):
    """The updates of each step from the same parameters, so that averages are tested too."""
    neurons = lnb.find_neurons(lambda p, x: jnp.mean(jnp.square(function(p, x) - 0.3)), params, x)
    optimizer = lnb.scale_by_lnb(neurons, solver=solver, step=step)

    @jax.jit
    def update(params, state):
        _, grads, features = neurons.value_and_grad(params, x)
        return optimizer.update(grads, state, params, features=features)

    state, found = optimizer.init(params), []
    for _ in range(steps):
        updates, state = update(params, state)
        found.append(updates)
    return found, neurons


def both(sizes, combine, inputs, bias, by_turns=False):
    """The same function of weights of their own, and of one fused weight; parameters of the first, and how to fuse."""
    random, parts = np.random.default_rng(sum(sizes)), range(len(sizes))
    apart = {f"w{k}": jnp.asarray(random.standard_normal((inputs, size))) / 2 for k, size in enumerate(sizes)}
    if bias:
        apart |= {f"b{k}": jnp.asarray(random.standard_normal(size)) for k, size in enumerate(sizes)}

    def fuse(params):
        leaves = {name: [params[f"{name}{k}"] for k in parts] for name in ("w", *["b"] * bias)}
        if not by_turns:
            return {name: jnp.concatenate(each, axis=-1) for name, each in leaves.items()}
        return {name: jnp.stack(each, axis=-1).reshape(*each[0].shape[:-1], -1) for name, each in leaves.items()}

    def own(params, x):
        return combine(*(x @ params[f"w{k}"] + (params[f"b{k}"] if bias else 0.0) for k in parts))

    def fused(params, x):
        y = x @ params["w"] + (params["b"] if bias else 0.0)
        if not by_turns:
            return combine(*jnp.split(y, np.cumsum(sizes)[:-1], axis=-1))
        return combine(*jnp.unstack(y.reshape(*y.shape[:-1], -1, len(sizes)), axis=-1))

    return own, fused, apart, fuse


CASES = {
    "q, k and v": ((6, 6, 6), attention, False),
    "q, k and v by turns": ((6, 6, 6), attention, True),
    "keys and queries shorter than the values": ((3, 3, 6), attention, False),
    "gate and up, wider than the inputs": ((9, 9), gated, False),
    "a vector and a number": ((3, 1), fields, False),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", CASES)
def test_a_fused_weight_steps_as_its_parts_would(name, solver, bias):
    sizes, combine, interleaved = CASES[name]
    own, fused, apart, fuse = both(sizes, combine, 5, bias, interleaved)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((8, 40, 5)) + 0.5)
    wanted, _ = updates_of(own, apart, x, SOLVERS[solver], lnb.Spectral())
    found, (neuron,) = updates_of(fused, fuse(apart), x, SOLVERS[solver], lnb.Spectral())
    assert neuron.parts == sizes
    for got, each in zip(found, wanted, strict=True):
        for key, leaf in fuse(each).items():
            np.testing.assert_allclose(got[key], leaf, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("samples", [300, 6000])
def test_what_is_too_dear_is_decided_by_the_part(samples):
    """40 features and three parts of 40 need as many samples as one weight [40, 40], of which 6,000 are enough."""
    own, fused, apart, fuse = both((40, 40, 40), lambda q, k, v: jnp.sin(q) * jnp.cos(k) * jnp.sin(v), 40, False)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((samples, 40)))
    (wanted,), _ = updates_of(own, apart, x, SOLVERS["Diagonal"], lnb.Spectral(), steps=1)
    (found,), _ = updates_of(fused, fuse(apart), x, SOLVERS["Diagonal"], lnb.Spectral(), steps=1)
    np.testing.assert_allclose(found["w"], fuse(wanted)["w"], rtol=1e-6, atol=1e-9)
    part = np.asarray(wanted["w0"])
    lengths = np.linalg.svd(part * np.sqrt(np.mean(np.square(x), axis=0))[:, None])[1]
    assert (lengths.max() < 1.3) == (samples == 6000)  # the polynomial's bound


def test_experts_step_part_by_part():
    random = np.random.default_rng(3)
    x = jnp.asarray(random.standard_normal((2, 80, 4)))
    apart = {key: jnp.asarray(random.standard_normal((2, 4, 3))) for key in ("gate", "up")}

    def own(p, x):
        return gated(*(jnp.einsum("gni,gio->gno", x, p[key]) for key in ("gate", "up")))

    def fused(p, x):
        return gated(*jnp.split(jnp.einsum("gni,gio->gno", x, p["w"]), 2, axis=-1))

    (wanted,), _ = updates_of(own, apart, x, SOLVERS["Cholesky"], lnb.Spectral(), steps=1)
    whole = {"w": jnp.concatenate(list(apart.values()), axis=-1)}
    (found,), (neuron,) = updates_of(fused, whole, x, SOLVERS["Cholesky"], lnb.Spectral(), steps=1)
    assert (neuron.groups, neuron.parts) == (2, (3, 3))
    np.testing.assert_allclose(found["w"], jnp.concatenate(list(wanted.values()), -1), rtol=1e-6, atol=1e-9)


def fused_problem(step):
    """Direction, gradient and step of a fused weight that no ridge is added to, and its neuron."""
    _, fused, apart, fuse = both((6, 6, 6), attention, 5, True)
    x, params = jnp.asarray(np.random.default_rng(1).standard_normal((8, 40, 5))), fuse(apart)
    neurons = lnb.find_neurons(lambda p, x: jnp.mean(jnp.square(fused(p, x))), params, x)
    loss, grads, features = neurons.value_and_grad(params, x)
    optimizer = lnb.scale_by_lnb(neurons, solver=lnb.Cholesky(update_period=1, decay=0.0, ridge=1e-12), step=step)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, features=features, value=loss)
    gradient = neurons[0].pack(grads)
    return jnp.linalg.solve(neurons[0].gram(features), gradient), gradient, neurons[0].pack(updates), neurons[0]


def test_the_argument_turns_it_off():
    direction, gradient, step, neuron = fused_problem(lnb.Spectral(by_part=False))
    assert neuron.parts == (6, 6, 6)
    np.testing.assert_allclose(step, spectral_step(direction, gradient, True)[0], rtol=1e-6)


@pytest.mark.parametrize("step", [lnb.Norm(), lnb.Polyak()])
def test_other_steps_know_no_parts(step):
    direction, _, step, neuron = fused_problem(step)
    assert neuron.parts == (6, 6, 6)
    np.testing.assert_allclose(step / jnp.linalg.norm(step), direction / jnp.linalg.norm(direction), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 5, 6), (1, 5, 18), (2, 5, 6)])
def test_the_squared_norm_is_the_whole_neurons(shape):
    theta = jnp.asarray(np.random.default_rng(2).standard_normal(shape))
    for bias in (False, True):
        squared_norm = spectral_step(theta, 3 * theta, bias, 3)[1]
        np.testing.assert_allclose(squared_norm, inner(theta, 3 * theta), rtol=1e-12)
    solution = lnb.Solution(theta, inner(theta, 3 * theta), ())
    _, _, _, neuron = fused_problem(lnb.Norm())
    neuron = replace(neuron, parts=(shape[2] // 3,) * 3, has_bias=False)
    np.testing.assert_allclose(
        lnb.Spectral().per_neuron(neuron, solution, 3 * theta)[1], solution.squared_norm, rtol=1e-12
    )
