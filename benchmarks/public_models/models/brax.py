"""Networks of Brax's agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from public_models import data
from public_models.losses import squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)
OBSERVATION, ACTION = 12, 4


@model("Brax", "policy network", "brax")
def policy() -> Trial:
    from brax.training.distribution import NormalTanhDistribution
    from brax.training.networks import make_policy_network

    distribution = NormalTanhDistribution(event_size=ACTION)
    network = make_policy_network(distribution.param_size, OBSERVATION, hidden_layer_sizes=(32, 32, 32))
    actions = data.regression((OBSERVATION,), (ACTION,), 128)

    def loss_fn(params: Any, observation: Any, action: Any) -> Any:  # of cloning a behaviour
        return -distribution.log_prob(network.apply(None, params, observation), action).mean()

    return Trial(loss_fn, network.init(KEY), actions)


@model("Brax", "policy network of a normal distribution, layer norm", "brax")
def normal_policy() -> Trial:
    from brax.training.distribution import NormalDistribution
    from brax.training.networks import make_policy_network

    distribution = NormalDistribution(event_size=ACTION)
    network = make_policy_network(
        ACTION,
        OBSERVATION,
        hidden_layer_sizes=(32, 32),
        layer_norm=True,
        distribution_type="normal",
        noise_std_type="log",
    )

    def loss_fn(params: Any, observation: Any, action: Any) -> Any:
        return -distribution.log_prob(network.apply(None, params, observation), action).mean()

    return Trial(loss_fn, network.init(KEY), data.regression((OBSERVATION,), (ACTION,), 128))


@model("Brax", "value network", "brax")
def value() -> Trial:
    from brax.training.networks import make_value_network

    network = make_value_network(OBSERVATION, hidden_layer_sizes=(32, 32, 32))

    def loss_fn(params: Any, observation: Any, returns: Any) -> Any:
        return squares(network.apply(None, params, observation), returns[:, 0])

    return Trial(loss_fn, network.init(KEY), data.regression((OBSERVATION,), (1,), 128))


@model("Brax", "Q network of two critics", "brax")
def q_network() -> Trial:
    from brax.training.networks import make_q_network

    network = make_q_network(OBSERVATION, ACTION, hidden_layer_sizes=(32, 32))

    def loss_fn(params: Any, state: Any, returns: Any) -> Any:
        q = network.apply(None, params, state[:, :OBSERVATION], state[:, OBSERVATION:])
        return squares(q, returns)

    return Trial(loss_fn, network.init(KEY), data.regression((OBSERVATION + ACTION,), (1,), 128))


@model("Brax", "VisionMLP", "brax")
def vision() -> Trial:
    from brax.training.networks import VisionMLP

    network = VisionMLP(layer_sizes=(32, 10), state_obs_key="")
    images = data.images(32, count=8)

    def batch(step: int) -> Sequence[np.ndarray]:
        return images(step)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        logits = network.apply(params, {"pixels/view_0": x})
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1))

    return Trial(loss_fn, network.init(KEY, {"pixels/view_0": jnp.zeros((1, 32, 32, 3))}), batch)
