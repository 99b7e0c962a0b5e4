"""The tasks that have one size: their batches, their neurons, their errors, and that LNB trains them."""

import dataclasses
from functools import cache, partial
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_larger_tasks import are_equal
from tiny_data import TEXT, photographs

import lnb
import lnb_experiments as ex
from lnb_experiments.data import _data
from lnb_experiments.tasks import (
    _autoencoder,
    _burgers,
    _character_decoder,
    _character_lstm,
    _diffusion,
    _fourier_operator,
    _graph_network,
    _mixture_of_experts,
    _poisson,
    _policy,
    _regression,
    _resnet,
)

pytestmark = pytest.mark.usefixtures("standard_promotion", "quick_compilation")


@cache
def blots(train=24, test=8):
    """Like `load_mnist`: two bright squares each."""
    random = np.random.default_rng(0)

    def split(count):
        images = np.zeros((count, 28, 28), np.float32)
        for image in images:
            for top, left in random.integers(0, 20, (2, 2)):
                image[top : top + 8, left : left + 8] = 1
        return _data.Split(images.reshape(count, -1), random.integers(0, 10, count).astype(np.int32))

    return _data.LabelledImages(split(train), split(test), 10)


_POINTS = {"hidden": (8,), "points": 20, "edge_points": 5}
_WINDOWS = {"context": 8, "batch_size": 6, "validation_windows": 4}

# For each task: what builds its problem from such data, and the settings that make it tiny.
TINY = {
    "autoencoder": (
        partial(_autoencoder.autoencoder, blots),
        {"hidden": (8,), "code": 4, "batch_size": 6, "validation_images": 5},
    ),
    "char-lstm": (
        partial(_character_lstm.character_lstm, lambda: TEXT),
        {"width": 8, "embedding": 6, **_WINDOWS},
    ),
    "char-decoder": (
        partial(_character_decoder.character_decoder, lambda: TEXT),
        {"width": 8, "heads": 2, "depth": 1, "hidden": 12, **_WINDOWS},
    ),
    "regression": (
        _regression.regression,
        {"features": 6, "hidden": (8,), "examples": 64, "validation_examples": 16, "batch_size": 16},
    ),
    "burgers": (_burgers.burgers, _POINTS),
    "poisson": (_poisson.poisson, _POINTS),
    "resnet-cifar10": (
        partial(_resnet.resnet, photographs),
        {"widths": (4, 6), "batch_size": 4, "training_images": 14, "validation_images": 6},
    ),
    "graph-network": (
        _graph_network.graph_network,
        {"nodes": 5, "edges": 3, "width": 8, "rounds": 1, "batch_size": 4, "validation_graphs": 3},
    ),
    "diffusion": (
        partial(_diffusion.diffusion, blots),
        {"width": 4, "time_width": 6, "batch_size": 6, "validation_images": 5},
    ),
    "policy": (_policy.policy, {"hidden": (8,), "batch_size": 6, "steps": 5}),
    "mixture-of-experts": (
        _mixture_of_experts.mixture_of_experts,
        {"clusters": 3, "width": 8, "experts": 3, "hidden": 6, "batch_size": 24, "validation_examples": 16},
    ),
    "fourier-operator": (
        _fourier_operator.fourier_operator,
        {
            "points": 16,
            "width": 4,
            "modes": 3,
            "depth": 1,
            "examples": 12,
            "validation_examples": 5,
            "batch_size": 4,
        },
    ),
}


@cache
def tiny(name, seed=0):
    """The task's problem at a size for tests; the same one if asked for again."""
    return changed(name, seed)


def changed(name, seed=0, **settings):
    """The same with some other settings, made anew."""
    build, sizes = TINY[name]
    scale = ex.find_task(name).at("cpu")
    return build(dataclasses.replace(scale.settings, **{**sizes, **settings}), seed)


def test_every_task_of_one_size_is_tested():
    one_size = {name for name, task in ex.TASKS.items() if set(task.scales) == {"cpu"}}
    assert one_size == {*TINY, "digits", "digits-inverted"}


@pytest.mark.parametrize("name", TINY)
def test_batches_depend_on_seed_epoch_and_number_alone(name):
    problem = tiny(name)
    first = list(problem.batches(0, 0))
    assert len(first) == problem.steps_per_epoch > 2
    assert all(map(are_equal, first, changed(name).batches(0, 0)))
    for start in (1, len(first) - 1, len(first)):
        rest = list(problem.batches(0, start))
        assert len(rest) == len(first) - start
        assert all(map(are_equal, first[start:], rest))
    for others in (problem.batches(1, 0), tiny(name, seed=1).batches(0, 0)):
        assert not any(map(are_equal, first, others))


