"""The optimizers that are compared: frozen settings, each of which builds an Optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import optax
from optax import contrib
from tyro.conf import AvoidSubcommands

import lnb
from lnb_experiments._errors import ExperimentError
from lnb_experiments.optimizers._gauss_newton import GaussNewton
from lnb_experiments.optimizers._kfac import KFAC

StepName = Literal["spectral", "norm", "polyak"]

_AUTO = lnb.Auto()


class OptimizerSettings(Protocol):
    """Hyper-parameters of one optimizer."""

    reads: ClassVar[str]
    """The argument of `build`: none ("gradient"), the neurons, whose features `update` is then given ("features"), or
    the function of a least-squares problem's "residuals" or a `Classifier` ("logits"), with the batch for `update`."""

    @property
    def learning_rate(self) -> float:
        """Length of a step, in the optimizer's own measure."""
        ...

    def build(self, read: Any, /) -> optax.GradientTransformationExtraArgs:
        """The transformation; `read` is what the class says, or None."""
        ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2014), or with weight decay AdamW (Loshchilov and Hutter, 2017)."""

    reads: ClassVar[str] = "gradient"

    learning_rate: float = 1e-3
    """Step size."""
    mean_decay: float = 0.9
    """Decay of the moving average of the gradient (beta 1)."""
    square_decay: float = 0.999
    """Decay of the moving average of the squared gradient (beta 2)."""
    epsilon: float = 1e-8
    """Added to the root of the squares."""
    weight_decay: float = 0.0
    """Shrinks the parameters by this times the step size."""
    clip_norm: float | None = None
    """Global norm that the gradient is clipped to first."""

    def build(self, neurons: None = None) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        adam = optax.chain(
            optax.scale_by_adam(self.mean_decay, self.square_decay, self.epsilon),
            optax.add_decayed_weights(self.weight_decay) if self.weight_decay else optax.identity(),
            optax.scale_by_learning_rate(self.learning_rate),
        )
        return _clipped(self, adam)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    reads: ClassVar[str] = "gradient"

    learning_rate: float = 0.1
    """Step size."""
    momentum: float = 0.9
    """Decay of the sum of past gradients."""
    nesterov: bool = False
    """Look ahead along the momentum."""
    weight_decay: float = 0.0
    """Shrinks the parameters by this times the step size."""
    clip_norm: float | None = None
    """Global norm that the gradient is clipped to first."""

    def build(self, neurons: None = None) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        sgd = optax.chain(
            optax.trace(self.momentum, self.nesterov),
            optax.add_decayed_weights(self.weight_decay),
            optax.scale_by_learning_rate(self.learning_rate),
        )
        return _clipped(self, sgd)


@dataclass(frozen=True)
class Muon:
    """Muon (Jordan et al., 2024) for matrices, Adam for everything else."""

    reads: ClassVar[str] = "gradient"

    learning_rate: float = 0.02
    """Step size of the matrices."""
    adam_share: float = 0.15
    """Step size of everything else, as a share of that of the matrices."""
    momentum: float = 0.95
    """Decay of the moving average of the gradient."""
    steps: int = 5
    """Newton-Schulz iterations."""
    weight_decay: float = 0.0
    """Shrinks the parameters by this times their step size."""
    clip_norm: float | None = None
    """Global norm that the gradient is clipped to first."""

    def build(self, neurons: None = None) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        muon = contrib.muon(
            self.learning_rate,
            ns_steps=self.steps,
            beta=self.momentum,
            weight_decay=self.weight_decay,
            adam_weight_decay=self.weight_decay,
            adam_learning_rate=self.adam_share * self.learning_rate,
        )
        return _clipped(self, muon)


@dataclass(frozen=True)
class LNB:
    """Linear neuron boosting, by default as `lnb.lnb` has it."""

    reads: ClassVar[str] = "features"

    learning_rate: float = 0.02
    """How far a step moves each neuron's output along every direction, or the unit that `step` gives."""
    solver: AvoidSubcommands[lnb.Auto | lnb.CG | lnb.Cholesky | lnb.Diagonal | lnb.LowRank] = _AUTO
    """The solver and its settings."""
    gradient_decay: float = 0.9
    """Decay of the moving average of the gradient."""
    nesterov: bool = True
    """Look ahead along the average."""
    weight_decay: float = 1e-4
    """Shrinks the parameters by this times the learning rate."""
    step: StepName = "spectral"
    """The unit of the learning rate: how far each neuron's output moves along every direction ("spectral"), how far all
    outputs move together ("norm"), or a multiple of loss / norm ("polyak")."""
    min_norm: float = 1e-2
    """Lower bound on the norm that a step of "norm" or "polyak" is divided by."""
    clip_norm: float | None = None
    """Global norm that the gradient is clipped to first."""

    def build(self, neurons: lnb.Neurons) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        boosting = lnb.lnb(
            neurons,
            self.learning_rate,
            solver=self.solver,
            step=_step_rule(self.step, self.min_norm),
            gradient_decay=self.gradient_decay,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )
        return _clipped(self, boosting)


