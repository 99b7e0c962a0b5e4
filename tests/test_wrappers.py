"""LNB wherever Optax puts an optimizer: every wrapper works, or refuses in a sentence that says what to do."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from cases import normal
from lists import DECAY, RIDGE, SOLVERS, solvers
from optax import contrib

import lnb
from lnb._transform import MOST_SKIPPED_IN_A_ROW

PAGE = Path(__file__).parent.parent / "docs" / "wrappers.md"
pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")

PARAMS = {
    "w": jnp.asarray(normal(6, 5) / 2, jnp.float32),
    "b": jnp.zeros(5),
    "head": jnp.asarray(normal(5, 3) / 2, jnp.float32),
}
X = jnp.asarray(normal(32, 6), jnp.float32)
LABELS = {"w": "layers", "b": "layers", "head": "head"}


def loss_fn(params, x):
    return jnp.mean(jnp.square(jnp.tanh(x @ params["w"] + params["b"]) @ params["head"] - 1))


NEURONS = lnb.find_neurons(loss_fn, PARAMS, X)
RATE = 0.05


def own(**settings):
    return lnb.lnb(NEURONS, RATE, **settings)


def train(optimizer, steps=6, params=PARAMS, x=X, **extra):
    """Parameters, state and losses after some jitted steps."""

    @jax.jit
    def step(params, state):
        loss, grads, features = NEURONS.value_and_grad(params, x)
        more = {name: make(loss, grads) for name, make in extra.items()}
        updates, state = optimizer.update(grads, state, params, features=features, **more)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return params, state, losses


def test_wrappers_that_have_no_effect_leave_the_update_as_it_is():
    _, grads, features = NEURONS.value_and_grad(PARAMS, X)

    def first_update(optimizer):
        return jax.jit(optimizer.update)(grads, optimizer.init(PARAMS), PARAMS, features=features)[0]

    settings = {"step": lnb.Norm()}
    plain = first_update(own(**settings))
    injected = optax.inject_hyperparams(lnb.lnb, static_args=("neurons", "solver"))
    for optimizer in (
        optax.chain(optax.clip_by_global_norm(1e6), own(**settings)),
        lnb.lnb(NEURONS, optax.constant_schedule(RATE), **settings),
        injected(neurons=NEURONS, learning_rate=RATE, **settings),
        optax.MultiSteps(own(**settings), 1).gradient_transformation(),
    ):
        for got, wanted in zip(jax.tree.leaves(first_update(optimizer)), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)
    twice = optax.MultiSteps(own(**settings), 2).gradient_transformation()
    state = twice.init(PARAMS)
    update = jax.jit(twice.update)
    updates, state = update(grads, state, PARAMS, features=features)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    updates, state = update(grads, state, PARAMS, features=features)
    np.testing.assert_allclose(updates["w"], plain["w"], rtol=1e-4, atol=1e-6)


def partition(optimizer=None):
    return optax.partition({"layers": optimizer or own(), "head": optax.adamw(1e-2)}, LABELS)


WORKS = {
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), own()),
    "named_chain": lambda: optax.named_chain(("clip", optax.clip(1.0)), ("lnb", own())),
    "partition": partition,
    "multi_transform": lambda: optax.multi_transform({"layers": own(), "head": optax.adamw(1e-2)}, LABELS),
    "masked": lambda: optax.chain(
        optax.masked(own(), {"w": True, "b": True, "head": False}),
        optax.masked(optax.sgd(0.1), {"w": False, "b": False, "head": True}),
    ),
    "selective_transform": lambda: optax.selective_transform(own(), freeze_mask={"w": False, "b": False, "head": True}),
    "inject_hyperparams": lambda: optax.inject_hyperparams(lnb.lnb)(neurons=NEURONS, learning_rate=RATE),
    "MultiSteps": lambda: optax.MultiSteps(own(), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(own(), 3),
    "conditionally_transform": lambda: optax.conditionally_transform(own(), lambda step: step >= 0),
    "conditionally_mask": lambda: optax.conditionally_mask(own(), lambda step: step % 2 == 0),
    "contrib.mechanize": lambda: contrib.mechanize(own()),
    "contrib.schedule_free": lambda: contrib.schedule_free(own(), RATE),
    "contrib.reduce_on_plateau": lambda: optax.chain(own(), contrib.reduce_on_plateau()),
    "with_extra_args_support": lambda: optax.with_extra_args_support(own()),
}
"""By the name in Optax, what puts LNB there."""


def with_features(features):
    """LNB with this batch's features at hand, for wrappers that pass on no extra arguments."""
    optimizer = own()
    return optax.GradientTransformation(
        optimizer.init, lambda updates, state, params=None: optimizer.update(updates, state, params, features=features)
    )


