"""Advantage actor-critic (A2C) on a pendulum that has to be swung up.

    loss = -mean A log pi(a | s) + value_weight mean (V(s) - R)^2 - entropy_weight mean H(pi(. | s))

A are generalised advantages, divided by their standard deviation after their mean is taken away, and R = A + V before
that. No gradient passes through either. The actions are drawn by the policy that the loss is taken of: each step rolls
its parameters out anew, from random states, and learns once from what it sees. That is PPO's first pass over a rollout,
where the ratio of the new policy to the old is 1 and nothing is clipped; further passes would need batches that depend
on the parameters.

The pendulum is Gymnasium's `Pendulum-v1` with three torques, -2, 0 and 2:

    theta'' = 15 sin(theta) + 3 a,   cost = theta^2 + theta'^2 / 10 + a^2 / 1000,   20 steps a second, |theta'| <= 8

Sources: Mnih et al. (2016), Asynchronous methods for deep reinforcement learning; Schulman et al. (2016),
High-dimensional continuous control using generalized advantage estimation; Schulman et al. (2017), Proximal policy
optimization algorithms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import drawn_batches
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_mlp, init_mlp

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Key

_TORQUES = (-2.0, 0.0, 2.0)
_SECONDS = 0.05  # of a step
_FASTEST = 8.0
_OBSERVED = 3
_COST_UNIT = 10.0  # the reward is minus the cost in this unit

_VALIDATION_SEED = 0
_VALIDATION_EPISODES, _VALIDATION_STEPS = 128, 200


@dataclass(frozen=True)
class PolicySettings:
    """Hyper-parameters of the networks and of the loss."""

    hidden: tuple[int, ...] = (64, 64)
    """Width of each hidden layer of the policy, and of the value network."""
    batch_size: int = 128
    """Pendulums that are rolled out for a step."""
    steps: int = 32
    """How long they are rolled out."""
    discount: float = 0.97
    """What a reward of the next step counts."""
    trace_decay: float = 0.95
    """Share of the next step's advantage that enters an advantage (lambda), beside the discount."""
    value_weight: float = 0.5
    """Weight of the value network's part of the loss."""
    entropy_weight: float = 0.003
    """Weight of the policy's entropy."""


class ActorCritic(NamedTuple):
    """The parameters of the networks."""

    policy: tuple[Dense, ...]
    value: tuple[Dense, ...]


class Batch(NamedTuple):
    """Where pendulums start, and the random keys of their actions."""

    states: Float[Array, "n 2"]  # angle from upright, and its speed
    keys: Key[Array, " t"]


class Rollout(NamedTuple):
    """The states that pendulums went through, the actions there, and their rewards."""

    states: Float[Array, "t n 2"]
    actions: Int[Array, "t n"]
    rewards: Float[Array, "t n"]
    last: Float[Array, "n 2"]