@pytest.mark.parametrize("name", TINY)
def test_lnb_covers_every_parameter_and_trains(name):
    problem, task = tiny(name), ex.find_task(name)
    neurons = lnb.find_neurons(problem.loss_fn, problem.params, next(problem.batches(0, 0)), strict=True)
    assert neurons.coverage == 1
    run = ex.train(problem, ex.LNB(weight_decay=0.0), epochs=3, evaluate_every=8)
    records = list(islice(run, 3))
    assert all(record.finite for record in records)
    # What a policy sees changes with it, so its loss is no measure of it.
    assert records[-1].loss < records[0].loss or name == "policy"
    assert {task.selection, task.target.metric} <= set(records[0].metrics)
    assert problem.evaluate(problem.params) == records[0].metrics
    # Every gradient was finite, and none was zero throughout.
    for (path, before), after in zip(
        jax.tree_util.tree_leaves_with_path(problem.params), jax.tree.leaves(run.progress.params), strict=True
    ):
        assert np.isfinite(after).all(), path
        assert not np.array_equal(before, after), path


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("autoencoder", {"code": 0}, "`hidden` and `code` must be positive"),
        ("autoencoder", {"validation_images": 9}, "`validation_images` must be from 1 to 8, got 9"),
        ("char-lstm", {"width": 0}, "`width` and `embedding` must be positive"),
        ("char-lstm", {"context": 0}, "`context` and `batch_size` must be positive"),
        ("char-lstm", {"validation_windows": 75}, "`validation_windows` must be from 1 to 74"),
        ("char-decoder", {"heads": 8}, "`width` an even multiple of `heads`"),
        ("regression", {"hidden": (0,)}, "sizes must be positive"),
        ("regression", {"smallest_scale": 1e3}, "`smallest_scale` must be positive and at most"),
        ("regression", {"noise": -1.0}, "`noise` must not be negative"),
        ("regression", {"batch_size": 65}, "`batch_size` must be from 1 to"),
        ("burgers", {"points": 0}, "sizes must be positive"),
        ("burgers", {"viscosity": 0.0}, "`viscosity` must be positive"),
        ("poisson", {"boundary_weight": -1.0}, "`boundary_weight` not negative"),
        ("resnet-cifar10", {"widths": ()}, "`widths` and `blocks` must be positive"),
        ("resnet-cifar10", {"training_images": 15}, "`training_images` must be from 1 to 14, got 15"),
        ("resnet-cifar10", {"validation_images": 9}, "`validation_images` must be from 1 to 8, got 9"),
        ("graph-network", {"nodes": 1}, "`nodes` at least 2"),
        ("diffusion", {"width": 6}, "`width` must be a multiple of 4"),
        ("diffusion", {"validation_images": 9}, "`validation_images` must be from 1 to 8, got 9"),
        ("policy", {"steps": 0}, "sizes must be positive"),
        ("policy", {"discount": 1.0}, "`discount` must be from 0 to below 1"),
        ("policy", {"entropy_weight": -1.0}, "weights must not be negative"),
        ("mixture-of-experts", {"experts": 0}, "sizes must be positive"),
        ("mixture-of-experts", {"chosen": 4}, "`chosen` must be from 1 to `experts`, 3, got 4"),
        ("mixture-of-experts", {"capacity": 0.0}, "`capacity` must be positive"),
        ("fourier-operator", {"depth": 0}, "sizes and `viscosity` must be positive"),
        ("fourier-operator", {"points": 15}, "`points` must be even and at least three times `waves`"),
        ("fourier-operator", {"modes": 10}, "`modes` must be from 1 to 9, got 10"),
    ],
)
def test_bad_requests_say_what_is_wrong(name, settings, message):
    with pytest.raises(ex.ExperimentError, match=message):
        changed(name, **settings)


def test_predictions_of_the_decoder_and_the_lstm_see_no_later_character():
    apply = {
        "char-decoder": lambda params, characters: _character_decoder.apply_decoder(params, characters, heads=2),
        "char-lstm": _character_lstm.apply_lstm,
    }
    characters = jax.random.randint(jax.random.key(1), (2, 8), 0, 9)
    for name, function in apply.items():
        run = jax.jit(function)
        before, after = (run(tiny(name).params, each) for each in (characters, characters.at[:, 5].add(1) % 9))
        np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
        assert not np.allclose(before[:, 5:], after[:, 5:], atol=1e-6)


def test_rotated_scores_depend_on_distances_alone():
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (2, 8)), (6, 2, 8))  # the same at each place
    turned = np.asarray(_character_decoder._rotate(x[None]))[0, :, 0]  # [t, c]
    scores = turned @ turned.T
    np.testing.assert_allclose(scores[:-1, :-1], scores[1:, 1:], rtol=1e-5, atol=1e-5)
    assert not np.allclose(scores[0], scores[0, 0])


