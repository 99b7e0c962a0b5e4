"""Neural operators of PDEquinox, that diffuse a field of one dimension."""

from __future__ import annotations

from typing import Any

import jax

from public_models import data
from public_models.losses import squares
from public_models.trial import Trial, model

KEY = jax.random.key(0)
POINTS = 32


def _step(network: Any) -> Trial:
    """One step of time."""
    import equinox as eqx

    params, static = eqx.partition(network, eqx.is_inexact_array)

    def loss_fn(params: Any, u: Any, v: Any) -> Any:
        return squares(jax.vmap(eqx.combine(params, static))(u), v) / POINTS

    return Trial(loss_fn, params, data.fields(POINTS))


@model("PDEquinox", "ConvNet", "pdequinox")
def conv_net() -> Trial:
    from pdequinox.arch import ConvNet

    return _step(ConvNet(1, 1, 1, hidden_channels=16, depth=4, key=KEY))


@model("PDEquinox", "ClassicResNet", "pdequinox")
def classic_res_net() -> Trial:
    from pdequinox.arch import ClassicResNet

    return _step(ClassicResNet(1, 1, 1, hidden_channels=16, num_blocks=3, key=KEY))


@model("PDEquinox", "ModernResNet", "pdequinox")
def modern_res_net() -> Trial:
    from pdequinox.arch import ModernResNet

    return _step(ModernResNet(1, 1, 1, hidden_channels=16, num_blocks=3, key=KEY))


@model("PDEquinox", "DilatedResNet", "pdequinox")
def dilated_res_net() -> Trial:
    from pdequinox.arch import DilatedResNet

    return _step(DilatedResNet(1, 1, 1, hidden_channels=16, num_blocks=1, dilation_rates=(1, 2, 4, 2, 1), key=KEY))


@model("PDEquinox", "ClassicUNet", "pdequinox")
def classic_u_net() -> Trial:
    from pdequinox.arch import ClassicUNet

    return _step(ClassicUNet(1, 1, 1, hidden_channels=8, num_levels=2, key=KEY))


@model("PDEquinox", "ModernUNet", "pdequinox")
def modern_u_net() -> Trial:
    from pdequinox.arch import ModernUNet

    return _step(ModernUNet(1, 1, 1, hidden_channels=8, num_levels=2, num_blocks=1, key=KEY))


@model("PDEquinox", "ClassicFNO", "pdequinox")
def classic_fno() -> Trial:
    from pdequinox.arch import ClassicFNO

    return _step(ClassicFNO(1, 1, 1, hidden_channels=16, num_modes=8, num_blocks=3, key=KEY))


@model("PDEquinox", "MLP", "pdequinox")
def mlp() -> Trial:
    from pdequinox.arch import MLP

    return _step(MLP(1, 1, 1, num_points=POINTS, width_size=64, depth=2, key=KEY))