PASSES_NOTHING_ON = {
    "lookahead": lambda inner: optax.lookahead(inner, 2, 0.5),
    "contrib.sam": lambda inner: contrib.sam(inner, optax.sgd(0.01), sync_period=2),
    "contrib.split_real_and_imaginary": contrib.split_real_and_imaginary,
}
"""Wrappers whose `update` takes no extra arguments: they are made in the step, around `with_features`."""

REFUSED = {
    "flatten": lambda: optax.flatten(own()),
    "contrib.galore": lambda: contrib.galore(RATE, 2, base_optimizer=own()),
}
"""Wrappers that change the tree or the arrays."""


@pytest.mark.parametrize("name", WORKS)
def test_a_wrapper_trains(name):
    optimizer, extra = WORKS[name](), {}
    if name == "contrib.reduce_on_plateau":
        extra["value"] = lambda loss, _: loss
    params, state, losses = train(optimizer, **extra)
    assert losses[-1] < losses[0]
    assert jax.tree.structure(optimizer.init(PARAMS)) == jax.tree.structure(state)
    for leaf, before in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True):
        assert leaf.dtype == before.dtype
        assert np.all(np.isfinite(leaf))


@pytest.mark.parametrize("name", PASSES_NOTHING_ON)
def test_a_wrapper_that_passes_nothing_on_is_made_in_the_step(name):
    wrap = PASSES_NOTHING_ON[name]
    is_lookahead = name == "lookahead"
    params = optax.LookaheadParams.init_synced(PARAMS) if is_lookahead else PARAMS

    @jax.jit
    def step(params, state):
        loss, grads, features = NEURONS.value_and_grad(params.fast if is_lookahead else params, X)
        updates, state = wrap(with_features(features)).update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = wrap(own()).init(params), []
    for _ in range(8):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    _, grads, features = NEURONS.value_and_grad(PARAMS, X)
    with pytest.raises(TypeError, match="features"):
        wrap(own()).update(grads, state, params, features=features)


def test_what_passes_nothing_on_is_told_where_features_are_missed():
    optimizer = own()
    _, grads, _ = NEURONS.value_and_grad(PARAMS, X)
    with pytest.raises(ValueError, match=r"`optax.lookahead`.* pass on no extra arguments"):
        optimizer.update(grads, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrapper_that_changes_the_tree_is_refused(name):
    with pytest.raises(ValueError, match=r"`optax.flatten`, hide the layers|`params`\['.*'\] has shape"):
        train(REFUSED[name](), 1)


def test_the_page_has_a_row_for_each_wrapper_and_no_other():
    rows = set(re.findall(r"^\| `optax\.([\w.]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == {*WORKS, *PASSES_NOTHING_ON, *REFUSED}


# The state


@pytest.mark.parametrize("solver", solvers(LowRank={"rank": 2}).values(), ids=SOLVERS)
def test_steps_in_a_scan_are_steps_one_by_one(solver):
    optimizer = own(solver=solver)
    expected, _, _ = train(optimizer, 4)

    def step(carry, _):
        params, state = carry
        _, grads, features = NEURONS.value_and_grad(params, X)
        updates, state = optimizer.update(grads, state, params, features=features)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=4))((PARAMS, optimizer.init(PARAMS)))
    for got, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_updates_have_the_gradient_s_type_and_the_state_float32(dtype):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    neurons = lnb.find_neurons(loss_fn, params, X.astype(dtype))
    optimizer = lnb.lnb(neurons, RATE)
    _, grads, features = neurons.value_and_grad(params, X.astype(dtype))
    updates, state = optimizer.update(grads, optimizer.init(params), params, features=features)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}


def wide_loss(params, x):
    for k in range(2):
        x = jnp.tanh(x @ params[f"w{k}"] + params[f"b{k}"])
    return jnp.mean(jnp.square(x @ params["w2"] - 1))


def wide_params():
    sizes = (6, 300, 300, 4)
    weights = {f"w{k}": jnp.asarray(normal(*sizes[k : k + 2]) / sizes[k] ** 0.5, jnp.float32) for k in range(3)}
    return {**weights, "b0": jnp.zeros(300), "b1": jnp.zeros(300)}


