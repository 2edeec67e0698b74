"""Rollouts and runs of policies: what is written, what is trained on, what stops a run, and how it goes on."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxlm.align.rollout import Rollouts, _packed, _unpacked
from jaxlm.data import Prompts, Source
from jaxlm.errors import UserError
from jaxlm.models import WithHead
from jaxlm.objectives import Policy
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.loop import train
from jaxlm.train.setup import Setup
from tests import tiny
from tests.objectives.test_preference import one_device  # noqa: F401 (a fixture)
from tests.train.runs import digests, numbers

REWARD = "def odd(prompt, text, row):\n    return sum(c in 'acegik' for c in text) + 0.1 * len(text)\n"


def run(folder, **changes):
    prompts = folder / "prompts.jsonl"
    if not prompts.exists():
        rows = [{"prompt": f"{'x' * (i % 5)}{i}:", "answer": i} for i in range(30)]
        prompts.write_text("\n".join(map(json.dumps, rows)))
        (folder / "mine.py").write_text(REWARD)
    how = {"rewards": (f"{folder / 'mine.py'}:odd",), "G": 4, "new_tokens": 8}
    how |= changes.pop("how", {})
    made = tiny.run(
        model=changes.pop("model", tiny.model()),
        data=Prompts(sources=(Source(str(prompts)),), heldout=str(prompts), T=8),
        objective=Policy(**how),
        batch=8,
        steps=4,
        eval_every=4,
        save_every=2,
        sample_every=2,
        prompts=(),
        eval_tokens=8 * how.get("minibatches", 1) * 16,  # as many rows as a rollout: nothing more is compiled
    )
    return dataclasses.replace(made, **changes)


def feed(run, folder, mesh=None):
    mesh = mesh or make_mesh(MeshConfig(data=1), jax.devices()[:1])
    setup = Setup(run, mesh)
    return Rollouts(setup, run.data.prepare(), folder), setup


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2)], ids=str)
def test_a_rollout_is_decoding_and_the_training_forward_says_the_same_of_it(tmp_path, mesh):
    mesh = mesh and make_mesh(mesh, jax.devices()[:2])
    rollouts, setup = feed(run(tmp_path, how={"beta": 0.1}), tmp_path, mesh)
    with rollouts, jax.set_mesh(setup.mesh):
        state, frozen = setup.create()
        batch = rollouts.next(state, frozen)
    at = rollouts.objective.stats.index("sampling_logp_difference")
    assert 0 < batch["stats"][0, at] < 1e-5
    np.testing.assert_allclose(batch["old"], batch["reference"], atol=1e-5)  # nothing was trained yet
    assert batch["fresh"].all() and batch["tokens"].shape == (8, 16)
    for i in range(8):
        n, said = int(batch["segments"][i].sum()), batch["weights"][i] > 0
        text = bytes(x for x in [*batch["tokens"][i, :n], batch["labels"][i, n - 1]] if x < 256).decode(
            "utf8", "replace"
        )
        assert ":" in text and said.sum() == batch["stats"][i, 3]
    groups = batch["tokens"].reshape(2, 4, -1)[:, :, 0]
    assert (groups == groups[:, :1]).all()  # neighbours answer one prompt
    advantages = (batch["advantages"] * batch["weights"]).max(1) + (batch["advantages"] * batch["weights"]).min(1)
    np.testing.assert_allclose(advantages.reshape(2, 4).sum(1), 0, atol=1e-5)


METHODS = [
    {"epochs": 2, "minibatches": 2},
    {"method": "rloo", "beta": 0.05, "loss_type": "grpo", "level": "sequence"},
    {"method": "reinforce"},
    {"method": "ppo", "beta": 0.05, "epochs": 2, "whiten_rewards": True, "target_kl": 1.0},
    {"method": "online_dpo", "G": 2, "beta": 0.1},
    {"loss_type": "cispo", "temperature": 0.7},
]


@pytest.mark.parametrize("how", METHODS, ids=lambda how: how.get("method", how.get("loss_type", "grpo")))
def test_every_method_runs_and_is_on_policy_at_first(tmp_path, how):
    model = WithHead(tiny.model()) if how.get("method") == "ppo" else tiny.model()
    made = run(tmp_path, how=how, model=model, steps=3, eval_every=0, save_every=0, sample_every=0)
    train(made, tmp_path / "run", Rollouts)
    first, *_ = (json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    if how.get("method") != "online_dpo":
        assert first["train/ratio"] == 1 and first["train/clip_ratio"] == 0
    assert np.isfinite([first["train/loss"], first["train/reward"], first["train/grad_norm"]]).all()


def test_a_run_that_dies_goes_on_bit_for_bit(tmp_path):
    """In the middle of a round, whose batches that are left are in the checkpoint."""

    class Dying(Rollouts):
        def next(self, state, frozen):
            if state.step == 3:
                raise MemoryError("dead")
            return super().next(state, frozen)

    how = {"epochs": 2, "minibatches": 2, "beta": 0.1}
    made = run(tmp_path, how=how, save_every=1, steps=5, eval_every=0, sample_every=0)
    train(made, tmp_path / "whole", Rollouts)
    with pytest.raises(MemoryError, match="dead"):
        train(made, tmp_path / "dead", Dying)
    train(made, tmp_path / "dead", Rollouts)
    assert numbers(tmp_path / "dead", "train/") == numbers(tmp_path / "whole", "train/")
    assert digests(tmp_path / "dead") == digests(tmp_path / "whole")


def test_tables_and_curves(tmp_path, capsys):
    train(run(tmp_path), tmp_path / "run", Rollouts)
    lines = [json.loads(x) for x in (tmp_path / "run/completions.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {0, 2} and len(lines) == 16
    assert (tmp_path / "run/rewards.png").stat().st_size > 1000
    assert "8 completions a round" in capsys.readouterr().out


BAD = [
    ("def f(p, t, r):\n    raise KeyError('who')\n", "f raised KeyError: 'who' for the row"),
    ("def f(p, t, r):\n    return float('nan')\n", "f returned nan for the row"),
]


@pytest.mark.parametrize("source, says", BAD, ids=["raises", "nan"])
def test_a_reward_that_fails_names_the_row_and_stops_or_counts_nothing(tmp_path, source, says, capsys):
    made = run(tmp_path)
    (tmp_path / "mine.py").write_text(source)
    how = {"rewards": (f"{tmp_path / 'mine.py'}:f",)}
    with pytest.raises(UserError, match=says):
        train(run(tmp_path, how=how), tmp_path / "a", Rollouts)
    rollouts, setup = feed(run(tmp_path, how=how | {"on_error": "zero"}), tmp_path)
    with rollouts, jax.set_mesh(setup.mesh):
        rollouts.next(*setup.create())
    assert f"{says} " in capsys.readouterr().out and made is not None


def test_what_stops_a_run(tmp_path, capsys):
    (tmp_path / "never.py").write_text("def f(p, t, r):\n    return None\n")
    how = {"rewards": (f"{tmp_path / 'never.py'}:f",), "patience": 2}
    with pytest.raises(UserError, match="in 2 rounds in a row all completions of each prompt had the same reward, 0"):
        train(run(tmp_path, how=how), tmp_path / "a", Rollouts)
    assert "found no answer in any of the first 8 completions" in capsys.readouterr().out
    with pytest.raises(UserError, match="G=1: grpo compares completions"):
        Policy(G=1)
    with pytest.raises(UserError, match="batch=8 x minibatches=1 completions are not groups of G=3"):
        feed(run(tmp_path, how={"G": 3}), tmp_path)
    with pytest.raises(UserError, match="no reward: name some"):
        feed(run(tmp_path, how={"rewards": ()}), tmp_path)
    with pytest.raises(UserError, match="ppo needs values"):
        run(tmp_path, how={"method": "ppo"})
    with pytest.raises(UserError, match="reward_weights has 2 numbers for 1 rewards"):
        run(tmp_path, how={"reward_weights": (1.0, 2.0)})


def test_what_is_held_comes_back():
    batch = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.int32)}
    back = _unpacked(_packed(batch))
    assert all(np.array_equal(back[name], x) and back[name].dtype == x.dtype for name, x in batch.items())
