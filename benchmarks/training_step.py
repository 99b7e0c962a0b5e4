"""A training step of a network with LNB, or with another optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from _train import Network

import lnb

Step = Callable[..., tuple[Any, Any, Any]]
"""From the parameters, the optimizer's state and a batch to both after a step, and the loss."""


def boosting_step(network: Network, **settings: Any) -> tuple[Step, optax.GradientTransformation]:
    """The step with LNB at these settings, and its optimizer."""
    neurons = lnb.find_neurons(network.loss_fn, network.params, *network.args, has_aux=network.has_aux)
    optimizer = lnb.lnb(neurons, 0.01, **settings)

    def step(params: Any, state: Any, *args: Any) -> tuple[Any, Any, Any]:
        value, grads, features = neurons.value_and_grad(params, *args)
        updates, state = optimizer.update(grads, state, params, features=features)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer


def gradient_step(
    network: Network, optimizer: optax.GradientTransformation
) -> tuple[Step, optax.GradientTransformation]:
    """The step with an optimizer that takes a gradient, and may take a batch."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params: Any, state: Any, *args: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(network.loss_fn, has_aux=network.has_aux)(params, *args)
        updates, state = optimizer.update(grads, state, params, batch=args)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer
