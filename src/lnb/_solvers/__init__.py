"""Solvers of M theta = g, one algorithm a file."""

from lnb._solvers._auto import Auto as Auto
from lnb._solvers._auto import auto as auto
from lnb._solvers._cg import CG as CG
from lnb._solvers._cholesky import Cholesky as Cholesky
from lnb._solvers._diagonal import Diagonal as Diagonal
from lnb._solvers._low_rank import LowRank as LowRank
from lnb._solvers._solver import AnyFeatureSet as AnyFeatureSet
from lnb._solvers._solver import Solution as Solution
from lnb._solvers._solver import Solver as Solver
from lnb._solvers._solver import settings_of as settings_of
from lnb._solvers._solver import with_settings as with_settings
from lnb._solvers._sylvester import Sylvester as Sylvester