def test_a_checkpoint_of_batch_8_goes_on_at_batch_4096(tmp_path):
    """The state's structure is the network's and the settings', whatever the batch that the neurons were found at."""
    params, states = wide_params(), []
    for size in (8, 64, 4096):
        neurons = lnb.find_neurons(wide_loss, params, jnp.ones((size, 6)))
        states.append(jax.eval_shape(lnb.lnb(neurons, RATE).init, params))
    assert states[0] == states[1] == states[2]

    def steps(optimizer, neurons, params, state, x, count):
        @jax.jit
        def step(params, state):
            loss, grads, features = neurons.value_and_grad(params, x)
            updates, state = optimizer.update(grads, state, params, features=features)
            return optax.apply_updates(params, updates), state, loss

        for _ in range(count):
            params, state, loss = step(params, state)
        return params, state, loss

    neurons = lnb.find_neurons(wide_loss, params, jnp.asarray(normal(8, 6), jnp.float32))
    optimizer = lnb.lnb(neurons, RATE)
    params, state, _ = steps(optimizer, neurons, params, optimizer.init(params), jnp.asarray(normal(8, 6)), 2)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        x = jnp.asarray(normal(4096, 6), jnp.float32)
        later = lnb.find_neurons(wide_loss, params, x)
        optimizer = lnb.lnb(later, RATE)
        restored = checkpointer.restore(tmp_path / "state", optimizer.init(params))
    for got, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(got, wanted)
    _, state, loss = steps(optimizer, later, params, restored, x, 3)
    assert int(state.step) == 5
    assert loss < wide_loss(params, x)


def test_another_network_s_or_solver_s_state_is_refused():
    _, grads, features = NEURONS.value_and_grad(PARAMS, X)
    wide = wide_params()
    foreign = [
        lnb.lnb(lnb.find_neurons(wide_loss, wide, jnp.ones((8, 6))), RATE).init(wide),
        own(solver=lnb.Diagonal()).init(PARAMS),
        own(gradient_decay=0.0).init(PARAMS),
        optax.adam(0.1).init(PARAMS),
    ]
    optimizer = own()
    for state in foreign:
        with pytest.raises(ValueError, match="`state` is of another optimizer"):
            optimizer.update(grads, state, PARAMS, features=features)


# Masks


def test_the_head_s_update_under_partition_is_adamw_s_own():
    optimizer, adamw = partition(), optax.adamw(1e-2)
    state, head_state, params = optimizer.init(PARAMS), adamw.init(PARAMS["head"]), PARAMS
    for _ in range(4):
        _, grads, features = NEURONS.value_and_grad(params, X)
        expected, head_state = adamw.update(grads["head"], head_state, params["head"])
        updates, state = optimizer.update(grads, state, params, features=features)
        np.testing.assert_allclose(updates["head"], expected, rtol=0, atol=1e-7)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("step", [lnb.Spectral(), lnb.Norm()])
@pytest.mark.parametrize("ignore", [(), "['head']"])
def test_masked_leaves_are_as_if_they_were_ignored(ignore, step):
    """The layers step as they do where the head is data, and nothing of the head is kept."""
    neurons = lnb.find_neurons(loss_fn, PARAMS, X, ignore=ignore)
    alone = lnb.find_neurons(lambda layers, head, x: loss_fn({**layers, "head": head}, x), layers(), PARAMS["head"], X)
    _, grads, features = neurons.value_and_grad(PARAMS, X)
    _, own_grads, own_features = alone.value_and_grad(layers(), PARAMS["head"], X)
    single = lnb.lnb(alone, RATE, step=step)
    expected, own_state = single.update(own_grads, single.init(layers()), layers(), features=own_features)
    optimizer = partition(lnb.lnb(neurons, RATE, step=step))
    updates, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, features=features)
    for key in "wb":
        np.testing.assert_allclose(updates[key], expected[key], rtol=1e-6)
    kept = state.inner_states["layers"].inner_state
    assert jax.tree.map(jnp.shape, kept.statistics) == jax.tree.map(jnp.shape, own_state.statistics)


def layers():
    return {key: PARAMS[key] for key in "wb"}


