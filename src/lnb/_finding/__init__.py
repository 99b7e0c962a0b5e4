"""How the neurons of a traced loss are found; the only part of the library that knows operations by name."""

from lnb._finding._plan import Plan as Plan
from lnb._finding._plan import plan as plan
