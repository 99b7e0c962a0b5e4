"""JAX programs as numbered values: the only package that touches how JAX represents a traced function."""

from lnb._program._equation import Equation as Equation
from lnb._program._equation import Value as Value
from lnb._program._jax import NotUnderstoodError as NotUnderstoodError
from lnb._program._jax import axes_in_scope as axes_in_scope
from lnb._program._jax import ragged_dot_of as ragged_dot_of
from lnb._program._jax import scan_of as scan_of
from lnb._program._jax import shard_map_of as shard_map_of
from lnb._program._jax import unlisted as unlisted
from lnb._program._jax import varying_axes as varying_axes
from lnb._program._jax import while_of as while_of
from lnb._program._linearity import is_differentiable_in as is_differentiable_in
from lnb._program._linearity import is_linear_in as is_linear_in
from lnb._program._program import Program as Program
from lnb._program._program import read_program as read_program
from lnb._program._program import trace as trace
from lnb._program._recorder import Recorder as Recorder
from lnb._program._recorder import RegionRecord as RegionRecord
from lnb._program._recorder import RegionRule as RegionRule
from lnb._program._slice import Slice as Slice
