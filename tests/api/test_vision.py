"""The public face of models that see."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import jaxlm
from jaxlm.api import Vision
from jaxlm.errors import UserError
from tests.models.test_vit import SMALL, image, made


@pytest.fixture(scope="module")
def vision():
    return Vision(SMALL, made(SMALL))


def test_saved_and_loaded(vision, tmp_path):
    vision.save(tmp_path)
    m = jaxlm.load(tmp_path)
    assert isinstance(m, Vision) and m.config == SMALL
    jax.tree.map(np.testing.assert_array_equal, m.params, vision.params)
    np.testing.assert_array_equal(m.logits(image()), vision.logits(image()))
    said = {"size": {"height": 8, "width": 12}, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    assert jaxlm.load(tmp_path).prepare.std == (1, 1, 1)


def test_classes_of_images(vision, tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (3, 30, 40, 3)).astype(np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, one in zip(files, x):
        Image.fromarray(one).save(file)
    found = vision.classify(files)
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-6)
    assert found.labels == [SMALL.labels[i] for i in found.probabilities.argmax(-1)]
    np.testing.assert_array_equal(vision.classify(x).probabilities, found.probabilities)
    np.testing.assert_allclose(vision.classify(files[1]).probabilities[0], found.probabilities[1], atol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(vision.logits(vision.prepare(files))), found.probabilities, atol=1e-6)


def test_images_of_another_size(vision):
    assert vision.hidden(np.zeros((1, 16, 4, 3))).shape == (1, 1 + 4, 32)


@pytest.mark.parametrize(
    "pixels, line",
    [
        (np.zeros((2, 8, 12)), "must be"),
        (np.zeros((2, 8, 12, 1)), "must be"),
        (np.zeros((0, 8, 12, 3)), "must be"),
        (np.zeros((1, 9, 12, 3)), "do not fill"),
        (np.zeros((1, 0, 12, 3)), "do not fill"),
        (np.full((1, 8, 12, 3), np.nan), "finite"),
        ("picture", "numbers"),
    ],
)
def test_pixels_that_are_none(vision, pixels, line):
    with pytest.raises(UserError, match=line):
        vision.hidden(pixels)


def test_what_the_model_has_not(vision):
    with pytest.raises(UserError, match="no pooler"):
        vision.pooled(image())
