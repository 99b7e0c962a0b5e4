"""Data parallel training on a mesh: eight devices take the steps that one does, with axes explicit or automatic.

In float64, since sums in another order round otherwise, and twenty steps make a few 1e-5 of that in float32.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from lists import solvers

import lnb

BATCH = 32
ALL = solvers(Cholesky={"update_period": 3}, LowRank={"rank": 3})
PAIRS = [
    (ALL["Auto"], lnb.Spectral()),
    pytest.param(ALL["Auto"], lnb.Polyak(), marks=pytest.mark.slow),
    (ALL["CG"], lnb.Norm()),
    *(pytest.param(ALL[name], lnb.Spectral(), marks=pytest.mark.slow) for name in ("Cholesky", "Diagonal", "LowRank")),
]


def network(params, image, token, rows=None):
    """A convolution, a normalisation, a table, a scan over layers, a head: what has a metric of each kind.

    With explicit axes JAX wants to be told how looked-up rows are sharded.
    """
    h = lax.conv_general_dilated(image, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    h = jnp.tanh(h + params["bias"]).mean((1, 2))
    h = (
        (h - h.mean(-1, keepdims=True)) * params["scale"]
        + params["shift"]
        + params["table"].at[token].get(out_sharding=rows)
    )
    h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, params["layers"])
    return h @ params["head"]


def loss_fn(params, image, token, rows=None):
    return jnp.mean(jnp.square(network(params, image, token, rows) - 1))


PARAMS = {
    "kernel": normal(3, 3, 2, 6) / 4,
    "bias": normal(6) / 4,
    "scale": 1 + normal(6, seed=1) / 4,
    "shift": normal(6, seed=2) / 4,
    "table": normal(5, 6),
    "layers": normal(2, 6, 6) / 2,
    "head": normal(6, 3) / 2,
}


def batches(count):
    random = np.random.default_rng(0)
    for _ in range(count):
        yield random.normal(size=(BATCH, 5, 5, 2)), random.integers(0, 5, BATCH)


def train(solver, step, put, whole=lambda tree: tree, rows=None, count=20):
    """The parameters after some steps, on arrays as `put` and `whole` lay them out."""
    params = whole(jax.tree.map(jnp.asarray, PARAMS))
    neurons = lnb.find_neurons(loss_fn, params, *put(*next(batches(1))), rows=rows, strict=True)
    optimizer = lnb.lnb(neurons, 0.05, solver=solver, step=step)

    @jax.jit
    def advance(params, state, image, token):
        loss, grads, features = neurons.value_and_grad(params, image, token, rows=rows)
        updates, state = optimizer.update(grads, state, params, features=features, value=loss)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for image, token in batches(count):
        # XLA's simulated devices wait for each other for ever if many steps are in flight (docs/notes.md).
        params, state, loss = jax.block_until_ready(advance(params, state, *put(image, token)))
    assert int(state.skipped) == 0
    assert np.isfinite(loss)
    return params


def single(image, token):
    return jnp.asarray(image), jnp.asarray(token)


@cache
def one_device(solver, step):
    """What one device ends with; of tests with 64-bit numbers."""
    return train(solver, step, single)


def sharded(mesh):
    """Lays a batch out over a mesh, and parameters on all of it; and how looked-up rows are sharded."""

    def put(image, token):
        return tuple(jax.device_put(array, NamedSharding(mesh, P("data"))) for array in single(image, token))

    rows = NamedSharding(mesh, P("data")) if AxisType.Explicit in mesh.axis_types else None
    return put, lambda tree: jax.device_put(tree, NamedSharding(mesh, P())), rows


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize(("solver", "step"), PAIRS)
def test_eight_devices_of_a_default_mesh_take_the_steps_of_one(solver, step):
    expected = one_device(solver, step)
    for name, got in train(solver, step, *sharded(jax.make_mesh((8,), ("data",)))).items():
        np.testing.assert_allclose(got, expected[name], rtol=0, atol=1e-9 * np.abs(expected[name]).max(), err_msg=name)
        assert got.sharding.is_fully_replicated


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_the_mesh_may_be_set_for_all(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    expected = train(lnb.Auto(), lnb.Spectral(), single, count=3)
    with jax.set_mesh(mesh):
        params = train(lnb.Auto(), lnb.Spectral(), *sharded(mesh), count=3)
    for name, got in params.items():
        np.testing.assert_allclose(got, expected[name], rtol=0, atol=1e-9 * np.abs(expected[name]).max(), err_msg=name)


def test_statistics_of_a_sharded_batch_are_those_of_one_device(x64):
    put, whole, rows = sharded(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)))
    batch = next(batches(1))
    params = jax.tree.map(jnp.asarray, PARAMS)
    vectors = jax.tree.map(lambda leaf: jnp.asarray(normal(*leaf.shape, seed=4)), PARAMS)
    neurons = lnb.find_neurons(loss_fn, params, *single(*batch))
    expected = neurons.value_and_grad(params, *single(*batch))[2]
    features = jax.jit(partial(neurons.value_and_grad, rows=rows))(whole(params), *put(*batch))[2]

    @jax.jit
    def statistics(features, vectors):
        moments = [(neuron.gram(features), neuron.moments(features)) for neuron in neurons]
        return moments, neurons.metric_product(features, vectors)

    got, wanted = statistics(features, whole(vectors)), statistics(expected, vectors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, wanted)


# Replicas: a map over devices, in which each step sees its own part of the batch


def train_replicas(solver, step, axis_name=None, check_vma=True, count=20):
    """`train` inside of `shard_map`, and what each replica ends with."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    neurons = lnb.find_neurons(loss_fn, params, *single(*next(batches(1))), strict=True)
    optimizer = lnb.lnb(neurons, 0.05, solver=solver, step=step, axis_name=axis_name)
    split, whole = P("data"), P()

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(whole, whole, split, split),
        out_specs=whole if check_vma else split,
        check_vma=check_vma,
    )
    def advance(params, state, image, token):
        loss, grads, features = neurons.value_and_grad(params, image, token)
        # A checked map sums the gradients of what its devices share.
        grads = jax.tree.map(lambda leaf: leaf / 8, grads) if check_vma else lax.pmean(grads, "data")
        updates, state = optimizer.update(grads, state, params, features=features, value=loss)
        params = optax.apply_updates(params, updates)
        return (params, state) if check_vma else jax.tree.map(lambda leaf: leaf[None], (params, state))

    replicas, state = params, optimizer.init(params)
    for batch in batches(count):
        replicas, state = jax.block_until_ready(advance(params, state, *single(*batch)))
        params, state = (
            (replicas, state) if check_vma else jax.tree.map(lambda leaf: np.asarray(leaf)[0], (replicas, state))
        )
    assert int(state.skipped) == 0
    return replicas if not check_vma else jax.tree.map(lambda leaf: leaf[None], replicas)


