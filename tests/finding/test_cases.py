"""Every row of the tables: found, named, and right against dense Jacobians and the untouched loss, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, UNCOVERED, by_path, normal
from oracle import captured_metric, dense_metric

import lnb

EVERY = [*CASES, *UNCOVERED]
NOT_CANONICAL = ("identity", "tied", "general", "reparametrised")


def test_no_row_is_there_twice():
    assert len({case.name for case in EVERY}) == len(EVERY)


@pytest.mark.filterwarnings("ignore:The neurons cover")
@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name.replace("`", ""))
def test_case(x64, quick_compilation, case):
    with jax.numpy_dtype_promotion(case.promotion):
        params, args = case.inputs()
        neurons = lnb.find_neurons(case.loss_fn, params, *args, has_aux=case.has_aux)
        check_table(case, neurons, params)
        check_reasons(case, neurons, params, args)
        results = step(case, neurons, params, args)
        check_values(case, params, args, results)
        check_metric(case, neurons, params, args, results)
        check_statistics(case, neurons, params, results)


def vectors_like(params):
    """What the metric is multiplied with."""
    return jax.tree.map(lambda leaf: jnp.asarray(normal(*leaf.shape, seed=8)), params)


def step(case, neurons, params, args):
    """A jitted training step, and everything that is compared, by name."""
    general = any(neuron.kind in ("general", "reparametrised") for neuron in neurons)
    solver = lnb.CG(steps=1) if general else lnb.Diagonal()  # which compiles faster
    optimizer = lnb.lnb(neurons, 0.1, weight_decay=0, solver=solver)

    @jax.jit
    def run(params, state, vectors, args):
        value, grads, features = neurons.value_and_grad(params, *args)
        updates, state = optimizer.update(grads, state, params, features=features)
        moved = optax.apply_updates(params, updates)
        canonical = {n.index: n for n in neurons if n.kind not in NOT_CANONICAL}
        products = neurons.metric_product(features, vectors)
        return {
            "value": value,
            "gradients": grads,
            "skipped": state.skipped,
            "params": moved,
            "products": products,
            "packed": {n.index: (n.pack(vectors), n.pack(products)) for n in neurons},
            "unpacked": {n.index: n.unpack(n.pack(params)) for n in neurons},
            "grams": {k: n.gram(features) for k, n in canonical.items()},
            "moments": {k: n.moments(features) for k, n in canonical.items()},
        }

    results = run(params, optimizer.init(params), vectors_like(params), args)
    assert int(results["skipped"]) == 0
    return results


def matching(neurons, layer):
    """The neurons of exactly a layer's parameters."""
    return [n for n in neurons if set(n.paths) == set(layer.paths.values())]


