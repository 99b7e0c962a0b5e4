"""Networks of Penzai, whose arrays have named axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from public_models import data
from public_models.losses import classification, squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)
VOCABULARY, LENGTH = 32, 16


def _values(network: Any) -> tuple[Any, Any]:
    """Its parameters' arrays by name, and the function that binds others."""
    from penzai import pz

    unbound, parameters = pz.unbind_params(network)
    frozen = {parameter.label: parameter.freeze() for parameter in parameters}

    def bind(params: Any) -> Any:
        return pz.bind_variables(unbound, [replace(frozen[name], value=params[name]) for name in frozen])

    return {name: parameter.value for name, parameter in frozen.items()}, bind


@model("Penzai", "MLP", "penzai")
def mlp() -> Trial:
    from penzai import pz
    from penzai.models.simple_mlp import MLP

    params, bind = _values(MLP.from_config(KEY, [8, 64, 64, 3]))

    def loss_fn(params: Any, x: Any, y: Any) -> Any:
        outputs = bind(params)(pz.nx.wrap(x).tag("batch", "features"))
        return squares(outputs.unwrap("batch", "features"), y)

    return Trial(loss_fn, params, data.regression((8,), (3,)))


def _transformer(network: Any) -> Trial:
    """The next token of a Markov chain."""
    from penzai import pz

    params, bind = _values(network)

    def loss_fn(params: Any, tokens: Any) -> Any:
        logits = bind(params)(pz.nx.wrap(tokens[:, :-1]).tag("batch", "seq"))
        return classification(logits.unwrap("batch", "seq", "vocabulary"), tokens[:, 1:])

    return Trial(loss_fn, params, data.tokens(VOCABULARY, LENGTH))


@model("Penzai", "Llama", "penzai")
def llama() -> Trial:
    from penzai.models.transformer.variants import llamalike_common as common

    config = common.LlamalikeTransformerConfig(
        num_kv_heads=1,
        query_head_multiplier=2,
        embedding_dim=32,
        projection_dim=16,
        mlp_hidden_dim=48,
        num_decoder_blocks=2,
        vocab_size=VOCABULARY,
        mlp_variant="swiglu",
        tie_embedder_and_logits=False,
    )
    return _transformer(common.build_llamalike_transformer(config, KEY))


@model("Penzai", "Gemma, its layers stacked", "penzai")
def gemma() -> Trial:
    from penzai.models.transformer.variants import llamalike_common as common

    config = common.LlamalikeTransformerConfig(
        num_kv_heads=1,
        query_head_multiplier=2,
        embedding_dim=32,
        projection_dim=16,
        mlp_hidden_dim=48,
        num_decoder_blocks=2,
        vocab_size=VOCABULARY,
        mlp_variant="geglu_approx",
        tie_embedder_and_logits=True,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        final_logit_softcap=30.0,
        attn_logits_soft_cap=50.0,
        use_layer_stack=True,
    )
    return _transformer(common.build_llamalike_transformer(config, KEY))


@model("Penzai", "GPT-NeoX", "penzai")
def gpt_neox() -> Trial:
    from penzai.models.transformer.variants import gpt_neox as variant

    config = variant.GPTNeoXTransformerConfig(
        num_attention_heads=2,
        embedding_dim=32,
        projection_dim=16,
        mlp_hidden_dim=64,
        num_decoder_blocks=2,
        vocab_size=VOCABULARY,
        activation_fn="gelu_approx",
        rope_subset_size=8,
        rope_wavelength=10_000,
        layernorm_epsilon=1e-5,
        parameter_dtype=jnp.float32,
        activation_dtype=jnp.float32,
    )
    return _transformer(variant.build_gpt_neox_transformer(config, KEY))
