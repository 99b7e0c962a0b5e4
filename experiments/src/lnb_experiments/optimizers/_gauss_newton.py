"""Gauss-Newton's method with Levenberg and Marquardt's damping, over all parameters of a least-squares problem.

    loss(theta) = |r(theta)|^2 / n,   J = dr / dtheta
    (J^T J / n + damping I) delta = J^T r / n
    theta <- theta - delta, if that lowers the loss

The equation is solved by conjugate gradients, with J and J^T as functions; no matrix is formed. The damping follows how
much of the fall that the linear model predicts comes true: it is divided by 3 above three quarters and doubled below
one; a step that does not lower the loss is not taken.

Source: Nocedal and Wright (2006), Numerical optimization, section 10.3; Marquardt (1963).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.scipy.sparse.linalg import cg

from lnb_experiments._errors import ExperimentError

PyTree = Any
Residuals = Callable[[PyTree, PyTree], Array]

_GOOD, _POOR = 0.75, 0.25  # shares of the predicted fall that come true
_FEWER, _MORE = 1 / 3, 2.0  # what the damping is multiplied by then


@dataclass(frozen=True)
class GaussNewton:
    """Gauss-Newton with Levenberg and Marquardt's damping, for least-squares problems."""

    reads: ClassVar[str] = "residuals"

    learning_rate: float = 1.0
    """Part of the solution that a step goes."""
    steps: int = 100
    """Conjugate gradient iterations, at most."""
    tolerance: float = 1e-4
    """Residual of the equation at which the iterations end, relative to the gradient."""
    damping: float = 0.1
    """Added to the diagonal at first."""

    def build(self, residuals: Residuals) -> optax.GradientTransformationExtraArgs:
        """The transformation.

        Raises:
            ExperimentError: a setting is out of its range.
        """
        if not (self.learning_rate > 0 and self.steps >= 1 and self.tolerance >= 0 and self.damping > 0):
            raise ExperimentError(
                "`learning_rate` and `damping` of GaussNewton must be positive, `steps` at least 1 and `tolerance` "
                f"not negative, got {self}."
            )
        return _levenberg_marquardt(residuals, self)


class GaussNewtonState(NamedTuple):
    """The state that the next step starts from."""

    damping: Array  # scalar


def _levenberg_marquardt(residuals: Residuals, settings: GaussNewton) -> optax.GradientTransformationExtraArgs:
    def init(params: PyTree) -> GaussNewtonState:
        return GaussNewtonState(jnp.asarray(settings.damping, jax.tree.leaves(params)[0].dtype))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, *, batch: PyTree = None, **extra: Any
    ) -> tuple[PyTree, GaussNewtonState]:
        del extra
        residual, push = jax.linearize(lambda params: residuals(params, batch), params)
        pull, count = jax.linear_transpose(push, params), len(residual)

        def damped(vector: PyTree) -> PyTree:
            (pulled,) = pull(push(vector))
            return jax.tree.map(lambda p, v: p / count + state.damping * v, pulled, vector)

        gradient = jax.tree.map(lambda leaf: leaf / 2, updates)  # J^T r / n
        delta, _ = cg(damped, gradient, tol=settings.tolerance, maxiter=settings.steps)
        step = jax.tree.map(lambda leaf: -settings.learning_rate * leaf, delta)
        before = _mean_square(residual)
        predicted = before - _mean_square(residual + push(step))
        fall = before - _mean_square(residuals(optax.apply_updates(params, step), batch))
        taken = fall > 0
        share = fall / predicted
        factor = jnp.where(share > _GOOD, _FEWER, jnp.where(share > _POOR, 1.0, _MORE))
        damping = state.damping * jnp.where(taken, factor, _MORE).astype(state.damping.dtype)
        return jax.tree.map(lambda leaf: jnp.where(taken, leaf, 0), step), GaussNewtonState(damping)

    return optax.GradientTransformationExtraArgs(init, update)


def _mean_square(residual: Array) -> Array:
    return jnp.sum(jnp.square(residual)) / len(residual)
