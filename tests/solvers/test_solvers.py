"""Solvers against dense solutions: exact ones, approximate ones where they should be exact, and what they keep."""

import re
from math import prod
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from hypothesis import given
from hypothesis import strategies as st

import lnb
from lnb._metric import metric_of
from lnb._solve_groups import RefreshSchedule, plan_groups
from lnb.solvers import _inverse
from lnb.solvers._low_rank import inverse_with_leading
from lnb.solvers._statistics import ema_update, ema_weight, solve_whitened

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXACT = {
    "Cholesky": lambda **options: lnb.Cholesky(update_period=1, decay=0.0, **options),
    "LowRank": lambda **options: lnb.LowRank(rank=64, update_period=1, decay=0.0, **options),
    "CG": lambda **options: lnb.CG(steps=60, **options),
}
# The low rank solution adds the root of the rounding error to what its factor leaves of the diagonal.
TOLERANCES = {
    "Cholesky": {"rtol": 1e-8, "atol": 1e-10},
    "LowRank": {"rtol": 1e-5, "atol": 1e-7},
    "CG": {"rtol": 1e-7, "atol": 1e-9},
}


def network(params, x):
    """Two layers that read the same features, one on top, and one whose weight is used again as its transpose."""
    first = jnp.tanh(x @ params["first"]["weight"] + params["first"]["bias"])
    second = jnp.sin(x @ params["second"]["weight"] + params["second"]["bias"])
    h = jnp.tanh((first * second) @ params["top"])
    code = jnp.tanh(h @ params["tied"]["weight"] + params["tied"]["bias"])
    return code @ params["tied"]["weight"].T + params["tied"]["back"]


def loss_fn(params, x):
    return jnp.mean(jnp.square(network(params, x) - 1))


PARAMS = {
    "first": {"weight": normal(4, 3), "bias": normal(3)},
    "second": {"weight": normal(4, 3, seed=1), "bias": normal(3, seed=1)},
    "top": normal(3, 5),
    "tied": {"weight": normal(5, 2), "bias": normal(2), "back": normal(5)},
}


def evaluate(x, params=PARAMS):
    """Neurons, gradient and features."""
    params = jax.tree.map(jnp.asarray, params)
    neurons = lnb.find_neurons(loss_fn, params, x, strict=True)
    _, grads, features = neurons.value_and_grad(params, x)
    return neurons, grads, features


def direction(neurons, solver, grads, features, steps=1):
    """The direction after some steps on the same batch."""
    return run(lnb.scale_by_lnb(neurons, solver=solver, step=lnb.Norm(1e-30)), PARAMS, grads, features, steps)


def run(transform, params, grads, features, steps):
    """The last of some updates on the same batch."""
    update, state = jax.jit(transform.update), transform.init(params)
    for _ in range(steps):
        updates, state = update(grads, state, params, features=features)
    return updates


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def dense_direction(neurons, grads, features, ridge):
    """(M + ridge on the weights)^-1 g, over the square root of its product with g, by a dense matrix."""
    leaves, treedef = jax.tree.flatten(PARAMS)
    starts = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def column(vector):
        parts = [part.reshape(leaf.shape) for part, leaf in zip(np.split(vector, starts), leaves, strict=True)]
        return flat(neurons.metric_product(features, jax.tree.unflatten(treedef, parts)))

    size = sum(leaf.size for leaf in leaves)
    metric = np.stack([column(unit) for unit in np.eye(size)], axis=1)
    np.testing.assert_allclose(metric, metric.T, atol=1e-12)
    on_weights = np.concatenate([np.full(leaf.size, ridge * (leaf.ndim > 1)) for leaf in leaves])
    gradient = flat(grads)
    solution = np.linalg.solve(metric + np.diag(on_weights), gradient)
    return solution / np.sqrt(solution @ gradient)


@pytest.mark.parametrize("name", EXACT)
def test_exact_solvers_give_the_dense_solution(x64, name):
    neurons, grads, features = evaluate(jnp.asarray(normal(30, 4)))
    assert [neuron.kind for neuron in neurons] == ["dense", "dense", "tied", "dense"]
    got = direction(neurons, EXACT[name](ridge=0.3), grads, features, steps=4)
    np.testing.assert_allclose(flat(got), dense_direction(neurons, grads, features, 0.3), **TOLERANCES[name])


