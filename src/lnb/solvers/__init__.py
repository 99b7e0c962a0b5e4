"""Solvers of M theta = g, one algorithm a file."""

from lnb._metric import GramMetric as GramMetric
from lnb._metric import Metric as Metric
from lnb._metric import TiedMetric as TiedMetric
from lnb.solvers._auto import Auto as Auto
from lnb.solvers._cg import CG as CG
from lnb.solvers._cholesky import Cholesky as Cholesky
from lnb.solvers._diagonal import Diagonal as Diagonal
from lnb.solvers._low_rank import LowRank as LowRank
from lnb.solvers._solver import Solution as Solution
from lnb.solvers._solver import Solver as Solver
from lnb.solvers._solver import SolverChoice as SolverChoice
from lnb.solvers._tied import TiedExact as TiedExact
