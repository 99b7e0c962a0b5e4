"""PyTorch modules of Hugging Face's transformers and of torchvision, as functions of JAX arrays by torchax.

Batch normalisation uses the batch's statistics, and there is no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from public_models import data
from public_models.losses import classification
from public_models.trial import Trial, model

PACKAGES = ("torchax", "torch", "transformers")
VOCABULARY, LENGTH = 64, 16


def _trial(build: Callable[[], Any], loss: Callable[..., Any], batch: data.Batch) -> Trial:
    """The trial of a module and `loss(outputs of a call, *batch)`."""
    import torch
    import torchax

    torch.manual_seed(0)
    module = build().train()
    env = torchax.default_env()
    params = env.t2j_copy(dict(module.named_parameters()))
    buffers = env.t2j_copy(dict(module.named_buffers()))

    def loss_fn(params: Any, *batch: Any) -> Any:
        def call(**arguments: Any) -> Any:
            tensors, arguments = env.j2t_iso((params | buffers, arguments))
            with env:
                outputs = torch.func.functional_call(module, tensors, (), arguments)
            return env.t2j_iso(outputs if isinstance(outputs, torch.Tensor) else outputs.logits)

        return loss(call, *batch)

    return Trial(loss_fn, params, batch)


def _predict_next(call: Callable[..., Any], tokens: Any) -> Any:
    """The next token, at every position."""
    return classification(call(input_ids=tokens[:, :-1]), tokens[:, 1:])


def _tokens(build: Callable[[], Any]) -> Trial:
    return _trial(build, _predict_next, data.tokens(VOCABULARY, LENGTH))


@model("torchax", "GPT-2", *PACKAGES)
def gpt2() -> Trial:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_layer=2,
        n_embd=64,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return _tokens(lambda: GPT2LMHeadModel(config))


@model("torchax", "Llama", *PACKAGES)
def llama() -> Trial:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        use_cache=False,
    )
    return _tokens(lambda: LlamaForCausalLM(config))


@model("torchax", "BERT", *PACKAGES)
def bert() -> Trial:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=16,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    masked = jnp.arange(LENGTH) % 4 == 2

    def loss(call: Callable[..., Any], tokens: Any) -> Any:
        """Of every fourth token, which the network does not see."""
        tokens = tokens[:, 1:]
        logits = call(input_ids=jnp.where(masked, 0, tokens))
        return classification(logits[:, masked], tokens[:, masked])

    return _trial(lambda: BertForMaskedLM(config), loss, data.tokens(16, LENGTH, count=32))


@model("torchax", "T5", *PACKAGES)
def t5() -> Trial:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        use_cache=False,
    )

    def loss(call: Callable[..., Any], tokens: Any) -> Any:
        """Of the second half, given the first."""
        half = LENGTH // 2
        logits = call(input_ids=tokens[:, :half], decoder_input_ids=tokens[:, half:-1])
        return classification(logits, tokens[:, half + 1 :])

    return _trial(lambda: T5ForConditionalGeneration(config), loss, data.tokens(VOCABULARY, LENGTH))


@model("torchax", "ViT", *PACKAGES)
def vit() -> Trial:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=32,
        patch_size=8,
        num_labels=10,
    )

    def loss(call: Callable[..., Any], x: Any, labels: Any) -> Any:
        return classification(call(pixel_values=x), labels)

    return _trial(lambda: ViTForImageClassification(config), loss, data.images(32, channels_first=True))


@model("torchax", "ResNet", "torchax", "torch", "torchvision")
def resnet() -> Trial:
    from torchvision.models.resnet import BasicBlock, ResNet

    def loss(call: Callable[..., Any], x: Any, labels: Any) -> Any:
        return classification(call(x=x), labels)

    return _trial(lambda: ResNet(BasicBlock, [1, 1, 1, 1], 10), loss, data.images(32, channels_first=True))
