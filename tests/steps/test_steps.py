"""Every step rule passes `lnb.testing`, and says what it refuses."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from lists import STEPS

import lnb
from lnb.testing import check_step

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)
def test_the_librarys_steps_conform(make):
    check_step(make())


@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)
def test_steps_are_compared_and_printed_by_their_settings(make):
    assert make() == make()
    assert repr(make()).startswith(f"{make.__name__}(")


def test_the_package_exports_the_list():
    exported = {name for name, value in vars(lnb.steps).items() if isinstance(value, type)}
    assert exported == {*STEPS, "StepRule"}
    assert all(getattr(lnb, name) is make for name, make in STEPS.items())


@pytest.mark.parametrize("make", [lnb.Norm, lnb.Polyak])
def test_bad_settings_are_named(make):
    with pytest.raises(ValueError, match=f"`min_norm` of {make.__name__} must be at least 0"):
        make(min_norm=-1.0)
    with pytest.raises(TypeError, match="must be a number"):
        make(min_norm="1")


@pytest.mark.parametrize("make", [lnb.Norm, lnb.Polyak])
def test_settings_may_be_scheduled(make):
    params, x = jnp.asarray(normal(3, 2), jnp.float32), jnp.asarray(normal(9, 3), jnp.float32)
    neurons = lnb.find_neurons(lambda w, x: jnp.square(jnp.tanh(x @ w)).mean(), params, x)
    loss, grads, features = neurons.value_and_grad(params, x)

    def factory(min_norm):
        return lnb.scale_by_lnb(neurons, solver=lnb.Cholesky(), step=make(min_norm))  # its ridge stays

    scheduled = optax.inject_hyperparams(factory)(min_norm=lambda step: 100.0 * (step.astype(float) + 1))
    state, lengths = scheduled.init(params), []
    for _ in range(2):
        updates, state = scheduled.update(grads, state, params, features=features, value=loss)
        lengths.append(float(jnp.linalg.norm(updates)))
    # Below `min_norm` the step shrinks with it, or with its square.
    np.testing.assert_allclose(lengths[0] / lengths[1], {lnb.Norm: 2, lnb.Polyak: 4}[make], rtol=0.2)


def test_a_broken_step_is_told_what_it_breaks():
    class Uphill(lnb.StepRule):
        def per_neuron(self, neuron, solution, gradient):
            return -solution.direction, solution.squared_norm

    with pytest.raises(AssertionError, match="the loss does not fall"):
        check_step(Uphill())


@pytest.mark.parametrize(("step", "distance"), [(lnb.Spectral(), 0.3), (lnb.Norm(), 0.3 / 5), (lnb.Polyak(), 0.0)])
def test_a_rule_tells_how_far_it_moves_outputs(step, distance):
    """A step of the rule's length over 25 directions, shared out equally."""
    assert step.distance(0.3, 25) == pytest.approx(distance)
