"""Ids of parameter elements, told apart by marks."""

import numpy as np
import pytest

from lnb._features._layout import ElementNumbers
from lnb._finding._element_ids import are_distinct, distinct_ids, have_common


@pytest.mark.parametrize("size", [1, 128, 32768])  # where the numbers outgrow a smaller type
def test_the_numbers_of_a_leaf_are_distinct(size):
    numbers = ElementNumbers({0: (3,), 1: (size,)})
    assert are_distinct(numbers[1])
    assert distinct_ids(numbers[1]).tolist() == list(range(3, 3 + size))
    assert not have_common(numbers[0], numbers[1])
    assert have_common(numbers[1], numbers[1][-1:])


def test_it_agrees_with_numpy():
    random = np.random.default_rng(0)
    for _ in range(50):
        first, second = (random.integers(50, 90, random.integers(0, 12)) for _ in range(2))
        assert np.array_equal(distinct_ids(first), np.unique(first))
        assert are_distinct(first) == (np.unique(first).size == first.size)
        assert have_common(first, second) == (np.intersect1d(first, second).size > 0)
