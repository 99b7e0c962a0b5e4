"""A mixture of experts on data that has parts of its own kind: each cluster of inputs has a teacher of its own.

    y = y_0(x) + sum_e g_e(x) expert_e(h(x)),   g = the largest few of softmax(router(x)), divided by their sum

An example goes to a few experts, each of which takes a limited number of examples; what is beyond is dropped. Examples
are sent to the experts, and brought back, by products with arrays of zeros and ones. The loss asks for examples to be
spread over the experts, beside the mean squared error.

Sources: Shazeer et al. (2017), Outrageously large neural networks; Lepikhin et al. (2021), GShard.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import drawn_batches
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_dense, init_dense

if TYPE_CHECKING:
    from jaxtyping import Float

# The clusters and their teachers are the same for all seeds of a run, which change its weights and batches.
_DATA_SEED = 0


@dataclass(frozen=True)
class MixtureOfExpertsSettings:
    """Hyper-parameters of the data and of the network."""

    inputs: int = 16
    """Length of x."""
    outputs: int = 8
    """Length of y."""
    clusters: int = 16
    """Clusters of the inputs, each with a linear teacher."""
    width: int = 64
    """Length of the features that the experts are given."""
    experts: int = 16
    """Experts, each a perceptron with one hidden layer."""
    hidden: int = 32
    """Width of each expert's hidden layer."""
    chosen: int = 2
    """Experts that an example goes to."""
    capacity: float = 1.5
    """How many examples an expert takes, where 1 is an equal share."""
    balance_weight: float = 0.01
    """How much the loss asks for examples to be spread over the experts."""
    batch_size: int = 512
    """Examples in a batch."""
    validation_examples: int = 2048
    """Other examples that measure a run."""


class Batch(NamedTuple):
    """Examples."""

    x: Float[Array, "n i"]
    y: Float[Array, "n o"]


class MixtureOfExperts(NamedTuple):
    """The network's parameters."""

    features: Dense
    router: Float[Array, "d e"]
    expand: Float[Array, "e d f"]
    expand_bias: Float[Array, "e 1 f"]
    contract: Float[Array, "e f o"]
    contract_bias: Float[Array, "e 1 o"]
    head: Dense


