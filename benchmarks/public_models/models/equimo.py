"""Vision networks of Equimo, each made small."""

from __future__ import annotations

from typing import Any

import jax

from public_models import data
from public_models.losses import classification
from public_models.trial import Trial, model

KEY = jax.random.key(0)
SIZE = 32
CLASSES = 10


def _classify(network: Any, *ignore: str) -> Trial:
    """Images, without dropout."""
    import equinox as eqx

    params, static = eqx.partition(network, eqx.is_inexact_array)

    def loss_fn(params: Any, x: Any, labels: Any) -> Any:
        network = eqx.combine(params, static)
        return classification(jax.vmap(lambda x: network(x, key=KEY, inference=True))(x), labels)

    return Trial(loss_fn, params, data.images(SIZE, count=8, channels_first=True), ignore)


@model("Equimo", "VisionTransformer", "equimo")
def vision_transformer() -> Trial:
    from equimo.models import VisionTransformer

    network = VisionTransformer(
        SIZE, 3, 32, 8, num_heads=2, depths=[2], reg_tokens=2, num_classes=CLASSES, mlp_ratio=2.0, key=KEY
    )
    return _classify(network)


@model("Equimo", "VisionTransformer, RoPE and SwiGLU", "equimo")
def rope_vision_transformer() -> Trial:
    from equimo.models import VisionTransformer

    network = VisionTransformer(
        SIZE,
        3,
        32,
        8,
        num_heads=2,
        depths=[2],
        reg_tokens=2,
        use_global_pos_embed=False,
        use_local_pos_embed=True,
        qk_norm=True,
        ffn_layer="swiglu",
        norm_layer="rmsnorm",
        init_values=1e-1,
        num_classes=CLASSES,
        key=KEY,
    )
    return _classify(network, ".local_pos_embed.patch_rope.freqs")


@model("Equimo", "ConvNeXt", "equimo")
def conv_next() -> Trial:
    from equimo.models import ConvNeXt

    network = ConvNeXt(
        3, depths=[1, 1, 1, 1], dims=[8, 16, 16, 32], layer_scale_init_value=0.1, num_classes=CLASSES, key=KEY
    )
    return _classify(network)


@model("Equimo", "AttNet", "equimo")
def att_net() -> Trial:
    from equimo.models import AttNet

    network = AttNet(
        3, dims=[16, 32], depths=[1, 1], exp_rates=[2, 2], kernel_sizes=[3, 3], num_classes=CLASSES, key=KEY
    )
    return _classify(network)


@model("Equimo", "MobileNetv3", "equimo")
def mobile_net() -> Trial:
    from equimo.models import MobileNetv3

    layers = [(8, 8, 3, 2, True, "relu"), (16, 24, 3, 2, False, "relu"), (16, 48, 5, 1, True, "hard_swish")]
    return _classify(MobileNetv3(3, layers, last_channels=32, num_classes=CLASSES, key=KEY))


@model("Equimo", "LowFormer", "equimo")
def low_former() -> Trial:
    from equimo.models import LowFormer

    network = LowFormer(
        3,
        widths=[8, 16, 32],
        depths=[1, 1, 1],
        att_strides=[1, 1, 1],
        block_types=["conv", "conv", "attention"],
        attention_type="softmax",
        num_classes=CLASSES,
        key=KEY,
    )
    return _classify(network)


@model("Equimo", "ReduceFormer", "equimo")
def reduce_former() -> Trial:
    from equimo.models import ReduceFormer

    network = ReduceFormer(
        3,
        widths=[8, 16, 32],
        depths=[1, 1, 1],
        block_types=["conv", "conv", "attention"],
        head_dim=8,
        num_classes=CLASSES,
        key=KEY,
    )
    return _classify(network)


@model("Equimo", "IFormer", "equimo")
def i_former() -> Trial:
    from equimo.models import IFormer

    network = IFormer(
        3,
        modules=["iformerblock", "shmablock"],
        module_kwargs=[
            {"kernel_size": 3, "expand_ratio": 2.0},
            {"num_heads": 1, "head_dim_reduce_ratio": 2, "attn_ratio": 1.0, "ffn_ratio": 2.0},
        ],
        downsamplers=["iformerstem", "convnormdownsampler"],
        downsampler_kwargs=[{}, {}],
        dims=[16, 32],
        depths=[1, 1],
        num_classes=CLASSES,
        key=KEY,
    )
    return _classify(network)


@model("Equimo", "Mlla", "equimo", note="its block does not use what its attention gives")
def mlla() -> Trial:
    from equimo.models import Mlla

    return _classify(Mlla(SIZE, 3, dim=16, depths=[1, 1], num_heads=[2, 4], num_classes=CLASSES, key=KEY))


@model("Equimo", "Vssd", "equimo")
def vssd() -> Trial:
    from equimo.models import Vssd

    network = Vssd(
        SIZE,
        3,
        dim=16,
        d_state=16,
        depths=[1, 1],
        num_heads=[2, 4],
        attentions_layers=("mamba2mixer", "attention"),
        num_classes=CLASSES,
        key=KEY,
    )
    return _classify(network)


@model("Equimo", "PartialFormer", "equimo")
def partial_former() -> Trial:
    from equimo.models import PartialFormer

    network = PartialFormer(
        SIZE,
        3,
        dim=16,
        num_heads=[2, 2],
        depths=[1, 1],
        foreground_ratios=0.5,
        patch_size=4,
        num_classes=CLASSES,
        key=KEY,
    )
    return _classify(network)
