"""Experts of which each sample meets its own: as the same experts in a batched product, wherever the rows come from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from jax import lax

import lnb
from lnb._program import _jax

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXPERTS, ROWS, INPUTS, OUTPUTS = 3, 8, 4, 5
WEIGHT = {"w": normal(EXPERTS, INPUTS, OUTPUTS)}
X = normal(EXPERTS * ROWS, INPUTS, seed=1)
EQUAL = np.full(EXPERTS, ROWS)
OWNERS = np.repeat(np.arange(EXPERTS), ROWS)
SHUFFLED = np.random.default_rng(0).permutation(EXPERTS * ROWS)
UNEQUAL = np.array([15, 0, 7])

SOLVERS = {
    "CG": lambda: lnb.CG(steps=3),
    "Cholesky": lambda: lnb.Cholesky(update_period=1),
    "Diagonal": lnb.Diagonal,
    "LowRank": lambda: lnb.LowRank(rank=INPUTS),
    "Auto": lnb.Auto,
}


def of(layer):
    """A loss of a layer's output."""
    return lambda p, *args: jnp.sum(jnp.sin(layer(p, *args)))


def batched(p, x):
    return jnp.einsum("eni,eio->eno", x.reshape(EXPERTS, ROWS, INPUTS), p["w"]).reshape(-1, OUTPUTS)


def by_sizes(p, x):
    return lax.ragged_dot(x, p["w"], jnp.asarray(EQUAL))


def by_sizes_of_data(p, x, sizes):
    return lax.ragged_dot(x, p["w"], sizes)


def by_indices(p, x, owners):
    return jnp.einsum("ni,nio->no", x, p["w"][owners])


def updates_of(layer, solver, *args, steps=3):
    """The updates of some steps along which the data change."""
    params, (x, *rest) = jax.tree.map(jnp.asarray, (WEIGHT, args))
    neurons = lnb.find_neurons(of(layer), params, x, *rest)
    optimizer = lnb.lnb(neurons, 0.1, solver=solver)

    @jax.jit
    def step(params, state, x):
        _, grads, features = neurons.value_and_grad(params, x, *rest)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, updates

    state, found = optimizer.init(params), []
    for k in range(steps):
        params, state, updates = step(params, state, x * (1 + k))
        found.append(updates["w"])
    return np.stack(found)


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_are_those_of_the_same_experts_in_a_batched_product(x64, solver):
    """Three of them, so that averages, warm starts and the spectral step are those too."""
    expected = updates_of(batched, SOLVERS[solver](), X)
    assert np.abs(expected).max() > 1e-3
    for layer, args in (
        (by_sizes, (X,)),
        (by_sizes_of_data, (X, EQUAL)),
        (by_indices, (X, OWNERS)),
        (by_indices, (X[SHUFFLED], OWNERS[SHUFFLED])),
    ):
        got = updates_of(layer, SOLVERS[solver](), *args)
        np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max())


def features_of(layer, params, *args):
    params, args = jax.tree.map(jnp.asarray, (params, args))
    (neuron,) = neurons = lnb.find_neurons(of(layer), params, *args)
    assert neuron.kind == "ragged"
    return neuron, neurons, jax.jit(neurons.value_and_grad)(params, *args)[2]


def gram_of(x, weights=None):
    """E[x x^T] over rows, zero where there are none."""
    weights = np.ones(len(x)) if weights is None else weights
    return (x * weights[:, None]).T @ x / max(weights.sum(), 1e-300)


def by_hand(x, owners, weights=None):
    """The Gram matrix of each expert's rows."""
    weights = np.ones(len(x)) if weights is None else weights
    return np.stack([gram_of(x[owners == e], weights[owners == e]) for e in range(EXPERTS)])


def owners_of(sizes, rows):
    """Each row's expert, and -1 for rows beyond the last."""
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return np.concatenate([owners, np.full(rows - len(owners), -1)])


