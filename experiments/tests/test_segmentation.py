"""Masks and photographs of VOC, decoding by threads, and how a segmentation is measured."""

import os
import time
from itertools import islice
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_data import file, masked_photographs, tiny

import lnb_experiments as ex
from lnb_experiments.data import _voc
from lnb_experiments.data._batches import DecodedExamples
from lnb_experiments.tasks import _segmentation

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_masks_come_back_from_their_colours():
    classes = np.random.default_rng(0).choice([*range(21), 255], (30, 40)).astype(np.uint8)
    colours = np.concatenate([_voc.class_colours(), np.zeros((255 - 21, 3), np.uint8), [[224, 224, 192]]])
    assert len(np.unique(_voc.class_colours(), axis=0)) == 21
    np.testing.assert_array_equal(_voc.decode_mask(colours[classes].astype(np.uint8)), classes)


def test_an_unknown_colour_is_named():
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[1, 2] = (1, 2, 3)
    with pytest.raises(ex.ExperimentError, match=r"no class of VOC: \(1, 2, 3\)"):
        _voc.decode_mask(colours)


def test_padding_has_the_mean_colour_and_no_class():
    image, mask = _voc.decode_example(masked_photographs(height=300, width=500)["train"][0], 100)
    assert image.shape == (100, 100, 3)
    assert mask.shape == (100, 100)
    assert np.all(mask[60:] == 255)
    assert np.all(image[61:] == [124, 116, 104])  # one row of the smaller image sees both sides of the border
    assert len(np.unique(mask[:60])) == 3
    normalised = np.asarray(_segmentation._normalise(jnp.asarray(image)))
    assert np.abs(normalised[61:]).max() < 0.5 / 255 / 0.2


def test_masks_are_resized_by_nearest_pixel():
    colours = np.zeros((500, 500, 3), np.uint8)
    colours[:, 250:] = _voc.class_colours()[15]
    _, mask = _voc.decode_example(_voc.Encoded(file(colours), file(colours)), 96)
    assert np.unique(mask).tolist() == [0, 15]
    assert np.all(mask == np.where(np.arange(96) < 48, 0, 15))


def test_what_does_not_fit_together_is_an_error():
    small, large = np.zeros((3, 3, 3), np.uint8), np.zeros((501, 3, 3), np.uint8)
    for image, mask in ((small, small[:2]), (large, large)):
        with pytest.raises(ex.ExperimentError, match="images and masks must be of one size, at most 500 pixels"):
            _voc.decode_example(_voc.Encoded(file(image), file(mask)), 96)


def test_mean_iou_counts_as_the_slow_way_does():
    random = np.random.default_rng(0)
    masks = random.choice([0, 1, 2, 7, 255], (3, 8, 8)).astype(np.uint8)
    predicted = np.where(random.random(masks.shape) < 0.6, masks, random.choice([0, 2, 9], masks.shape)) % 255
    counts = np.asarray(_segmentation.confusion(jnp.asarray(predicted), jnp.asarray(masks)))
    labelled = masks != 255
    ratios = []
    for kind in range(21):
        is_it, is_said = labelled & (masks == kind), labelled & (predicted == kind)
        if (is_it | is_said).any():
            ratios.append((is_it & is_said).sum() / (is_it | is_said).sum())
    assert len(ratios) == 5
    assert _segmentation.mean_iou(counts) == pytest.approx(np.mean(ratios))
    assert np.trace(counts) / counts.sum() == np.mean((masks == predicted)[labelled])


def test_unlabelled_pixels_count_for_nothing():
    problem = tiny("unet-voc")
    batch = next(problem.batches(0, 0))
    # A loss of the same images with more pixels unlabelled is the mean over those that are left.
    left = np.zeros(batch.masks.shape, bool)
    left[0, 3, 4] = True
    masks = np.where(left, 5, 255).astype(np.uint8)
    loss = float(problem.loss_fn(problem.params, batch._replace(masks=jnp.asarray(masks))))
    other = np.where(left, 5, np.asarray(batch.masks)).astype(np.uint8)
    assert loss > 0
    assert loss != float(problem.loss_fn(problem.params, batch._replace(masks=jnp.asarray(other))))
    nothing = batch._replace(masks=jnp.full_like(batch.masks, 255))
    assert float(problem.loss_fn(problem.params, nothing)) == 0


def test_examples_are_decoded_once_and_only_a_little_ahead():
    decoded = []

    def decode(number):
        time.sleep(0.001)
        decoded.append(number)
        return (np.full(2, number),)

    examples = DecodedExamples(range(100), decode)
    batches = examples.batches([range(start, start + 5) for start in range(0, 100, 5)])
    first = next(batches)
    batches.close()
    np.testing.assert_array_equal(first[0][:, 0], range(5))
    assert len(decoded) <= 20
    for _ in range(2):
        seen = [arrays[0][:, 0] for arrays in examples.batches([range(50), range(50, 100)])]
        np.testing.assert_array_equal(np.concatenate(seen), range(100))
    assert sorted(decoded) == list(range(100))


def test_an_error_while_decoding_reaches_the_caller():
    examples = DecodedExamples([0], lambda _: _voc.decode_mask(np.ones((1, 1, 3), np.uint8)))
    with pytest.raises(ex.ExperimentError, match="no class of VOC"):
        next(examples.batches([[0]]))


@pytest.mark.skipif(
    "LNB_DATA_DIR" not in os.environ or not (Path(os.environ["LNB_DATA_DIR"]) / "voc2012").is_dir(),
    reason="`LNB_DATA_DIR` has no folder voc2012/",
)
@pytest.mark.filterwarnings("default")  # of `datasets` and what it imports
def test_voc_from_a_folder():
    splits = _voc.load_voc()
    assert (len(splits["train"]), len(splits["val"])) == (1440, 445)
    for encoded in islice(splits["val"], 3):
        image, mask = _voc.decode_example(encoded, 96)
        assert image.shape == (96, 96, 3)
        assert {0, 255} <= set(np.unique(mask).tolist()) <= {*range(21), 255}