def test_solutions_of_burgers_equation_obey_it():
    viscosity, step = 0.05, 1e-4
    t, x = np.meshgrid([0.2, 0.6], np.linspace(-0.9, 0.9, 7), indexing="ij")
    u = lambda t, x: _burgers.exact_solution(t, x, viscosity)  # noqa: E731
    u_t = (u(t + step, x) - u(t - step, x)) / (2 * step)
    u_x = (u(t, x + step) - u(t, x - step)) / (2 * step)
    u_xx = (u(t, x + step) - 2 * u(t, x) + u(t, x - step)) / step**2
    np.testing.assert_allclose(u_t + u(t, x) * u_x, viscosity * u_xx, atol=1e-5)
    np.testing.assert_allclose(u(np.full(7, 1e-6), x[0]), -np.sin(np.pi * x[0]), atol=1e-4)


def test_the_spectral_solution_of_burgers_equation_is_the_exact_one():
    # With y = pi x, u(t, x) = v(pi t, y) solves v_s + v v_y = nu pi v_yy.
    y = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    solution = _fourier_operator.solve_burgers(-np.sin(y)[None], viscosity=0.1, time=0.5)[0]
    x = (y / np.pi + 1) % 2 - 1
    exact = _burgers.exact_solution(np.full_like(x, 0.5 / np.pi), x, 0.1 / np.pi)
    np.testing.assert_allclose(solution, exact, atol=1e-6)


def test_the_exact_network_solves_poissons_equation():
    points = np.random.default_rng(0).random((5, 2))
    step, u = 1e-4, lambda points: _poisson._waves(points, lambda m, n: 1.0)
    moved = [u(points + sign * step * axis) for axis in np.eye(2) for sign in (-1, 1)]
    laplacian = (sum(moved) - 4 * u(points)) / step**2
    force = _poisson._waves(points, lambda m, n: np.pi**2 * (m**2 + n**2))
    np.testing.assert_allclose(-laplacian, force, atol=1e-4)


def test_distances_in_graphs_are_the_shortest():
    settings = _graph_network.GraphNetworkSettings(nodes=6, edges=4)
    graphs = _graph_network.draw_graphs(jax.random.key(3), 3, settings)
    lengths = np.full((18, 18), np.inf)
    np.minimum.at(lengths, (np.asarray(graphs.senders), np.asarray(graphs.receivers)), np.asarray(graphs.lengths))
    np.fill_diagonal(lengths, 0)
    for middle in range(18):  # Floyd and Warshall's algorithm
        lengths = np.minimum(lengths, lengths[:, [middle]] + lengths[[middle]])
    sources = np.flatnonzero(graphs.is_source)
    assert sources.tolist() == sorted(sources)
    assert (sources // 6).tolist() == [0, 1, 2]
    np.testing.assert_allclose(graphs.distances, lengths[sources].min(axis=0), rtol=1e-5)


def test_evaluation_of_the_residual_network_uses_the_statistics_of_its_batch():
    params = tiny("resnet-cifar10").params
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    apply = jax.jit(_resnet.apply_resnet)
    alone, together = (apply(params, each) for each in (images[:2], images))
    assert not np.allclose(alone, together[:2], atol=1e-3)


def test_experts_drop_what_is_beyond_their_capacity():
    choice = jax.nn.one_hot(jnp.asarray([[0], [0], [0], [1]]), 2)  # [n, k, e]
    slots = np.asarray(_mixture_of_experts._slots(choice, capacity=1.0))  # two examples an expert
    assert slots[:, 0].tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]


def test_pendulums_fall_and_an_exact_value_leaves_no_advantage():
    starts = jnp.asarray([[1e-3, 0.0], [jnp.pi, 0.0]])  # upright, hanging
    policy = tiny("policy").params.policy
    keys = jax.random.split(jax.random.key(0), 60)
    idle = lambda logits, key: jnp.ones(logits.shape[:-1], int)  # noqa: E731
    rollout = _policy._roll_out(idle, policy, _policy.Batch(starts, keys))
    upright, hanging = np.abs(rollout.states[..., 0]).T
    assert upright[0] == pytest.approx(1e-3)
    assert upright.max() > 3
    np.testing.assert_allclose(hanging, np.pi, rtol=1e-3)
    np.testing.assert_allclose(rollout.rewards[:, 1], -(np.pi**2) / 10, rtol=1e-3)
    np.testing.assert_allclose(_policy.advantages(jnp.ones((4, 1)), jnp.full((5, 1), 2.0), 0.5, 0.9), 0, atol=1e-6)


def test_the_actions_are_those_of_the_policy_that_learns():
    problem = tiny("policy")
    batch = next(problem.batches(0, 0))
    moved = problem.params._replace(policy=jax.tree.map(lambda leaf: leaf + 1, problem.params.policy))
    draw = lambda logits, key: jax.random.categorical(key, logits)  # noqa: E731
    rollouts = [_policy._roll_out(draw, each.policy, batch) for each in (problem.params, moved)]
    assert not np.array_equal(rollouts[0].actions, rollouts[1].actions)
