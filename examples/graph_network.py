"""A graph network, in Equinox: edges and nodes send each other messages, summed over a node's edges.

Source: Battaglia et al. (2018), Relational inductive biases, deep learning, and graph networks.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _train import Network, train
from jaxtyping import Array, Float, Int

NODE_FEATURES = 3
EDGE_FEATURES = 2


class MessagePassing(eqx.Module):
    """New edges from the edges and their ends, then new nodes from the nodes and the sums of their edges."""

    edge_mlp: eqx.nn.MLP
    node_mlp: eqx.nn.MLP
    norm: eqx.nn.LayerNorm

    def __init__(self, width: int, *, key: Array) -> None:
        edge_key, node_key = jax.random.split(key)
        self.edge_mlp = eqx.nn.MLP(3 * width, width, width, depth=1, key=edge_key)
        self.node_mlp = eqx.nn.MLP(2 * width, width, width, depth=1, key=node_key)
        self.norm = eqx.nn.LayerNorm(width)

    def __call__(
        self,
        nodes: Float[Array, "v d"],
        edges: Float[Array, "e d"],
        senders: Int[Array, " e"],
        receivers: Int[Array, " e"],
    ) -> tuple[Float[Array, "v d"], Float[Array, "e d"]]:
        ends = jnp.concatenate([edges, nodes[senders], nodes[receivers]], axis=1)  # [e, 3 d]
        edges = edges + jax.vmap(self.edge_mlp)(ends)
        messages = jax.ops.segment_sum(edges, receivers, num_segments=nodes.shape[0])
        nodes = nodes + jax.vmap(self.node_mlp)(jnp.concatenate([nodes, messages], axis=1))
        return jax.vmap(self.norm)(nodes), edges


class GraphNetwork(eqx.Module):
    """Encode nodes and edges, pass messages, and decode each graph's mean node."""

    node_encoder: eqx.nn.Linear
    edge_encoder: eqx.nn.Linear
    steps: list[MessagePassing]
    decoder: eqx.nn.MLP

    def __init__(self, width: int, steps: int, *, key: Array) -> None:
        node_key, edge_key, decoder_key, *step_keys = jax.random.split(key, 3 + steps)
        self.node_encoder = eqx.nn.Linear(NODE_FEATURES, width, key=node_key)
        self.edge_encoder = eqx.nn.Linear(EDGE_FEATURES, width, key=edge_key)
        self.steps = [MessagePassing(width, key=step_key) for step_key in step_keys]
        self.decoder = eqx.nn.MLP(width, "scalar", width, depth=1, key=decoder_key)

    def __call__(
        self,
        nodes: Float[Array, "v i"],
        edges: Float[Array, "e j"],
        senders: Int[Array, " e"],
        receivers: Int[Array, " e"],
        graph_of_node: Int[Array, " v"],
        graphs: int,
    ) -> Float[Array, " g"]:
        nodes, edges = jax.vmap(self.node_encoder)(nodes), jax.vmap(self.edge_encoder)(edges)
        for step in self.steps:
            nodes, edges = step(nodes, edges, senders, receivers)
        total = jax.ops.segment_sum(nodes, graph_of_node, num_segments=graphs)
        sizes = jax.ops.segment_sum(jnp.ones_like(nodes[:, :1]), graph_of_node, num_segments=graphs)
        return jax.vmap(self.decoder)(total / sizes)


def make_batch(key: Array, *, graphs: int = 32, nodes: int = 12, edges: int = 40) -> tuple[Array, ...]:
    """Random graphs side by side in one, and for each the mean of its edges' larger ends, weighted."""
    node_key, edge_key, end_key = jax.random.split(key, 3)
    node_features = jax.random.normal(node_key, (graphs * nodes, NODE_FEATURES))
    edge_features = jax.random.uniform(edge_key, (graphs * edges, EDGE_FEATURES))
    first_node = nodes * jnp.repeat(jnp.arange(graphs), edges)
    senders, receivers = first_node + jax.random.randint(end_key, (2, graphs * edges), 0, nodes)
    larger = edge_features[:, 0] * jnp.maximum(node_features[senders, 0], node_features[receivers, 0])
    targets = 4 * larger.reshape(graphs, edges).mean(axis=1)
    return node_features, edge_features, senders, receivers, jnp.repeat(jnp.arange(graphs), nodes), targets


def build(
    key: Array, *, graphs: int = 32, nodes: int = 12, edges: int = 40, width: int = 32, steps: int = 3
) -> Network:
    """The network and a batch for it."""
    model = GraphNetwork(width, steps, key=key)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_fn(
        params: GraphNetwork,
        nodes: Array,
        edges: Array,
        senders: Array,
        receivers: Array,
        graph_of_node: Array,
        targets: Array,
    ) -> Array:
        model = eqx.combine(params, static)
        predictions = model(nodes, edges, senders, receivers, graph_of_node, targets.shape[0])
        return jnp.mean(jnp.square(predictions - targets))

    return Network(loss_fn, params, make_batch(key, graphs=graphs, nodes=nodes, edges=edges))


def main() -> None:
    """Train on random graphs."""
    key = jax.random.key(0)
    train(build(key), map(make_batch, jax.random.split(key, 200)), learning_rate=optax.linear_schedule(0.02, 0.0, 200))


if __name__ == "__main__":
    main()