@pytest.mark.parametrize("sizes", [UNEQUAL, EQUAL, [24, 0, 0], [0, 0, 1], [0, 0, 0], [1, 22, 1]])
def test_each_expert_has_a_count_and_moments_of_its_own(x64, sizes):
    neuron, neurons, features = features_of(by_sizes_of_data, WEIGHT, X, np.array(sizes))
    assert (neuron.groups, neuron.samples) == (EXPERTS, ROWS)
    expected = by_hand(X, owners_of(sizes, len(X)))
    np.testing.assert_allclose(neuron.gram(features), expected, rtol=1e-10)
    np.testing.assert_allclose(neuron.read(features).count(features.arrays)[:, 0], sizes)
    mean, square = neuron.moments(features)
    np.testing.assert_allclose(square, np.diagonal(expected, axis1=1, axis2=2), rtol=1e-10)
    means = [X[owners_of(sizes, len(X)) == e].sum(0) / max(1, n) for e, n in enumerate(sizes)]
    np.testing.assert_allclose(mean, means, rtol=1e-10)
    product = neurons.metric_product(features, {"w": jnp.asarray(normal(EXPERTS, INPUTS, OUTPUTS, seed=3))})
    np.testing.assert_allclose(product["w"], expected @ normal(EXPERTS, INPUTS, OUTPUTS, seed=3), rtol=1e-10)


def test_an_expert_without_samples_stands_still_and_the_others_do_not(x64):
    updates = updates_of(by_sizes_of_data, lnb.Cholesky(update_period=1), X, UNEQUAL)
    assert np.all(np.isfinite(updates))
    assert np.abs(updates[0, [0, 2]]).min(axis=(1, 2)).min() > 0
    np.testing.assert_allclose(updates[0, 1], -0.1 * 1e-4 * WEIGHT["w"][1], rtol=1e-6)  # weight decay alone


def test_an_index_outside_of_the_stack_chooses_no_expert(x64):
    owners = np.where(np.arange(len(X)) % 5 == 0, 7, OWNERS)

    def filled(p, x, owners):
        return jnp.nan_to_num(jnp.einsum("ni,nio->no", x, p["w"].at[owners].get(mode="fill", fill_value=0)))

    neuron, _, features = features_of(filled, WEIGHT, X, owners)
    np.testing.assert_allclose(neuron.gram(features), by_hand(X, owners), rtol=1e-10)


@pytest.mark.parametrize("layer", [by_sizes_of_data, by_indices])
def test_samples_may_have_weights(x64, layer):
    weights = np.abs(normal(len(X), seed=5))
    args = (X, UNEQUAL) if layer is by_sizes_of_data else (X, OWNERS[SHUFFLED])
    owners = owners_of(UNEQUAL, len(X)) if layer is by_sizes_of_data else args[1]
    neuron, _, features = features_of(layer, WEIGHT, *args)
    weighted = features.weighted(jnp.asarray(weights))
    np.testing.assert_allclose(neuron.gram(weighted), by_hand(X, owners, weights), rtol=1e-10)
    counts = [weights[owners == e].sum() for e in range(EXPERTS)]
    np.testing.assert_allclose(neuron.read(weighted).count(weighted.arrays)[:, 0], counts)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layer", [by_sizes_of_data, by_indices])
def test_every_second_row_is_a_subsample(x64, layer, weighted):
    args = (X, UNEQUAL) if layer is by_sizes_of_data else (X, OWNERS[SHUFFLED])
    owners = owners_of(UNEQUAL, len(X)) if layer is by_sizes_of_data else args[1]
    weights = np.abs(normal(len(X), seed=5)) if weighted else np.ones(len(X))
    neuron, _, features = features_of(layer, WEIGHT, *args)
    features = features.weighted(jnp.asarray(weights)) if weighted else features
    fewer, arrays = neuron.read(features).subsample(features.arrays, 0.5)
    assert fewer.samples == ROWS // 2
    np.testing.assert_allclose(fewer.gram(arrays)[0], by_hand(X[::2], owners[::2], weights[::2]), rtol=1e-10)