def check_table(case, neurons, params):
    """The neurons are those of the row, nothing is left out, and the printed table names them."""
    assert dict(neurons.uncovered) == dict(case.uncovered)
    sizes = {path: leaf.size for path, leaf in by_path(params).items()}
    missing = sum(sizes[path] for path in case.uncovered)
    np.testing.assert_allclose(neurons.coverage, 1 - missing / sum(sizes.values()))
    got = sorted((n.paths, n.kind, n.groups, n.inputs, n.outputs, n.samples, n.parts) for n in neurons)
    wanted = []
    for layer in case.layers:
        found = matching(neurons, layer)
        groups, inputs, outputs = layer.sizes
        paths = found[0].paths if found else tuple(layer.paths.values())
        wanted += [(paths, layer.kind, groups, inputs, outputs // layer.parts, layer.samples, layer.cut)] * layer.parts
    assert got == sorted(wanted)
    table = str(neurons)
    assert all(path in table for path in sizes)
    assert all(f"  {path}: {reason}" in table.splitlines() for path, reason in case.uncovered.items())


def check_reasons(case, neurons, params, args):
    """`strict` raises, naming every parameter that is not covered and why."""
    if not case.uncovered:
        return
    with pytest.raises(ValueError, match="strict") as error:
        lnb.find_neurons(case.loss_fn, params, *args, has_aux=case.has_aux, strict=True)
    assert all(f"  {path}: {why}" in str(error.value).splitlines() for path, why in case.uncovered.items())


def check_values(case, params, args, results):
    """Value, aux and gradients are those of the untouched loss, and what is not covered moves along its gradient.

    The loss is finite after the step too.
    """
    evaluate = jax.jit(jax.value_and_grad(case.loss_fn, has_aux=case.has_aux))
    value, grads = evaluate(params, *args)
    for leaf in jax.tree.leaves((results["params"], evaluate(results["params"], *args)[0])):
        assert np.all(np.isfinite(leaf))
    assert jax.tree.structure(results["value"]) == jax.tree.structure(value)
    for got, wanted in zip(jax.tree.leaves(results["value"]), jax.tree.leaves(value), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)
    assert jax.tree.structure(results["gradients"]) == jax.tree.structure(grads)
    for got, wanted in zip(jax.tree.leaves(results["gradients"]), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)
    moved, before, gradients = by_path(results["params"]), by_path(params), by_path(grads)
    lengths = set()
    for path in case.uncovered:
        # They are trained with the identity metric: against the gradient, by one length for all of them.
        change, gradient = np.ravel(moved[path] - before[path]), np.ravel(gradients[path])
        length = float(change @ gradient) / max(float(gradient @ gradient), 1e-300)
        np.testing.assert_allclose(change, length * gradient, rtol=1e-5, atol=1e-3 * np.abs(change).max() + 1e-12)
        lengths.add(length)
    assert all(length <= 0 for length in lengths)


def check_metric(case, neurons, params, args, results):
    """M v is the dense Jacobian's, and the identity's where nothing is covered."""
    products, vectors = by_path(results["products"]), by_path(vectors_like(params))
    leaves, calls = by_path(params), []
    if case.capture is not None:
        with case.capture(calls):
            # A function of its own, so that nothing traced before is used again.
            jax.block_until_ready(jax.jit(lambda params, args: case.loss_fn(params, *args))(params, args))
            jax.effects_barrier()
    for layer in case.layers:
        keys = sorted(layer.keys)
        chosen = {key: leaves[layer.paths[key]] for key in keys}
        if calls and layer.output is None:
            metric = captured_metric(calls, chosen, layer.samples)
        else:
            metric = dense_metric(case.output_of(layer, params, args), chosen, layer.samples)
        flat, got = (np.concatenate([np.ravel(tree[layer.paths[key]]) for key in keys]) for tree in (vectors, products))
        expected = metric @ flat
        np.testing.assert_allclose(got, expected, rtol=case.tolerance, atol=case.tolerance * np.abs(expected).max())
    for path in case.uncovered:
        np.testing.assert_array_equal(products[path], vectors[path])


def check_statistics(case, neurons, params, results):
    """Gram matrix and moments agree with the products; packing keeps every element; other kinds say what they lack."""
    leaves = jax.tree.leaves(params)
    results = jax.tree.map(np.asarray, results)  # NumPy compiles nothing
    for neuron in neurons:
        packed, product = results["packed"][neuron.index]
        assert packed.shape == neuron.shape
        parts = results["unpacked"][neuron.index]
        for path, k in zip(neuron.paths, neuron.leaves, strict=True):
            mask = neuron.covered(k)
            np.testing.assert_array_equal(parts[path], leaves[k] if mask is None else np.where(mask, leaves[k], 0))
        if neuron.kind in NOT_CANONICAL:
            with pytest.raises(ValueError, match="has no"):
                neuron.gram(lnb.Features((), (None,) * len(neurons), neurons.signature))
            continue
        gram = results["grams"][neuron.index]
        by_gram = np.einsum("gij,gjo->gio", gram, packed)
        np.testing.assert_allclose(
            by_gram, product, case.gram_tolerance, case.gram_tolerance / 10 * np.abs(product).max()
        )
        mean, square = results["moments"][neuron.index]
        assert mean.shape == square.shape == (neuron.groups, neuron.inputs)
        if neuron.kind != "convolution":  # whose moments are over the input's pixels
            diagonal = np.diagonal(gram, axis1=1, axis2=2)[:, : neuron.inputs]
            np.testing.assert_allclose(square, diagonal, rtol=1e-10)
            if neuron.has_bias:
                np.testing.assert_allclose(gram[:, -1, -1:] * mean, gram[:, -1, :-1], rtol=1e-10, atol=1e-14)
