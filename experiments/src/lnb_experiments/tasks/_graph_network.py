"""A graph network that learns what Bellman and Ford's algorithm computes: distances in random graphs.

A graph is a ring with further edges between random nodes. Each edge has a random length and is walked both ways.
For each node the network predicts the length of the shortest way to the graph's source. In each round

    message(e) = mlp(edge(e), node(sender), node(receiver)),   node += mlp(node, max of the messages that it receives)

The graphs of a batch lie side by side in one.

Sources: Battaglia et al. (2018), Relational inductive biases, deep learning, and graph networks; Veličković et al.
(2020), Neural execution of graph algorithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from lnb_experiments._errors import ExperimentError
from lnb_experiments.data._batches import drawn_batches
from lnb_experiments.runs._training import Problem
from lnb_experiments.tasks._networks import Dense, apply_dense, apply_mlp, init_dense, init_mlp, standardise

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_UNREACHED = 1e3
_VALIDATION_SEED = 0


@dataclass(frozen=True)
class GraphNetworkSettings:
    """Hyper-parameters of the graphs and of the network."""

    nodes: int = 16
    """Nodes of a graph."""
    edges: int = 16
    """Edges of a graph beside those of its ring."""
    width: int = 48
    """Length of a node's and an edge's features, and of the perceptrons' hidden layers."""
    rounds: int = 5
    """How often messages are passed, each time by perceptrons of their own."""
    batch_size: int = 32
    """Graphs in a batch."""
    validation_graphs: int = 256
    """How many other graphs measure a run."""


class Graphs(NamedTuple):
    """Graphs side by side; an edge counts once for each direction."""

    is_source: Float[Array, " v"]
    lengths: Float[Array, " e"]
    senders: Int[Array, " e"]
    receivers: Int[Array, " e"]
    distances: Float[Array, " v"]


class Round(NamedTuple):
    """The perceptrons of a round."""

    message: tuple[Dense, ...]
    update: tuple[Dense, ...]


class GraphNetwork(NamedTuple):
    """The network's parameters."""

    node_encoder: Dense
    edge_encoder: Dense
    rounds: tuple[Round, ...]
    decoder: Dense


def graph_network(settings: GraphNetworkSettings, seed: int) -> Problem:
    """A graph network trained on the mean squared error of the distances, on new graphs at each step.

    Args:
        settings: of the graphs and of the network.
        seed: of the initial weights and of the graphs.

    Returns:
        A problem with the metric `validation_loss`, the same loss on graphs that are the same for all seeds.

    Raises:
        ExperimentError: a setting is out of its range.
    """
    sizes = (settings.width, settings.rounds, settings.batch_size, settings.validation_graphs)
    if min(sizes) < 1 or settings.nodes < 2 or settings.edges < 0:
        raise ExperimentError(f"sizes must be positive, `nodes` at least 2 and `edges` not negative, got {settings}.")
    validation = draw_graphs(jax.random.key(_VALIDATION_SEED), settings.validation_graphs, settings)
    measure = jax.jit(_loss_fn)

    def evaluate(params: GraphNetwork) -> Mapping[str, float]:
        return {"validation_loss": float(measure(params, validation))}

    batches = drawn_batches(lambda key: draw_graphs(key, settings.batch_size, settings), seed)
    params = init_graph_network(jax.random.key(seed), settings)
    return Problem(params, _loss_fn, batches.epoch, batches.steps_per_epoch, evaluate)


def draw_graphs(key: Array, count: int, settings: GraphNetworkSettings) -> Graphs:
    """Random graphs and the distances in them."""
    end_key, length_key, source_key = jax.random.split(key, 3)
    nodes = settings.nodes
    places = jnp.arange(nodes)
    ring = jnp.broadcast_to(jnp.stack([places, (places + 1) % nodes], axis=1), (count, nodes, 2))
    ends = jax.random.randint(end_key, (count, settings.edges, 2), 0, nodes)
    ends = jnp.concatenate([ring, ends], axis=1) + nodes * jnp.arange(count)[:, None, None]  # [g, e, 2]
    first, second = ends.reshape(-1, 2).T  # [g * e]
    lengths = jax.random.uniform(length_key, first.shape, minval=0.1, maxval=1.0)
    sources = jax.random.randint(source_key, (count, 1), 0, nodes)
    is_source = (sources == places).reshape(-1)  # [g, v] -> [g * v]
    senders, receivers = jnp.concatenate([first, second]), jnp.concatenate([second, first])
    lengths = jnp.concatenate([lengths, lengths])

    def walk(_: int, distances: Float[Array, " v"]) -> Float[Array, " v"]:
        reached = jax.ops.segment_min(distances[senders] + lengths, receivers, num_segments=count * nodes)
        return jnp.minimum(distances, reached)

    distances = jax.lax.fori_loop(1, nodes, walk, jnp.where(is_source, 0.0, _UNREACHED))
    return Graphs(is_source.astype(lengths.dtype), lengths, senders, receivers, distances)


def init_graph_network(key: Array, settings: GraphNetworkSettings) -> GraphNetwork:
    """The initial parameters."""
    node_key, edge_key, decoder_key, *round_keys = jax.random.split(key, 3 + settings.rounds)
    width = settings.width

    def draw_round(key: Array) -> Round:
        message_key, update_key = jax.random.split(key)
        return Round(init_mlp(message_key, (3 * width, width, width)), init_mlp(update_key, (2 * width, width, width)))

    return GraphNetwork(
        node_encoder=init_dense(node_key, 1, width),
        edge_encoder=init_dense(edge_key, 1, width),
        rounds=tuple(map(draw_round, round_keys)),
        decoder=init_dense(decoder_key, width, 1),
    )


def apply_graph_network(params: GraphNetwork, graphs: Graphs) -> Float[Array, " v"]:
    """The distance of each node."""
    nodes = apply_dense(params.node_encoder, graphs.is_source[:, None])  # [v, d]
    edges = apply_dense(params.edge_encoder, graphs.lengths[:, None])  # [e, d]
    for each in params.rounds:
        ends = jnp.concatenate([edges, nodes[graphs.senders], nodes[graphs.receivers]], axis=1)  # [e, 3 * d]
        messages = apply_mlp(each.message, ends, jax.nn.relu)
        received = jax.ops.segment_max(messages, graphs.receivers, num_segments=len(nodes))  # [v, d]
        update = apply_mlp(each.update, jnp.concatenate([nodes, received], axis=1), jax.nn.relu)
        nodes = standardise(nodes + update)
    return apply_dense(params.decoder, nodes)[:, 0]


def _loss_fn(params: GraphNetwork, graphs: Graphs) -> Array:
    return jnp.square(apply_graph_network(params, graphs) - graphs.distances).mean()
