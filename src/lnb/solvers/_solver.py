"""The interface of solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from jax import Array

from lnb._metric import metric_of
from lnb._neuron import Neuron

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Solution(NamedTuple):
    """A solver's answer to a neuron's gradient."""

    direction: Float[Array, "g p o"]  # theta
    squared_norm: Float[Array, " g"]  # theta . g
    warm_start: Any  # for the neuron's next solve


class SolverChoice:
    """A solver for each neuron: a `Solver` itself, or a rule such as `lnb.Auto` that chooses among solvers."""

    def choose(self, neuron: Neuron) -> Solver:
        """Choose the solver of a neuron that has a metric.

        Raises:
            ValueError: there is none for this neuron.
        """
        raise NotImplementedError


class Solver(SolverChoice):
    """Solves (M + ridge) theta = g for a neuron, with the ridge on the weights and not on the bias (section 3.4).

    A subclass writes `init`, `update` and `solve`, and overrides what else differs from the defaults. Statistics belong
    to a metric, and are shared by the neurons that read the same features. A warm start belongs to one neuron. Both are
    pytrees of arrays whose shapes follow from the metric and the settings alone.

    A metric's structure is "gram", "tied" or "general" (see `lnb.Metric`), and a Gram matrix may be diagonal
    (`metric.is_diagonal`), in which case `metric.gram()` is its diagonal. `for_gram`, `for_tied` and `for_general` say
    which solver takes on which structure; by default a solver takes on "gram" alone.

    A solver must not be changed once an optimizer has been made with it. Settings that are arrays may be traced, so
    that `optax.inject_hyperparams` can schedule them.
    """

    update_period: int = 1
    """Steps from one `update` of the statistics to the next."""

    def init(self, metric: Any, dtype: Any) -> Any:
        """Make the statistics before the first batch.

        Args:
            metric: sizes only.
            dtype: the type of statistics.

        Returns:
            A pytree of arrays, each an array of its own so that the state can be donated.
        """
        raise NotImplementedError

    def update(self, metric: Any, statistics: Any, count: Int[Array, ""]) -> Any:
        """Take one more batch into the statistics.

        Args:
            metric: of this batch.
            statistics: those before.
            count: the number of batches that they hold with this one.
        """
        raise NotImplementedError

    def init_warm_start(self, shape: tuple[int, int, int], dtype: Any) -> Any:
        """Make what one neuron's first solve starts from, a pytree of arrays; by default nothing.

        Args:
            shape: of the neuron's packed parameters [g, i(+1), o].
            dtype: the type of statistics.
        """
        del shape, dtype
        return ()

    def solve(self, metric: Any, statistics: Any, gradient: Float[Array, "g p o"], warm_start: Any) -> Solution:
        """Solve for one neuron's direction.

        Args:
            metric: of this batch.
            statistics: with this batch in them, if they are updated at this step.
            gradient: g, p = i(+1): the weights, and the bias in the last row.
            warm_start: from this neuron's last `Solution`.
        """
        raise NotImplementedError

    def flops(self, metric: Any, outputs: int) -> tuple[float, float]:
        """Estimate the floating-point operations of one `update` and of one `solve`.

        `print(neurons)` shows them, and updates that happen every few steps are spread so that steps cost alike.
        """
        return 2.0 * metric.groups * metric.samples * metric.inputs, 2.0 * metric.groups * metric.inputs * outputs

    def for_gram(self) -> Solver | None:
        """The solver for a metric of structure "gram"; None if there is none."""
        return self

    def for_tied(self) -> Solver | None:
        """The solver for a metric of structure "tied"; None if there is none."""
        return None

    def for_general(self) -> Solver | None:
        """The solver for a metric of structure "general"; None if there is none."""
        return None

    def choose(self, neuron: Neuron) -> Solver:
        """The solver for the structure of this neuron's metric.

        Raises:
            ValueError: this solver has none.
        """
        assert neuron.features is not None
        structure = metric_of(neuron.features).structure
        solver = {"gram": self.for_gram, "tied": self.for_tied, "general": self.for_general}[structure]()
        if solver is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} cannot solve the neuron {neuron.name}, whose metric is of structure {structure!r}: override "
                f"`{name}.for_{structure}`, or choose another solver for it, as in "
                f"`solver=lambda neuron: lnb.CG() if neuron.kind == {neuron.kind!r} else {name}(...)`."
            )
        return solver
