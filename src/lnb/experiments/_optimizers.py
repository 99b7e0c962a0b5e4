"""The optimizers that are compared: frozen settings, each of which builds an Optax transformation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import optax
from optax import contrib

import lnb
from lnb.experiments._errors import ExperimentError
from lnb.experiments._gauss_newton import GaussNewton
from lnb.experiments._kfac import KFAC


class OptimizerSettings(Protocol):
    """Hyper-parameters of one optimizer."""

    reads: ClassVar[str]
    """What `build` is given: nothing ("gradient"), the neurons, whose features `update` then is given ("features"), or
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
    """Adam (Kingma and Ba, 2014)."""

    reads: ClassVar[str] = "gradient"

    learning_rate: float = 1e-3
    """Step size."""
    mean_decay: float = 0.9
    """Of the moving average of the gradient (beta 1)."""
    square_decay: float = 0.999
    """Of the moving average of the squared gradient (beta 2)."""
    epsilon: float = 1e-8
    """Added to the root of the squares."""
    clip_norm: float | None = None
    """Global norm that the gradient is clipped to first."""

    def build(self, neurons: None = None) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        adam = optax.adam(self.learning_rate, self.mean_decay, self.square_decay, self.epsilon)
        return _clipped(self, adam)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2017)."""

    reads: ClassVar[str] = "gradient"

    learning_rate: float = 1e-3
    """Step size."""
    mean_decay: float = 0.9
    """Of the moving average of the gradient (beta 1)."""
    square_decay: float = 0.999
    """Of the moving average of the squared gradient (beta 2)."""
    epsilon: float = 1e-8
    """Added to the root of the squares."""
    weight_decay: float = 1e-2
    """Shrinks the parameters by this times the step size."""
    clip_norm: float | None = None
    """Global norm that the gradient is clipped to first."""

    def build(self, neurons: None = None) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        adamw = optax.adamw(
            self.learning_rate,
            self.mean_decay,
            self.square_decay,
            self.epsilon,
            weight_decay=self.weight_decay,
        )
        return _clipped(self, adamw)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    reads: ClassVar[str] = "gradient"

    learning_rate: float = 0.1
    """Step size."""
    momentum: float = 0.9
    """Of the sum of past gradients."""
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
    """Of the moving average of the gradient."""
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
class Boosting(ABC):
    """What the forms of linear neuron boosting share: all but the solver."""

    reads: ClassVar[str] = "features"

    learning_rate: float = 0.02
    """How far a step moves each neuron's output along every direction, or what `step` says."""
    gradient_decay: float = 0.9
    """Of the moving average of the gradient."""
    nesterov: bool = True
    """Look ahead along the average."""
    weight_decay: float = 1e-4
    """Shrinks the parameters by this times the learning rate."""
    min_norm: float = 1e-2
    """Lower bound on the norm that a step is divided by."""
    step: Literal["spectral", "norm", "polyak"] = "spectral"
    """What the learning rate is: how far each neuron's output moves along every direction ("spectral"), how far all
    outputs together ("norm"), or a multiple of loss / norm ("polyak")."""
    clip_norm: float | None = None
    """Global norm that the gradient is clipped to first."""

    @abstractmethod
    def solver(self) -> Any:
        """As `lnb.lnb` takes it."""

    def build(self, neurons: lnb.Neurons) -> optax.GradientTransformationExtraArgs:
        """The transformation."""
        boosting = lnb.lnb(
            neurons,
            self.learning_rate,
            solver=self.solver(),
            gradient_decay=self.gradient_decay,
            weight_decay=self.weight_decay,
            min_norm=self.min_norm,
            step=self.step,
            nesterov=self.nesterov,
        )
        return _clipped(self, boosting)


@dataclass(frozen=True)
class LNB(Boosting):
    """Linear neuron boosting as in the paper: conjugate gradients on the batch's metric, a step of given length."""

    learning_rate: float = 0.5
    """Length of a step in function space, sqrt(epsilon)."""
    nesterov: bool = False
    """Look ahead along the average."""
    step: Literal["spectral", "norm", "polyak"] = "norm"
    """As in the other forms."""
    steps: int = 2
    """Conjugate gradient iterations."""
    ridge: float = 0.1
    """Added to the metric's diagonal for the weights."""
    shrinkage: float = 0.1
    """How far the preconditioner's variances are drawn towards their mean."""
    mean_decay: float = 0.9
    """Of the moving average of the features."""
    square_decay: float = 0.999
    """Of the moving average of the squared features."""

    def solver(self) -> Any:
        """CG."""
        return lnb.CG(
            steps=self.steps,
            ridge=self.ridge,
            shrinkage=self.shrinkage,
            mean_decay=self.mean_decay,
            square_decay=self.square_decay,
        )


@dataclass(frozen=True)
class LNBCholesky(Boosting):
    """Linear neuron boosting with the averaged metric factored every few steps."""

    every: int = 10
    """Steps from one factorization to the next."""
    decay: float = 0.95
    """Of the moving average of the metric."""
    ridge: float = 0.1
    """Added to the metric's diagonal for the weights."""

    def solver(self) -> Any:
        """Cholesky."""
        return lnb.Cholesky(every=self.every, decay=self.decay, ridge=self.ridge)


@dataclass(frozen=True)
class LNBDiagonal(Boosting):
    """Linear neuron boosting with the preconditioner alone: no products with the metric."""

    ridge: float = 0.1
    """Added to the metric's diagonal for the weights."""
    shrinkage: float = 0.1
    """How far the variances are drawn towards their mean."""
    mean_decay: float = 0.9
    """Of the moving average of the features."""
    square_decay: float = 0.999
    """Of the moving average of the squared features."""

    def solver(self) -> Any:
        """Diagonal."""
        return lnb.Diagonal(
            ridge=self.ridge,
            shrinkage=self.shrinkage,
            mean_decay=self.mean_decay,
            square_decay=self.square_decay,
        )


@dataclass(frozen=True)
class LNBLowRank(Boosting):
    """Linear neuron boosting with the metric's leading directions and its diagonal."""

    rank: int = 16
    """Leading directions."""
    every: int = 1
    """Steps from one renewal of the statistics to the next."""
    decay: float = 0.95
    """Of the moving average of the statistics."""
    ridge: float = 0.1
    """Added to the metric's diagonal for the weights."""

    def solver(self) -> Any:
        """LowRank."""
        return lnb.LowRank(rank=self.rank, every=self.every, decay=self.decay, ridge=self.ridge)


@dataclass(frozen=True)
class LNBAuto(Boosting):
    """Linear neuron boosting as `lnb.lnb` has it by default: a solver for each neuron by its sizes."""

    ridge: float = 10.0
    """A multiple of the features' mean variance and of features per sample, added to the metric's diagonal."""
    every: int = 10
    """Steps from one renewal of a neuron's statistics to the next."""
    rank: int = 16
    """Leading directions where the Gram matrix is too dear."""

    def solver(self) -> Any:
        """One for each neuron."""
        return lnb.Auto(ridge=self.ridge, every=self.every, rank=self.rank)


OPTIMIZERS: Mapping[str, OptimizerSettings] = {
    "adam": Adam(),
    "adamw": AdamW(),
    "sgd": SGD(),
    "gauss-newton": GaussNewton(),
    "muon": Muon(),
    "kfac": KFAC(),
    "lnb": LNB(),
    "lnb-cholesky": LNBCholesky(),
    "lnb-diagonal": LNBDiagonal(),
    "lnb-low-rank": LNBLowRank(),
    "lnb-auto": LNBAuto(),
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
