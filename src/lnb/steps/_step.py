"""The interface of step rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax import Array

from lnb._neuron import Neuron
from lnb.solvers._solver import Solution

if TYPE_CHECKING:
    from jaxtyping import Float


class StepRule:
    """How far a step goes along the directions theta = M^-1 g that the solvers give.

    `lnb.lnb` calls `per_neuron` and `per_leaf`, and then multiplies the whole update by `whole`. A subclass overrides
    the methods that it needs; those of this class leave the directions as they are. A rule keeps no state, and must
    not be changed once an optimizer has been made with it.
    """

    def per_neuron(
        self, neuron: Neuron, solution: Solution, gradient: Float[Array, "g p o"]
    ) -> tuple[Float[Array, "g p o"], Float[Array, " g"]]:
        """Compute the step of one neuron.

        Args:
            neuron: the neuron, for its sizes.
            solution: its direction theta, and z = theta . g.
            gradient: g, p = i(+1).

        Returns:
            The step, and z.
        """
        del neuron, gradient
        return solution.direction, solution.squared_norm

    def per_leaf(self, gradient: Float[Array, "*leaf"]) -> Float[Array, "*leaf"]:
        """Compute the step of a parameter array that belongs to no neuron: its metric is the identity.

        Args:
            gradient: the gradient of the array, which is its direction too.

        Returns:
            The step.
        """
        return gradient

    def whole(self, squared_norm: Float[Array, ""], value: Any) -> Float[Array, ""] | None:
        """Compute the factor that multiplies the steps of all parameters together.

        Args:
            squared_norm: z = theta . g, summed over all parameters.
            value: the loss, or None if `update` was not given it.

        Returns:
            The factor, or None for 1.
        """
        del squared_norm, value
        return None

    def distance(self, rate: float | Float[Array, ""], directions: int) -> float | Float[Array, ""]:
        """How far a step moves a neuron's output along one direction, for the solvers' `drift`.

        Args:
            rate: the learning rate.
            directions: of all neurons' outputs together, the smaller sides of their weights [i, o] added up.

        Returns:
            The distance, or 0 where the learning rate does not tell it.
        """
        del rate, directions
        return 0.0