def test_a_bias_may_be_trained_by_another_optimizer_than_its_weight():
    neurons = lnb.find_neurons(lambda p, x: loss_fn({**PARAMS, **p}, x), layers(), X)
    without = lnb.find_neurons(lambda p, x: loss_fn({**PARAMS, **p}, x), {"w": PARAMS["w"]}, X)
    labels = {"w": "weight", "b": "bias"}
    optimizer = optax.partition({"weight": lnb.lnb(neurons, RATE), "bias": optax.sgd(0.5)}, labels)
    _, grads, features = neurons.value_and_grad(layers(), X)
    updates, _ = optimizer.update(grads, optimizer.init(layers()), layers(), features=features)
    np.testing.assert_allclose(updates["b"], -0.5 * grads["b"], rtol=1e-6)
    single = lnb.lnb(without, RATE)
    _, own_grads, own_features = without.value_and_grad({"w": PARAMS["w"]}, X)
    expected, _ = single.update(own_grads, single.init({"w": PARAMS["w"]}), {"w": PARAMS["w"]}, features=own_features)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-5, atol=1e-7)
    swapped = optax.partition({"weight": optax.sgd(0.5), "bias": lnb.lnb(neurons, RATE)}, labels)
    updates, _ = swapped.update(grads, swapped.init(layers()), layers(), features=features)
    # A bias alone has the identity metric.
    ratio = np.asarray(updates["b"] / grads["b"])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_weights_that_are_one_neuron_cannot_be_parted():
    params = {"u": jnp.asarray(normal(6, 4), jnp.float32), "v": jnp.asarray(normal(6, 4, seed=1), jnp.float32)}
    neurons = lnb.find_neurons(lambda p, x: jnp.sum(jnp.tanh(x @ p["u"] + (2 * x) @ p["v"])), params, X)
    assert [neuron.paths for neuron in neurons] == [("['u']", "['v']")]
    optimizer = optax.masked(lnb.lnb(neurons, RATE), {"u": True, "v": False})
    with pytest.raises(ValueError, match=r"a part of the neuron \['u'\] \+ \['v'\].*train all of it"):
        optimizer.init(params)


def test_a_whole_subtree_may_be_masked_by_one_label():
    params = {"body": layers(), "head": {"kernel": PARAMS["head"]}}
    nested = lnb.find_neurons(lambda p, x: loss_fn({**p["body"], "head": p["head"]["kernel"]}, x), params, X)
    optimizer = optax.partition(
        {"lnb": lnb.lnb(nested, RATE), "adam": optax.adam(1e-2)}, {"body": "lnb", "head": "adam"}
    )
    _, grads, features = nested.value_and_grad(params, X)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, features=features)
    flat = {**grads["body"], "head": grads["head"]["kernel"]}
    features = NEURONS.value_and_grad(PARAMS, X)[2]
    expected, _ = partition().update(flat, partition().init(PARAMS), PARAMS, features=features)
    np.testing.assert_allclose(updates["body"]["w"], expected["w"], rtol=1e-6)


def test_ignored_leaves_are_left_as_they_are():
    neurons = lnb.find_neurons(loss_fn, PARAMS, X, ignore="['head']")
    optimizer = lnb.lnb(neurons, RATE, weight_decay=0.1)
    _, grads, features = neurons.value_and_grad(PARAMS, X)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, features=features)
    np.testing.assert_array_equal(updates["head"], 0)
    assert np.any(updates["w"] != 0)


# Settings that are numbers of any kind


@pytest.mark.parametrize(
    "kind", [float, np.float32, np.float64, jnp.float32, lambda v: jnp.asarray([v])[0], np.asarray]
)
def test_numbers_of_any_kind_are_checked_alike(kind):
    lnb.lnb(NEURONS, kind(0.1), gradient_decay=kind(0.5), weight_decay=kind(0.1), solver=lnb.CG(ridge=kind(0.1)))
    refused = [
        (lambda: lnb.lnb(NEURONS, kind(-0.1)), "`learning_rate` must be at least 0"),
        (lambda: lnb.lnb(NEURONS, kind(np.nan)), "`learning_rate` must be"),
        (lambda: lnb.lnb(NEURONS, 0.1, gradient_decay=kind(1.5)), r"`gradient_decay` must be in \[0, 1\)"),
        (lambda: lnb.Norm(min_norm=kind(-1.0)), "`min_norm` of Norm must be at least 0"),
        (lambda: lnb.Cholesky(ridge=kind(-1.0)), "`ridge` of Cholesky must be at least 0"),
        (lambda: lnb.Auto(decay=kind(2.0)), "`decay` of Auto must be in"),
    ]
    for call, words in refused:
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("value", ["0.1", None, [0.1], np.ones(2), 1j, True])
def test_what_is_no_number_is_refused(value):
    for call in (
        lambda: lnb.lnb(NEURONS, value),
        lambda: lnb.lnb(NEURONS, 0.1, weight_decay=value),
        lambda: lnb.Cholesky(ridge=value),
    ):
        with pytest.raises(TypeError, match="must be a number, got"):
            call()


