"""Loops of unknown length: which iterations are kept, and what is trained through them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from oracle import dense_metric

import lnb
from lnb._finding._iterations import SLOTS, keep, slot_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = {"w": 0.02 * normal(3, 3), "b": normal(3), "u": normal(2, 3), "v": normal(3, 2)}
X = normal(4, 2)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 100, 1000])
def test_kept_iterations_are_evenly_spaced_and_stand_for_all(count):
    slots = jax.lax.fori_loop(
        0, count, lambda k, slots: keep(slots, k, k), jnp.full(SLOTS, -1, jnp.int32), unroll=False
    )
    weights = slot_weights(jnp.asarray(count, jnp.int32))
    kept = np.sort(np.asarray(slots)[np.asarray(weights) > 0])
    stride = 1
    while stride * SLOTS < count:
        stride *= 2
    np.testing.assert_array_equal(kept, np.arange(0, count, stride))
    np.testing.assert_allclose(weights.sum(), count, rtol=1e-6)
    assert len(set(np.asarray(weights)[np.asarray(weights) > 0].tolist())) <= 1


def cell(params, z, x):
    return jnp.tanh(z @ params["w"] + params["b"] + x)


def unrolled(params, x, length=7):
    z = cell(params, jnp.zeros((len(x), 3)), x)
    for _ in range(length):
        z = cell(params, z, x)
    return z


def equilibrium(params, x):
    """The fixed point, with its implicit derivative; the first evaluation stands outside of the loop."""

    def solve(params, x):
        def iterate(state):
            z, _, k = state
            return cell(params, z, x), jnp.max(jnp.abs(cell(params, z, x) - z)), k + 1

        start = (cell(params, jnp.zeros((len(x), 3)), x), jnp.ones((), x.dtype), 0)
        return jax.lax.while_loop(lambda state: (state[1] > 0) & (state[2] < 7), iterate, start)[0]

    def backward(saved, gradient):
        params, x, z = saved
        pullback = jax.vjp(lambda z: cell(params, z, x), z)[1]
        moved = jax.lax.fori_loop(0, 20, lambda _, v: gradient + pullback(v)[0], gradient)
        return jax.vjp(lambda params, x: cell(params, z, x), params, x)[1](moved)

    fixed_point = jax.custom_vjp(solve)
    fixed_point.defvjp(lambda params, x: ((z := solve(params, x)), (params, x, z)), backward)
    return fixed_point(params, x)


def loss_of(network):
    return lambda params, x: jnp.mean((network(params, jnp.tanh(x @ params["u"])) @ params["v"] - 1) ** 2)


@pytest.mark.parametrize("solver", [lnb.Cholesky(), lnb.CG(steps=3), lnb.Diagonal()], ids=lambda s: type(s).__name__)
def test_a_deep_equilibrium_model_has_the_directions_of_the_unrolled_one(x64, solver):
    params, x = jax.tree.map(jnp.asarray, (PARAMS, X))
    directions = []
    for network in (equilibrium, unrolled):
        neurons = lnb.find_neurons(loss_of(network), params, x)
        assert neurons.coverage == 1.0
        optimizer = lnb.lnb(neurons, 0.1, solver=solver)

        @jax.jit
        def step(params, state, neurons=neurons, optimizer=optimizer):
            _, grads, features = neurons.value_and_grad(params, x)
            return optimizer.update(grads, state, params, features=features)

        updates, state = step(params, optimizer.init(params))
        directions.append(updates)
        updates, _ = step(params, state)
        directions.append(updates)
    for ours, theirs in zip(directions[:2], directions[2:], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), ours, theirs)


def by_root(params, x):
    """The fixed point, with the derivative that `custom_root` gives it."""

    def residual(z):
        return cell(params, z, x) - z

    def solve(_, start):
        return jax.lax.while_loop(lambda c: c[1] < 8, lambda c: (cell(params, c[0], x), c[1] + 1), (start, 0))[0]

    def tangent_solve(linear, y):
        matrix = jax.jacobian(linear)(jnp.zeros_like(y)).reshape(y.size, y.size)
        return jnp.linalg.solve(matrix, y.ravel()).reshape(y.shape)

    return jax.lax.custom_root(residual, jnp.zeros((len(x), 3)), solve, tangent_solve)


@pytest.mark.filterwarnings("ignore:The neurons cover")
def test_a_root_is_covered_by_its_iterations_or_by_its_derivative(x64):
    """Before JAX 0.11 it is a call with a derivative of its own; later it is one operation."""
    params, x = jax.tree.map(jnp.asarray, (PARAMS, X))
    neurons = lnb.find_neurons(loss_of(by_root), params, x)
    features = neurons.value_and_grad(params, x)[2]
    found = [neuron for neuron in neurons if "['w']" in neuron.paths]
    if "custom_jvp_call" in str(jax.make_jaxpr(by_root)(params, jnp.ones((4, 3)))):
        np.testing.assert_allclose(found[0].gram(features)[0], gram_of(states_of(params, x)), rtol=1e-9)
    else:
        assert [(neuron.kind, neuron.samples) for neuron in found] == [("general", 4)]
        h, chosen = jnp.tanh(x @ params["u"]), {key: params[key] for key in "bw"}
        vectors = jax.tree.map(lambda leaf: jnp.asarray(normal(*leaf.shape, seed=3)), params)
        products = neurons.metric_product(features, vectors)
        got, flat = (np.concatenate([np.ravel(tree[key]) for key in "bw"]) for tree in (products, vectors))
        metric = dense_metric(lambda own: by_root({**params, **own}, h), chosen, 4)
        np.testing.assert_allclose(got, metric @ flat, rtol=1e-9)


def field(params, y):
    return jnp.tanh(y @ params["w"] + params["b"])


def adaptive(params, y):
    """A differential equation with steps of a length that the error chooses."""

    def iterate(state):
        time, length, y = state
        slope = field(params, y)
        error = jnp.abs(field(params, y + length * slope) - slope).max() * length
        accepted = error < 0.02
        length = jnp.minimum(length, 1 - time)
        moved = jnp.where(accepted, y + length * slope, y)
        time = jnp.where(accepted, time + length, time)
        return time, jnp.where(accepted, length * 1.5, length * 0.5), moved

    zero, first = jnp.zeros((), y.dtype), jnp.full((), 0.3, y.dtype)
    return jax.lax.while_loop(lambda state: state[0] < 1 - 1e-6, iterate, (zero, first, y))[2]


def by_equal_steps(params, y):
    return jax.lax.fori_loop(0, 50, lambda _, y: y + 0.02 * field(params, y), y)


@jax.custom_vjp
def differential_equation(params, y):
    return adaptive(params, y)


differential_equation.defvjp(
    lambda params, y: (adaptive(params, y), (params, y)),
    lambda saved, gradient: jax.vjp(by_equal_steps, *saved)[1](gradient),
)


def test_a_differential_equation_of_adaptive_steps_trains():
    params, y = {"w": jnp.asarray(normal(3, 3)) * 0.1, "b": jnp.zeros(3)}, jnp.asarray(normal(16, 3))
    target = jnp.sin(y)
    neurons = lnb.find_neurons(lambda p, y: jnp.mean((differential_equation(p, y) - target) ** 2), params, y)
    (neuron,) = neurons
    # The error is only compared, so that nothing is differentiated through the second evaluation.
    assert (neuron.kind, neuron.inputs, neuron.outputs, neuron.samples) == ("dense", 3, 3, SLOTS * 16)
    optimizer = lnb.lnb(neurons, 0.1)

    @jax.jit
    def step(params, state):
        value, grads, features = neurons.value_and_grad(params, y)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for _ in range(20):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


def gram_of(states):
    """E[x x^T] with the constant feature 1 of a bias."""
    rows = np.concatenate([np.asarray(states), np.ones((len(states), 1))], axis=1)
    return rows.T @ rows / len(rows)


def states_of(params, x, length=7):
    """The states before each evaluation, [evaluation * example, feature]."""
    x = jnp.tanh(x @ params["u"])
    return np.concatenate([np.zeros((len(x), 3)), *(np.asarray(unrolled(params, x, k)) for k in range(length))])


def test_features_of_iterations_are_joined_and_weighted(x64):
    params, x = jax.tree.map(jnp.asarray, (PARAMS, X))
    neurons = lnb.find_neurons(loss_of(equilibrium), params, x)
    (neuron,) = (neuron for neuron in neurons if "['w']" in neuron.paths)
    features, other = (neurons.value_and_grad(params, batch)[2] for batch in (x, x[:2] + 1))
    np.testing.assert_allclose(neuron.gram(features)[0], gram_of(states_of(params, x)), rtol=1e-9)
    both = np.concatenate([states_of(params, x), states_of(params, x[:2] + 1)])
    np.testing.assert_allclose(neuron.gram(lnb.join_features(features, other))[0], gram_of(both), rtol=1e-9)
    padded = features.weighted(jnp.asarray([1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(neuron.gram(padded)[0], gram_of(states_of(params, x[:2])), rtol=1e-9)
    moments = gram_of(states_of(params, x[:2]))
    np.testing.assert_allclose(neuron.moments(padded)[1][0], np.diag(moments)[:-1], rtol=1e-9)


def in_while(step, length):
    """Steps in a loop, whose derivative is that of one step."""

    def run(params, x):
        return jax.lax.while_loop(lambda c: c[1] < length, lambda c: (step(params, *c), c[1] + 1), (x, 0))[0]

    looped = jax.custom_vjp(run)
    looped.defvjp(
        lambda params, x: (run(params, x), (params, x)),
        lambda saved, g: jax.vjp(lambda p, x: step(p, x, 0), *saved)[1](g),
    )
    return looped


def test_weights_of_a_batch_are_not_taken_for_weights_of_iterations(x64):
    """The batch's second axis has as many positions as there are slots."""
    params, x = jnp.asarray(normal(3, 3)), jnp.asarray(normal(4, 3))
    looped = in_while(lambda w, h, k: jnp.tanh(h @ w), 3)
    neurons = lnb.find_neurons(lambda w, x: looped(w, x).sum(), params, x)
    features = neurons.value_and_grad(params, x)[2]
    weights = jnp.asarray(np.abs(normal(4, SLOTS)))
    expected = neurons[0].gram(features.weighted(weights.mean(1)))
    np.testing.assert_allclose(neurons[0].gram(features.weighted(weights)), expected, rtol=1e-12)


