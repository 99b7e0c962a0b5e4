"""A deep autoencoder of digits: 784-1000-500-250-30 and back, tanh units, a linear code.

    loss = 1/n sum_i sum_j  -x_ij log sigmoid(l_ij) - (1 - x_ij) log sigmoid(-l_ij)

l are the logits of the pixels. It is the network that second-order methods have been tried on since Hinton and
Salakhutdinov, who had logistic units and trained it layer by layer first.

Sources: Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks; Martens (2010), Deep
learning via Hessian-free optimization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import shuffled_batches
from lnb_experiments.data._data import LabelledImages
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_mlp, init_mlp

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class AutoencoderSettings:
    """Hyper-parameters of an autoencoder."""

    hidden: tuple[int, ...] = (1000, 500, 250)
    """Width of each hidden layer of the encoder; the decoder has them in reverse."""
    code: int = 30
    """Length of the code."""
    batch_size: int = 500
    """Images in a batch; what is left over at the end of an epoch waits for another epoch."""
    validation_images: int = 2000
    """How many of the test images measure a run: the first ones."""


class Autoencoder(NamedTuple):
    """The network's parameters."""

    encoder: tuple[Dense, ...]
    decoder: tuple[Dense, ...]


def autoencoder(load: Callable[[], LabelledImages], settings: AutoencoderSettings, seed: int) -> Problem:
    """An autoencoder trained on the cross entropy of pixels, summed over an image, in nats.

    Args:
        load: the images; their labels are not used.
        settings: of the network.
        seed: of the initial weights and of the order of the images.

    Returns:
        A problem with the metric `validation_loss`, the same loss on test images.

    Raises:
        ExperimentError: the data is not to be had, or a setting is out of its range.
    """
    if not all(width > 0 for width in (*settings.hidden, settings.code)):
        raise ExperimentError(f"`hidden` and `code` must be positive widths, got {settings.hidden}, {settings.code}.")
    data = load()
    available = len(data.test.images)
    if not 1 <= settings.validation_images <= available:
        raise ExperimentError(f"`validation_images` must be from 1 to {available}, got {settings.validation_images}.")
    train, test = jnp.asarray(data.train.images), jnp.asarray(data.test.images[: settings.validation_images])
    measure = jax.jit(_loss_fn)

    def evaluate(params: Autoencoder) -> Mapping[str, float]:
        return {"validation_loss": float(measure(params, test))}

    encoder_key, decoder_key = jax.random.split(jax.random.key(seed))
    sizes = (train.shape[1], *settings.hidden, settings.code)
    params = Autoencoder(init_mlp(encoder_key, sizes), init_mlp(decoder_key, sizes[::-1]))
    batches = shuffled_batches(train, settings.batch_size, seed)
    return Problem(params, _loss_fn, batches.epoch, batches.steps_per_epoch, evaluate)


def _loss_fn(params: Autoencoder, images: Float[Array, "n i"]) -> Array:
    codes = apply_mlp(params.encoder, images)  # [n, c]
    logits = apply_mlp(params.decoder, codes)  # [n, i]
    return optax.sigmoid_binary_cross_entropy(logits, images).sum(axis=1).mean()