@pytest.mark.parametrize("name", SOLVERS)
def test_settings_may_be_traced_and_scheduled(name):
    def factory(learning_rate, gradient_decay, weight_decay, ridge, decay):
        solver = SOLVERS[name](**{RIDGE[name]: ridge, DECAY[name]: decay})
        return lnb.lnb(NEURONS, learning_rate, gradient_decay=gradient_decay, weight_decay=weight_decay, solver=solver)

    chosen = {"learning_rate": RATE, "gradient_decay": 0.8, "weight_decay": 0.01, "ridge": 0.3, "decay": 0.9}
    traced = optax.inject_hyperparams(factory)
    expected, _, _ = train(factory(**chosen), 3)
    params, _, _ = train(traced(**chosen), 3)
    schedules = {key: lambda _, value=chosen[key]: value for key in ("learning_rate", "ridge")}
    scheduled, state, _ = train(traced(**chosen | schedules), 3)
    assert float(state.hyperparams["ridge"]) == np.float32(0.3)
    for got, again, wanted in zip(*map(jax.tree.leaves, (params, scheduled, expected)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(again, wanted, rtol=1e-4, atol=1e-6)


# Micro-batches, and batches that are not finite


@pytest.mark.parametrize("step", [lnb.Spectral(), lnb.Norm()])
@pytest.mark.parametrize("solver", [lnb.CG(), lnb.Cholesky(), lnb.LowRank(2), lnb.Diagonal()])
def test_joined_features_are_the_whole_batch_s(solver, step):
    optimizer = own(solver=solver, step=step)

    @jax.jit
    def update(*batches):
        _, grads, _ = NEURONS.value_and_grad(PARAMS, X)
        features = lnb.join_features(*(NEURONS.value_and_grad(PARAMS, x)[2] for x in batches))
        return optimizer.update(grads, optimizer.init(PARAMS), PARAMS, features=features)[0]

    expected, updates = update(X), update(X[:8], X[8:20], X[20:])
    for got, wanted in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_multi_steps_takes_the_joined_features_of_its_micro_batches():
    optimizer = own(solver=lnb.Cholesky(update_period=1))
    halves = X[:16], X[16:]
    multi = optax.MultiSteps(optimizer, 2)
    state, read = multi.init(PARAMS), []
    for x in halves:
        _, grads, features = NEURONS.value_and_grad(PARAMS, x)
        read.append(features)
        updates, state = multi.update(grads, state, PARAMS, features=lnb.join_features(*read))
    _, grads, features = NEURONS.value_and_grad(PARAMS, X)
    expected, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS, features=features)
    for got, wanted in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_features_that_cannot_be_joined_are_refused():
    features = NEURONS.value_and_grad(PARAMS, X)[2]
    other = lnb.find_neurons(lambda p, x: jnp.sum(x @ p), jnp.ones((6, 2)), X)
    with pytest.raises(ValueError, match="at least one batch"):
        lnb.join_features()
    with pytest.raises(TypeError, match=r"must come from `neurons\.value_and_grad`"):
        lnb.join_features(features, 3)
    with pytest.raises(ValueError, match="different networks"):
        lnb.join_features(features, other.value_and_grad(jnp.ones((6, 2)), X)[2])


def test_a_run_that_skips_many_batches_in_a_row_shows_it_in_the_loss():
    optimizer = own()
    _, grads, features = NEURONS.value_and_grad(PARAMS, X)
    bad = {**grads, "w": grads["w"].at[0, 0].set(jnp.nan)}
    update = jax.jit(lambda state, grads: optimizer.update(grads, state, PARAMS, features=features))
    state = optimizer.init(PARAMS)
    for k in range(MOST_SKIPPED_IN_A_ROW):
        updates, state = update(state, bad)
        assert int(state.skipped_in_a_row) == k + 1
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(updates))
    updates, told = update(state, bad)
    assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(updates))
    # A finite batch in time sets the count back.
    updates, state = update(state, grads)
    assert int(state.skipped_in_a_row) == 0
    assert int(told.skipped) == MOST_SKIPPED_IN_A_ROW + 1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(updates))


def test_an_array_may_stand_for_a_node_of_one_leaf():
    """As `nnx.Optimizer` has it: `init` gets variables, and `update` bare arrays."""
    boxed = {key: {"value": leaf} for key, leaf in PARAMS.items()}
    neurons = lnb.find_neurons(lambda p, x: loss_fn({key: p[key]["value"] for key in p}, x), boxed, X)
    optimizer = lnb.lnb(neurons, RATE)
    _, grads, features = neurons.value_and_grad(boxed, X)
    bare = {key: leaf["value"] for key, leaf in grads.items()}
    expected, _ = optimizer.update(grads, optimizer.init(boxed), boxed, features=features)
    updates, _ = optimizer.update(bare, optimizer.init(boxed), PARAMS, features=features)
    for key in PARAMS:
        np.testing.assert_array_equal(updates[key], expected[key]["value"])
