"""One loop for every kind of model and objective: killed and resumed as if it had not been, the same on eight devices,
planned, and decoded where it decodes."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import config
from jaxlm.data import SyntheticPairs
from jaxlm.decode import Greedy, decode, prepare, results
from jaxlm.decode.cache import nbytes
from jaxlm.decode.prefill import prefill
from jaxlm.models import EncoderConfig, Seq2SeqConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    CrossAttentionConfig,
    GRUConfig,
    LayerNormConfig,
    LayersConfig,
    LSTMConfig,
    MLPConfig,
)
from jaxlm.objectives import MaskedTokens, SequenceToSequence
from jaxlm.plan import topology
from jaxlm.plan.walk import estimate_train
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.batch import place, rows_here
from jaxlm.train.setup import Setup
from jaxlm.train.start import read_run
from jaxlm.tune import LoRA
from tests import tiny
from tests.meshes import name
from tests.train.runs import digests, numbers

POST = {"norm": None, "norm_sum": LayerNormConfig()}
ATTENTION, MLP = AttentionConfig(H=4, K=8, rope=None), MLPConfig(F=64, activation="relu", gated=False)
SEEING = dataclasses.replace(ATTENTION, causal=False)
PAIRS = SyntheticPairs("reverse", V=16, T=8, holdout=64)


def recurrent(mixer) -> dict:
    return {"model": tiny.model(layers=(LayersConfig((BlockConfig(mixer, None),), 2),))}


def kinds(text: Path) -> dict[str, jaxlm.run.RunConfig]:
    """Eight rows a step, so that a mesh of eight divides them."""
    encoder = EncoderConfig(264, 32, (LayersConfig((BlockConfig(SEEING, MLP, **POST, dropout=0.1),), 2),))
    decoder = BranchesConfig(
        (
            BranchConfig("attention", ATTENTION, **POST),
            BranchConfig("cross", CrossAttentionConfig(H=4, K=8), **POST),
            BranchConfig("ffn", MLP, **POST),
        )
    )
    seq2seq = Seq2SeqConfig(16, 32, encoder.layers, (LayersConfig((decoder,), 2),), embed_scale=32**0.5)
    changes = {
        "encoder": {"model": encoder, "objective": MaskedTokens(mask=263, vocabulary=256)},
        "encoder-decoder": {"model": seq2seq, "objective": SequenceToSequence(0.1), "data": PAIRS},
        "gru": recurrent(GRUConfig(32)),
        "lstm": recurrent(LSTMConfig(32, H=2)),
        "lora": {"trains": LoRA(rank=2)},
    }
    return {kind: tiny.run(text, batch=8, **change) for kind, change in changes.items()}


KINDS = ("encoder", "encoder-decoder", "gru", "lstm", "lora")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A function: of a kind the run in one go, or one that was killed at these moments and went on each time."""
    home = tmp_path_factory.mktemp("kinds")
    script, made = Path(__file__).with_name("killed.py"), kinds(tiny.write_text(home / "text"))
    flags = os.environ["XLA_FLAGS"].replace("--xla_force_host_platform_device_count=8", "")
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}

    @functools.cache
    def run(kind, *moments):
        folder = home / "-".join([kind, *moments])
        folder.mkdir()
        config.save(made[kind], folder / "asked.json")
        argv = ["train", str(folder / "asked.json"), "--run", str(folder / "run")]
        command = [sys.executable, str(script), str(folder), *moments, "--", *argv]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        outputs = "\n".join(path.read_text() for path in folder.glob("*.txt"))
        assert done.stdout.strip() == str([-9] * len(moments) + [0]), outputs + done.stderr
        return folder / "run"

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_as_if_it_had_not_been(runs, kind):
    whole, killed = runs(kind), runs(kind, "KILL:save:4")
    assert numbers(killed) == numbers(whole) and digests(killed) == digests(whole)
    losses = [line["train/loss"] for line in numbers(whole, "train/")]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert ("train/bits_per_byte" in json.loads((whole / "metrics.jsonl").read_text().splitlines()[0])) == (
        kind in ("gru", "lstm", "lora")
    )


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(2, 2, 2, explicit=False)], ids=name)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_eight_devices(text, kind, mesh):
    run = kinds(text)[kind]

    def losses(mesh):
        setup = Setup(run, mesh)
        state, frozen = setup.create()
        with jax.set_mesh(mesh), run.data.prepare().train_batches(8, rows_here(mesh, 8)) as batches:
            step, found = jax.jit(setup.train_step), []
            for _ in range(2):
                state, metrics = step(state, place(next(batches), run.objective.spec(run.data), mesh, 1), frozen)
                found.append(float(metrics["loss"]))
        return found

    alone = losses(make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    np.testing.assert_allclose(losses(make_mesh(mesh)), alone, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_planned(text, kind):
    run = dataclasses.replace(kinds(text)[kind], mesh=MeshConfig(2, 2, 2))
    program = estimate_train(run, topology.parse("v5e:2x4"))
    setup = Setup(run, make_mesh(run.mesh))
    held = sum(x.size for x in jax.tree.leaves(setup.state.params))
    assert program.memory.optimizer < 2 * 4 * held and program.work.model_flops > 0 and program.memory.activations > 0


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_recurrence_decodes_in_constant_memory(runs, kind):
    lm = jaxlm.load(runs(kind))
    assert nbytes(lm.config, 10, "float32") == nbytes(lm.config, 10_000, "float32")
    tokens = np.array([list(b"to be, or not")])
    out = lm.generate(tokens, max_new_tokens=8)
    text = np.concatenate([tokens, out.tokens], 1)
    assert lm.logits(text).argmax(-1)[0, 12:-1].tolist() == out.tokens[0].tolist()


def test_an_encoder_decoder_writes_what_teacher_forcing_says(runs):
    run, params = read_run(runs("encoder-decoder"))
    model, params = prepare(run.model, params)
    row = PAIRS.row(1, 3)
    source = {"source_BS": row["source"][None], "source_segments_BS": row["source_segments"][None]}
    state, how = prefill(model, params, np.ones((1, 1), np.int32), None, 7, Greedy(), None, (2,), inputs=source)
    new = np.asarray(results(decode(how, params, state, 7))[0])[:, :7]
    n = int((new >= 0).sum())
    text = np.concatenate([[[1]], new[:, :n]], 1)
    logits = run.model.build(stacked=False).apply({"params": params}, text, **source)
    assert logits.argmax(-1)[0, :n].tolist() == new[0, :n].tolist()
