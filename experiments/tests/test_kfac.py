"""The K-FAC baseline; all but the first test need an environment of its own, `make test-kfac`."""

from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lnb_experiments as ex

HAS_KFAC = jax.__version_info__ < (0, 9, 2) and find_spec("kfac_jax") is not None
needs_kfac = pytest.mark.skipif(
    not HAS_KFAC, reason="kfac-jax is not installed here, or does not run on this JAX: `make test-kfac` has both"
)
pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.mark.skipif(HAS_KFAC, reason="kfac-jax runs here")
def test_an_environment_without_kfac_jax_is_an_error_that_says_what_to_install():
    task = ex.TASKS["digits"]
    problem = task.build(task.at("cpu").settings, 0)
    with pytest.raises(ex.ExperimentError, match=r"lnb-experiments\[kfac\]"):
        ex.train(problem, ex.KFAC(), epochs=1, evaluate_every=1)


def one_layer(x, labels):
    """A problem of one layer and one batch."""

    def logits(params, batch):
        return batch[0] @ params["weight"] + params["bias"], None

    def loss_fn(params, batch):
        log = jax.nn.log_softmax(logits(params, batch)[0])
        return -jnp.mean(jnp.take_along_axis(log, batch[1][:, None], axis=1))

    params = {"weight": 0.1 * jnp.ones((x.shape[1], 3)), "bias": jnp.zeros(3)}
    batch = (jnp.asarray(x), jnp.asarray(labels))
    return ex.Problem(params, loss_fn, lambda epoch, start: iter([batch][start:]), 1, lambda params: {}, logits=logits)


@needs_kfac
def test_a_step_whitens_the_layer_s_input():
    """With one Kronecker factor, the input's, near exact and little damping, the direction is A^-1 g C for some C."""
    random = np.random.default_rng(0)
    x = (random.standard_normal((500, 4)) * [1, 3, 0.5, 2] + [0, 2, 0, 1]).astype(np.float32)
    problem = one_layer(x, random.integers(0, 3, 500))
    (batch,) = problem.batches(0, 0)
    settings = ex.KFAC(1.0, momentum=0.0, damping=1e-6, norm_constraint=None, every=1)
    optimizer = settings.build(ex.Classifier(problem.logits, batch))
    grads = jax.grad(problem.loss_fn)(problem.params, batch)
    step, _ = optimizer.update(grads, optimizer.init(problem.params), problem.params, batch=batch)
    joined, gradient = (np.concatenate([t["weight"], t["bias"][None]]) for t in (step, grads))
    extended = np.concatenate([x, np.ones((500, 1))], axis=1)
    whitened = np.linalg.solve(extended.T @ extended / 500, gradient)
    # Both have the columns' span in common: a factor on the right turns one into the other.
    turned = whitened @ np.linalg.lstsq(whitened, joined, rcond=None)[0]
    np.testing.assert_allclose(turned, joined, atol=0.02 * np.abs(joined).max())


@needs_kfac
def test_it_trains_digits():
    task = ex.TASKS["digits"]
    problem = task.build(task.at("cpu").settings, 0)
    first, last = ex.train(problem, ex.KFAC(1.0), epochs=2, evaluate_every=1000)
    assert last.metrics["accuracy"] > 0.9 > first.metrics["accuracy"]
    assert last.finite


@needs_kfac
def test_a_network_of_which_it_recognises_no_layer_is_an_error():
    x = np.ones((8, 4), np.float32)
    problem = one_layer(x, np.zeros(8, int))
    problem = ex.Problem(
        problem.params,
        problem.loss_fn,
        problem.batches,
        1,
        problem.evaluate,
        logits=lambda params, batch: (jnp.tanh(params["weight"]).sum(0) * batch[0][:, :3] + params["bias"] ** 2, None),
    )
    with pytest.raises(ex.ExperimentError, match="recognises none"):
        list(ex.train(problem, ex.KFAC(), epochs=1, evaluate_every=1))
