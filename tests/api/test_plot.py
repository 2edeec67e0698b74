import os
import shutil

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from jaxlm.api import plot
from jaxlm.errors import UserError

RNG = np.random.default_rng(0)
SPREAD = np.array([9, 4, 1, 1, 1])
VECTORS = RNG.normal(size=(12, 5)) * SPREAD + 3


def components(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by the covariance's eigenvectors."""
    centred = x - x.mean(0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    best = directions[:, ::-1][:, :2]
    best = best * np.where(np.abs(best.min(0)) > best.max(0), -1, 1)
    return centred @ best, values[::-1][:2] / values.sum()


def labels(monkeypatch, vectors, words, path):
    """The boxes of the labels in pixels, and the dots: what the drawing left behind."""
    seen = []
    annotate = Axes.annotate
    monkeypatch.setattr(
        Axes, "annotate", lambda axes, *args, **kw: seen.append(annotate(axes, *args, **kw)) or seen[-1]
    )
    plot.plot_words(vectors, words, path)
    dots = seen[0].axes.transData.transform([label.xy for label in seen])
    return seen, [label.get_window_extent().extents for label in seen], dots


def overlaps(boxes) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(len(boxes)) for j in range(i)]
    apart = lambda a, b: a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    return [(i, j) for i, j in pairs if not apart(boxes[i], boxes[j])]


def test_plane_is_that_of_most_variance():
    for x in (VECTORS, -VECTORS, VECTORS[:3], VECTORS[:, :2]):
        xy, shares = plot.plane(x)
        expected, expected_shares = components(x)
        np.testing.assert_allclose(xy, expected, atol=1e-9)
        np.testing.assert_allclose(shares, expected_shares)


def test_plane_of_little():
    xy, shares = plot.plane(np.array([[1.0], [3.0]]))
    np.testing.assert_allclose(xy, [[-1, 0], [1, 0]])
    np.testing.assert_allclose(shares, [1, 0])
    xy, shares = plot.plane(np.ones((4, 3)))
    assert not xy.any() and not shares.any()


def test_picture(tmp_path):
    words = [
        "rey",
        "reina",
        " España",
        "$\\no mathematics$",
        "a_b",
        "two\nlines",
        "\ud800",
        "",
        "París",
        "%s",
        "{}",
        "a",
    ]
    plot.plot_words(VECTORS, words, tmp_path / "words.png")
    picture = (tmp_path / "words.png").read_bytes()
    assert imread(tmp_path / "words.png").shape[:2] == (900, 1200)
    assert os.listdir(tmp_path) == ["words.png"]
    plot.plot_words(VECTORS.astype(np.float64), words, str(tmp_path / "words.png"))
    assert (tmp_path / "words.png").read_bytes() == picture
    plot.plot_words(np.zeros((2, 3)), ["same", "place"], tmp_path / "words.png")


@pytest.mark.parametrize("spread", [3.0, 0.3], ids=["loose", "dense"])
def test_labels_can_be_read(tmp_path, monkeypatch, spread):
    rng = np.random.default_rng(1)
    vectors = np.concatenate([rng.normal(size=20) * 2 + spread * rng.normal(size=(10, 20)) for _ in range(4)])
    seen, boxes, dots = labels(monkeypatch, vectors, [f"palabra{i}" for i in range(40)], tmp_path / "a.png")
    assert len(seen) == 40 and not overlaps(boxes)
    for low_x, low_y, high_x, high_y in boxes:
        assert min(low_x, low_y) > 0 and high_x < 1200 and high_y < 900
        inside = (dots > (low_x, low_y)) & (dots < (high_x, high_y))
        assert not inside.all(1).any()  # no dot is covered


@pytest.mark.parametrize(
    "vectors, words, message",
    [
        (VECTORS, ["a"], r"vectors of shape \(12, 5\) do not fit 1 words: give two or more, a row each"),
        (VECTORS[0], ["a"] * 5, r"vectors of shape \(5,\) do not fit 5 words"),
        (VECTORS[:1], ["a"], "give two or more"),
        (np.full((2, 3), np.nan), ["a", "b"], "a vector to draw is infinite or not a number"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, vectors, words, message):
    with pytest.raises(UserError, match=message):
        plot.plot_words(vectors, words, tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        plot.plot_words(VECTORS, ["a"] * 12, tmp_path / "file" / "a.png")
    shutil.rmtree(tmp_path)
