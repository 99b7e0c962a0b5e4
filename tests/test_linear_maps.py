"""What the table of cases does not check of the kinds' statistics."""

import numpy as np
from cases import CASES

import lnb


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
