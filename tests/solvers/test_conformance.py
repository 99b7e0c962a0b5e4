"""Every solver passes `lnb.testing`; one that does not keep the rules is told which it breaks; any class will do."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import normal
from lists import SOLVERS

import lnb
from lnb._solve_groups import plan_groups
from lnb.testing import check_solver

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
def test_the_librarys_solvers_conform(make):
    assert check_solver(make()) == ()


@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
def test_solvers_are_compared_and_printed_by_their_settings(make):
    assert make() == make()
    assert hash(make()) == hash(make())
    assert repr(make()).startswith(f"{make.__name__}(")


def test_the_package_exports_the_list():
    exported = {name for name in vars(lnb.solvers) if isinstance(vars(lnb.solvers)[name], type)}
    kinds = {k for k in exported if issubclass(vars(lnb.solvers)[k], lnb.solvers.SolverChoice)}
    assert kinds == {*SOLVERS, "Solver", "SolverChoice", "TiedExact"}
    assert all(getattr(lnb, name) is make for name, make in SOLVERS.items())


class Gradient(lnb.Solver):
    """Theta = g times a factor: not a dataclass, and not hashable by value."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def init(self, metric, dtype):
        return ()

    def update(self, metric, statistics, count):
        return statistics

    def solve(self, metric, statistics, gradient, warm_start):
        theta = self.factor * gradient
        return lnb.Solution(theta, (theta * gradient).sum((1, 2)), warm_start)


class OfList(Gradient):
    """Has a setting that cannot be hashed."""

    def __init__(self, factor=1.0):
        self.factors = [factor]

    @property
    def factor(self):
        return self.factors[0]


@dataclass
class NotFrozen(Gradient):
    """Equal by value, and so not hashable."""

    factor: float = 1.0


class Slotted(Gradient):
    """Its settings are in slots, beside the base class's dictionary."""

    __slots__ = ("factor",)


@pytest.mark.parametrize("make", [Gradient, OfList, NotFrozen, Slotted])
def test_a_solver_may_be_of_any_class(make):
    assert check_solver(make()) == ("tied", "general")
    params, x = {"a": jnp.asarray(normal(3, 3)), "b": jnp.asarray(normal(3, 2))}, jnp.asarray(normal(9, 3))
    neurons = lnb.find_neurons(lambda p, x: jnp.square(jnp.tanh(x @ p["a"]) @ p["b"]).mean(), params, x)
    _, grads, features = neurons.value_and_grad(params, x)
    for factor in (2.0, 3.0):
        transform = lnb.scale_by_lnb(neurons, solver=make(factor), step=lnb.StepRule())
        updates, _ = transform.update(grads, transform.init(params), params, features=features)
        np.testing.assert_allclose(updates["a"], factor * grads["a"], rtol=1e-6)


@pytest.mark.parametrize("make", [Gradient, NotFrozen])
def test_settings_of_any_class_may_be_traced(make):
    params, x = jnp.asarray(normal(3, 2), jnp.float32), jnp.asarray(normal(9, 3), jnp.float32)
    neurons = lnb.find_neurons(lambda w, x: jnp.square(jnp.tanh(x @ w)).mean(), params, x)
    _, grads, features = neurons.value_and_grad(params, x)

    def factory(factor):
        return lnb.scale_by_lnb(neurons, solver=make(factor), step=lnb.StepRule())

    traced = optax.inject_hyperparams(factory)(factor=lambda step: 2.0 + step.astype(float))
    state, update = traced.init(params), jax.jit(traced.update)
    for factor in (2.0, 3.0):
        updates, state = update(grads, state, params, features=features)
        np.testing.assert_allclose(updates, factor * grads, rtol=1e-6)


def tied_loss(params, x):
    return jnp.square(jnp.tanh(x @ params["w"]) @ params["w"].T).mean()


def test_a_solver_that_does_not_take_tied_weights_says_so():
    neurons = lnb.find_neurons(tied_loss, {"w": jnp.ones((3, 2))}, jnp.ones((4, 3)))
    with pytest.raises(
        ValueError, match=r"Gradient cannot solve the neuron \['w'\].*'tied'.*Gradient\.for_tied.*solver="
    ):
        lnb.lnb(neurons, 0.1, solver=Gradient())
    lnb.lnb(neurons, 0.1, solver=lambda neuron: lnb.CG() if neuron.kind == "tied" else Gradient())


def test_a_solver_that_takes_tied_weights_gets_them():
    class Everything(Gradient):
        def for_tied(self):
            return self

        for_general = for_tied

    assert check_solver(Everything()) == ()


def test_a_function_may_give_a_rule():
    neurons = lnb.find_neurons(tied_loss, {"w": jnp.ones((3, 2))}, jnp.ones((4, 3)))
    (group,) = plan_groups(neurons, neurons.sharing, lambda neuron: lnb.Auto(decay=0.5))
    assert group.solver.decay == 0.5


def test_tied_weights_take_the_settings_of_the_solver_that_hands_them_over():
    tied = lnb.Cholesky(update_period=3, decay=0.5, ridge=0.2, sample_fraction=0.5).for_tied()
    assert (tied.update_period, tied.decay, tied.ridge, tied.sample_fraction) == (3, 0.5, 0.2, 0.5)
    assert lnb.Diagonal(mean_decay=0.7).for_tied() == replace(
        lnb.CG().for_tied(), update_period=1, decay=0.7, max_inputs=0
    )
    assert lnb.Auto(update_period=7, decay=0.3).choose(
        lnb.find_neurons(tied_loss, {"w": jnp.ones((3, 2))}, jnp.ones((4, 3)))[0]
    ) == replace(
        tied, update_period=7, decay=0.3, ridge=0.1, ridge_unit="mean variance", sample_fraction=1.0, drift=10.0
    )


def broken(**methods):
    return type("Broken", (Gradient,), methods)()


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (broken(init=lambda self, metric, dtype: 0.0), "must be arrays"),
        (broken(init=lambda self, metric, dtype: jnp.zeros(3), update=lambda self, m, s, c: s[:2]), "after `update`"),
        (broken(solve=lambda self, m, s, g, w: lnb.Solution(g, (g * g).sum((1, 2)), jnp.zeros(3))), "a batch of 12"),
        (
            broken(solve=lambda self, m, s, g, w: lnb.Solution(g, 2 * (g * g).sum((1, 2)), w)),
            "the product of `direction`",
        ),
        (broken(solve=lambda self, m, s, g, w: lnb.Solution(-g, -(g * g).sum((1, 2)), w)), "does not fall along"),
        (broken(solve=lambda self, m, s, g, w: lnb.Solution(g[:, :1], (g * g).sum((1, 2)), w)), "`direction` is"),
        (broken(solve=lambda self, m, s, g, w: lnb.Solution(g / 0, (g * g).sum((1, 2)), w)), "not finite"),
        (broken(flops=lambda self, metric, outputs: (-1.0, 0.0)), "`flops`"),
    ],
)
def test_a_broken_solver_is_told_what_it_breaks(solver, words):
    with pytest.raises(AssertionError, match=words):
        check_solver(solver)


def test_what_is_no_solver_is_refused():
    with pytest.raises(TypeError, match=r"subclass of `lnb\.Solver`"):
        check_solver(3)