def test_batches_are_joined(x64):
    neuron, _, first = features_of(by_sizes_of_data, WEIGHT, X, UNEQUAL)
    other, sizes = normal(6, INPUTS, seed=7), np.array([1, 4, 1])
    _, _, second = features_of(by_sizes_of_data, WEIGHT, other, sizes)
    rows = np.concatenate([X, other])
    owners = np.concatenate([owners_of(UNEQUAL, len(X)), owners_of(sizes, 6)])
    np.testing.assert_allclose(neuron.gram(lnb.join_features(first, second)), by_hand(rows, owners), rtol=1e-10)


def through(weights, x, sizes):
    """The inputs of every layer."""
    inputs = []
    for w in weights:
        inputs.append(x)
        x = np.tanh(np.asarray(lax.ragged_dot(jnp.asarray(x), jnp.asarray(w), jnp.asarray(sizes))))
    return inputs


@pytest.mark.parametrize("weighted", [False, True])
def test_experts_of_every_layer_of_a_scan(x64, weighted):
    """The layers are groups: two layers of three experts, each with samples of its own."""
    stack = {"w": normal(2, EXPERTS, INPUTS, INPUTS)}

    def layers(p, x, sizes):
        return lax.scan(lambda h, w: (jnp.tanh(lax.ragged_dot(h, w, sizes)), None), x, p["w"])[0]

    neuron, _, features = features_of(layers, stack, X, UNEQUAL)
    assert (neuron.groups, neuron.samples) == (2 * EXPERTS, ROWS)
    weights = np.abs(normal(len(X), seed=5)) if weighted else np.ones(len(X))
    features = features.weighted(jnp.asarray(weights)) if weighted else features
    owners = owners_of(UNEQUAL, len(X))
    expected = np.concatenate([by_hand(x, owners, weights) for x in through(stack["w"], X, UNEQUAL)])
    np.testing.assert_allclose(neuron.gram(features), expected, rtol=1e-10)
    fewer, arrays = neuron.read(features).subsample(features.arrays, 0.5)
    expected = [by_hand(x[::2], owners[::2], weights[::2]) for x in through(stack["w"], X, UNEQUAL)]
    np.testing.assert_allclose(fewer.gram(arrays)[0], np.concatenate(expected), rtol=1e-10)


def test_experts_of_every_step_of_a_loop(x64):
    """The steps are samples: all use the same experts."""
    square = {"w": normal(EXPERTS, INPUTS, INPUTS)}

    def loop(p, x, sizes):
        return lax.fori_loop(0, 3, lambda _, h: jnp.tanh(lax.ragged_dot(h, p["w"], sizes)), x)

    neuron, _, features = features_of(loop, square, X, UNEQUAL)
    assert (neuron.groups, neuron.samples) == (EXPERTS, 3 * ROWS)
    rows = np.concatenate(through([square["w"]] * 3, X, UNEQUAL))
    np.testing.assert_allclose(neuron.gram(features), by_hand(rows, np.tile(owners_of(UNEQUAL, len(X)), 3)), rtol=1e-10)


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("layer", [by_sizes_of_data, by_indices])
def test_experts_of_a_branch_have_samples_where_it_runs(x64, layer, runs):
    args = (X, UNEQUAL) if layer is by_sizes_of_data else (X, OWNERS[SHUFFLED])
    owners = owners_of(UNEQUAL, len(X)) if layer is by_sizes_of_data else args[1]

    def branch(p, runs, *args):
        return lax.cond(runs, lambda p: layer(p, *args), lambda p: jnp.ones((len(X), OUTPUTS)), p)

    neuron, _, features = features_of(branch, WEIGHT, runs, *args)
    expected = by_hand(X, owners if runs else np.full(len(X), -1))
    np.testing.assert_allclose(neuron.gram(features), expected, rtol=1e-10)


def test_experts_of_one_router_share_their_statistics(x64):
    """A gate and an input projection of the same rows, as gated experts have them."""

    def gated(p, x, sizes):
        return jnp.tanh(lax.ragged_dot(x, p["u"], sizes)) * lax.ragged_dot(x, p["w"], sizes)

    params = {"u": jnp.asarray(normal(EXPERTS, INPUTS, OUTPUTS, seed=2)), **jax.tree.map(jnp.asarray, WEIGHT)}
    neurons = lnb.find_neurons(of(gated), params, jnp.asarray(X), jnp.asarray(UNEQUAL))
    assert [neuron.kind for neuron in neurons] == ["ragged", "ragged"]
    assert neurons.sharing == (0, 0)


