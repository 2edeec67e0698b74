import json
import os

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from jaxlm.train.plot import HELDOUT, TRAIN, plot_losses, smooth


def write(path, train=(), heldout=(), more=""):
    lines = [json.dumps({"step": i, "train/loss": y, "train/skipped": 0.0}) for i, y in train]
    lines += [json.dumps({"step": i, "eval/loss": y}) for i, y in heldout]
    path.write_text("\n".join(lines) + "\n" + more, encoding="utf-8")


def pixels(path, colour: str) -> int:
    """How many pixels have exactly this colour."""
    picture = imread(path)[..., :3]
    return int((np.abs(picture - np.array(to_rgb(colour)).reshape(1, 1, 3)) < 1 / 300).all(-1).sum())


def test_both_curves_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    train = [(i, 3 + 5 * np.exp(-i / 100) + rng.normal() * 0.1) for i in range(0, 1000, 2)]
    write(tmp_path / "m.jsonl", train, [(i, 3 + 5 * np.exp(-i / 100)) for i in range(100, 1000, 100)])
    assert plot_losses(tmp_path / "m.jsonl", tmp_path / "loss.png")
    assert imread(tmp_path / "loss.png").shape[:2] == (675, 1200)
    assert pixels(tmp_path / "loss.png", TRAIN) > 1000 and pixels(tmp_path / "loss.png", HELDOUT) > 1000
    assert sorted(os.listdir(tmp_path)) == ["loss.png", "m.jsonl"]
    before = (tmp_path / "loss.png").read_bytes()
    plot_losses(tmp_path / "m.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes() == before


def test_few_points_and_one_curve_alone(tmp_path):
    for train, heldout in (([(1, 3.0)], []), ([], [(10, 3.0)]), ([(1, 3.0), (2, 3.0)], [(2, 3.0)])):
        write(tmp_path / "m.jsonl", train, heldout)
        assert plot_losses(tmp_path / "m.jsonl", tmp_path / "loss.png")
        assert (pixels(tmp_path / "loss.png", TRAIN) > 0) == bool(train)
        assert (pixels(tmp_path / "loss.png", HELDOUT) > 0) == bool(heldout)


def test_nothing_to_draw(tmp_path):
    assert not plot_losses(tmp_path / "absent.jsonl", tmp_path / "loss.png")
    write(tmp_path / "m.jsonl", [(1, None)], more='{"step": 2, "train/lo')
    assert not plot_losses(tmp_path / "m.jsonl", tmp_path / "loss.png")
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_repeated_and_damaged_lines(tmp_path):
    points = [(i, 4 - i / 100) for i in range(1, 15)]
    write(tmp_path / "m.jsonl", points)
    plot_losses(tmp_path / "m.jsonl", tmp_path / "a.png")
    damage = '[1]\n{"step": null, "train/loss": 1}\n{"step": 5}\n{"step": 6, "train/loss": NaN}\n{"step": 7, "train/l'
    write(tmp_path / "m.jsonl", [(3, 900.0), *points], more=damage)
    plot_losses(tmp_path / "m.jsonl", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_smooth_neither_lags_nor_follows_spikes():
    line = np.linspace(8, 3, 1000)
    spiky = line.copy()
    spiky[::100] += 50
    np.testing.assert_allclose(smooth(spiky)[100:-100], line[100:-100], atol=0.01)
    np.testing.assert_allclose(smooth(np.full(20, 3.0)), 3.0)
    noisy = 3 + np.random.default_rng(0).normal(size=1000)
    assert smooth(noisy).std() < 0.3
