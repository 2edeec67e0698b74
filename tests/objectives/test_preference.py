"""Objectives of preferences: the formulas on a model's own log probabilities, alone and on meshes; runs of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.config import override
from jaxlm.data import Preferences, Source
from jaxlm.errors import UserError
from jaxlm.models import forward, logits
from jaxlm.objectives import CPO, DPO, KTO, ORPO, SimPO
from jaxlm.ops import preference
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.batch import place
from jaxlm.train.loop import train
from jaxlm.train.setup import Setup
from tests import tiny
from tests.train.runs import put_on_one_device


@pytest.fixture(autouse=True)
def one_device(monkeypatch, tmp_path):
    """Runs are on one device, and what they prepare is kept apart."""
    put_on_one_device(monkeypatch)
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


RNG = np.random.default_rng(0)
B, T = 8, 16


def pairs(path, count=40):
    rows = [{"prompt": f"say {i}:", "chosen": f" yes {i}", "rejected": f" no {i % 7} never"} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return Preferences(sources=(Source(str(path)),), T=T, holdout=0.2)


def batch(real=7):
    lengths = RNG.integers(6, T, (B, 2, 1))
    at, segments = np.arange(T)[None, None], None
    segments = (at < lengths).astype(np.int32)
    tokens = RNG.integers(0, 256, (B, 2, T + 1)).astype(np.int32)
    return {
        "texts": tokens[..., :-1],
        "text_segments": segments,
        "tokens": tokens[..., :-1],
        "labels": tokens[..., 1:],
        "segments": segments,
        "answer_weights": ((at < lengths) & (at >= 3)).astype(np.float32),
        "margins": np.zeros((B, 1), np.float32),
        "wanted": (np.arange(B) % 2 == 0)[:, None].astype(np.float32),
        "weights": (np.arange(B) < real)[:, None].astype(np.float32),
        "reference": RNG.normal(-80, 5, (B, 2)).astype(np.float32),
    }


MODEL, GIVEN = tiny.model(), batch()
PARAMS = Setup(tiny.run(), make_mesh(MeshConfig(data=1), jax.devices()[:1])).create()[0].params
OBJECTIVES = (DPO(nll=0.5), DPO("ipo"), DPO("aot"), KTO(), ORPO(), SimPO(), CPO())


def own():
    """Log probabilities of answers and texts by the full softmax."""
    found = []
    for i in range(2):
        out = forward(MODEL.build(), PARAMS, GIVEN["tokens"][:, i], None, GIVEN["segments"][:, i])
        logp = np.asarray(jax.nn.log_softmax(logits(MODEL, out)))
        logp = np.take_along_axis(logp, GIVEN["labels"][:, i, :, None], -1)[..., 0]
        weights, real = GIVEN["answer_weights"][:, i], GIVEN["segments"][:, i]
        found.append([(logp * weights).sum(-1), weights.sum(-1), (logp * real).sum(-1), real.sum(-1)])
    return np.array(found)


def wanted(objective):
    (c, r), (nc, nr), (text, _), (n_text, _) = own().transpose(1, 0, 2)
    ref, w = GIVEN["reference"].T, GIVEN["weights"][:, 0]
    p = preference.Pairs(*(jnp.asarray(x, jnp.float32) for x in (c, r, *ref, nc, nr)))
    if isinstance(objective, DPO):
        nll = -(c * w).sum() / (nc * w).sum()
        return (preference.dpo(p, objective.form) * w).sum() / w.sum() + objective.nll * nll
    if isinstance(objective, KTO):
        kl = ((r - ref[1]) * w).sum() / w.sum()
        return (preference.kto(c - ref[0], GIVEN["wanted"][:, 0], jnp.asarray(kl)) * w).sum() / w.sum()
    if isinstance(objective, ORPO):
        return (preference.orpo(c / nc, r / nr) * w).sum() / w.sum() - (text * w).sum() / (n_text * w).sum()
    if isinstance(objective, SimPO):
        return (preference.simpo(c / nc, r / nr) * w).sum() / w.sum()
    return (preference.cpo(c, r) * w).sum() / w.sum() - (c * w).sum() / (nc * w).sum()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_formula(objective):
    found, _ = jax.jit(lambda p, b: objective.loss(MODEL, p, b))(PARAMS, GIVEN)
    np.testing.assert_allclose(found.total / found.weight, wanted(objective), rtol=1e-4)
    assert found.weight == 7 and all(np.isfinite(x) for x in found.shown.values())


def test_on_a_mesh_as_alone():
    data, mesh = Preferences(T=T), make_mesh(MeshConfig(data=1, fsdp=2, context=2), jax.devices()[:4])
    run = tiny.run(data=data, objective=DPO("aot"), batch=B)
    one = lambda p, b: run.objective.loss(MODEL, p, b)[0].total
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, jax.tree.map(lambda x: x.sharding, Setup(run, mesh).state.params))
        found, gradient = jax.jit(jax.value_and_grad(one))(params, place(GIVEN, run.objective.spec(data), mesh))
    alone, own_gradient = jax.jit(jax.value_and_grad(one))(PARAMS, GIVEN)
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), gradient, own_gradient)


def test_a_run_keeps_to_the_model_it_begins_from_and_finds_its_log_probabilities_again(tmp_path, capsys):
    run = tiny.run(data=pairs(tmp_path / "pairs.jsonl"), objective=DPO(), prompts=(), steps=4, eval_every=4)
    train(run, tmp_path / "a")
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(lines[0]["train/loss"], np.log(2), rtol=1e-5)  # policy and reference are one
    assert lines[0]["train/rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert lines[-1]["eval/rewards/margins"] > 0
    assert "by the reference" in capsys.readouterr().out
    train(tiny.run(data=run.data, objective=DPO("ipo"), prompts=(), steps=3), tmp_path / "b")
    assert "by the reference" not in capsys.readouterr().out


def test_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match="unknown form of DPO 'sigmod'"):
        override(tiny.run(objective=DPO()), ["objective.form=sigmod"])
    with pytest.raises(UserError, match="KTO reads data Preferences with apart=true"):
        KTO().spec(Preferences())
    with pytest.raises(UserError, match="DPO reads data Preferences with apart=false"):
        DPO().spec(tiny.run().data)
    with pytest.raises(UserError, match=r"label_smoothing=0\.6"):
        DPO("robust", label_smoothing=0.6)
