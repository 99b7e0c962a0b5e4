"""The transformers and the U-Net: their batches, their neurons at both scales, and that they train."""

import dataclasses
import os
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_data import TEXT, TINY, photographs, tiny

import lnb
import lnb_experiments as ex
from lnb_experiments.data import _data, _text
from lnb_experiments.tasks import _character_transformer, _vision_transformer

pytestmark = pytest.mark.usefixtures("standard_promotion")


def comparable(batch):
    """The batch with its random keys as numbers."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(batch)]


def are_equal(one, other):
    return all(map(np.array_equal, comparable(one), comparable(other)))


@pytest.mark.parametrize("name", TINY)
def test_batches_depend_on_seed_epoch_and_number_alone(name):
    problem = tiny(name)
    first = list(problem.batches(0, 0))
    assert len(first) == problem.steps_per_epoch > 2
    for other in (problem, tiny.__wrapped__(name)):
        assert all(map(are_equal, first, other.batches(0, 0)))
    for start in range(1, len(first) + 1):
        rest = list(problem.batches(0, start))
        assert len(rest) == len(first) - start
        assert all(map(are_equal, first[start:], rest))
    for others in (problem.batches(1, 0), tiny(name, seed=1).batches(0, 0)):
        assert not any(map(are_equal, first, others))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    ("optimizer", "learning_rate"), [pytest.param("lnb-paper", 0.1, marks=pytest.mark.slow), ("lnb", 0.02)]
)
def test_it_trains(name, optimizer, learning_rate, quick_compilation):
    settings = dataclasses.replace(ex.find_task(name).optimizers[optimizer], learning_rate=learning_rate)
    records = list(ex.train(tiny(name), settings, epochs=4, evaluate_every=3))
    assert all(record.finite for record in records)
    assert records[-1].loss < records[0].loss
    task = ex.find_task(name)
    assert {task.selection, task.target.metric} <= set(records[0].metrics)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("scale", ex.SCALES)
def test_lnb_covers_every_parameter(name, scale, quick_compilation):
    build, sizes = TINY[name]
    settings = ex.find_task(name).at(scale).settings
    # The network is the scale's, the data is tiny; nothing is computed to find the neurons.
    data = {key: sizes[key] for key in ("validation_images", "validation_windows") if key in sizes}
    data["batch_size"] = 3
    problem = build(dataclasses.replace(settings, **data), 0)
    neurons = lnb.find_neurons(problem.loss_fn, problem.params, next(problem.batches(0, 0)), strict=True)
    assert neurons.coverage == 1


@pytest.mark.parametrize("name", TINY)
def test_evaluation_knows_no_chance(name):
    problem = tiny(name)
    assert problem.evaluate(problem.params) == problem.evaluate(problem.params)


def test_dropout_differs_from_batch_to_batch_and_not_otherwise():
    problem = tiny("vit-cifar10", dropout=0.5)
    one, other = islice(problem.batches(0, 0), 2)
    losses = [float(problem.loss_fn(problem.params, batch)) for batch in (one, one, one._replace(keys=other.keys))]
    assert losses[0] == losses[1] != losses[2]


def test_augmentation_crops_and_mirrors():
    # Every pixel's value says where it is, and none is black.
    place = np.arange(32 * 32, dtype=np.int32).reshape(32, 32) + 1
    image = np.stack([place // 256, place % 256, np.full_like(place, 255)], axis=-1).astype(np.uint8)
    images = jnp.asarray(np.stack([image] * 64))
    batch = _vision_transformer._augment((images, jnp.zeros(64, jnp.int32)), jax.random.key(0))
    plain = _vision_transformer._normalise(jnp.pad(images[:1], [(0, 0), (4, 4), (4, 4), (0, 0)]))[0]  # [c, h, w]
    seen = set()
    for augmented in np.asarray(batch.images):
        matches = [
            (down, right, mirrored)
            for down in range(9)
            for right in range(9)
            for mirrored in (False, True)
            if np.allclose(
                np.asarray(plain)[:, down : down + 32, right : right + 32][:, :, :: -1 if mirrored else 1], augmented
            )
        ]
        assert len(matches) == 1
        seen |= set(matches)
    assert {mirrored for *_, mirrored in seen} == {False, True}
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(9))


def test_blocks_start_apart_and_normalisations_learn_nothing():
    params = tiny("vit-cifar10").params
    first, second = params.blocks
    assert not np.array_equal(first.expand.weight, second.expand.weight)
    assert (first.attention_norm.weight, first.attention_norm.bias, params.norm.weight) == (None, None, None)


def test_predictions_see_no_later_character():
    settings = dataclasses.replace(ex.find_task("char-transformer").at("cpu").settings, **TINY["char-transformer"][1])
    params = _character_transformer.init_decoder(jax.random.key(0), 9, settings)
    characters = jax.random.randint(jax.random.key(1), (2, 16), 0, 9)
    apply = partial(_character_transformer.apply_decoder, params, settings=settings, key=None)
    changed = characters.at[:, 10].add(1) % 9
    before, after = apply(characters), apply(changed)
    np.testing.assert_allclose(before[:, :10], after[:, :10], atol=1e-6)
    assert not np.allclose(before[:, 10:], after[:, 10:], atol=1e-6)


def test_characters_are_cut_into_training_and_held_out_text():
    characters, _, vocabulary = _text.encode_text(TEXT)
    assert vocabulary == len(set(TEXT))
    assert "".join(sorted(set(TEXT))[code] for code in characters[:50]) == TEXT[:50]
    # Every training window is a piece of the first nine tenths; the loss at the start is that of a uniform guess.
    problem = tiny("char-transformer")
    pieces = {tuple(window) for batch in problem.batches(0, 0) for window in np.asarray(batch.characters).tolist()}
    known = {tuple(characters[i : i + 17].tolist()) for i in range(5400 - 16)}
    assert pieces <= known
    assert problem.evaluate(problem.params)["validation_loss"] == pytest.approx(np.log(vocabulary), abs=0.02)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("vit-cifar10", {"patch": 5}, "`patch` must divide the images' sides, 32 and 32, got 5"),
        ("vit-cifar10", {"heads": 3}, "`width` a multiple of `heads`"),
        ("vit-cifar10", {"dropout": 1.0}, "`dropout` must be from 0 to below 1, got 1.0"),
        ("vit-cifar10", {"validation_images": 9}, "`validation_images` must be from 1 to 8, got 9"),
        ("vit-cifar10", {"batch_size": 15}, "`batch_size` must be from 1 to"),
        ("unet-voc", {"size": 18}, "`size` must be a multiple of 4"),
        ("unet-voc", {"depth": 0}, "`width` and `depth` must be positive"),
        ("unet-voc", {"validation_images": 6}, "`validation_images` must be from 1 to 5 or None, got 6"),
        ("unet-voc", {"batch_size": 12}, "`batch_size` must be from 1 to"),
        ("char-transformer", {"context": 0}, "sizes must be positive"),
        ("char-transformer", {"batch_size": 500}, "`batch_size` must be at most the number of windows"),
        ("char-transformer", {"validation_windows": 38}, "`validation_windows` must be from 1 to 37"),
        ("char-transformer", {"dropout": -0.1}, "`dropout` must be from 0"),
    ],
)
def test_bad_requests_say_what_is_wrong(name, changed, message):
    with pytest.raises(ex.ExperimentError, match=message):
        tiny(name, **changed)


def test_scales_are_named():
    task = ex.find_task("vit-cifar10")
    assert task.starting_settings("paper")["adamw"].learning_rate == 1e-4
    assert task.starting_settings("cpu") == dict(task.optimizers)
    with pytest.raises(ex.ExperimentError, match="`scale` must be one that digits has: cpu; got 'paper'"):
        ex.find_task("digits").at("paper")


def has_data(name):
    return "LNB_DATA_DIR" in os.environ and (Path(os.environ["LNB_DATA_DIR"]) / name).exists()


@pytest.mark.skipif(not has_data("tinyshakespeare.txt"), reason="`LNB_DATA_DIR` has no tinyshakespeare.txt")
def test_shakespeare_from_a_file():
    text = _data.load_tinyshakespeare()
    assert len(text) == 1_115_394
    assert len(set(text)) == 65


def test_missing_text_says_where_it_was_looked_for(monkeypatch, tmp_path):
    def unreachable(name, revision):
        raise ConnectionError(name, revision)

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    monkeypatch.setenv("LNB_DATA_DIR", str(tmp_path))
    with pytest.raises(ex.ExperimentError, match="'tinyshakespeare' is not here and cannot be fetched"):
        _data.load_tinyshakespeare()


@pytest.mark.skipif(not has_data("cifar10"), reason="`LNB_DATA_DIR` has no folder cifar10/")
@pytest.mark.filterwarnings("default")  # of `datasets` and what it imports
def test_photographs_from_a_folder():
    test = _data.load_dataset("cifar10")["test"].select(range(20))
    images = _data._decode(test, "img")
    assert images.shape == (20, 32, 32, 3)
    assert images.dtype == photographs().train.images.dtype
