"""Step rules: how far a step goes along the directions that the solvers give, one rule a file."""

from lnb.steps._norm import Norm as Norm
from lnb.steps._polyak import Polyak as Polyak
from lnb.steps._spectral import Spectral as Spectral
from lnb.steps._step import StepRule as StepRule
