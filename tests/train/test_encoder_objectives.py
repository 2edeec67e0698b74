"""Objectives of encoders in a run: the loss falls, eight devices compute what one does; two models together."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.data import DataConfig, EmbeddingPairs, SentencePairs, Source, TaggedWords, TokenizerConfig
from jaxlm.models import ElectraConfig, MaskedHead, ReplacedHead, TokenHead
from jaxlm.nn import LearnedConfig
from jaxlm.objectives import Contrastive, MaskedPairs, MaskedTokens, ReplacedTokens, TagTokens
from jaxlm.plan import topology
from jaxlm.plan.walk import estimate_train
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import start
from jaxlm.train.batch import place, rows_here
from jaxlm.train.loop import train
from jaxlm.train.setup import Setup
from tests import tiny
from tests.objectives.test_next_token import ENCODER
from tests.train.runs import put_on_one_device

MODEL = dataclasses.replace(ENCODER, positions=LearnedConfig(32))
KINDS = ("pairs", "replaced", "words", "tags", "contrastive")


def runs(text, folder) -> dict[str, jaxlm.run.RunConfig]:
    """Eight rows a step."""
    (folder / "tags.txt").write_text("to O\nbe V\n\nor O\nnot O\nto O\nbe V\n\n" * 20)
    (folder / "pairs.tsv").write_text("".join(f"number {i}\tthe number {i}, or so\n" for i in range(90)))
    documents = {"sources": (Source(str(text)),), "T": 32, "holdout": 0.2}
    small, large = dataclasses.replace(MODEL, D=16, embed_width=32), dataclasses.replace(MODEL, head=ReplacedHead())
    tags = str(folder / "tags.txt")
    changes = {
        "pairs": {
            "model": dataclasses.replace(MODEL, types=2, pooler=True, next_sentence=True),
            "data": SentencePairs(**documents),
            "objective": MaskedPairs(263, vocabulary=256),
        },
        "replaced": {"model": ElectraConfig(small, large), "objective": ReplacedTokens(263, vocabulary=256)},
        "words": {
            "model": dataclasses.replace(MODEL, head=MaskedHead()),
            "data": DataConfig(**documents, words=True),
            "objective": MaskedTokens(263, vocabulary=256, whole_words=True),
        },
        "tags": {
            "model": dataclasses.replace(MODEL, head=TokenHead(("O", "V"))),
            "data": TaggedWords(tags, ("O", "V"), tags, T=32),
            "objective": TagTokens(),
        },
        "contrastive": {
            "model": dataclasses.replace(MODEL, head=None),
            "data": EmbeddingPairs(str(folder / "pairs.tsv"), tokenizer=TokenizerConfig(), T=32),
            "objective": Contrastive(),
        },
    }
    return {kind: tiny.run(text, batch=8, **change) for kind, change in changes.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return runs(tiny.write_text(tmp_path_factory.mktemp("text")), tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("kind", KINDS)
def test_learned_and_the_same_on_eight_devices(kind, made):
    run = made[kind]

    def losses(mesh, steps):
        setup = Setup(run, mesh)
        state, frozen = setup.create()
        with jax.set_mesh(mesh), run.data.prepare().train_batches(8, rows_here(mesh, 8)) as batches:
            step, found = jax.jit(setup.train_step), []
            for _ in range(steps):
                state, metrics = step(state, place(next(batches), run.objective.spec(run.data), mesh, 1), frozen)
                found.append(float(metrics["loss"]))
        return found

    alone = losses(make_mesh(MeshConfig(data=1), jax.devices()[:1]), 6)
    assert np.mean(alone[-2:]) < np.mean(alone[:2])
    np.testing.assert_allclose(losses(make_mesh(MeshConfig(2, 2, 2)), 2), alone[:2], rtol=2e-5)


def test_planned(made):
    run = dataclasses.replace(made["replaced"], mesh=MeshConfig(2, 2, 2))
    program = estimate_train(run, topology.parse("v5e:2x4"))
    held = sum(x.size for x in jax.tree.leaves(Setup(run, make_mesh(run.mesh)).state.params))
    assert program.memory.optimizer < 2 * 4 * held and program.memory.activations > 0
    assert program.work.model_flops == pytest.approx(run.model.flops({"T": 32}) * 8 / 8)


def test_a_discriminator_is_opened_saved_and_fine_tuned(made, tmp_path, monkeypatch):
    put_on_one_device(monkeypatch)
    run = dataclasses.replace(made["replaced"], steps=3, eval_every=0, eval_tokens=64)
    train(run, tmp_path / "run")
    encoder = jaxlm.load(tmp_path / "run")
    assert encoder.config == run.model.discriminator
    tokens = np.array([list(b"to be, or not")])
    encoder.save(tmp_path / "saved")
    np.testing.assert_array_equal(jaxlm.load(tmp_path / "saved").logits(tokens), encoder.logits(tokens))
    other = dataclasses.replace(made["tags"], start=str(tmp_path / "run"))
    setup = Setup(other, make_mesh(other.mesh, jax.devices()[:1]))
    start.check(other)
    params = start.load(setup)
    np.testing.assert_array_equal(params["embed"]["table"], encoder.params["embed"]["table"])