def assert_replicas_are(expected, got):
    for name, replicas in got.items():
        scale = np.abs(expected[name]).max()
        assert np.ptp(replicas, axis=0).max() == 0, name
        np.testing.assert_allclose(replicas[0], expected[name], rtol=0, atol=1e-9 * scale, err_msg=name)


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize(("solver", "step"), PAIRS)
def test_replicas_take_the_steps_of_one_device(solver, step):
    """Told which axis to share along; without types, as in `pmap`."""
    assert_replicas_are(one_device(solver, step), train_replicas(solver, step, axis_name="data", check_vma=False))


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize(("solver", "step"), PAIRS[:2])
def test_the_axis_to_share_along_is_found_from_the_types(solver, step):
    assert_replicas_are(one_device(solver, step), train_replicas(solver, step))


def mixed_loss(params, x, weight):
    """A weight that is used twice, experts, and one of no canonical form; the features count by their rows' weights."""
    h = jnp.tanh(x @ params["tied"]) @ params["tied"].T
    h = jnp.tanh(h + jnp.einsum("ni,nio->no", x, params["experts"][jnp.argmax(x[:, :3], 1)]))
    h = h @ jnp.cumsum(params["summed"], 0)
    return (weight * jnp.square(h - 1).mean(1)).sum()


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
@pytest.mark.parametrize("solver", [lnb.Auto(), lnb.CG()], ids=["Auto", "CG"])
def test_statistics_of_replicas_count_by_their_samples(solver):
    """Tied weights, experts and equations; samples weigh differently, and one replica's not at all."""
    params = {
        "tied": jnp.asarray(normal(4, 5)),
        "experts": jnp.asarray(normal(3, 4, 4)),
        "summed": jnp.asarray(normal(4, 2)),
    }
    x, weight = jnp.asarray(normal(16, 4)), jnp.asarray(np.random.default_rng(0).uniform(size=16)).at[:4].set(0)
    neurons = lnb.find_neurons(mixed_loss, params, x, weight, strict=True)
    assert {neuron.kind for neuron in neurons} == {"tied", "ragged", "reparametrised"}

    def update(params, x, weight, axis_name=()):
        _, grads, features = neurons.value_and_grad(params, x, weight)
        optimizer = lnb.lnb(neurons, 0.05, solver=solver, axis_name=axis_name)
        grads = lax.psum(grads, axis_name)
        return optimizer.update(grads, optimizer.init(params), params, features=features.weighted(weight))[0]

    replicas = jax.vmap(partial(update, axis_name="replica"), (None, 0, 0), axis_name="replica")
    got = jax.jit(replicas)(params, x.reshape(4, 4, 4), weight.reshape(4, 4))
    expected = jax.jit(update)(params, x, weight)
    for name, leaf in expected.items():
        np.testing.assert_allclose(got[name], jnp.stack([leaf] * 4), rtol=1e-9, atol=1e-12, err_msg=name)


