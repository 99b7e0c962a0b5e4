"""The networks that the tests and the page of the documentation on coverage are made of, a row a case."""

from cases import control_flow, in_equinox, in_linen, in_nnx, plain
from cases._case import Call, Case, Layer, by_path, normal
from cases.complex_numbers import COMPLEX
from cases.reparametrised import REPARAMETRISED
from cases.uncovered import UNCOVERED

TABLES = {
    "Dense layers in plain JAX": plain.DENSE,
    "Convolutions in plain JAX": plain.CONVOLUTION,
    "Lookups": plain.LOOKUP,
    "Experts, of which each sample meets its own": plain.EXPERT,
    "Scales and shifts": plain.SCALE,
    "Weights that are computed from parameters": REPARAMETRISED,
    "Complex numbers": COMPLEX,
    "Parameters added to data, or put in its place": plain.IDENTITY,
    "Networks of several neurons": plain.NETWORKS,
    "Parameters used more than once": plain.SHARED,
    "Inside jit, checkpoint and custom derivatives": control_flow.JIT,
    "Loops": control_flow.LOOPS,
    "Loops of unknown length": control_flow.WHILE,
    "Branches": control_flow.BRANCHES,
    "Equinox": in_equinox.EQUINOX,
    "Flax NNX": in_nnx.NNX,
    "Flax Linen": in_linen.LINEN,
}
CASES = [case for table in TABLES.values() for case in table]

__all__ = ["CASES", "TABLES", "UNCOVERED", "Call", "Case", "Layer", "by_path", "normal"]