def mixture_of_experts(settings: MixtureOfExpertsSettings, seed: int) -> Problem:
    """A mixture of experts, trained on new examples at each step.

    Args:
        settings: of the data and of the network.
        seed: of the initial weights and of the examples.

    Returns:
        A problem with the metric `validation_loss`, the mean squared error on examples that are the same for all seeds,
        where the targets have variance 1.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    _check(settings)
    random = np.random.default_rng(_DATA_SEED)
    centres = jnp.asarray(1.5 * random.standard_normal((settings.clusters, settings.inputs)), jnp.float32)
    shape = (settings.clusters, settings.inputs, settings.outputs)
    teachers = jnp.asarray(random.standard_normal(shape) / settings.inputs**0.5, jnp.float32)

    def draw(key: Array, count: int) -> Batch:
        cluster_key, place_key = jax.random.split(key)
        clusters = jax.random.randint(cluster_key, (count,), 0, settings.clusters)
        places = jax.random.normal(place_key, (count, settings.inputs))
        return Batch(centres[clusters] + places, jnp.einsum("ni,nio->no", places, teachers[clusters]))

    validation = draw(jax.random.key(_DATA_SEED), settings.validation_examples)

    @jax.jit
    def measure(params: MixtureOfExperts) -> Array:
        outputs, _ = apply_mixture(params, validation.x, settings)
        return jnp.square(outputs - validation.y).mean()

    batches = drawn_batches(lambda key: draw(key, settings.batch_size), seed)
    return Problem(
        params=init_mixture(jax.random.key(seed), settings),
        loss_fn=partial(_loss_fn, settings),
        batches=batches.epoch,
        steps_per_epoch=batches.steps_per_epoch,
        evaluate=lambda params: {"validation_loss": float(measure(params))},
    )


def init_mixture(key: Array, settings: MixtureOfExpertsSettings) -> MixtureOfExperts:
    """The initial parameters."""
    feature_key, router_key, expand_key, contract_key, head_key = jax.random.split(key, 5)
    width, experts, hidden, outputs = settings.width, settings.experts, settings.hidden, settings.outputs
    draw = jax.nn.initializers.glorot_normal(batch_axis=0)
    return MixtureOfExperts(
        features=init_dense(feature_key, settings.inputs, width),
        router=init_dense(router_key, width, experts).weight,
        expand=draw(expand_key, (experts, width, hidden), jnp.float32),
        expand_bias=jnp.zeros((experts, 1, hidden), jnp.float32),
        contract=draw(contract_key, (experts, hidden, outputs), jnp.float32),
        contract_bias=jnp.zeros((experts, 1, outputs), jnp.float32),
        head=init_dense(head_key, width, outputs),
    )


def apply_mixture(
    params: MixtureOfExperts, x: Float[Array, "n i"], settings: MixtureOfExpertsSettings
) -> tuple[Float[Array, "n o"], Float[Array, ""]]:
    """The outputs, and how unevenly the examples are spread over the experts: 1 if they are even."""
    features = jax.nn.gelu(apply_dense(params.features, x))  # [n, d]
    probabilities = jax.nn.softmax(features @ params.router)  # [n, e]
    gates, index = jax.lax.top_k(probabilities, settings.chosen)  # [n, k]
    gates = gates / gates.sum(axis=1, keepdims=True)
    choice = jax.nn.one_hot(index, settings.experts, dtype=x.dtype)  # [n, k, e]
    imbalance = settings.experts * jnp.vdot(choice.mean(axis=(0, 1)), probabilities.mean(axis=0))

    slot = _slots(choice, settings.capacity)  # [n, k, c]
    dispatch = jnp.einsum("nke,nkc->nec", choice, slot)
    combine = jnp.einsum("nk,nke,nkc->nec", gates, choice, slot)
    hidden = jnp.einsum("nec,nd->ecd", dispatch, features)
    hidden = jax.nn.gelu(jnp.einsum("ecd,edf->ecf", hidden, params.expand) + params.expand_bias)
    outputs = jnp.einsum("ecf,efo->eco", hidden, params.contract) + params.contract_bias
    return apply_dense(params.head, features) + jnp.einsum("nec,eco->no", combine, outputs), imbalance


def _slots(choice: Float[Array, "n k e"], capacity: float) -> Float[Array, "n k c"]:
    """The place among its expert's examples that each choice has, one-hot; zero for what is beyond the capacity."""
    count, chosen, experts = choice.shape
    # First choices take their places before second choices do.
    order = choice.transpose(1, 0, 2).reshape(-1, experts)  # [n, k, e] -> [k * n, e]
    before = (jnp.cumsum(order, axis=0) - order).reshape(chosen, count, experts)
    place = jnp.einsum("kne,nke->nk", before, choice).astype(jnp.int32)
    return jax.nn.one_hot(place, max(1, int(capacity * chosen * count / experts)), dtype=choice.dtype)


def _loss_fn(settings: MixtureOfExpertsSettings, params: MixtureOfExperts, batch: Batch) -> Array:
    outputs, imbalance = apply_mixture(params, batch.x, settings)
    return jnp.square(outputs - batch.y).mean() + settings.balance_weight * imbalance


def _check(settings: MixtureOfExpertsSettings) -> None:
    sizes = (settings.inputs, settings.outputs, settings.clusters, settings.width, settings.experts, settings.hidden)
    if min(*sizes, settings.batch_size, settings.validation_examples) < 1:
        raise ExperimentError(f"sizes must be positive, got {settings}.")
    if not 1 <= settings.chosen <= settings.experts:
        raise ExperimentError(f"`chosen` must be from 1 to `experts`, {settings.experts}, got {settings.chosen}.")
    if not settings.capacity > 0 or settings.balance_weight < 0:
        raise ExperimentError(
            "`capacity` must be positive and `balance_weight` not negative, "
            f"got {settings.capacity} and {settings.balance_weight}."
        )
