"""The benchmark of random networks: a seed says all, and what counts as a failure."""

from math import nan

import pytest
from random_networks import RATES, draw, failures, make_data, train


def test_a_seed_says_all():
    assert draw(3) == draw(3) != draw(4)
    for first, again in zip(make_data(draw(3)), make_data(draw(3)), strict=True):
        assert (first == again).all()


def test_a_loss_that_rose_or_is_not_finite_is_a_failure():
    records = [{"first": 1.0, "last": last} for last in ([0.5, 1.09], [1.2, 0.5], [0.5, nan])]
    assert failures(records) == records[1:]


@pytest.mark.usefixtures("quick_compilation", "standard_promotion")
def test_a_network_is_trained_at_every_rate():
    spec = next(spec for spec in map(draw, range(100)) if spec.kind == "perceptron" and spec.depth == 1)
    record = train(spec)
    assert len(set(record["last"])) == len(RATES)
    assert max(record["last"]) < record["first"]
