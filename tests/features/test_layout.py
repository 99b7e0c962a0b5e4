"""Layouts read arrays and element numbers alike, and unpack what they pack."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from lnb._features._layout import (
    Broadcast,
    Concatenate,
    ElementNumbers,
    Leaf,
    Pad,
    Reshape,
    Slice,
    Steps,
    Take,
    Transpose,
    ravel,
    unpack,
)

SHAPES = {0: (2, 3), 1: (3,), 2: (4, 2, 3)}
A, B, STACK = Leaf(0), Leaf(1), Leaf(2)
LAYOUTS = {
    "leaf": (A, lambda a, b, s: a),
    "reshape": (Reshape(A, (3, 2)), lambda a, b, s: a.reshape(3, 2)),
    "transpose": (Transpose(A, (1, 0)), lambda a, b, s: a.T),
    "broadcast": (Broadcast(B, (1, 3, 1), (1,)), lambda a, b, s: b[None, :, None]),
    "slice": (Slice(A, ((0, 2, 1), (2, None, -1))), lambda a, b, s: a[:, ::-1]),
    "pad": (Pad(A, ((0, 1), (2, 0))), lambda a, b, s: np.pad(a, ((0, 1), (2, 0)))),
    "take": (Take(A, np.array([5, 0, 3])), lambda a, b, s: a.ravel()[[5, 0, 3]]),
    "take, other places": (Take(A, np.array([5, 0, 2])), lambda a, b, s: a.ravel()[[5, 0, 2]]),
    "take, of another": (Take(Reshape(A, (6,)), np.array([5, 0, 3])), lambda a, b, s: a.ravel()[[5, 0, 3]]),
    "concatenate": (Concatenate((A, Reshape(B, (1, 3))), 0), lambda a, b, s: np.concatenate([a, b[None]])),
    "ravel": (ravel({0: 6, 1: 3}, (3, 3)), lambda a, b, s: np.concatenate([a.ravel(), b]).reshape(3, 3)),
    "steps": (
        Steps(Reshape(Transpose(Leaf(7), (1, 0)), (1, 3, 2)), ((7, STACK),)),
        lambda a, b, s: s.transpose(0, 2, 1),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_reads_as_numpy_does_and_unpacks_what_it_packs(name):
    layout, expected = LAYOUTS[name]
    numbers = ElementNumbers(SHAPES)
    leaves = {leaf: numbers[leaf].astype(np.float32) + 1 for leaf in SHAPES}
    wanted = expected(*leaves.values())
    np.testing.assert_array_equal(layout.read(leaves), wanted)
    packed = layout.read({leaf: jnp.asarray(array) for leaf, array in leaves.items()})
    np.testing.assert_array_equal(packed, wanted)
    if name != "pad":
        np.testing.assert_array_equal(layout.read(numbers) + 1, wanted)
    unpacked = unpack(layout, packed, SHAPES)
    for leaf, array in leaves.items():
        np.testing.assert_array_equal(unpacked[leaf], np.where(np.isin(array, wanted), array, 0))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_data(name):
    layout, _ = LAYOUTS[name]
    again = pickle.loads(pickle.dumps(layout))
    assert again == layout
    assert hash(again) == hash(layout)
    assert repr(again) == repr(layout)
    assert all(other != layout for key, (other, _) in LAYOUTS.items() if key != name)


def test_leaves_are_replaced_by_layouts_of_others():
    inside = Concatenate((Transpose(Leaf(0), (1, 0)), Take(Leaf(1), np.array([1, 0, 2]))), 0)
    outside = Concatenate((Transpose(Reshape(Leaf(4), (2, 2)), (1, 0)), Take(Leaf(5), np.array([1, 0, 2]))), 0)
    assert inside.replace_leaves({0: Reshape(Leaf(4), (2, 2)), 1: Leaf(5)}) == outside


def test_element_numbers_follow_the_leaves():
    numbers = ElementNumbers(SHAPES)
    assert numbers.starts == {0: 0, 1: 6, 2: 9}
    np.testing.assert_array_equal(np.concatenate([numbers[leaf].ravel() for leaf in SHAPES]), np.arange(33))
