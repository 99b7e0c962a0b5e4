"""Every network of `examples/`, small: its neurons, its loss and gradients, and a few steps of training."""

import functools
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
SLOW = {
    "mlp_mixer",
    "unet_segmentation",
    "lstm_language_model",
    "gpt_scanned_layers",
    "graph_network",
    "diffusion_unet",
    "selective_state_space",
}
"""Compile for long, and have a relative among the others or in the cases."""


def quick_options():
    """Compiles in half the time, before JAX 0.11, whose XLA has the option no more."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(jnp.sin).lower(1.0).compile(options)
    except jax.errors.JaxRuntimeError:
        return {}
    return options


QUICK = quick_options()


def built(name):
    """The example's network; its arrays are made in one compiled function, which is quicker than one by one."""
    made = []

    def make(key):
        made.append(importlib.import_module(name).build(key, **SIZES[name]))
        return made[0].params, made[0].args

    params, args = jax.jit(make, compiler_options=QUICK)(jax.random.key(0))
    return made[0]._replace(params=params, args=args)


def like(tree, key):
    """Random numbers in the shapes of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SIZES])
def test_an_example_is_covered_and_trained(name, quick_compilation):
    loss_fn, params, args, has_aux = built(name)
    neurons = lnb.find_neurons(loss_fn, params, *args, has_aux=has_aux)

    # Only what enters the loss nonlinearly is not covered.
    assert neurons.uncovered == ()

    optimizer = lnb.lnb(neurons, 0.02)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params, opt_state, vectors):
        result, grads, features = neurons.value_and_grad(params, *args)
        updates, opt_state = optimizer.update(grads, opt_state, params, features=features)
        products = neurons.metric_product(features, vectors)
        pairs = [(neuron.pack(vectors), neuron.pack(products)) for neuron in neurons]
        curvatures = jnp.stack([jnp.vdot(v, mv) / (jnp.linalg.norm(v) * jnp.linalg.norm(mv)) for v, mv in pairs])
        return optax.apply_updates(params, updates), opt_state, result, grads, curvatures

    vectors, opt_state, losses = (
        jax.jit(like, compiler_options=QUICK)(params, jax.random.key(1)),
        optimizer.init(params),
        [],
    )
    expected_results = jax.jit(jax.value_and_grad(loss_fn, has_aux=has_aux), compiler_options=QUICK)(params, *args)
    for _ in range(10):
        params, opt_state, result, grads, curvatures = step(params, opt_state, vectors)
        if not losses:
            # The loss, what it gives besides, and its gradients are those of the loss itself.
            equal = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
            jax.tree.map(equal, *map(numbers, ((result, grads), expected_results)))
            # The metric is finite, and nowhere negative.
            assert (curvatures >= -1e-5).all(), dict(zip((n.name for n in neurons), curvatures, strict=True))
        losses.append(float(result[0] if has_aux else result))

    # Training on one batch lowers its loss.
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params))
    assert losses[-1] < losses[0], losses


def numbers(tree):
    """The tree without what is no number, such as a random key."""
    return [leaf for leaf in jax.tree.leaves(tree) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
