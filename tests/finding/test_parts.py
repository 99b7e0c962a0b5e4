"""Which outputs a program cuts apart: the parts of a neuron, and what keeps its outputs together."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import normal

import lnb

pytestmark = pytest.mark.usefixtures("quick_compilation")

PARAMS = {"w": jnp.asarray(normal(4, 12), jnp.float32), "b": jnp.asarray(normal(12), jnp.float32), "s": jnp.ones(4)}
X = jnp.asarray(normal(2, 5, 4), jnp.float32)
ANGLE = jnp.arange(5.0)[:, None]


def linear(p, x=X):
    return x @ p["w"] + p["b"]


def neuron_of(function, params=PARAMS):
    """The neuron of w, where the loss is a function of what `function(params)` returns."""
    neurons = lnb.find_neurons(lambda p: sum(jnp.sum(jnp.tanh(leaf)) for leaf in jax.tree.leaves(function(p))), params)
    return next(neuron for neuron in neurons if "['w']" in neuron.paths)


def turned(half, other):
    return jnp.concatenate([half * jnp.cos(ANGLE) - other * jnp.sin(ANGLE), other * jnp.cos(ANGLE)], -1)


def modulated(p, x):
    """Scale, shift and gate, of features that depend on a parameter."""
    scale, shift, gate = jnp.split(x[:, :1] @ p["w"] + p["b"], 3, axis=-1)
    return x + jnp.tanh(gate) * jnp.sin(jnp.sin(x * p["s"]) * (1 + scale) + shift)


CUT = {
    "split": (lambda p: jnp.split(linear(p), 3, axis=-1), (4, 4, 4)),
    "split at unequal places": (lambda p: jnp.split(linear(p), [2, 4], axis=-1), (2, 2, 8)),
    "slices": (lambda p: [linear(p)[..., :4], linear(p)[..., 4:]], (4, 8)),
    "every second": (lambda p: [linear(p)[..., ::2], linear(p)[..., 1::2]], (6, 6)),
    "slices in another order": (lambda p: [linear(p)[..., 8:], linear(p)[..., :8]], (8, 4)),
    "unpacking": (lambda p: list(jnp.moveaxis(linear(p).reshape(2, 5, 3, 4), 2, 0)), (4, 4, 4)),
    "unstack": (lambda p: jnp.unstack(linear(p).reshape(2, 5, 2, 3, 2), axis=3), (4, 4, 4)),
    "indexing from the end": (lambda p: [linear(p).reshape(2, 5, 4, 3)[..., -k] for k in (1, 2, 3)], (4, 4, 4)),
    "outputs that nothing reads": (lambda p: [linear(p)[..., :4], linear(p)[..., 8:]], (4, 4, 4)),
    "a cast before": (lambda p: jnp.split(linear(p).astype(jnp.bfloat16), 2, axis=-1), (6, 6)),
    "more added before": (lambda p: jnp.split(linear(p) + jnp.sin(X @ jnp.ones((4, 12))), 2, axis=-1), (6, 6)),
    "samples too": (lambda p: [linear(p)[:, :1, :4], linear(p)[..., 4:]], (4, 8)),
    "a difference of some": (lambda p: [linear(p)[..., :4] - linear(p)[..., 4:8], linear(p)[..., 8:]], (8, 4)),
    "a slice that is moved inside": (
        lambda p: [linear(p)[..., :8], jax.lax.dynamic_slice_in_dim(linear(p), 11, 4, axis=-1)],
        (8, 4),
    ),
    "an empty slice": (lambda p: jnp.split(linear(p), [0, 4], axis=-1), (4, 8)),
    "constant places": (
        lambda p: [jnp.take(linear(p), jnp.asarray(places), axis=-1) for places in ([0, 5, 7], [1, 2, 3, 4, 6], 11)],
        (3, 5, 3, 1),
    ),
    "constant places of an axis in the middle": (
        lambda p: [jnp.take(linear(p).reshape(2, 5, 2, 3, 2), k, axis=3) for k in range(3)],
        (4, 4, 4),
    ),
    "pieces of pieces": (
        lambda p: [*jnp.split(jnp.split(linear(p), 2, axis=-1)[0], 2, -1), linear(p)[..., 6:]],
        (3, 3, 6),
    ),
    "rotary halves of one part": (
        lambda p: [turned(linear(p)[..., :2], linear(p)[..., 2:4]), linear(p)[..., 4:8], linear(p)[..., 8:]],
        (4, 4, 4),
    ),
    "scale, shift and gate": (lambda p: modulated(p, X), (4, 4, 4)),
    "the same in a loop": (
        lambda p: jax.lax.scan(lambda x, _: (modulated(p | {"s": 2.0}, x), None), X * p["s"], length=2)[0],
        (4, 4, 4),
    ),
    "in a checkpoint": (lambda p: jax.checkpoint(lambda p: jnp.split(linear(p), 3, axis=-1))(p), (4, 4, 4)),
    "two uses alike": (lambda p: [jnp.split(linear(p, x), 3, axis=-1) for x in (X, jnp.cos(X))], (4, 4, 4)),
}

WHOLE = {
    "a whole use beside": lambda p: [*jnp.split(linear(p), 3, axis=-1), linear(p)],
    "slices that overlap": lambda p: [linear(p)[..., :7], linear(p)[..., 5:]],
    "slices along the samples": lambda p: jnp.split(linear(p), 5, axis=1),
    "constant places of samples": lambda p: [jnp.take(linear(p), k, axis=0) for k in range(2)],
    "constant places out of bounds": lambda p: [linear(p)[..., :8], jnp.take(linear(p), 12, axis=-1)],
    "indexing of samples": lambda p: [linear(p)[0], linear(p)[1]],
    "one slice": lambda p: linear(p)[..., :7],
    "a nonlinear function before": lambda p: jnp.split(jnp.sin(linear(p)), 3, axis=-1),
    "rotary halves": lambda p: turned(*jnp.split(linear(p), 2, axis=-1)),
    "halves as a complex number": lambda p: (jax.lax.complex(*jnp.split(linear(p), 2, axis=-1)) * 1j).real,
    "rolled outputs": lambda p: jnp.roll(linear(p), 1, axis=-1),
    "a difference of two outputs": lambda p: linear(p)[..., :6] - linear(p)[..., 6:],
    "uses that differ": lambda p: [jnp.split(linear(p), 3, axis=-1), jnp.split(linear(p, jnp.cos(X)), 2, axis=-1)],
    "chosen by data": lambda p: jnp.take_along_axis(linear(p), jnp.argsort(X, -1), axis=-1),
}


@pytest.mark.parametrize("name", CUT)
def test_outputs_that_are_cut_apart_are_parts(name):
    function, parts = CUT[name]
    assert neuron_of(function).parts == parts


@pytest.mark.parametrize("name", WHOLE)
def test_outputs_that_something_reads_together_are_one_part(name):
    assert neuron_of(WHOLE[name]).parts == ()


def test_groups_are_cut_alike_or_not_at_all():
    params = {"w": jnp.asarray(normal(2, 4, 6))}

    def experts(p):
        return jnp.einsum("gni,gio->gno", X, p["w"])

    assert neuron_of(lambda p: jnp.split(experts(p), 3, axis=-1), params).parts == (2, 2, 2)
    assert neuron_of(lambda p: list(experts(p)), params).parts == ()
    assert neuron_of(lambda p: [experts(p)[0, :, :3], experts(p)[0, :, 3:], experts(p)[1]], params).parts == ()


def test_a_tied_weight_has_no_parts():
    params = {"w": jnp.asarray(normal(4, 4))}
    neuron = neuron_of(lambda p: [*jnp.split(X @ p["w"], 2, axis=-1), X @ p["w"].T], params)
    assert (neuron.kind, neuron.parts) == ("tied", ())


def test_layers_that_are_scanned_over_have_the_parts_of_each():
    params = {"w": jnp.asarray(normal(3, 4, 8), jnp.float32)}

    def layers(p):
        def layer(x, w):
            gate, up = jnp.split(x @ w, 2, axis=-1)
            return jax.nn.silu(gate) * up, None

        return jax.lax.scan(layer, X, p["w"])[0]

    neuron = neuron_of(layers, params)
    assert (neuron.groups, neuron.parts) == (3, (4, 4))


@pytest.mark.parametrize(
    ("axes", "columns"),
    [
        ((3, 2, 2), np.arange(12)),
        ((2, 3, 2), [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]),
        ((2, 2, 3), [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]),
    ],
)
def test_the_outputs_of_a_part_are_packed_together(axes, columns):
    def cut(p):
        return list(jnp.moveaxis(linear(p).reshape(2, 5, *axes), 2 + axes.index(3), 0))

    neuron = neuron_of(cut)
    assert neuron.parts == (4, 4, 4)
    packed = neuron.pack(PARAMS)
    np.testing.assert_array_equal(packed[0, :-1], PARAMS["w"][:, columns])
    np.testing.assert_array_equal(packed[0, -1], PARAMS["b"][jnp.asarray(columns)])
    for path, leaf in neuron.unpack(packed).items():
        np.testing.assert_array_equal(leaf, PARAMS[path[2:-2]])


def test_parts_that_no_period_repeats_are_packed_together():
    def cut(p):
        y = linear(p)
        return [jnp.concatenate([y[..., :3], y[..., 7:9]], -1), y[..., 3:7], y[..., 9:]]

    neuron = neuron_of(cut)
    assert neuron.parts == (5, 4, 3)
    columns = jnp.asarray([0, 1, 2, 7, 8, 3, 4, 5, 6, 9, 10, 11])
    np.testing.assert_array_equal(neuron.pack(PARAMS)[0, :-1], PARAMS["w"][:, columns])


def test_parts_are_data_like_the_rest_of_a_neuron():
    neuron, whole = neuron_of(CUT["split"][0]), neuron_of(WHOLE["one slice"])
    assert pickle.loads(pickle.dumps(neuron)) == neuron != whole
    assert "parts=(4, 4, 4)" in repr(neuron)
    without = neuron.without(neuron.bias_leaves)
    assert without is not None
    assert (without.has_bias, without.parts) == (False, (4, 4, 4))
    assert neuron.without(frozenset(neuron.leaves) - neuron.bias_leaves) is None


def test_the_table_shows_the_parts():
    neurons = lnb.find_neurons(
        lambda p, x: sum(jnp.tanh(y).sum() for y in CUT["split at unequal places"][0](p)), PARAMS, X
    )
    assert "4+1 -> 2 x 2 + 8" in str(neurons)