def derivative_loss(params, x):
    """The network's value and its derivative: the derivative does not add the biases."""

    def value(x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ params["w"] + params["b"]) @ params["u"] + params["c"]))

    values, slopes = jax.vmap(lambda x: jax.jvp(value, (x,), (jnp.ones_like(x),)))(x)
    return jnp.mean(jnp.square(values - slopes))


@pytest.mark.parametrize("name", EXACT)
def test_a_use_without_the_bias_counts_for_the_weight_alone(x64, name):
    params = jax.tree.map(jnp.asarray, {"w": normal(2, 4), "b": normal(4), "u": normal(4, 3), "c": normal(3)})
    neurons = lnb.find_neurons(derivative_loss, params, jnp.asarray(normal(9, 2)))
    assert [(neuron.kind, neuron.samples) for neuron in neurons] == [("dense", 18)] * 2
    _, grads, features = neurons.value_and_grad(params, jnp.asarray(normal(9, 2)))
    transform = lnb.scale_by_lnb(neurons, solver=EXACT[name](ridge=0.3), step=lnb.Norm(1e-30))
    updates = run(transform, params, grads, features, steps=3)
    on_weights = jax.tree.map(lambda update: (0.3 if update.ndim > 1 else 0.0) * update, updates)
    back = flat(neurons.metric_product(features, updates)) + flat(on_weights)
    np.testing.assert_allclose(back * (flat(grads) @ flat(updates)), flat(grads), **TOLERANCES[name])


@pytest.mark.parametrize(
    "solver",
    [
        lnb.Cholesky(ridge_unit="mean variance"),
        lnb.LowRank(rank=2, ridge_unit="mean variance"),
        lnb.Diagonal(ridge_unit="mean variance"),
        lnb.CG(ridge_unit="mean variance"),
        lnb.Auto(),
    ],
    ids=["Cholesky", "LowRank", "Diagonal", "CG", "auto"],
)
def test_a_relative_ridge_makes_the_update_scale_equivariant(x64, solver):
    """Features scaled by a, and weights by 1 / a: the step in function space is the same."""
    scale, x = 37.0, jnp.asarray(normal(20, 4))

    def dense_loss(params, x):
        return jnp.mean(jnp.square(jnp.tanh(x @ params["w"] + params["b"]) - 1))

    changes = []
    for factor in (1.0, scale):
        params = {"w": jnp.asarray(normal(4, 3)) / factor, "b": jnp.asarray(normal(3))}
        neurons = lnb.find_neurons(dense_loss, params, x * factor)
        _, grads, features = neurons.value_and_grad(params, x * factor)
        updates = run(lnb.scale_by_lnb(neurons, solver=solver), params, grads, features, steps=3)
        changes.append({"w": updates["w"] * factor, "b": updates["b"]})
    np.testing.assert_allclose(flat(changes[1]), flat(changes[0]), rtol=1e-7)


def test_low_rank_finds_the_leading_directions_over_steps(x64):
    """Features of three strong directions and equal noise are its model: it becomes the exact solution."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(40_000, 3)) @ (5 * rng.normal(size=(3, 12))) + rng.normal(size=(40_000, 12)) + 2)
    params = {"w": jnp.asarray(normal(12, 2)), "b": jnp.asarray(normal(2))}

    def dense_loss(params, x):
        return jnp.mean(jnp.square(jnp.tanh(x @ params["w"] * 0.1 + params["b"]) - 1))

    neurons = lnb.find_neurons(dense_loss, params, x)
    _, grads, features = neurons.value_and_grad(params, x)
    errors = []
    exact = None
    for solver, steps in (
        (lnb.Cholesky(update_period=1), 1),
        *((lnb.LowRank(rank=3, ridge=0.1), k) for k in (1, 2, 8)),
    ):
        updates = run(lnb.scale_by_lnb(neurons, solver=solver), params, grads, features, steps)
        if exact is None:
            exact = flat(updates)
        else:
            errors.append(np.linalg.norm(flat(updates) - exact) / np.linalg.norm(exact))
    assert errors[-1] < 0.02
    assert errors[-1] <= errors[0]


def test_low_rank_in_float32_sees_the_deviations_of_features_far_from_zero(x64):
    """Features with a mean of ten and deviations from 3 to 0.1."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 64)) @ (rng.standard_normal((64, 64)) * np.geomspace(3, 0.1, 64) / 8)
    x += 10 * rng.choice([-1, 1], 64)
    params = {"w": normal(64, 20) / 8, "b": np.zeros(20)}

    def dense_loss(params, x):
        return jnp.mean(jnp.square(x @ params["w"] + params["b"] - 1))

    def changes(dtype):
        weights, batch = jax.tree.map(lambda a: jnp.asarray(a, dtype), params), jnp.asarray(x, dtype)
        neurons = lnb.find_neurons(dense_loss, weights, batch)
        features = neurons.value_and_grad(weights, batch)[2]
        gradient = jax.tree.map(lambda a: jnp.asarray(a, dtype), precise)
        transform = lnb.scale_by_lnb(neurons, solver=lnb.LowRank(16, ridge_unit="mean variance"), step=lnb.Norm())
        return run(transform, weights, gradient, features, steps=4)["w"]

    neurons = lnb.find_neurons(dense_loss, params, x)
    precise = neurons.value_and_grad(params, x)[1]
    wanted = changes(jnp.float64)
    np.testing.assert_allclose(changes(jnp.float32), wanted, rtol=0, atol=0.01 * np.abs(wanted).max())


