"""A head on a language model: scores, where training begins, and Hugging Face's layout."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.align.reward_model import reward_model
from jaxlm.convert import describe
from jaxlm.convert.reward import save_reward
from jaxlm.data import Preferences, Source
from jaxlm.errors import UserError
from jaxlm.models import WithHead, forward, logits
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig, RMSNormConfig, RopeConfig
from jaxlm.objectives import BradleyTerry, ProcessReward
from jaxlm.ops.preference import bradley_terry
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import start
from jaxlm.train.batch import place
from jaxlm.train.loop import train
from jaxlm.train.setup import Setup
from tests import tiny
from tests.objectives.test_preference import GIVEN, one_device, pairs  # noqa: F401 (a fixture)

MODEL = WithHead(tiny.model())
ONE = lambda run: Setup(run, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
PARAMS = ONE(tiny.run(model=MODEL, objective=ProcessReward())).create()[0].params


def rewards():
    """Of each text the score at its last token, what follows unmasked: the model sees no later ones."""
    score = jax.jit(lambda p, ids: logits(MODEL, forward(MODEL.build(), p, ids))[..., 0])
    found = [np.asarray(score(PARAMS, GIVEN["texts"][:, i])) for i in range(2)]
    last = GIVEN["text_segments"].sum(-1) - 1
    return np.stack([found[i][np.arange(8), last[:, i]] for i in range(2)])


def test_rewards_are_the_scores_of_last_tokens():
    found, _ = jax.jit(lambda p, b: BradleyTerry(0.01).loss(MODEL, p, b))(PARAMS, GIVEN)
    (c, r), w = rewards(), GIVEN["weights"][:, 0]
    np.testing.assert_allclose(found.total, (bradley_terry(c, r, 0.0, 0.01) * w).sum(), rtol=1e-4)
    assert found.shown["accuracy"] == ((c > r) * w).sum()
    np.testing.assert_allclose(found.shown["sureness"], (w / (1 + np.exp(-abs(c - r)))).sum(), rtol=1e-4)


def test_on_a_mesh_as_alone():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    run = tiny.run(model=MODEL, data=Preferences(T=16), objective=BradleyTerry(), batch=8)
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, jax.tree.map(lambda x: x.sharding, Setup(run, mesh).state.params))
        one = lambda p, b: run.objective.loss(MODEL, p, b)[0].total
        found = jax.jit(one)(params, place(GIVEN, run.objective.spec(run.data), mesh))
    np.testing.assert_allclose(found, jax.jit(one)(PARAMS, GIVEN), rtol=1e-5)


def test_a_run_begins_from_a_language_model_and_its_rewards_are_read(tmp_path):
    train(tiny.run(tiny.write_text(tmp_path / "text"), steps=3, eval_every=0), tmp_path / "lm")
    data = pairs(tmp_path / "pairs.jsonl")
    run = tiny.run(model=MODEL, start=str(tmp_path / "lm"), data=data, objective=BradleyTerry(), prompts=(), steps=8)
    train(run, tmp_path / "rm")
    lines = [json.loads(line) for line in (tmp_path / "rm/metrics.jsonl").read_text().splitlines()]
    assert lines[0]["train/loss"] < 3 and lines[-1]["eval/accuracy"] > 0.5
    model = reward_model(str(tmp_path / "rm"))
    good, bad = model.score(["say 3:", "say 3:"], [" yes 3", " no 3 never"])
    assert good > bad and model("say 3:", " yes 3", {}) == pytest.approx(good, rel=1e-4)
    below = jaxlm.load(tmp_path / "rm")
    assert below.config == run.model.trunk and below.generate("say", 2).tokens.shape == (1, 2)
    start.check(dataclasses.replace(run, start=str(tmp_path / "rm")))
    start.check(tiny.run(start=str(tmp_path / "rm")))
    with pytest.raises(UserError, match="is no reward model"):
        reward_model(str(tmp_path / "lm"))
    with pytest.raises(UserError, match="is another model: embed"):
        wide = WithHead(dataclasses.replace(tiny.model(), D=16))
        train(dataclasses.replace(run, model=wide), tmp_path / "other")


def test_steps_of_solutions():
    batch = tiny.batch(4)
    batch["weights"] *= np.arange(32) % 4 == 3
    batch["labels"] = batch["labels"] % 2
    found, _ = jax.jit(lambda p, b: ProcessReward().loss(MODEL, p, b))(PARAMS, batch)
    inputs = (batch["tokens"], batch["positions"], batch["segments"])
    score = np.asarray(jax.jit(lambda p: logits(MODEL, forward(MODEL.build(), p, *inputs))[..., 0])(PARAMS))
    p = 1 / (1 + np.exp(-score))
    wanted = -np.log(np.where(batch["labels"] > 0, p, 1 - p)) * batch["weights"]
    np.testing.assert_allclose(found.total, wanted.sum(), rtol=1e-4)
    assert found.weight == batch["weights"].sum() > 0


def llama():
    block = BlockConfig(AttentionConfig(H=2, K=8, rope=RopeConfig()), MLPConfig(F=48), norm=RMSNormConfig(eps=1e-5))
    return tiny.model(V=260, D=16, layers=(LayersConfig((block,), 2),), norm=RMSNormConfig(eps=1e-5), tied=False)


def test_hugging_faces_layout_has_the_score_and_no_head(tmp_path):
    from safetensors.numpy import load_file

    model = WithHead(llama())
    params = ONE(tiny.run(model=model, objective=ProcessReward())).create()[0].params
    save_reward(tmp_path / "hf", model, params, describe(model.trunk, 256))
    tensors = load_file(tmp_path / "hf/model.safetensors")
    fields = json.loads((tmp_path / "hf/config.json").read_text())
    assert fields["architectures"][0].endswith("ForSequenceClassification") and fields["num_labels"] == 1
    np.testing.assert_array_equal(tensors["score.weight"], params["score"])
    assert not any("lm_head" in name for name in tensors) and any("embed" in name for name in tensors)


def test_what_cannot_be():
    with pytest.raises(UserError, match="BradleyTerry cannot train this LMConfig: it has no score"):
        tiny.run(data=Preferences(sources=(Source("x"),)), objective=BradleyTerry())
    with pytest.raises(UserError, match="a head stands on a language model"):
        WithHead(MODEL)
    with pytest.raises(UserError, match="apart=false"):
        BradleyTerry().spec(Preferences(apart=True))
