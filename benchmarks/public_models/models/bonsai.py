"""JAX Bonsai: the networks of its checkpoints, in Flax NNX, at small sizes and with random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from public_models import data
from public_models.losses import classification
from public_models.trial import Trial, model

VOCABULARY, LENGTH = 32, 16


def _trial(network: Any, loss: Callable[..., Any], batch: data.Batch, ignore: Sequence[str] = ()) -> Trial:
    """A trial of an NNX network, whose other state stays as it is."""
    from flax import nnx

    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def loss_fn(params: Any, *batch: Any) -> Any:
        return loss(nnx.merge(graph, params, rest, copy=True), *batch)

    return Trial(loss_fn, params, batch, ignore)


def _next_tokens(logits: Any, tokens: Any) -> Any:
    """The loss of logits [n, length, vocabulary] that were made from tokens[:, :-1]."""
    return classification(logits, tokens[:, 1:])


@model("Bonsai", "ConvNeXt", "flax", source="bonsai")
def convnext() -> Trial:
    from bonsai.models.convnext.modeling import ConvNeXt, ModelConfig
    from flax import nnx

    config = ModelConfig(stage_depths=(1, 1, 2, 1), stage_dims=(12, 16, 24, 32), drop_path_rate=0.0, num_classes=10)
    network = ConvNeXt(config, rngs=nnx.Rngs(0))
    return _trial(network, lambda n, x, y: classification(n(x, rngs=None, train=True), y), data.images(32))


@model("Bonsai", "DenseNet", "flax", source="bonsai")
def densenet() -> Trial:
    from bonsai.models.densenet121.modeling import DenseNet, ModelConfig
    from flax import nnx

    network = DenseNet(ModelConfig(num_classes=10, dense_block_layers=[1, 2, 1], growth_rate=8), rngs=nnx.Rngs(0))
    network.train()
    return _trial(network, lambda n, x, y: classification(n(x), y), data.images(32))


def _dinov3(gated: bool, activation: str) -> Trial:
    from bonsai.models.dinov3.modeling import Dinov3ViTModel, ModelConfig
    from flax import nnx

    config = ModelConfig(
        patch_size=(8, 8),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act=activation,
        image_size=32,
        use_gated_mlp=gated,
    )
    network = Dinov3ViTModel(config, rngs=nnx.Rngs(0))

    def loss(network: Any, x: Any, labels: Any) -> Any:
        return classification(network(x)["pooler_output"][:, :10], labels)

    return _trial(network, loss, data.images(32, channels_first=True))


DINO_NOTE = "Its forward pass never reads `mask_token`."


@model("Bonsai", "DINOv3 ViT-S", "flax", source="bonsai", note=DINO_NOTE)
def dinov3() -> Trial:
    return _dinov3(False, "gelu")


@model("Bonsai", "DINOv3 ViT-S+", "flax", source="bonsai", note=DINO_NOTE)
def dinov3_plus() -> Trial:
    return _dinov3(True, "silu")


@model("Bonsai", "EfficientNet", "flax", source="bonsai")
def efficientnet() -> Trial:
    from bonsai.models.efficientnet.modeling import BlockConfig, BlockConfigs, EfficientNet, ModelConfig
    from flax import nnx

    blocks = BlockConfigs(
        [
            BlockConfig(32, 16, 3, 1, 1, 1, 0.25, 1),
            BlockConfig(16, 24, 3, 2, 6, 2, 0.25, 1),
            BlockConfig(24, 40, 5, 1, 6, 2, 0.25, 2),
        ]
    )
    network = EfficientNet(ModelConfig(0.25, 1.0, 32, 0.0, 1, 0.99, 1e-5, blocks, 10), rngs=nnx.Rngs(0))
    return _trial(network, lambda n, x, y: classification(n(x, training=True), y), data.images(32))


@model("Bonsai", "UNet", "flax", source="bonsai")
def unet() -> Trial:
    from bonsai.models.unet.modeling import ModelConfig, UNet
    from flax import nnx

    network = UNet(ModelConfig(in_channels=1, num_classes=2, features=(4, 8, 16, 32, 64)), rngs=nnx.Rngs(0))

    def loss(network: Any, u: Any, v: Any) -> Any:
        return classification(network(u.transpose(0, 2, 3, 1)), (v[:, 0] > 0).astype(jnp.int32))

    return _trial(network, loss, data.fields(32, dimensions=2, count=8))


@model("Bonsai", "VAE", "flax", source="bonsai", note="Half of `quant_conv` makes a variance that nothing reads.")
def vae() -> Trial:
    from bonsai.models.vae.modeling import VAE, ModelConfig
    from flax import nnx

    network = VAE(ModelConfig(block_out_channels=(8, 16), latent_channels=4, norm_num_groups=4), rngs=nnx.Rngs(0))
    return _trial(network, lambda n, x, _: jnp.mean(jnp.square(n(x) - x)), data.images(16, count=8))


@model("Bonsai", "VGG", "flax", source="bonsai")
def vgg() -> Trial:
    from bonsai.models.vgg19.modeling import VGG, ModelConfig
    from flax import nnx

    config = ModelConfig(num_classes=10, block_layers=[1, 1, 2, 1, 1], channels=[8, 16, 16, 24, 24, 48])
    network = VGG(config, rngs=nnx.Rngs(0))
    return _trial(network, lambda n, x, y: classification(n(x), y), data.images(64))


@model("Bonsai", "ViT", "flax", source="bonsai")
def vit() -> Trial:
    from bonsai.models.vit.modeling import ModelConfig, ViTClassificationModel
    from flax import nnx

    config = ModelConfig(
        image_size=(32, 32),
        patch_size=(8, 8),
        num_channels=3,
        hidden_dim=32,
        attn_dropout_prob=0.0,
        dropout_prob=0.0,
        num_heads=4,
        mlp_dim=64,
        eps=1e-12,
        num_layers=2,
        num_labels=10,
    )
    network = ViTClassificationModel(config, rngs=nnx.Rngs(0))
    return _trial(network, lambda n, x, y: classification(n(x, rngs=None), y), data.images(32))


@model("Bonsai", "V-JEPA 2 classifier", "flax", source="bonsai", note="The classifier does not use the predictor.")
def vjepa2() -> Trial:
    from bonsai.models.vjepa2.modeling import ModelConfig, VJEPA2ForVideoClassification
    from flax import nnx

    config = ModelConfig(
        crop_size=32,
        frames_per_clip=4,
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=2.0,
        pred_hidden_size=16,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        pred_mlp_ratio=2.0,
        num_pooler_layers=1,
        num_labels=10,
    )
    network = VJEPA2ForVideoClassification(config, rngs=nnx.Rngs(0))

    def loss(network: Any, x: Any, labels: Any) -> Any:
        video = jnp.stack([jnp.roll(x, frame, 2) for frame in range(4)], 1)
        return classification(network(video)["logits"], labels)

    return _trial(network, loss, data.images(32, count=8))


@model("Bonsai", "Whisper", "flax", source="bonsai")
def whisper() -> Trial:
    from dataclasses import replace

    from bonsai.models.whisper.modeling import ModelConfig, Whisper
    from flax import nnx

    config = replace(
        ModelConfig.whisper_tiny(),
        d_model=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_layers=2,
        decoder_layers=2,
        num_mel_bins=8,
        max_source_positions=16,
        max_length=4,
        vocab_size=16,
    )
    network = Whisper(config, rngs=nnx.Rngs(0))

    def loss(network: Any, x: Any, labels: Any) -> Any:
        words = 1 + labels[:, None] + jnp.arange(4)
        tokens = jnp.pad(words, ((0, 0), (1, 0)))[:, :-1]
        hidden = network.decoder(tokens, nnx.make_causal_mask(tokens), network.encoder(x), None, decode=False)
        return classification(network.decoder.embed_tokens.attend(hidden), words)

    return _trial(network, loss, data.sequences(32, 8, 6, count=8))


@model("Bonsai", "Qwen3", "flax", source="bonsai")
def qwen3() -> Trial:
    from bonsai.models.qwen3.modeling import ModelConfig, Qwen3, init_cache
    from flax import nnx

    config = ModelConfig(
        num_layers=2,
        vocab_size=VOCABULARY,
        emb_dim=32,
        mlp_dim=64,
        num_heads=4,
        head_dim=8,
        num_kv_heads=2,
        rope_theta=10_000,
        rope_scaling_factor=8.0,
        local_rope_theta=1e4,
        norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    network = Qwen3(config, rngs=nnx.Rngs(0))

    def loss(network: Any, tokens: Any) -> Any:
        inputs = tokens[:, :-1]
        cache = init_cache(config, len(inputs), LENGTH, 0, jnp.float32)
        return _next_tokens(network(inputs, cache=cache, segment_ids=jnp.ones_like(inputs)), tokens)

    return _trial(network, loss, data.tokens(VOCABULARY, LENGTH))


@model("Bonsai", "Qwen3-VL", "flax", source="bonsai")
def qwen3_vl() -> Trial:
    from bonsai.models.qwen3_vl import modeling
    from flax import nnx

    vision = modeling.Qwen3VLVisionConfig(
        depth=1,
        hidden_size=16,
        intermediate_size=32,
        num_heads=2,
        patch_size=4,
        temporal_patch_size=1,
        out_hidden_size=32,
        num_position_embeddings=9,
        deepstack_visual_indexes=(),  # the text model would not use their features
    )
    text = modeling.Qwen3VLTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope_theta=1e4,
    )
    config = modeling.ModelConfig(vision, text)
    network = modeling.Qwen3VLForConditionalGeneration(config, rngs=nnx.Rngs(0))
    images, texts = data.images(16, count=8), data.tokens(VOCABULARY, LENGTH - 5)

    def loss(network: Any, pixels: Any, labels: Any, tokens: Any) -> Any:
        caption = jnp.concatenate([labels[:, None], tokens], 1)
        ids = jnp.pad(caption[:, :-2], ((0, 0), (5, 0)))  # four places of the image, and a zero that begins the text
        image = (jnp.arange(ids.shape[1]) < 4).astype(jnp.int32)[None]

        def logits(pixels: Any, ids: Any) -> Any:
            # [height, 4, width, 4, channel] to [height, width, channel, 4, 4], in patches
            patches = pixels.reshape(4, 4, 4, 4, 3).transpose(0, 2, 4, 1, 3).reshape(16, -1)
            cache = modeling.init_cache(config, 1, len(ids), 0, jnp.float32)
            return network(ids[None], patches, np.array([[1, 4, 4]]), cache=cache, token_type_ids=image)[0, 4:]

        return classification(jax.vmap(logits)(pixels, ids), caption[:, :-1])

    return _trial(network, loss, lambda step: (*images(step), *texts(step)))


@model("Bonsai", "Gemma 3", "flax", source="bonsai")
def gemma3() -> Trial:
    from bonsai.models.gemma3 import modeling
    from flax import nnx

    vision = modeling.VisionConfig(
        attention_dropout=0.0,
        hidden_size=24,
        image_size=16,
        intermediate_size=48,
        layer_norm_eps=1e-6,
        num_attention_heads=2,
        num_channels=3,
        num_hidden_layers=1,
        patch_size=4,
        vision_use_head=False,
    )
    text = modeling.TextConfig(
        attention_bias=False,
        attention_dropout=0.0,
        head_dim=8,
        hidden_size=32,
        intermediate_size=64,
        layer_types=[modeling.AttentionMode.SLIDE, modeling.AttentionMode.FULL],
        max_position_embeddings=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_full_factor=8.0,
        rope_full_theta=1e6,
        rope_slide_factor=1.0,
        rope_slide_theta=1e4,
        sliding_window=8,
        vocab_size=VOCABULARY,
        norm_dtype=jnp.float32,
    )
    config = modeling.ModelConfig(vision, text, 4, "float32", None)
    network = modeling.Gemma3Model(config, rngs=nnx.Rngs(0))
    images, texts = data.images(16, count=8), data.tokens(VOCABULARY, LENGTH - 5)

    def loss(network: Any, pixels: Any, labels: Any, tokens: Any) -> Any:
        caption = jnp.concatenate([labels[:, None], tokens], 1)
        ids = jnp.pad(caption[:, :-2], ((0, 0), (5, 0)))  # four places of the image, and a zero that begins the text
        image = jnp.broadcast_to(jnp.arange(ids.shape[1]) < 4, ids.shape).astype(jnp.int32)
        cache = modeling.init_cache(config, *ids.shape, 0, jnp.float32)
        logits = network(ids, pixels, cache=cache, segment_ids=jnp.ones_like(ids), token_type_ids=image)
        return classification(logits[:, 4:], caption[:, :-1])

    return _trial(network, loss, lambda step: (*images(step), *texts(step)))


@model("Bonsai", "LLaDA", "flax", source="bonsai")
def llada() -> Trial:
    from bonsai.models.llada.modeling import LLaDAModel, ModelConfig, RMSNorm, ShardingConfig
    from flax import nnx

    config = ModelConfig(
        dtype=jnp.float32,
        d_model=32,
        n_heads=4,
        n_kv_heads=4,
        n_layers=2,
        embedding_dropout=0.0,
        max_sequence_length=LENGTH,
        rope_theta=1e4,
        include_qkv_bias=False,
        include_bias=False,
        vocab_size=VOCABULARY,
        embedding_size=VOCABULARY,
        mlp_hidden_size=64,
        shd_cfg=ShardingConfig(*[None] * 10),  # its `no_sharding` needs a mesh
        return_hidden_states=False,
    )
    network = LLaDAModel(config, rngs=nnx.Rngs(0))
    for _, norm in nnx.iter_graph(network):
        if isinstance(norm, RMSNorm):  # zero until a checkpoint is read
            norm.weight[...] = jnp.ones_like(norm.weight[...])
    texts = data.tokens(VOCABULARY, LENGTH - 1, count=16)

    def batch(step: int) -> Sequence[np.ndarray]:
        (tokens,) = texts(step)
        return tokens, np.random.default_rng((2, step)).uniform(size=tokens.shape) < 0.3

    def loss(network: Any, tokens: Any, hidden: Any) -> Any:
        mask = jnp.ones_like(tokens)
        logits, *_ = network(jnp.where(hidden, 0, tokens), mask, jax.random.key(0))
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
        return jnp.sum(nll * hidden) / jnp.sum(hidden)

    return _trial(network, loss, batch)


@model("Bonsai", "Mamba2", "flax", source="bonsai")
def mamba2() -> Trial:
    from bonsai.models.mamba2.modeling import Mamba2ForCausalLM, ModelConfig
    from flax import nnx

    config = ModelConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=16, head_dim=16, chunk_size=8, num_hidden_layers=2
    )
    network = Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
    return _trial(network, lambda n, tokens: n(tokens, tokens)["loss"], data.tokens(VOCABULARY, LENGTH))


@model("Bonsai", "Mamba2 forecaster", "flax", source="bonsai", note="The forecaster has no use for its embedding.")
def mamba2_forecaster() -> Trial:
    from bonsai.models.mamba2.modeling import Mamba2Forecaster
    from flax import nnx

    network = Mamba2Forecaster(
        input_dim=2,
        d_model=32,
        n_layers=2,
        output_dim=2,
        forecast_horizon=8,
        d_state=16,
        headdim=16,
        chunk_size=8,
        rngs=nnx.Rngs(0),
    )

    def loss(network: Any, x: Any, _: Any) -> Any:
        return jnp.mean(jnp.square(network(x[:, :24]) - x[:, 24:]))

    return _trial(network, loss, data.sequences(32, 2, 3))


@model("Bonsai", "UMT5", "flax", source="bonsai")
def umt5() -> Trial:
    from bonsai.models.umt5.modeling import ModelConfig, UMT5Model
    from flax import nnx

    config = ModelConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        dropout_rate=0.0,
    )
    network = UMT5Model(config, rngs=nnx.Rngs(0))

    def loss(network: Any, tokens: Any) -> Any:
        previous = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        return classification(network.lm_head(network(tokens, jnp.ones_like(tokens), previous)), tokens)

    return _trial(network, loss, data.tokens(VOCABULARY, LENGTH - 1))