def test_low_rank_recovers_from_features_that_were_all_zero():
    params = {"w": jnp.asarray(normal(6, 2), jnp.float32)}
    x = jnp.asarray(normal(50, 6), jnp.float32)

    def dense_loss(params, x):
        return jnp.mean(jnp.square(x @ params["w"] - 1))

    neurons = lnb.find_neurons(dense_loss, params, x)
    transform = lnb.scale_by_lnb(neurons, solver=lnb.LowRank(rank=6, ridge=0.01, decay=0.5))
    exact = lnb.scale_by_lnb(neurons, solver=lnb.Cholesky(update_period=1, ridge=0.01, decay=0.5))
    states = [transform.init(params), exact.init(params)]
    updates = [jax.jit(transform.update), jax.jit(exact.update)]
    for batch in [0 * x, 0 * x, *([x] * 30)]:
        _, grads, features = neurons.value_and_grad(params, batch)
        results = [u(grads, s, params, features=features) for u, s in zip(updates, states, strict=True)]
        states = [state for _, state in results]
    (low, _), (full, _) = results
    np.testing.assert_allclose(low["w"], full["w"], rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("rank", [4, 16])
def test_low_rank_keeps_no_more_than_promised(rank):
    params = {"w": jnp.zeros((50, 30)), "b": jnp.zeros(30)}
    neurons = lnb.find_neurons(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]).sum(), params, jnp.ones((8, 50)))
    state = lnb.scale_by_lnb(neurons, solver=lnb.LowRank(rank)).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= (2 * rank + 2) * 50 + 2


def deep(params, x):
    for weight in params:
        x = jnp.tanh(x @ weight)
    return jnp.mean(jnp.square(x - 1))


@pytest.mark.parametrize("make", [lnb.Cholesky, lnb.LowRank])
def test_statistics_are_renewed_in_turn(make):
    """Every layer is renewed at the first ten steps, and then once in every ten, two of the twenty at each step."""
    params = [jnp.asarray(normal(4, 4, seed=k), jnp.float32) for k in range(20)]
    neurons = lnb.find_neurons(deep, params, jnp.ones((8, 4)))
    transform = lnb.scale_by_lnb(neurons, solver=make(update_period=10))
    state, update = transform.init(params), jax.jit(transform.update)
    evaluate = jax.jit(neurons.value_and_grad)
    renewed = []
    for step in range(40):
        x = jnp.asarray(normal(8, 4, seed=step), jnp.float32)
        _, grads, features = evaluate(params, x)
        _, after = update(grads, state, params, features=features)
        pairs = zip(after.statistics, state.statistics, strict=True)
        renewed.append([any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), a, b))) for a, b in pairs])
        state = after
    renewed = np.array(renewed)
    assert renewed[:10].all()
    assert (renewed[10:].sum(0) == 3).all()
    assert (renewed[10:].sum(1) == 2).all()


