"""Every network of `examples/`, small: its neurons, its loss and gradients, and a few steps of training."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lnb

SIZES = {
    "vision_transformer": {"batch": 3, "size": 8, "patch_size": 4, "width": 8, "heads": 2, "depth": 1, "classes": 3},
    "mlp_mixer": {
        "batch": 4,
        "size": 8,
        "patch_size": 4,
        "hidden_size": 6,
        "mix_patch_size": 5,
        "mix_hidden_size": 7,
        "depth": 1,
    },
    "resnet": {"batch": 4, "size": 4, "widths": (3, 4), "blocks": 1, "classes": 3},
    "unet_segmentation": {"batch": 2, "size": 4, "width": 3, "depth": 1},
    "lstm_language_model": {"batch": 3, "length": 5, "vocabulary": 7, "width": 4, "depth": 2},
    "gpt": {"batch": 2, "length": 5, "vocabulary": 7, "width": 4, "heads": 2, "depth": 1},
    "gpt_scanned_layers": {"batch": 2, "length": 5, "vocabulary": 7, "width": 4, "heads": 2, "depth": 3},
    "mixture_of_experts": {"batch": 2, "length": 6, "vocabulary": 7, "width": 4, "heads": 2, "depth": 1, "experts": 3},
    "recommender": {"batch": 6, "tables": (5, 7, 3), "width": 4, "hidden": 5},
    "graph_network": {"graphs": 2, "nodes": 5, "edges": 9, "width": 4, "steps": 2},
    "physics_informed": {"interior": 6, "boundary": 4, "width": 5, "depth": 2},
    "diffusion_unet": {"batch": 2, "size": 4, "width": 4, "depth": 1},
    "tied_autoencoder": {"batch": 6, "size": 4, "widths": (5, 3)},
    "selective_state_space": {"batch": 2, "length": 5, "vocabulary": 7, "width": 4, "states": 3, "depth": 1},
}
"""The small size of each example."""

UNCOVERED = {"selective_state_space": {".blocks[0].A_log": "nonlinearly through `exp`"}}
"""What enters an example's loss nonlinearly, and a part of the reason given; everything else is in a neuron."""

STANDARD_PROMOTION = {"diffusion_unet", "gpt", "mixture_of_experts", "unet_segmentation"}
"""The examples whose framework counts on JAX's usual dtype promotion."""


@pytest.fixture(params=SIZES)
def name(request):
    """The name of an example, under the dtype promotion that its framework needs."""
    promotion = "standard" if request.param in STANDARD_PROMOTION else "strict"
    with jax.numpy_dtype_promotion(promotion):
        yield request.param


def build(name):
    return importlib.import_module(name).build(jax.random.key(0), **SIZES[name])


def test_an_example_is_covered_evaluated_and_trained(name):
    loss_fn, params, args, has_aux = build(name)
    neurons = lnb.find_neurons(loss_fn, params, *args, has_aux=has_aux)
    print(neurons)

    # Only what enters the loss nonlinearly is not covered.
    expected = UNCOVERED.get(name, {})
    assert [path for path, _ in neurons.uncovered] == list(expected)
    assert all(expected[path] in reason for path, reason in neurons.uncovered)

    # The loss, what it gives besides, and its gradients are those of the loss itself.
    result, grads, features = jax.jit(neurons.value_and_grad)(params, *args)
    expected_result, expected_grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=has_aux))(params, *args)
    for got, wanted in zip(
        jax.tree.leaves((result, grads)), jax.tree.leaves((expected_result, expected_grads)), strict=True
    ):
        if jnp.issubdtype(wanted.dtype, jnp.floating):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)

    # The metric is finite and has no negative curvature, neuron by neuron.
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    vectors = jax.tree.unflatten(
        treedef, [jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    )
    products = jax.jit(neurons.metric_product)(features, vectors)
    for neuron in neurons:
        packed, product = neuron.pack(vectors), neuron.pack(products)
        assert jnp.isfinite(product).all(), neuron.name
        assert jnp.vdot(packed, product) >= -1e-5 * jnp.linalg.norm(packed) * jnp.linalg.norm(product), neuron.name

    # Training on one batch lowers its loss.
    optimizer = lnb.lnb(neurons, 0.05)

    @jax.jit
    def step(params, opt_state):
        result, grads, features = neurons.value_and_grad(params, *args)
        updates, opt_state = optimizer.update(grads, opt_state, params, features=features)
        return optax.apply_updates(params, updates), opt_state, result[0] if has_aux else result

    opt_state, losses = optimizer.init(params), []
    for _ in range(10):
        params, opt_state, loss = step(params, opt_state)
        losses.append(float(loss))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
    assert losses[-1] < losses[0], losses
