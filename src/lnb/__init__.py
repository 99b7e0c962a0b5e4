"""Linear neuron boosting: train neural networks in JAX with each linear function's features whitened."""

from lnb._batch import Features as Features
from lnb._batch import join_features as join_features
from lnb._metric import Metric as Metric
from lnb._neuron import Neuron as Neuron
from lnb._neurons import Neurons as Neurons
from lnb._neurons import find_neurons as find_neurons
from lnb._sharding import state_sharding as state_sharding
from lnb._transform import lnb as lnb
from lnb._transform import scale_by_lnb as scale_by_lnb
from lnb._version import __version__ as __version__
from lnb.solvers import CG as CG
from lnb.solvers import Auto as Auto
from lnb.solvers import Cholesky as Cholesky
from lnb.solvers import Diagonal as Diagonal
from lnb.solvers import LowRank as LowRank
from lnb.solvers import Solution as Solution
from lnb.solvers import Solver as Solver
from lnb.steps import Norm as Norm
from lnb.steps import Polyak as Polyak
from lnb.steps import Spectral as Spectral
from lnb.steps import StepRule as StepRule