def test_renewing_in_turn_counts_each_block_s_own_batches(x64):
    """On one batch repeated, averages that are corrected for their start are that batch's, whatever the turn."""
    params = [jnp.asarray(normal(4, 4, seed=k)) for k in range(7)]
    x = jnp.asarray(normal(9, 4))
    neurons = lnb.find_neurons(deep, params, x)
    _, grads, features = neurons.value_and_grad(params, x)
    results = []
    for solver in (lnb.Cholesky(update_period=1, decay=0.0), lnb.Cholesky(update_period=3, decay=0.7)):
        updates = run(lnb.scale_by_lnb(neurons, solver=solver), params, grads, features, steps=8)
        results.append(flat(updates))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-10)


def test_batches_between_updates_do_not_enter_the_average(x64):
    """The average is the corrected one of the first batches and of every third from then on."""
    weight = jnp.asarray(normal(4, 4))
    batches = [jnp.asarray(normal(9, 4, seed=k)) * (1 + k) for k in range(11)]
    neurons = lnb.find_neurons(lambda w, x: jnp.mean(jnp.tanh(x @ w)), weight, batches[0])
    decay, period, ridge = 0.7, 3, 0.1
    solver = lnb.Cholesky(update_period=period, decay=decay, ridge=ridge)
    transform = lnb.scale_by_lnb(neurons, solver=solver, step=lnb.Norm(1e6))
    state, update = transform.init(weight), jax.jit(transform.update)
    for x in batches:
        _, grads, features = neurons.value_and_grad(weight, x)
        direction, state = update(grads, state, weight, features=features)
    entered = [k for k in range(len(batches)) if k < period or k % period == 0]
    shares = (decay**period) ** np.arange(len(entered))[::-1]
    grams = [np.asarray(batches[k].T @ batches[k]) / 9 for k in entered]
    gram = np.tensordot(shares / shares.sum(), grams, 1)
    wanted = np.linalg.solve(gram + ridge * np.eye(4), np.asarray(grads))
    np.testing.assert_allclose(direction * 1e6, wanted, rtol=1e-9)


@pytest.mark.parametrize("make", [lnb.Cholesky, lnb.LowRank, lnb.Diagonal, lnb.CG])
def test_neurons_solved_together_are_solved_as_alone(x64, make):
    """Neurons that read the same features are one block; their directions are their own."""
    params = {key: jnp.asarray(normal(5, 5, seed=k)) for k, key in enumerate("qkvmn")}

    def together(params, x):
        h = jnp.tanh(x @ params["q"]) * jnp.sin(x @ params["k"]) + jnp.cos(x @ params["v"])
        return jnp.mean(jnp.square(jnp.tanh(jnp.tanh(h @ params["m"]) @ params["n"]) - 1))

    x = jnp.asarray(normal(11, 5))
    neurons = lnb.find_neurons(together, params, x)
    _, grads, features = neurons.value_and_grad(params, x)

    def solve(choice):
        return run(lnb.scale_by_lnb(neurons, solver=choice, step=lnb.Norm(1e6)), params, grads, features, steps=1)

    at_once = solve(make(ridge=0.2))
    for wanted in neurons:
        # Every other neuron has a solver of its own, so that this one is solved alone.
        apart = solve(lambda neuron, wanted=wanted: make(ridge=0.2 if neuron.index == wanted.index else 0.9))
        for path in wanted.paths:
            key = path[2]
            np.testing.assert_allclose(at_once[key], apart[key], rtol=1e-9)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices factor in one call")
@pytest.mark.parametrize(("make", "calls_any"), [(lnb.Cholesky, False), (lnb.LowRank, True)])
def test_lapack_is_called_for_single_small_matrices_alone_on_the_cpu(make, calls_any):
    """Two batches of its calls at the same time wait for each other for good, and threads of large ones spin on."""
    params = [jnp.asarray(normal(40, 40, seed=k), jnp.float32) for k in range(3)]
    neurons = lnb.find_neurons(deep, params, jnp.ones((8, 40)))
    transform = lnb.scale_by_lnb(neurons, solver=make(update_period=1))
    _, grads, features = neurons.value_and_grad(params, jnp.ones((8, 40)))
    update = jax.jit(lambda g, s, f: transform.update(g, s, params, features=f))
    program = update.lower(grads, transform.init(params), features).compile().as_text()
    calls = re.findall(r"f32\[([\d,]+)\][^\n]*custom_call_target=\"lapack_", program)
    assert bool(calls) == calls_any
    for shape in calls:
        *batch, rows, columns = map(int, shape.split(","))
        assert prod(batch) == 1
        assert max(rows, columns) <= 16


