"""Which solver each neuron gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lnb._neuron import Neuron
from lnb.solvers._solver import Solver, SolverChoice, split_settings

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


def group_neurons(
    neurons: Sequence[Neuron], sharing: Sequence[int], choice: AnySolverChoice
) -> list[tuple[Solver, list[Neuron]]]:
    """Group the neurons that have a metric by the features that they read and by their solver.

    Args:
        neurons: all that are trained.
        sharing: for every neuron that was found, the first that reads the same features.
        choice: as in `solver_of`.
    """
    rows: dict[Any, tuple[Solver, list[Neuron]]] = {}
    for neuron in neurons:
        if neuron.features is None:
            continue
        solver = solver_of(neuron, choice)
        key, arrays = split_settings(solver)
        same_arrays = tuple((name, id(array)) for name, array in arrays.items())
        alike = (key, same_arrays, sharing[neuron.index], neuron.has_bias)
        rows.setdefault(alike, (solver, []))[1].append(neuron)
    return list(rows.values())
