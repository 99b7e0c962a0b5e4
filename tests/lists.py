"""The solvers and the step rules of the library, once: tests of all of them take them from here."""

import lnb

SOLVERS = {
    "Auto": lnb.Auto,
    "CG": lnb.CG,
    "Cholesky": lnb.Cholesky,
    "Diagonal": lnb.Diagonal,
    "LowRank": lnb.LowRank,
}
"""By name, each made with its defaults when called without arguments."""


def solvers(**options):
    """All solvers by name, with options for some: `solvers(LowRank={"rank": 2})`."""
    return {name: make(**options.get(name, {})) for name, make in SOLVERS.items()}


STEPS = {"Norm": lnb.Norm, "Polyak": lnb.Polyak, "Spectral": lnb.Spectral}
"""By name, as above."""

RIDGE = {name: "min_ridge" if name == "Auto" else "ridge" for name in SOLVERS}
"""For each solver, the setting that is its ridge."""

DECAY = {name: "mean_decay" if name in ("CG", "Diagonal") else "decay" for name in SOLVERS}
"""For each solver, the setting that is the decay of its averages."""

RELATIVE = {name: {} if name == "Auto" else {"ridge_unit": "mean variance"} for name in SOLVERS}
"""For each solver, the settings with which its update does not depend on the features' scale."""