@pytest.mark.usefixtures("x64")
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 100) | st.integers(190, 200) | st.just(300))
def test_a_positive_definite_matrix_is_inverted(seed, groups, size):
    random = np.random.default_rng(seed)
    x = random.standard_normal((groups, size + 3, size)) * np.geomspace(1, 10, size)
    matrix = np.einsum("gni,gnj->gij", x, x) + 0.1 * np.eye(size)
    inverse = np.linalg.inv(matrix)
    for invert in (_inverse.sweep_inverse, _inverse.cholesky_inverse):
        np.testing.assert_allclose(invert(jnp.asarray(matrix)), inverse, rtol=0, atol=1e-9 * np.abs(inverse).max())


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.95**10, 0.999])
def test_an_average_of_batches_weighs_them_as_a_corrected_one(decay):
    weights = np.zeros(0)
    for count in range(1, 40):
        share = ema_weight(decay, jnp.asarray(count), jnp.float32)
        weights = np.append(ema_update(jnp.asarray(weights, jnp.float32), jnp.zeros(()), share), share)
        if count == 1:
            assert weights == [1.0]  # nothing of what an average starts from is left
    wanted = decay ** np.arange(39)[::-1]
    np.testing.assert_allclose(weights, wanted / wanted.sum(), atol=1e-5)


