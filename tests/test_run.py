"""The config of a run."""

import dataclasses

import pytest

from jaxlm import config
from jaxlm.errors import UserError
from jaxlm.run import RunConfig
from tests import tiny


def test_saved_and_loaded(tmp_path):
    run = tiny.run(prompts=("a", "\n"), ema=0.5, accumulate=2)
    config.save(run, tmp_path / "config.json")
    assert config.load(tmp_path) == run
    assert hash(run) == hash(config.load(tmp_path))


def test_tokens_per_step_do_not_depend_on_the_parts():
    assert tiny.run(batch=8, accumulate=4).tokens_per_step == 8 * 32


@pytest.mark.parametrize(
    "name", ["steps", "max_nonfinite_steps", "log_every", "max_to_keep", "sample_tokens", "profile_steps"]
)
def test_at_least_one(name):
    with pytest.raises(UserError, match=f"^{name}=0 must be at least 1$"):
        tiny.run(**{name: 0})


@pytest.mark.parametrize(
    "name", ["eval_every", "eval_tokens", "eval_batches", "save_every", "sample_every", "profile_at"]
)
def test_at_least_zero(name):
    assert getattr(tiny.run(**{name: 0}), name) == 0
    with pytest.raises(UserError, match=f"^{name}=-1 must be at least 0$"):
        tiny.run(**{name: -1})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"accumulate": 3}, "accumulate=3 must divide batch=4"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"accumulate": 0}, "accumulate=0 must be at least 1"),
        ({"ema": 1.0}, r"ema=1.0 must lie in \[0, 1\)"),
    ],
    ids=str,
)
def test_what_cannot_be(change, line):
    with pytest.raises(UserError, match=line):
        tiny.run(**change)


def test_batches_of_evaluation_are_read_as_tokens(tmp_path):
    """Saved runs have them."""
    run = tiny.run(batch=8, accumulate=2, eval_batches=3)
    assert (run.eval_tokens, run.eval_batches) == (3 * 4 * 32, 0) and run == tiny.run(
        batch=8, accumulate=2, eval_tokens=3 * 4 * 32
    )
    assert config.override(run, ["eval_batches=1"]).eval_tokens == 4 * 32
    saved = config.to_dict(run) | {"eval_batches": 5}
    del saved["eval_tokens"]
    assert config.from_dict(saved).eval_tokens == 5 * 4 * 32


def test_a_model_is_enough():
    run = RunConfig(tiny.model())
    assert dataclasses.replace(run, model=tiny.model(V=300)).model.V == 300


@pytest.mark.parametrize(
    ("evals", "saves", "says"),
    [(100, 150, "every 300 steps"), (100, 200, ""), (200, 100, ""), (0, 150, ""), (100, 0, ""), (7, 3000, "")],
)
def test_intervals_that_seldom_meet_are_warned_of(evals, saves, says):
    warning = tiny.run(steps=1000, eval_every=evals, save_every=saves).seldom_rated
    assert says in warning and bool(says) == bool(warning)


def test_writers_are_known_and_free_text_is_one_prompt():
    run = config.override(tiny.run(), ["prompts=Hello, world", "writers=jsonl,tensorboard"])
    assert run.prompts == ("Hello, world",) and run.writers == ("jsonl", "tensorboard")
    assert config.override(run, ['prompts=["a, b","c"]']).prompts == ("a, b", "c")
    assert config.override(run, ["prompts=()"]).prompts == config.override(run, ["prompts="]).prompts == ()
