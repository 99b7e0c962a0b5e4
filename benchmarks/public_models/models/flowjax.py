"""Normalizing flows of FlowJAX, fitted by maximum likelihood."""

from __future__ import annotations

from typing import Any

import jax

from public_models import data
from public_models.trial import Trial, model

KEY = jax.random.key(0)


def _fit(flow: Any) -> Trial:
    """The negative log-likelihood of two moons under a flow, with what is not to be trained left out."""
    import equinox as eqx
    import paramax
    from flowjax.train.losses import MaximumLikelihoodLoss

    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    loss = MaximumLikelihoodLoss()
    return Trial(lambda params, x: loss(params, static, x), params, data.two_moons())


def _normal() -> Any:
    import jax.numpy as jnp
    from flowjax.distributions import Normal

    return Normal(jnp.zeros(2))


@model("FlowJAX", "masked autoregressive flow", "flowjax")
def masked_autoregressive() -> Trial:
    from flowjax.flows import masked_autoregressive_flow

    return _fit(masked_autoregressive_flow(KEY, base_dist=_normal(), flow_layers=4, nn_width=32))


@model("FlowJAX", "masked autoregressive spline flow", "flowjax")
def masked_autoregressive_spline() -> Trial:
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.flows import masked_autoregressive_flow

    spline = RationalQuadraticSpline(knots=6, interval=4)
    return _fit(masked_autoregressive_flow(KEY, base_dist=_normal(), transformer=spline, flow_layers=2, nn_width=32))


@model("FlowJAX", "coupling flow", "flowjax")
def coupling() -> Trial:
    from flowjax.flows import coupling_flow

    return _fit(coupling_flow(KEY, base_dist=_normal(), flow_layers=4, nn_width=32))


@model("FlowJAX", "block neural autoregressive flow", "flowjax")
def block_neural_autoregressive() -> Trial:
    from flowjax.flows import block_neural_autoregressive_flow

    return _fit(block_neural_autoregressive_flow(KEY, base_dist=_normal(), nn_block_dim=8))


@model("FlowJAX", "planar flow", "flowjax")
def planar() -> Trial:
    from flowjax.flows import planar_flow

    return _fit(planar_flow(KEY, base_dist=_normal(), flow_layers=8))


@model("FlowJAX", "triangular spline flow", "flowjax")
def triangular_spline() -> Trial:
    from flowjax.flows import triangular_spline_flow

    return _fit(triangular_spline_flow(KEY, base_dist=_normal(), flow_layers=4))