def test_equations_inside_a_loop_take_no_weights():
    params, x = jnp.asarray(normal(3, 3)), jnp.asarray(normal(SLOTS, 3))
    looped = in_while(lambda w, h, k: jnp.tanh((h[:, :, None] * w).sum(1)), 3)
    neurons = lnb.find_neurons(lambda w, x: looped(w, x).sum(), params, x)
    features = neurons.value_and_grad(params, x)[2]
    with pytest.raises(ValueError, match="neuron 0, which is kept as its equations inside a `while`"):
        features.weighted(jnp.ones(SLOTS))


def test_the_table_says_which_neurons_are_of_sampled_iterations():
    looped = in_while(lambda p, h, k: jnp.tanh(h @ p["w"]), 3)

    def loss_fn(params, x):
        return jnp.sum(jnp.tanh(looped(params, x) @ params["v"]) ** 2)

    params = {"v": jnp.ones((3, 2)), "w": jnp.ones((3, 3))}
    rows = str(lnb.find_neurons(loss_fn, params, jnp.ones((4, 3)))).splitlines()
    (outside,), (inside,) = ([row for row in rows if row.startswith(f"['{key}']")] for key in "vw")
    assert "Gram, sampled iterations" in inside
    assert "sampled" not in outside


def test_the_condition_of_a_loop_counts_for_nothing():
    params = {"v": jnp.asarray(normal(3)), "w": jnp.asarray(normal(3, 3))}

    @jax.custom_vjp
    def looped(params, x):
        def goes_on(state):
            return (state[0] @ params["v"]).sum() + state[1] < 5

        def iterate(state):
            return jnp.tanh(state[0] @ params["w"]), state[1] + 1

        return jax.lax.while_loop(goes_on, iterate, (x, 0.0))[0]

    looped.defvjp(lambda p, x: (looped(p, x), (p, x)), lambda saved, g: jax.tree.map(jnp.zeros_like, saved))
    with pytest.warns(UserWarning, match="The neurons cover 75.0%"):
        neurons = lnb.find_neurons(lambda p, x: looped(p, x).sum(), params, jnp.ones((4, 3)))
    assert [neuron.paths for neuron in neurons] == [("['w']",)]
    assert neurons.uncovered == (("['v']", "never reaches the loss"),)


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_loop_in_a_map_over_devices(x64, check_vma):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    looped = in_while(lambda w, h, k: jnp.tanh(h @ w), 9)
    weight, x = jnp.asarray(normal(3, 3)), jnp.asarray(normal(4 * mesh.size, 3))

    def network(weight, x):
        specs = {"in_specs": (P(), P("data")), "out_specs": P("data"), "check_vma": check_vma}
        return jax.shard_map(looped, mesh=mesh, **specs)(weight, x)

    grams = []
    for apply in (network, looped):
        neurons = lnb.find_neurons(lambda w, x, f=apply: f(w, x).sum(), weight, x)
        grams.append(neurons[0].gram(jax.jit(neurons.value_and_grad)(weight, x)[2]))
    np.testing.assert_allclose(*grams, rtol=1e-9)