@pytest.mark.usefixtures("x64")
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2), st.booleans())
def test_whitening_solves_with_the_dense_metric(seed, groups, inputs, outputs, rank, has_bias):
    random = np.random.default_rng(seed)
    diagonal, mean = random.uniform(0.5, 2, (groups, inputs)), random.standard_normal((groups, inputs))
    factor, share = 0.3 * random.standard_normal((groups, inputs, rank)), random.uniform(0.2, 1)
    covariance = np.eye(inputs) * diagonal[:, :, None] + factor @ factor.transpose(0, 2, 1)
    metric = covariance
    if has_bias:
        column = share * mean[:, :, None]
        top = np.concatenate([covariance + column * mean[:, None, :], column], axis=2)
        last = np.concatenate([column.transpose(0, 2, 1), np.full((groups, 1, 1), share)], axis=2)
        metric = np.concatenate([top, last], axis=1)
    gradient = random.standard_normal((groups, inputs + has_bias, outputs))
    wanted = np.linalg.solve(metric, gradient)
    inverse = inverse_with_leading(jnp.asarray(diagonal), jnp.asarray(factor))
    features = SimpleNamespace(has_bias=has_bias, bias_share=share)
    theta, squared = solve_whitened(inverse, features, jnp.asarray(mean), jnp.asarray(gradient))
    size = np.abs(wanted).max()
    np.testing.assert_allclose(theta, wanted, rtol=0, atol=1e-9 * size)
    np.testing.assert_allclose(squared, (wanted * gradient).sum((1, 2)), rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize(
    "solver",
    [lnb.Auto(), lnb.LowRank(2), lnb.Cholesky(), lnb.Diagonal(), lnb.CG()],
    ids=["auto", "LowRank", "Cholesky", "Diagonal", "CG"],
)
def test_a_solution_s_length_is_its_product_with_the_gradient(x64, solver):
    """Of layers with and without a bias, tied ones, and groups: the channels of a scale, single elements."""
    params = {**jax.tree.map(jnp.asarray, PARAMS), "scale": jnp.ones(4), "shift": jnp.zeros(4), "table": normal(7, 4)}

    def scaled(params, x):
        return loss_fn(
            params, (x + jnp.asarray(params["table"])[np.arange(30) % 7]) * params["scale"] + params["shift"]
        )

    x = jnp.asarray(normal(30, 4))
    neurons = lnb.find_neurons(scaled, params, x, strict=True)
    _, grads, features = neurons.value_and_grad(params, x)
    assert max(neuron.groups for neuron in neurons) > 1
    for group in plan_groups(neurons, neurons.sharing, solver):
        statistics, warm_starts = group.init()
        metric = group.metric(features)
        schedule = RefreshSchedule(jnp.zeros((), jnp.int32), jnp.asarray(group.offset, jnp.int32))
        updated = group.update(metric, statistics, schedule, True)
        gradients = [neuron.pack(grads) for neuron in group.neurons]
        solutions = group.solve(metric, updated, gradients, warm_starts)
        for solution, gradient in zip(solutions, gradients, strict=True):
            wanted = (solution.direction * gradient).sum((1, 2))
            np.testing.assert_allclose(solution.squared_norm, wanted, rtol=1e-9)


def test_fewer_samples_are_every_kth(x64):
    params = {"w": jnp.asarray(normal(4, 3))}
    x = jnp.asarray(normal(12, 5, 4))
    neurons = lnb.find_neurons(lambda p, x: jnp.tanh(x @ p["w"]).sum(), params, x)
    (neuron,) = neurons
    _, _, features = neurons.value_and_grad(params, x)
    gram, _ = metric_of(neuron.features, features.arrays).subsample(1 / 4).gram()
    rows = np.reshape(x[::4], (-1, 4))
    np.testing.assert_allclose(gram[0], rows.T @ rows / len(rows), rtol=1e-12)


@pytest.mark.parametrize("solver", [lnb.Diagonal(), lnb.LowRank(16), lnb.Cholesky()])
def test_operations_are_those_that_xla_counts(monkeypatch, solver):
    params, x = (jnp.ones((200, 100)), jnp.ones(100)), jnp.ones((400, 200))
    neurons = lnb.find_neurons(lambda p, x: jnp.tanh(x @ p[0] + p[1]).sum(), params, x)
    metric = metric_of(neurons[0].features, neurons.value_and_grad(params, x)[2].arrays)
    statistics, count = solver.init(metric, jnp.float32), jnp.asarray(3)

    def operations(function, *args):
        return jax.jit(function).lower(*args).cost_analysis()["flops"]

    update, solve = solver.flops(metric, 100)
    # An elimination is a loop, whose body XLA counts once: the Gram matrix without its inverse.
    monkeypatch.setattr(_inverse, "inverse", lambda matrix: matrix)
    counted = operations(lambda m, s: solver.update(m, s, count), metric, statistics)
    assert 0.85 * counted < update - (200**3 if isinstance(solver, lnb.Cholesky) else 0) < 1.15 * counted
    gradient = jnp.ones((1, 201, 100))
    counted = operations(lambda m, s, g: solver.solve(m, s, g, ()), metric, statistics, gradient)
    assert 0.85 * counted < solve < 1.15 * counted


@pytest.mark.parametrize("make", [lnb.Diagonal, lnb.LowRank, lnb.Cholesky])
def test_a_share_of_the_samples_is_a_solution_of_these_alone(x64, make):
    params = {"w": jnp.asarray(normal(4, 3)), "b": jnp.zeros(3)}
    x = jnp.asarray(normal(12, 5, 4))
    neurons, fewer = (
        lnb.find_neurons(lambda p, x: jnp.tanh(x @ p["w"] + p["b"]).sum(), params, batch) for batch in (x, x[::4])
    )
    _, grads, features = neurons.value_and_grad(params, x)
    part = run(
        lnb.scale_by_lnb(neurons, solver=make(sample_fraction=0.25), step=lnb.Norm()), params, grads, features, steps=1
    )
    _, _, features = fewer.value_and_grad(params, x[::4])
    whole = run(lnb.scale_by_lnb(fewer, solver=make(), step=lnb.Norm()), params, grads, features, steps=1)
    for key, direction in part.items():
        np.testing.assert_allclose(direction, whole[key], rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "options", "name"),
    [
        (lnb.LowRank, {"rank": 0}, "rank"),
        (lnb.LowRank, {"update_period": 0}, "update_period"),
        (lnb.LowRank, {"ridge": -1.0}, "ridge"),
        (lnb.LowRank, {"sample_fraction": 0.0}, "sample_fraction"),
        (lnb.Cholesky, {"sample_fraction": 1.5}, "sample_fraction"),
        (lnb.Diagonal, {"sample_fraction": 2}, "sample_fraction"),
        (lnb.Cholesky, {"decay": 1.0}, "decay"),
        (lnb.CG, {"ridge_unit": "relative"}, "ridge_unit"),
    ],
)
def test_bad_settings_are_named(make, options, name):
    with pytest.raises(ValueError, match=f"`{name}` of {make.__name__} must be"):
        make(**options)
