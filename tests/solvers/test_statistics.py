"""Moving averages, and solving by whitening."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnb.solvers._low_rank import inverse_with_leading
from lnb.solvers._statistics import ema_update, ema_weight, fourth_moment_share, ridge_of, solve_whitened

pytestmark = pytest.mark.usefixtures("quick_compilation")


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


# Few shapes, since each is compiled: groups, inputs, outputs and the rank of what is not diagonal.
@pytest.mark.usefixtures("x64")
@given(
    st.integers(0, 2**31),
    st.sampled_from([(1, 1, 1, 1), (3, 1, 2, 1), (1, 6, 4, 2), (2, 5, 1, 2), (3, 4, 3, 3)]),
    st.booleans(),
)
def test_whitening_solves_with_the_dense_metric(seed, shape, has_bias):
    groups, inputs, outputs, rank = shape
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


def test_a_ridge_has_the_unit_that_it_is_given():
    variance = jnp.array([[1.0, 3.0, 8.0], [2.0, 0.0, 4.0]])
    assert ridge_of(0.5, "absolute", variance).tolist() == [[0.5], [0.5]]
    assert ridge_of(0.5, "mean variance", variance).tolist() == [[2.0], [1.0]]
    assert ridge_of(0.5, "variance", variance).tolist() == [[0.5, 1.5, 4.0], [1.0, 1.0, 2.0]]


def test_a_feature_that_has_not_varied_has_the_others_fourth_moment():
    """Of features whose fourth moments are 6, 0 and 12, and of others that are constant."""
    variance, square = jnp.array([[2.0, 0.0, 4.0], [0.0, 0.0, 0.0]]), jnp.array([[3.0, 1.0, 8.0], [1.0, 1.0, 1.0]])
    fourth = jnp.array([[6.0, 0.0, 12.0], [0.0, 0.0, 0.0]])
    assert fourth_moment_share(variance, square, fourth / square).tolist() == [[3.0, 3.0, 3.0], [0.0, 0.0, 0.0]]