def test_no_array_holds_all_rows_for_each_expert():
    """Neither the features nor the statistics: [E, N, i] elements are nowhere in the program of a step."""
    experts, rows, inputs = 16, 1024, 8
    x, params = jnp.ones((rows, inputs)), {"w": jnp.ones((experts, inputs, inputs))}
    sizes = jnp.full(experts, rows // experts)
    for solver in (lnb.Cholesky(update_period=1), lnb.LowRank(4), lnb.Diagonal(), lnb.CG()):
        neurons = lnb.find_neurons(of(by_sizes_of_data), params, x, sizes)
        optimizer = lnb.lnb(neurons, 0.1, solver=solver)
        _, grads, features = jax.eval_shape(neurons.value_and_grad, params, x, sizes)

        def update(grads, state, params, features, optimizer=optimizer):
            return optimizer.update(grads, state, params, features=features)

        program = jax.make_jaxpr(update)(grads, optimizer.init(params), params, features)
        assert largest(program.jaxpr) < 2 * rows * inputs


def largest(jaxpr):
    """The number of elements of the largest array of a program."""
    inner = [largest(held) for eqn in jaxpr.eqns for held in _jax.jaxprs_of(eqn.params)]
    return max([0, *(v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars), *inner])


def mixture(form):
    """Top-1 experts between two dense layers; `form` is how the experts are written."""

    def loss_fn(p, x, y):
        h = jnp.tanh(x @ p["in"])
        scores = jax.nn.softmax(h @ p["router"])
        chosen = scores.argmax(1)
        if form == "einsum":
            h = jnp.einsum("ne,ni,eio->no", jax.nn.one_hot(chosen, 4, dtype=h.dtype), h, p["experts"])
        elif form == "indices":
            h = jnp.einsum("ni,nio->no", h, p["experts"][chosen])
        else:
            order = jnp.argsort(chosen)
            sizes = jnp.zeros(4, jnp.int32).at[chosen].add(1)
            h = jnp.zeros_like(h).at[order].set(lax.ragged_dot(h[order], p["experts"], sizes))
        h = jnp.tanh(h) * scores.max(1, keepdims=True)
        return optax.softmax_cross_entropy_with_integer_labels(h @ p["out"], y).mean()

    return loss_fn


def test_a_mixture_of_experts_trains_at_the_default_rate():
    random = np.random.default_rng(0)
    shapes = {"in": (8, 16), "router": (16, 4), "experts": (4, 16, 16), "out": (16, 4)}
    params = {k: jnp.asarray(random.normal(size=s) / s[-2] ** 0.5, jnp.float32) for k, s in shapes.items()}
    x = jnp.asarray(random.normal(size=(256, 8)), jnp.float32)
    y = jnp.asarray((random.normal(size=(4, 8)) @ np.sin(2 * np.asarray(x)).T).argmax(0))
    last = {}
    for form in ("ragged", "indices", "einsum"):
        loss_fn = mixture(form)
        neurons = lnb.find_neurons(loss_fn, params, x, y)
        kinds = {neuron.name: neuron.kind for neuron in neurons}
        assert kinds["['experts']"] == ("dense" if form == "einsum" else "ragged")
        optimizer = lnb.lnb(neurons, 0.02)

        @jax.jit
        def step(carry, _, neurons=neurons, optimizer=optimizer):
            params, state = carry
            loss, grads, features = neurons.value_and_grad(params, x, y)
            updates, state = optimizer.update(grads, state, params, features=features)
            return (optax.apply_updates(params, updates), state), loss

        (_, state), losses = lax.scan(step, (params, optimizer.init(params)), None, length=60)
        assert int(state.skipped) == 0
        last[form] = float(losses[-1])
        assert last[form] < 0.5 * float(losses[0])
    np.testing.assert_allclose(last["ragged"], last["indices"], rtol=0.02)
    assert last["ragged"] < 1.2 * last["einsum"]