def small_replicas(axis_name, mapping, x=None):
    """The updates of two replicas that average their gradients."""
    params, x = jnp.asarray(normal(3, 2), jnp.float32), jnp.asarray(normal(2, 4, 3), jnp.float32) if x is None else x
    neurons = lnb.find_neurons(lambda w, x: jnp.mean(jnp.square(jnp.tanh(x @ w) - 1)), params, x[0])
    optimizer = lnb.lnb(neurons, 0.1, axis_name=axis_name)

    def update(x):
        _, grads, features = neurons.value_and_grad(params, x)
        return optimizer.update(lax.pmean(grads, "d"), optimizer.init(params), params, features=features)

    return mapping(update)(x)


MAPPINGS = {
    "pmap": lambda f: jax.pmap(f, axis_name="d"),
    "vmap": lambda f: jax.jit(jax.vmap(f, axis_name="d")),
    "shard_map": lambda f: jax.jit(
        jax.shard_map(
            lambda x: jax.tree.map(lambda leaf: leaf[None], f(x[0])),
            mesh=jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]),
            in_specs=P("d"),
            out_specs=P("d"),
            check_vma=False,
        )
    ),
}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS)
def test_replicas_that_nobody_told_of_are_warned_of(mapping):
    with pytest.warns(UserWarning, match=r"mapped over 'd', .* Make the optimizer with `axis_name='d'` to share"):
        updates, _ = small_replicas(None, mapping)
    assert np.ptp(updates, axis=0).max() > 1e-3
    np.testing.assert_array_equal(small_replicas((), mapping)[0], updates)
    updates, _ = small_replicas("d", mapping)
    assert np.ptp(updates, axis=0).max() == 0


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("axis_name", ["d", ("d",)])
def test_replicas_agree_on_what_is_finite(axis_name):
    """A feature of one replica is not finite, and its gradient does not show it."""
    x = jnp.asarray(normal(2, 4, 3), jnp.float32).at[1, 2, 1].set(1e30)
    updates, state = small_replicas(axis_name, MAPPINGS["pmap"], x)
    assert np.ptp(updates, axis=0).max() == 0
    assert jax.tree.all(
        jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all() and jnp.ptp(leaf, axis=0).max() == 0), state)
    )


# A loss that names an axis


def normalised_loss(params, x):
    """A batch normalisation over all replicas."""
    h = x @ params["w"]
    mean = lax.pmean(h.mean(0), "batch")
    variance = lax.pmean(jnp.square(h - mean).mean(0), "batch")
    return jnp.mean(jnp.square(jnp.tanh((h - mean) / jnp.sqrt(variance + 1e-5) * params["scale"]) @ params["v"] - 1))


def test_a_loss_with_a_named_axis_is_searched_outside_of_the_map_and_inside():
    params = {"w": normal(3, 4), "scale": 1 + normal(4) / 4, "v": normal(4, 2)}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    x = jnp.asarray(normal(8, 4, 3), jnp.float32)
    neurons = lnb.find_neurons(normalised_loss, params, x[0], axis_sizes={"batch": 8}, strict=True)
    assert [neuron.kind for neuron in neurons] == ["scale", "dense", "dense"]
    optimizer = lnb.lnb(neurons, 0.1, axis_name="batch")
    found = []

    @partial(jax.pmap, axis_name="batch")
    def update(x):
        found.append(lnb.find_neurons(normalised_loss, params, x))
        _, grads, features = neurons.value_and_grad(params, x)
        return optimizer.update(lax.pmean(grads, "batch"), optimizer.init(params), params, features=features)[0]

    for leaf in update(x).values():
        assert np.isfinite(leaf).all()
        assert np.ptp(leaf, axis=0).max() == 0
    assert found[0].signature == neurons.signature


def test_an_axis_without_its_size_is_an_error_that_says_what_to_give():
    params = {"w": jnp.ones((3, 4)), "scale": jnp.ones(4), "v": jnp.ones((4, 2))}
    with pytest.raises(NameError, match="batch") as error:
        lnb.find_neurons(normalised_loss, params, jnp.ones((4, 3)))
    assert "`axis_sizes={'batch': 8}`" in "".join(error.value.__notes__)


# Sampling


@pytest.mark.usefixtures("x64", "standard_promotion", "quick_compilation")
def test_parts_of_a_batch_are_sampled_as_the_whole_is():
    """Micro-batches and shards take the rows that the whole batch takes."""
    params, (image, token) = jax.tree.map(jnp.asarray, PARAMS), next(batches(1))
    neurons = lnb.find_neurons(loss_fn, params, image, token)
    optimizer = lnb.lnb(neurons, 0.05, solver=lnb.Auto(sample_fraction=0.3))

    @jax.jit
    def update(features, grads):
        return optimizer.update(grads, optimizer.init(params), params, features=features)[0]

    evaluate = jax.jit(neurons.value_and_grad)
    _, grads, features = evaluate(params, *single(image, token))
    expected = update(features, grads)
    parts = zip(np.split(image, 8), np.split(token, 8), strict=True)
    joined = lnb.join_features(*(evaluate(params, *single(*part))[2] for part in parts))
    for name, leaf in update(joined, grads).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)