def policy(settings: PolicySettings, seed: int) -> Problem:
    """A policy and a value network, trained together.

    Args:
        settings: of the networks and of the loss.
        seed: of the initial weights, of where the pendulums start, and of the actions.

    Returns:
        A problem with the metric `mean_cost`: minus the mean reward of a step, in the pendulum's own unit, of the most
        probable actions in episodes of 200 steps. Where they start is the same for all seeds.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    _check(settings)

    def draw(key: Array, count: int, steps: int) -> Batch:
        state_key, action_key = jax.random.split(key)
        high = jnp.asarray([jnp.pi, _FASTEST])
        states = jax.random.uniform(state_key, (count, 2), minval=-high, maxval=high)
        return Batch(states, jax.random.split(action_key, steps))

    episodes = draw(jax.random.key(_VALIDATION_SEED), _VALIDATION_EPISODES, _VALIDATION_STEPS)

    @jax.jit
    def measure(params: ActorCritic) -> Array:
        rewards = _roll_out(lambda logits, _: jnp.argmax(logits, axis=-1), params.policy, episodes).rewards
        return -_COST_UNIT * rewards.mean()

    batches = drawn_batches(lambda key: draw(key, settings.batch_size, settings.steps), seed)
    policy_key, value_key = jax.random.split(jax.random.key(seed))
    return Problem(
        params=ActorCritic(
            policy=init_mlp(policy_key, (_OBSERVED, *settings.hidden, len(_TORQUES))),
            value=init_mlp(value_key, (_OBSERVED, *settings.hidden, 1)),
        ),
        loss_fn=partial(_loss_fn, settings),
        batches=batches.epoch,
        steps_per_epoch=batches.steps_per_epoch,
        evaluate=lambda params: {"mean_cost": float(measure(params))},
    )


def advantages(
    rewards: Float[Array, "t n"], values: Float[Array, "t+1 n"], discount: float, trace_decay: float
) -> Float[Array, "t n"]:
    """Generalised advantages: sums of r + discount V(next) - V, each step counting discount * trace_decay.

    >>> advantages(jnp.ones((2, 1)), jnp.zeros((3, 1)), 0.5, 1.0).tolist()
    [[1.5], [1.0]]
    """
    errors = rewards + discount * values[1:] - values[:-1]

    def accumulate(later: Array, error: Array) -> tuple[Array, Array]:
        total = error + discount * trace_decay * later
        return total, total

    _, result = jax.lax.scan(accumulate, jnp.zeros_like(errors[0]), errors, reverse=True)
    return result


def _loss_fn(settings: PolicySettings, params: ActorCritic, batch: Batch) -> Array:
    current = jax.lax.stop_gradient(params)
    rollout = _roll_out(lambda logits, key: jax.random.categorical(key, logits), current.policy, batch)
    observations = _observe(rollout.states)  # [t, n, o]
    values = _value(params.value, observations)  # [t, n]
    estimates = jnp.concatenate([jax.lax.stop_gradient(values), _value(current.value, _observe(rollout.last))[None]])
    gained = advantages(rollout.rewards, estimates, settings.discount, settings.trace_decay)
    returns = gained + estimates[:-1]
    gained = (gained - gained.mean()) / (gained.std() + 1e-6)

    log_probabilities = jax.nn.log_softmax(apply_mlp(params.policy, observations))  # [t, n, a]
    chosen = jnp.take_along_axis(log_probabilities, rollout.actions[..., None], axis=-1)[..., 0]
    entropy = -(jnp.exp(log_probabilities) * log_probabilities).sum(axis=-1)
    value_error = jnp.square(values - returns).mean()
    return -(gained * chosen).mean() + settings.value_weight * value_error - settings.entropy_weight * entropy.mean()


def _roll_out(choose: Callable[[Array, Array], Array], policy: tuple[Dense, ...], batch: Batch) -> Rollout:
    """Act on pendulums; `choose` gives the actions for logits and a random key."""

    def advance(states: Float[Array, "n 2"], key: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        actions = choose(apply_mlp(policy, _observe(states)), key)
        angle, speed = states.T
        torque = jnp.asarray(_TORQUES)[actions]
        angle = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = jnp.clip(speed + _SECONDS * (15 * jnp.sin(angle) + 3 * torque), -_FASTEST, _FASTEST)
        moved = jnp.stack([angle + _SECONDS * speed, speed], axis=1)
        return moved, (states, actions, -cost / _COST_UNIT)

    last, seen = jax.lax.scan(advance, batch.states, batch.keys)
    return Rollout(*seen, last)


def _observe(states: Float[Array, "*n 2"]) -> Float[Array, "*n o"]:
    angle, speed = states[..., 0], states[..., 1]
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), speed / _FASTEST], axis=-1)


def _value(layers: tuple[Dense, ...], observations: Float[Array, "*n o"]) -> Float[Array, "*n"]:
    return apply_mlp(layers, observations)[..., 0]


def _check(settings: PolicySettings) -> None:
    if min(*settings.hidden, settings.batch_size, settings.steps) < 1:
        raise ExperimentError(f"sizes must be positive, got {settings}.")
    if not (0 <= settings.discount < 1 and 0 <= settings.trace_decay <= 1):
        raise ExperimentError(
            "`discount` must be from 0 to below 1 and `trace_decay` from 0 to 1, "
            f"got {settings.discount} and {settings.trace_decay}."
        )
    if min(settings.value_weight, settings.entropy_weight) < 0:
        raise ExperimentError(f"weights must not be negative, got {settings}.")