def paper_lnb(learning_rate: float = 0.5, ridge: float = 0.1, clip_norm: float | None = None) -> LNB:
    """The paper's settings: conjugate gradients, a step of given length in function space, no look ahead."""
    return LNB(learning_rate, lnb.CG(ridge=ridge), step="norm", nesterov=False, clip_norm=clip_norm)


OPTIMIZERS: Mapping[str, OptimizerSettings] = {
    "adam": Adam(),
    "adamw": Adam(weight_decay=1e-2),
    "sgd": SGD(),
    "gauss-newton": GaussNewton(),
    "muon": Muon(),
    "kfac": KFAC(),
    "lnb": LNB(),
    "lnb-paper": paper_lnb(),
    "lnb-cholesky": LNB(solver=lnb.Cholesky()),
    "lnb-low-rank": LNB(solver=lnb.LowRank()),
    "lnb-diagonal": LNB(solver=lnb.Diagonal()),
}
"""The optimizers by name, with the settings that a task starts from."""


def check_optimizer(name: str) -> str:
    """The name of a known optimizer.

    Raises:
        ExperimentError: there is no optimizer of that name; the message lists those that there are.
    """
    if name not in OPTIMIZERS:
        raise ExperimentError(f"`optimizers` has an unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}.")
    return name


def settings_of(optimizer: OptimizerSettings) -> dict[str, Any]:
    """The settings as plain values, the solver's with the name of its class.

    >>> settings_of(LNB(solver=lnb.CG(steps=3)))["solver"]["kind"]
    'CG'
    """
    settings = dataclasses.asdict(optimizer)  # pyright: ignore[reportArgumentType]: every optimizer is a dataclass
    if isinstance(optimizer, LNB):
        settings["solver"] = {"kind": type(optimizer.solver).__name__, **settings["solver"]}
    return settings


def _step_rule(name: StepName, min_norm: float) -> lnb.StepRule:
    """The step rule of this name."""
    return {"spectral": lnb.Spectral(), "norm": lnb.Norm(min_norm), "polyak": lnb.Polyak(min_norm)}[name]


def _clipped(settings: Any, transformation: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """`transformation`, with the gradient clipped before it if so set; checks what all share."""
    if not settings.learning_rate > 0:
        raise ExperimentError(
            f"`learning_rate` of {type(settings).__name__} must be positive, got {settings.learning_rate}."
        )
    if settings.clip_norm is None:
        return optax.with_extra_args_support(transformation)
    if not settings.clip_norm > 0:
        raise ExperimentError(
            f"`clip_norm` of {type(settings).__name__} must be positive or None, got {settings.clip_norm}."
        )
    clip = optax.clip_by_global_norm(settings.clip_norm)
    return optax.with_extra_args_support(optax.chain(clip, transformation))
