"""K-FAC (Martens and Grosse, 2015) as kfac-jax has it: the Fisher matrix of each layer as a Kronecker product.

kfac-jax does not run on JAX 0.9.2 and newer; the extra `lnb-experiments[kfac]` installs it with an older one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import optax
from jax import Array

from lnb_experiments._errors import ExperimentError

PyTree = Any

_TOO_NEW = (0, 9, 2)  # where a primitive's parameters come in another form than kfac-jax 0.0.8 reads


class Classifier(NamedTuple):
    """A network whose loss is a mean cross entropy, as K-FAC reads it."""

    logits: Callable[[PyTree, PyTree], tuple[Array, Array | None]]
    """As `Problem.logits`; the first leaf of a batch has the examples along its first axis."""
    batch: PyTree
    """Any batch, with which the layers are found."""


@dataclass(frozen=True)
class KFAC:
    """K-FAC with momentum and a bound on the step's length in the Fisher norm."""

    reads: ClassVar[str] = "logits"

    learning_rate: float = 0.1
    """Step size."""
    momentum: float = 0.9
    """Decay of the sum of past directions."""
    damping: float = 1e-3
    """Added to the Fisher matrix's diagonal, in factored form."""
    norm_constraint: float | None = 1e-3
    """Upper bound on the squared length of a direction in the Fisher norm, before momentum and step size."""
    decay: float = 0.95
    """Decay of the moving average of the factors."""
    every: int = 5
    """Steps from one inversion of the factors to the next."""
    weight_decay: float = 0.0
    """Shrinks the parameters by this times the step size."""

    def build(self, classifier: Classifier) -> optax.GradientTransformationExtraArgs:
        """The transformation.

        Raises:
            ExperimentError: kfac-jax is not installed, or JAX is too new for it; from `init`, that it recognises none
                of the layers.
        """
        return optax.with_extra_args_support(
            optax.chain(
                _precondition(classifier, self),
                optax.trace(self.momentum),
                optax.add_decayed_weights(self.weight_decay),
                optax.scale_by_learning_rate(self.learning_rate),
            )
        )


class KFACState(NamedTuple):
    """The state of kfac-jax, and the key that it samples the model's own labels with."""

    preconditioner: Any
    key: Array


def _precondition(classifier: Classifier, settings: KFAC) -> optax.GradientTransformationExtraArgs:
    if importlib.util.find_spec("kfac_jax") is None or jax.__version_info__ >= _TOO_NEW:
        raise ExperimentError(
            "`kfac` needs kfac-jax, and that a JAX older than 0.9.2: run it in an environment of its own, with "
            f"`pip install 'lnb-experiments[kfac]'`. This one has JAX {jax.__version__}."
        )
    import kfac_jax  # pyright: ignore[reportMissingImports]: in an environment of its own

    def register(params: PyTree, batch: PyTree) -> Array:
        logits, mask = classifier.logits(params, batch)
        examples, *_, classes = logits.shape
        # Weighted so that the registered loss is a mean over all that count, as the task's own is.
        counted = logits.size / classes if mask is None else mask.sum()
        kfac_jax.register_softmax_cross_entropy_loss(logits, mask=mask, weight=examples / counted)
        return logits.mean()  # of which nothing is read but what was registered

    kfac = kfac_jax.OptaxPreconditioner(
        register,
        damping=settings.damping,
        norm_constraint=settings.norm_constraint,
        curvature_ema=settings.decay,
        inverse_update_period=settings.every,
        distributed_inverses=False,
        distributed_precon_apply=False,
    )

    def init(params: PyTree) -> KFACState:
        key = jax.random.PRNGKey(0)
        state = KFACState(kfac.init((params, classifier.batch), key), key)
        if not any(isinstance(block, kfac_jax.KroneckerFactored) for block in kfac.estimator.blocks or ()):
            raise ExperimentError(
                "`kfac` cannot run this task: kfac-jax recognises none of the network's layers, and would leave all of "
                "them to a diagonal."
            )
        return state

    def update(
        updates: PyTree, state: Any, params: PyTree = None, *, batch: PyTree = None, **extra: Any
    ) -> tuple[PyTree, KFACState]:
        del extra
        key, sample = jax.random.split(state.key)
        new_state = kfac.maybe_update(state.preconditioner, (params, batch), sample)
        return kfac.apply(updates, new_state), KFACState(kfac.increment_count(new_state), key)

    return optax.GradientTransformationExtraArgs(init, update)
