"""Flax: its own layers, and the networks of its examples at small sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from public_models import data
from public_models.losses import classification, squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)
VOCABULARY, LENGTH = 32, 16
EXAMPLES = "flax/examples"


def _linen(network: Any, loss: Callable[..., Any], batch: data.Batch, *inputs: Any, **settings: Any) -> Trial:
    """A trial of a Linen network that is initialized with `inputs`; `loss(apply, *batch)` may call `apply`."""
    from flax.core import meta

    params = meta.unbox(network.init(KEY, *inputs, **settings)["params"])

    def loss_fn(params: Any, *batch: Any) -> Any:
        return loss(lambda *inputs, **settings: network.apply({"params": params}, *inputs, **settings), *batch)

    return Trial(loss_fn, params, batch)


def _nnx(network: Any, loss: Callable[..., Any], batch: data.Batch) -> Trial:
    from flax import nnx

    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def loss_fn(params: Any, *batch: Any) -> Any:
        return loss(nnx.merge(graph, params, rest, copy=True), *batch)

    return Trial(loss_fn, params, batch)


@model("Flax Linen", "MultiHeadDotProductAttention", "flax")
def linen_attention() -> Trial:
    from flax import linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, tokens: Any) -> Any:
            x = nn.Embed(VOCABULARY, 32)(tokens)
            x = x + self.param("position", nn.initializers.normal(0.1), (LENGTH, 32))
            x = x + nn.MultiHeadDotProductAttention(num_heads=4)(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
            return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))

    def loss(apply: Any, tokens: Any) -> Any:
        return classification(apply(tokens[:, :-1]), tokens[:, 1:])

    return _linen(Network(), loss, data.tokens(VOCABULARY, LENGTH), jnp.zeros((8, LENGTH), jnp.int32))


@model("Flax NNX", "MultiHeadAttention", "flax")
def nnx_attention() -> Trial:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.embed = nnx.Embed(VOCABULARY, 32, rngs=rngs)
            self.position = nnx.Embed(LENGTH, 32, rngs=rngs)
            self.norm = nnx.LayerNorm(32, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(
                num_heads=4, in_features=32, decode=False, normalize_qk=True, rngs=rngs
            )
            self.head = nnx.Linear(32, VOCABULARY, rngs=rngs)

        def __call__(self, tokens: Any) -> Any:
            x = self.embed(tokens) + self.position(jnp.arange(LENGTH))
            return self.head(x + self.attention(self.norm(x), mask=nnx.make_causal_mask(tokens)))

    def loss(network: Any, tokens: Any) -> Any:
        return classification(network(tokens[:, :-1]), tokens[:, 1:])

    return _nnx(Network(nnx.Rngs(0)), loss, data.tokens(VOCABULARY, LENGTH))


@model("Flax NNX", "RNN of an LSTMCell", "flax")
def nnx_lstm() -> Trial:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.rnn = nnx.RNN(nnx.LSTMCell(4, 48, rngs=rngs))
            self.head = nnx.Linear(48, 3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.rnn(x)[:, -1])

    return _nnx(Network(nnx.Rngs(0)), lambda n, x, y: classification(n(x), y), data.sequences(24, 4, 3))


@model("Flax NNX", "bidirectional RNN of a GRUCell", "flax")
def nnx_gru() -> Trial:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            cells = [nnx.RNN(nnx.GRUCell(4, 24, rngs=rngs)) for _ in range(2)]
            self.rnn = nnx.Bidirectional(*cells)
            self.head = nnx.Linear(48, 3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.rnn(x).mean(1))

    return _nnx(Network(nnx.Rngs(0)), lambda n, x, y: classification(n(x), y), data.sequences(24, 4, 3))


def _imagenet(name: str, **settings: Any) -> Trial:
    import models

    network = getattr(models, name)(num_classes=10, **settings)
    variables = network.init(KEY, jnp.zeros((1, 32, 32, 3)), train=False)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        def logits(x: Any) -> Any:
            # The example runs under `pmap` with this axis. The new statistics are dropped.
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            return network.apply(state, x, train=True, mutable=["batch_stats"])[0]

        shards = x.reshape(2, -1, *x.shape[1:])
        return classification(jax.vmap(logits, axis_name="batch")(shards).reshape(len(x), -1), labels)

    return Trial(loss_fn, variables["params"], data.images(32))


@model("Flax examples", "imagenet ResNet18", "flax", source=f"{EXAMPLES}/imagenet")
def resnet18() -> Trial:
    return _imagenet("ResNet18", num_filters=8)


@model("Flax examples", "imagenet ResNet with bottlenecks", "flax", source=f"{EXAMPLES}/imagenet")
def resnet_bottleneck() -> Trial:
    import models

    return _imagenet("ResNet", num_filters=8, stage_sizes=[1, 1, 1], block_cls=models.BottleneckResNetBlock)


@model("Flax examples", "imagenet ResNet1Local", "flax", source=f"{EXAMPLES}/imagenet")
def resnet_local() -> Trial:
    return _imagenet("_ResNet1Local", num_filters=4)


@model("Flax examples", "lm1b TransformerLM", "flax", source=f"{EXAMPLES}/lm1b")
def lm1b() -> Trial:
    import models

    config = models.TransformerConfig(
        vocab_size=VOCABULARY,
        output_vocab_size=VOCABULARY,
        emb_dim=32,
        num_heads=4,
        num_layers=2,
        qkv_dim=32,
        mlp_dim=64,
        max_len=LENGTH,
        deterministic=True,
    )
    # The network shifts its inputs itself.
    batch = data.tokens(VOCABULARY, LENGTH - 1)
    network = models.TransformerLM(config)
    return _linen(network, lambda apply, tokens: classification(apply(tokens), tokens), batch, *batch(0))


@model("Flax examples", "lm1b TransformerLM with tied embeddings", "flax", source=f"{EXAMPLES}/lm1b")
def lm1b_tied() -> Trial:
    import models

    config = models.TransformerConfig(
        vocab_size=VOCABULARY,
        output_vocab_size=VOCABULARY,
        logits_via_embedding=True,
        emb_dim=32,
        num_heads=4,
        num_layers=2,
        qkv_dim=32,
        mlp_dim=64,
        max_len=LENGTH,
        deterministic=True,
        posemb_init=jax.nn.initializers.normal(0.02),
    )
    batch = data.tokens(VOCABULARY, LENGTH - 1)
    network = models.TransformerLM(config)
    return _linen(network, lambda apply, tokens: classification(apply(tokens), tokens), batch, *batch(0))


@model("Flax examples", "wmt Transformer", "flax", source=f"{EXAMPLES}/wmt")
def wmt() -> Trial:
    import models

    config = models.TransformerConfig(
        vocab_size=VOCABULARY,
        output_vocab_size=VOCABULARY,
        share_embeddings=True,
        logits_via_embedding=True,
        emb_dim=32,
        num_heads=4,
        num_layers=2,
        qkv_dim=32,
        mlp_dim=64,
        max_len=LENGTH,
        deterministic=True,
    )
    batch = data.tokens(VOCABULARY, LENGTH - 1)

    def loss(apply: Any, tokens: Any) -> Any:
        targets = tokens[:, ::-1]
        return classification(apply(tokens, targets), targets)

    return _linen(models.Transformer(config), loss, batch, *batch(0), *batch(0))


@model("Flax examples", "nlp_seq Transformer", "flax", source=f"{EXAMPLES}/nlp_seq")
def nlp_seq() -> Trial:
    import models

    config = models.TransformerConfig(
        vocab_size=VOCABULARY,
        output_vocab_size=8,
        emb_dim=32,
        num_heads=4,
        num_layers=2,
        qkv_dim=32,
        mlp_dim=64,
        max_len=LENGTH,
    )
    batch = data.tokens(VOCABULARY, LENGTH - 1)

    def loss(apply: Any, tokens: Any) -> Any:
        return classification(apply(inputs=tokens, train=False), tokens // 4)

    return _linen(models.Transformer(config), loss, batch, inputs=batch(0)[0], train=False)


@model("Flax examples", "vae", "flax", source=f"{EXAMPLES}/vae")
def vae() -> Trial:
    import models

    def loss(apply: Any, x: Any, _: Any) -> Any:
        pixels = (x.reshape(len(x), -1) > 0).astype(jnp.float32)
        logits, mean, logvar = apply(pixels, KEY)
        reconstruction = optax.sigmoid_binary_cross_entropy(logits, pixels).sum(-1)
        divergence = -0.5 * jnp.sum(1 + logvar - mean**2 - jnp.exp(logvar), -1)
        return jnp.mean(reconstruction + divergence)

    return _linen(models.model(20), loss, data.images(28, channels=1), jnp.zeros((1, 784)), KEY)


@model("Flax examples", "ppo ActorCritic", "flax", source=f"{EXAMPLES}/ppo")
def ppo() -> Trial:
    import models

    def loss(apply: Any, x: Any, actions: Any) -> Any:
        log_probabilities, values = apply(128 + 40 * x)
        returns = actions[:, None] / 2 - 1
        policy = -jnp.take_along_axis(log_probabilities, actions[:, None], 1).mean()
        return policy + squares(values, returns)

    batch = data.images(32, channels=4, classes=5)
    return _linen(models.ActorCritic(5), loss, batch, batch(0)[0])


@model("Flax examples", "seq2seq", "flax", source=f"{EXAMPLES}/seq2seq")
def seq2seq() -> Trial:
    import models

    texts = data.tokens(15, 7)

    def batch(step: int) -> Sequence[np.ndarray]:
        (tokens,) = texts(step)
        ends = np.ones((len(tokens), 1), np.int32)
        sources = np.concatenate([1 + tokens, ends], 1)
        targets = np.concatenate([0 * ends, 1 + tokens[:, ::-1], ends], 1)
        return np.eye(16, dtype=np.float32)[sources], np.eye(16, dtype=np.float32)[targets]

    def loss(apply: Any, sources: Any, targets: Any) -> Any:
        logits, _ = apply(sources, targets, rngs={"lstm": KEY})
        return optax.softmax_cross_entropy(logits, targets[:, 1:]).mean()

    network = models.Seq2seq(teacher_force=True, hidden_size=48, vocab_size=16)
    return _linen(network, loss, batch, *batch(0))


@model("Flax examples", "sst2 TextClassifier", "flax", source=f"{EXAMPLES}/sst2")
def sst2() -> Trial:
    import models

    network = models.TextClassifier(
        embedding_size=24,
        hidden_size=24,
        vocab_size=VOCABULARY,
        output_size=1,
        dropout_rate=0.5,
        word_dropout_rate=0.1,
        deterministic=True,
    )
    batch = data.tokens(VOCABULARY, LENGTH - 1, count=16)
    lengths = np.arange(16) % 8 + LENGTH - 7

    def loss(apply: Any, tokens: Any) -> Any:
        # The sentiment is that of most words.
        words = jnp.where(jnp.arange(LENGTH) < lengths[:, None], jnp.where(tokens < VOCABULARY // 2, -1, 1), 0)
        logits = apply(tokens, lengths)[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, (words.sum(1) > 0).astype(jnp.float32)).mean()

    return _linen(network, loss, batch, *batch(0), lengths)


def _graphs(step: int) -> Sequence[np.ndarray]:
    """(nodes [n, 4], edges [m, 2], senders [m], receivers [m], labels [graphs]) of 16 graphs of equal size."""
    rng = np.random.default_rng((1, step))
    graphs, size, degree = 16, 6, 2
    nodes = rng.normal(size=(graphs, size, 4)) + rng.normal(size=(graphs, 1, 4)) / 2
    edges = rng.normal(size=(graphs * size * degree, 2))
    first = size * np.arange(graphs)[:, None]
    senders, receivers = (first + rng.integers(0, size, (graphs, size * degree)) for _ in range(2))
    labels = np.sin(nodes[..., 0]).mean(1) + nodes[..., 1].mean(1) > 0
    return (
        nodes.reshape(-1, 4).astype(np.float32),
        edges.astype(np.float32),
        senders.reshape(-1).astype(np.int32),
        receivers.reshape(-1).astype(np.int32),
        labels.astype(np.float32),
    )


def _molecules(name: str, **settings: Any) -> Trial:
    import jraph
    import models

    network = getattr(models, name)(
        latent_size=24, num_mlp_layers=2, message_passing_steps=2, output_globals_size=1, **settings
    )

    def graphs(nodes: Any, edges: Any, senders: Any, receivers: Any) -> Any:
        return jraph.GraphsTuple(
            n_node=jnp.full(16, 6), n_edge=jnp.full(16, 12), nodes=nodes, edges=edges, globals=jnp.ones((16, 1)),
            senders=senders, receivers=receivers,
        )  # fmt: skip

    def loss(apply: Any, *batch: Any) -> Any:
        *graph, labels = batch
        return optax.sigmoid_binary_cross_entropy(apply(graphs(*graph)).globals[:, 0], labels).mean()

    return _linen(network, loss, _graphs, graphs(*_graphs(0)[:-1]))


GRAPH_NOTE = "Only the globals are read in the end, so the last normalizations of nodes and edges are not used."


@model("Flax examples", "ogbg_molpcba GraphNet", "flax", "jraph", source=f"{EXAMPLES}/ogbg_molpcba", note=GRAPH_NOTE)
def graph_net() -> Trial:
    return _molecules("GraphNet")


@model("Flax examples", "ogbg_molpcba GraphConvNet", "flax", "jraph", source=f"{EXAMPLES}/ogbg_molpcba")
def graph_conv_net() -> Trial:
    return _molecules("GraphConvNet")


def _gemma(**settings: Any) -> Trial:
    from flax import nnx
    from transformer import Transformer, build_positions_from_mask, make_causal_attn_mask
    from transformer_cfg import AttentionType, TransformerConfig

    config = TransformerConfig(
        num_layers=2,
        num_embed=VOCABULARY,
        embed_dim=32,
        hidden_dim=64,
        num_heads=4,
        head_dim=8,
        attention_types=(AttentionType.LOCAL_SLIDING, AttentionType.GLOBAL),
        sliding_window_size=8,
        **settings,
    )

    def loss(network: Any, tokens: Any) -> Any:
        mask = jnp.ones_like(tokens[:, :-1], bool)
        positions = build_positions_from_mask(mask)
        logits, _ = network(tokens[:, :-1], positions, None, make_causal_attn_mask(mask))
        return classification(logits, tokens[:, 1:])

    return _nnx(Transformer(config, rngs=nnx.Rngs(0)), loss, data.tokens(VOCABULARY, LENGTH))


@model("Flax examples", "gemma 2", "flax", source=f"{EXAMPLES}/gemma")
def gemma2() -> Trial:
    return _gemma(
        num_kv_heads=4,
        final_logit_softcap=30.0,
        attn_logits_soft_cap=50.0,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
    )


@model("Flax examples", "gemma 3", "flax", source=f"{EXAMPLES}/gemma")
def gemma3() -> Trial:
    return _gemma(
        num_kv_heads=2,
        final_logit_softcap=None,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        use_qk_norm=True,
    )
