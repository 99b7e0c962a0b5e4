"""Inverses of positive definite matrices, and how they are computed on the CPU."""

import re
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal
from hypothesis import given
from hypothesis import strategies as st
from solver_runs import deep

import lnb
from lnb.solvers import _inverse

pytestmark = pytest.mark.usefixtures("quick_compilation")


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


# Few shapes, since each is compiled.
@pytest.mark.usefixtures("x64")
@given(st.integers(0, 2**31), st.sampled_from([(1, 1), (3, 2), (2, 16), (1, 17), (3, 64), (1, 99), (1, 193), (2, 300)]))
def test_a_positive_definite_matrix_is_inverted(seed, shape):
    groups, size = shape
    random = np.random.default_rng(seed)
    x = random.standard_normal((groups, size + 3, size)) * np.geomspace(1, 10, size)
    matrix = np.einsum("gni,gnj->gij", x, x) + 0.1 * np.eye(size)
    inverse = np.linalg.inv(matrix)
    for invert in (_inverse.sweep_inverse, _inverse.cholesky_inverse):
        np.testing.assert_allclose(invert(jnp.asarray(matrix)), inverse, rtol=0, atol=1e-9 * np.abs(inverse).max())
