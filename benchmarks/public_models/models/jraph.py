"""Graph networks of Jraph, with layers of Flax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from public_models.losses import squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)
NODES, EDGES, WIDTH = 48, 160, 32
SENDERS, RECEIVERS = np.random.default_rng(0).integers(0, NODES, (2, EDGES))


def _messages(step: int) -> Sequence[np.ndarray]:
    """(nodes [n, 4], edges [m, 2], outputs [n, 2]) of one graph: sums over neighbours of a function of both."""
    rng = np.random.default_rng((1, step))
    nodes, edges = rng.normal(size=(NODES, 4)), rng.normal(size=(EDGES, 2))
    sums = np.zeros((NODES, 2))
    np.add.at(sums, RECEIVERS, np.tanh(nodes[SENDERS, :2] + edges) / 2)
    outputs = sums + np.sin(nodes[:, 2:])
    return tuple(array.astype(np.float32) for array in (nodes, edges, outputs))


def _trial(make: Any, has_edges: bool = True, has_globals: bool = False) -> Trial:
    """A network of a graph, of the function that makes it within a Flax module."""
    import jraph
    from flax import linen as nn

    class Network(nn.Module):
        """Embeds the graph, passes messages, and reads the nodes out."""

        @nn.compact
        def __call__(self, nodes: Any, edges: Any) -> Any:
            graph = jraph.GraphsTuple(
                nodes=nodes,
                edges=edges,
                senders=jnp.asarray(SENDERS),
                receivers=jnp.asarray(RECEIVERS),
                n_node=jnp.array([NODES]),
                n_edge=jnp.array([EDGES]),
                globals=jnp.ones((1, 4)),
            )
            embed_edges, embed_globals = (nn.Dense(WIDTH) if used else None for used in (has_edges, has_globals))
            graph = jraph.GraphMapFeatures(embed_edges, nn.Dense(WIDTH), embed_globals)(graph)
            graph = make(jraph, nn)(graph)
            outputs = nn.Dense(2)(graph.nodes)
            return outputs + nn.Dense(2)(graph.globals) if has_globals else outputs

    network = Network()

    def loss_fn(params: Any, nodes: Any, edges: Any, outputs: Any) -> Any:
        return squares(network.apply(params, nodes, edges), outputs)

    return Trial(loss_fn, network.init(KEY, *_messages(0)[:2]), _messages)


def _mlp(nn: Any, jraph: Any) -> Any:
    """The function of concatenated features that updates a part of a graph."""
    return jraph.concatenated_args(nn.Sequential([nn.Dense(WIDTH), nn.relu, nn.Dense(WIDTH)]))


@model("Jraph", "GraphNetwork, twice", "jraph")
def graph_network() -> Trial:
    def make(jraph: Any, nn: Any) -> Any:
        network = jraph.GraphNetwork(
            *[_mlp(nn, jraph) for _ in range(3)],
            aggregate_nodes_for_globals_fn=jraph.segment_mean,
            aggregate_edges_for_globals_fn=jraph.segment_mean,
        )
        return lambda graph: network(network(graph))  # twice with the same parameters

    return _trial(make, has_globals=True)


@model("Jraph", "InteractionNetwork", "jraph")
def interaction_network() -> Trial:
    return _trial(lambda jraph, nn: jraph.InteractionNetwork(_mlp(nn, jraph), _mlp(nn, jraph)))


@model("Jraph", "GraphConvolution", "jraph")
def graph_convolution() -> Trial:
    return _trial(lambda jraph, nn: jraph.GraphConvolution(nn.Dense(WIDTH), add_self_edges=True), has_edges=False)


@model("Jraph", "GAT", "jraph")
def graph_attention() -> Trial:
    def make(jraph: Any, nn: Any) -> Any:
        query, logit = nn.Dense(WIDTH), nn.Dense(1)

        def logits(sender: Any, receiver: Any, edges: Any) -> Any:
            return nn.leaky_relu(logit(jnp.concatenate([sender, receiver, edges], -1)))

        return jraph.GAT(query, logits)

    return _trial(make)
