"""The settings that each optimizer starts from on each task.

Learning rates on MNIST, with one hidden layer, and the larger tasks, at the scale of a CPU, are those that sweeps with
a linear decay picked (`results/`); Adam has AdamW's, and LNB's forms have that of `lnb`. On digits and the
factorization they are the best on seed 0 of a grid, two or three to a decade, that goes on past the best to both sides.
The rate and ridge of the paper's LNB are its own on MNIST, the best of {0.25, 0.5} x {0.1, 1} on digits, the textbook's
step on the factorization, and a first guess on the larger tasks. At the paper's scale AdamW's settings are those of the
networks' sources, and the others' those of the small scale: a sweep finds better ones.

On the tasks of one size, rates are the best on seed 0 of {1e-3, 3e-3, 1e-2} for Adam and of {0.01, 0.02, 0.05} for Muon
and LNB, with one more rate beyond an end that was the best, where runs are short. LNB's stay within the library's 0.02
to 0.05. `char-lstm`, `diffusion` and `resnet-cifar10` had two rates each, `autoencoder` and `diffusion` one of Muon's,
and Muon's on `resnet-cifar10` is a first guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import lnb
from lnb_experiments.optimizers._gauss_newton import GaussNewton
from lnb_experiments.optimizers._optimizers import (
    LNB,
    OPTIMIZERS,
    SGD,
    Adam,
    Muon,
    OptimizerSettings,
    paper_lnb,
)


def _started_from(**tuned: OptimizerSettings) -> Mapping[str, OptimizerSettings]:
    named = {name.replace("_", "-"): settings for name, settings in tuned.items()}
    return MappingProxyType({**OPTIMIZERS, **named})


def _lnb_forms(paper: LNB, learning_rate: float, ridge: float = 0.1) -> dict[str, LNB]:
    """All forms of LNB: the paper's with settings of its own, the rest with one learning rate.

    The ridge is in units of the features squared; the default's solver, whose ridge is relative, keeps its own.
    """
    return {
        "lnb": LNB(learning_rate),
        "lnb_paper": paper,
        "lnb_cholesky": LNB(learning_rate, lnb.Cholesky(ridge=ridge)),
        "lnb_diagonal": LNB(learning_rate, lnb.Diagonal(ridge=ridge)),
        "lnb_low_rank": LNB(learning_rate, lnb.LowRank(ridge=ridge)),
    }


MNIST = _started_from(
    adam=Adam(learning_rate=2e-2),
    adamw=Adam(learning_rate=2e-2, weight_decay=1e-2),
    sgd=SGD(learning_rate=0.3),
    muon=Muon(learning_rate=0.05),
    **_lnb_forms(paper_lnb(0.5, ridge=1.0, clip_norm=1.0), 0.05, ridge=1.0),
)

INVERTED_MNIST = MappingProxyType(
    {
        **MNIST,
        "adam": Adam(learning_rate=1e-3),
        "adamw": Adam(learning_rate=1e-3, weight_decay=1e-2),
        "sgd": SGD(learning_rate=0.03),
    }
)

DIGITS = _started_from(
    adam=Adam(learning_rate=2e-2),
    adamw=Adam(learning_rate=2e-2, weight_decay=1e-2),
    **_lnb_forms(paper_lnb(0.25, clip_norm=1.0), 0.05),
)

# The batch is all of the data, so nothing has to be averaged; the loss has minimum 0, which Polyak's step asks for.
_full_batch = partial(LNB, 1.0, step="polyak", gradient_decay=0.0, weight_decay=0.0, min_norm=1e-6)

FACTORIZATION = _started_from(
    adam=Adam(learning_rate=1.0),
    adamw=Adam(learning_rate=1.0),
    sgd=SGD(learning_rate=4e-3, momentum=0.0),  # plain gradient descent
    gauss_newton=GaussNewton(steps=300, tolerance=1e-5),
    lnb=_full_batch(lnb.Auto()),
    lnb_paper=_full_batch(lnb.CG(steps=5, ridge=1e-3), nesterov=False),
    lnb_cholesky=_full_batch(lnb.Cholesky(update_period=1, decay=0.0, ridge=1e-3)),
    lnb_diagonal=_full_batch(lnb.Diagonal(ridge=1e-3)),
    lnb_low_rank=_full_batch(lnb.LowRank(rank=60, decay=0.0, ridge=1e-3)),
)

VISION_TRANSFORMER = _started_from(
    adam=Adam(learning_rate=3e-3),
    adamw=Adam(learning_rate=3e-3, weight_decay=1e-4),
    sgd=SGD(learning_rate=0.1),
    muon=Muon(learning_rate=0.01),
    **_lnb_forms(paper_lnb(0.1), 0.02),
)

# The tutorial's, with Optax's weight decay.
WIDE_VISION_TRANSFORMER: Mapping[str, OptimizerSettings] = MappingProxyType(
    {"adam": Adam(learning_rate=1e-4), "adamw": Adam(learning_rate=1e-4, weight_decay=1e-4)}
)

SEGMENTATION = _started_from(
    adam=Adam(learning_rate=3e-3),
    adamw=Adam(learning_rate=3e-3, weight_decay=1e-4),
    sgd=SGD(learning_rate=0.03, clip_norm=1.0),
    muon=Muon(learning_rate=0.02),
    **_lnb_forms(paper_lnb(0.1), 0.02),
)

# The paper's for its Adam.
WIDE_SEGMENTATION: Mapping[str, OptimizerSettings] = MappingProxyType(
    {"adam": Adam(learning_rate=1e-4), "adamw": Adam(learning_rate=1e-4, weight_decay=1e-4)}
)

CHARACTER_TRANSFORMER = _started_from(
    adam=Adam(learning_rate=3e-3),
    adamw=Adam(learning_rate=3e-3, weight_decay=1e-2),
    sgd=SGD(learning_rate=0.3, clip_norm=1.0),
    muon=Muon(learning_rate=0.02),
    **_lnb_forms(paper_lnb(0.2), 0.05),
)

# nanoGPT's.
WIDE_CHARACTER_TRANSFORMER: Mapping[str, OptimizerSettings] = MappingProxyType(
    {
        "adam": Adam(learning_rate=1e-3, square_decay=0.99),
        "adamw": Adam(learning_rate=1e-3, square_decay=0.99, weight_decay=0.1),
    }
)


def _tuned(adam: float, muon: float, lnb_rate: float) -> Mapping[str, OptimizerSettings]:
    """The settings of a task that has one size: three learning rates, and first guesses for the rest."""
    return _started_from(
        adam=Adam(learning_rate=adam),
        adamw=Adam(learning_rate=adam, weight_decay=1e-2),
        muon=Muon(learning_rate=muon),
        **_lnb_forms(paper_lnb(0.2), lnb_rate),
    )


AUTOENCODER = _tuned(1e-3, 0.01, 0.05)
CHARACTER_LSTM = _tuned(1e-2, 0.05, 0.05)
CHARACTER_DECODER = _tuned(1e-2, 0.05, 0.05)
REGRESSION = _tuned(3e-3, 0.01, 0.05)
BURGERS = _tuned(1e-2, 0.05, 0.05)
POISSON = _tuned(3e-2, 0.05, 0.05)
RESNET = _tuned(1e-2, 0.02, 0.02)
GRAPH_NETWORK = _tuned(3e-3, 0.02, 0.02)
DIFFUSION = _tuned(1e-2, 0.02, 0.05)
POLICY = _tuned(1e-2, 0.05, 0.05)
MIXTURE_OF_EXPERTS = _tuned(3e-2, 0.05, 0.05)
FOURIER_OPERATOR = _tuned(1e-2, 0.02, 0.02)
