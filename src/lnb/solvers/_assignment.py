"""Which solver each neuron gets."""

from __future__ import annotations

from collections.abc import Callable

from lnb._neuron import Neuron
from lnb.solvers._solver import Solver, SolverChoice

AnySolverChoice = SolverChoice | Callable[[Neuron], SolverChoice]


def solver_of(neuron: Neuron, choice: AnySolverChoice) -> Solver:
    """Choose the solver of a neuron that has a metric.

    Args:
        neuron: the neuron.
        choice: a solver, a rule such as `lnb.Auto()`, or a function from neurons to these.

    Raises:
        TypeError: `choice` is none of these.
        ValueError: it has no solver for this neuron's metric.
    """
    chosen = choice
    if not isinstance(choice, SolverChoice) and not isinstance(choice, type) and callable(choice):
        chosen = choice(neuron)
    if isinstance(chosen, SolverChoice):
        solver = chosen.choose(neuron)
        if isinstance(solver, Solver):
            return solver
        chosen = solver
    got = f"the class {chosen.__name__}" if isinstance(chosen, type) else type(chosen).__name__
    raise TypeError(
        "`solver` must be a solver such as `lnb.CG()`, or a function that gives one for a neuron, "
        f"got {got}{'' if chosen is choice else ' for ' + neuron.name}."
    )
