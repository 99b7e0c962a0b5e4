"""The page of other libraries' networks: it follows from its records, and a wrong metric would be seen."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from public_models.measure import Record, compare_gram_matrices
from public_models.page import page
from public_models.trial import load_models

import lnb

ROOT = Path(__file__).parent.parent


def test_the_committed_page_follows_from_the_records():
    records = json.loads((ROOT / "benchmarks" / "results" / "public-models.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "public-models.md").read_text(encoding="utf-8") == page(
        [Record(**record) for record in records.values()]
    )


@pytest.mark.usefixtures("quick_compilation", "standard_promotion")
def test_gram_matrices_are_compared_with_what_the_library_s_own_layers_read():
    trial = load_models()["Equinox/MLP"].build()
    batch, other = ([jnp.asarray(array) for array in trial.batch(step)] for step in (0, 1))
    neurons = lnb.find_neurons(trial.loss_fn, trial.params, *batch)
    features = jax.jit(neurons.value_and_grad)(trial.params, *batch)[2]
    count, error = compare_gram_matrices(trial, neurons, features, batch)
    assert count == 4
    assert error < 1e-6
    assert compare_gram_matrices(trial, neurons, features, other)[1] > 1e-2
