"""Planted ratings come back, intervals cover, what cannot be rated is refused."""

import json
import math

import numpy as np
import pytest

from jaxlm.apps import arena
from jaxlm.apps.arena import Battle
from jaxlm.errors import UserError

PLANTED = {"a": 1150.0, "b": 1030.0, "c": 970.0, "d": 850.0}


def battles(n, seed=0, ties=0.0, verbose=0.0):
    """Of the planted ratings; with `verbose` the longer answer gains so many points."""
    rng, names, found = np.random.default_rng(seed), list(PLANTED), []
    pairs = (rng.integers(4, size=n)[:, None] + np.stack([np.zeros(n, int), rng.integers(1, 4, n)], 1)) % 4
    longs, draws, tied = rng.integers(50, 400, (n, 2)) * (pairs == 3) + 50.0, rng.random(n), rng.random(n) < ties
    for (i, j), long, draw, tie in zip(pairs.tolist(), longs.tolist(), draws, tied):
        a, b = names[i], names[j]
        gain = verbose * (long[0] - long[1]) / (long[0] + long[1])
        p = 1 / (1 + 10 ** ((PLANTED[b] - PLANTED[a] - gain) / 400))
        found.append(Battle(a, b, 0.5 if tie else float(draw < p), ({"length": long[0]}, {"length": long[1]})))
    return found


def test_planted_ratings_come_back():
    ratings = arena.bradley_terry(battles(20_000))
    for name, rating in PLANTED.items():
        assert ratings[name].rating == pytest.approx(rating, abs=12)
    assert [row.model for row in ratings.rows] == list("abcd") and [row.rank for row in ratings.rows] == [1, 2, 3, 4]
    assert "rank" in ratings.table() and ratings["a"].battles > 9000


@pytest.mark.parametrize("intervals", ["sandwich", "bootstrap"])
def test_intervals_cover(intervals):
    times, held = (200, 0) if intervals == "sandwich" else (12, 0)
    for seed in range(times):
        ratings = arena.bradley_terry(battles(300, seed), intervals=intervals)
        held += sum(row.low <= PLANTED[row.model] <= row.high for row in ratings.rows)
    assert (0.93 if intervals == "sandwich" else 0.83) <= held / times / 4 <= (0.97 if intervals == "sandwich" else 1)


def test_it_is_the_likelihoods_maximum():
    found = battles(200, ties=0.2)
    ratings = arena.bradley_terry(found)
    r = {row.model: row.rating for row in ratings.rows}

    def likelihood(r):
        p = [1 / (1 + 10 ** ((r[x.b] - r[x.a]) / 400)) for x in found]
        return sum(x.score * math.log(q) + (1 - x.score) * math.log(1 - q) for x, q in zip(found, p))

    best = likelihood(r)
    for name in r:
        for step in (-3, 3):
            assert likelihood({**r, name: r[name] + step}) < best
    assert np.mean(list(r.values())) == pytest.approx(1000)


def test_style_control_takes_length_out():
    found = battles(6000, verbose=400)
    plain, controlled = arena.bradley_terry(found), arena.bradley_terry(found, ["length"])
    miss = lambda ratings: max(abs(ratings[name].rating - rating) for name, rating in PLANTED.items())
    assert miss(plain) > 60 and miss(controlled) < 30 and controlled.style["length"] > 0.2
    assert arena.style("# T\n- a\n1. b\n**c** d") == {"length": 8.0, "headers": 1.0, "lists": 2.0, "bold": 1.0}
    with pytest.raises(UserError, match="style control needs"):
        arena.bradley_terry([Battle("a", "b", 0.5)], ["length"])


def test_elo_follows():
    assert arena.elo([Battle("a", "b", 1.0)], k=32) == {"a": 1016.0, "b": 984.0}
    found = arena.elo(battles(20_000))
    assert found["a"] - found["d"] == pytest.approx(300, abs=50)


def test_models_that_are_not_connected():
    found = [Battle("a", "b", 1.0), Battle("a", "b", 1.0)]
    assert arena.connected(found) == [["a"], ["b"]]
    with pytest.raises(UserError, match=r"do not connect the models: 2 groups \(a; b\)"):
        arena.bradley_terry(found)
    assert arena.connected([*found, Battle("a", "b", 0.5)]) == [["a", "b"]]
    with pytest.raises(UserError, match="no battles"):
        arena.bradley_terry([])


def test_files_and_the_plot(tmp_path):
    rows = [{"model_a": "x", "model_b": "y", "winner": w} for w in ("model_a", "model_b", "tie", "x")]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = arena.read_battles(tmp_path / "b.jsonl")
    assert [one.score for one in found] == [1, 0, 0.5, 1]
    arena.plot_ratings(arena.bradley_terry(found), tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    for row, message in (
        ({**rows[0], "winner": "z"}, "'winner' is 'z'"),
        ({**rows[0], "model_b": "x"}, "two models have one name"),
        ({"model_a": "x"}, "the field 'model_b' or 'b' is missing"),
    ):
        (tmp_path / "b.jsonl").write_text(json.dumps(row))
        with pytest.raises(UserError, match=rf"b.jsonl:1: .*{message}"):
            arena.read_battles(tmp_path / "b.jsonl")


def test_equal_to_arena_rank():
    pytest.importorskip("arena_rank")
    import pandas as pd
    from arena_rank.models.bradley_terry import BradleyTerry
    from arena_rank.utils.data_utils import PairDataset

    found = battles(2000, ties=0.1)
    spell = {1.0: "model_a", 0.0: "model_b", 0.5: "tie"}
    frame = pd.DataFrame([{"model_a": x.a, "model_b": x.b, "winner": spell[x.score]} for x in found])
    data = PairDataset.from_pandas(frame)
    theirs = BradleyTerry(n_competitors=4).compute_ratings_and_cis(data, significance_level=0.05)
    theirs = dict(zip(theirs["competitors"], theirs["ratings"]))
    ours = {row.model: row.rating for row in arena.bradley_terry(found).rows}
    shift = np.mean(list(theirs.values())) - 1000
    for name in PLANTED:
        assert ours[name] == pytest.approx(float(theirs[name]) - shift, abs=0.1)
