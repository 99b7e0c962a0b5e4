"""What the table of cases does not check of the kinds' statistics."""

from math import prod

import jax.numpy as jnp
import numpy as np
from cases import CASES, normal
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import lnb
from lnb._features import ConvolutionFeatures
from lnb._features._convolution import convolution_gram
from lnb._numerics import gram_of


def test_a_convolutions_moments_are_of_its_channels(x64):
    case = next(case for case in CASES if case.name == "2-D, two groups")
    params, (x,) = case.inputs()
    neurons = lnb.find_neurons(case.loss_fn, params, x)
    _, _, features = neurons.value_and_grad(params, x)
    mean, square = neurons[0].moments(features)
    channels = x.mean((0, 1, 2)).reshape(2, 2)
    np.testing.assert_allclose(mean.reshape(2, 2, 4), np.repeat(channels[:, :, None], 4, axis=2), rtol=1e-12)
    channels = (x**2).mean((0, 1, 2)).reshape(2, 2)
    np.testing.assert_allclose(square.reshape(2, 2, 4), np.repeat(channels[:, :, None], 4, axis=2), rtol=1e-12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    spread=st.integers(1, 2),
    padding=st.integers(-1, 2),
    size=st.integers(1, 6),
)
def test_gram_matrix_of_a_convolution_needs_no_patches(
    x64, quick_compilation, kernel, stride, dilation, spread, padding, size
):
    """By shifted products and by the patches themselves, for every geometry that has an output."""
    rank = len(kernel)
    length = spread * (size - 1) + 1 + 2 * padding
    assume(all(length > dilation * (k - 1) for k in kernel))
    features = ConvolutionFeatures(
        strides=(stride,) * rank,
        padding=((padding, padding),) * rank,
        input_dilation=(spread,) * rank,
        kernel_dilation=(dilation,) * rank,
        groups=1,
        input_layout=tuple(range(rank + 2)),
        kernel_size=tuple(kernel),
        channels=2,
    )
    x = jnp.asarray(normal(3, 2, *(size,) * rank))
    patches = features.matrix(x)
    convolved = features.forward(x, jnp.asarray(normal(1, 2 * prod(kernel), 2)))
    assert patches.shape[1] == convolved.shape[1]
    padded = features._padded(x)
    shifted = convolution_gram(padded, kernel, (stride,) * rank, (dilation,) * rank)
    for got, plain, wanted in zip(shifted, features.gram(x), gram_of(patches), strict=True):
        np.testing.assert_allclose(got[None], wanted, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(plain, wanted, rtol=1e-10, atol=1e-10)
