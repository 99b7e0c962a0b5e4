"""What the examples share: how a network is handed over, and the loop that trains it.

The loop is the usual one of Optax. The three lines that differ from it are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import optax

import lnb


class Network(NamedTuple):
    """A loss and what it is evaluated on.

    Fields:
        loss_fn: `loss_fn(params, *args)` gives the loss; with `has_aux`, `loss_fn(params, state, *batch)` gives
            `(loss, new_state)`.
        params: the parameters to train.
        args: a batch; with `has_aux`, the state before it.
        has_aux: whether the network has a state, such as the running statistics of a batch normalisation.
    """

    loss_fn: Callable[..., Any]
    params: Any
    args: tuple[Any, ...]
    has_aux: bool = False


def train(
    network: Network, batches: Iterable[tuple[Any, ...]], *, learning_rate: optax.ScalarOrSchedule, every: int = 10
) -> Any:
    """Train a network, and print its neurons and its loss.

    Args:
        network: what the example's `build` gave.
        batches: the loss's arguments after the parameters and the state, one tuple a step.
        learning_rate: how far a step moves each neuron's output along every direction, or a schedule of it.
        every: steps from one printed loss to the next.

    Returns:
        The trained parameters.
    """
    loss_fn, params, args, has_aux = network
    state = args[:1] if has_aux else ()
    neurons = lnb.find_neurons(loss_fn, params, *args, has_aux=has_aux)  # the first line: find the neurons
    print(neurons)
    optimizer = lnb.lnb(neurons, learning_rate)  # the second: optax.adam(learning_rate)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params: Any, opt_state: Any, state: Any, batch: Any) -> tuple[Any, Any, Any, jax.Array]:
        # The third: loss, grads = jax.value_and_grad(loss_fn)(params, *batch), and no features for the update.
        value, grads, features = neurons.value_and_grad(params, *state, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params, features=features)
        loss, state = (value[0], value[1:]) if has_aux else (value, ())
        return optax.apply_updates(params, updates), opt_state, state, loss

    for count, batch in enumerate(batches):
        params, opt_state, state, loss = step(params, opt_state, state, batch)
        if count % every == 0:
            print(f"step {count:4d}  loss {loss:.4f}")
    return params
