"""Linear neuron boosting: train neural networks in JAX with each linear function's features whitened."""

from lnb._neuron import Features as Features
from lnb._neuron import Neuron as Neuron
from lnb._neuron import join_features as join_features
from lnb._neurons import Neurons as Neurons
from lnb._neurons import find_neurons as find_neurons
from lnb._solvers import CG as CG
from lnb._solvers import Auto as Auto
from lnb._solvers import Cholesky as Cholesky
from lnb._solvers import Diagonal as Diagonal
from lnb._solvers import LowRank as LowRank
from lnb._solvers import Solver as Solver
from lnb._solvers import auto as auto
from lnb._transform import lnb as lnb
from lnb._transform import scale_by_lnb as scale_by_lnb
from lnb._version import __version__ as __version__
