"""An encoder that has restored hidden tokens learns to classify: another head on the same body."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.api import Encoder
from jaxlm.data import LabelledTexts
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, SequenceHead
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.objectives import Classify, MaskedTokens
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import loop, start
from jaxlm.train.setup import Setup
from tests import tiny
from tests.train.runs import numbers, put_on_one_device
from tests.weights import weights

BLOCK = BlockConfig(
    AttentionConfig(2, 16, rope=None, causal=False, bias=True, bias_out=True),
    MLPConfig(64, "gelu", gated=False, bias=True),
    norm=LayerNormConfig(),
)
MASKED = EncoderConfig(264, 32, (LayersConfig((BLOCK,), 1),), LearnedConfig(16), norm=LayerNormConfig())
MODEL = dataclasses.replace(MASKED, head=SequenceHead(("dull", "fine")), pooler=True)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "x.tsv"
    texts = [(f"{word} {i}", label) for i in range(40) for word, label in (("aaa", "dull"), ("zz", "fine"))]
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in texts))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    Encoder(MASKED, weights(MASKED.build(), np.zeros((1, 1), int)), None).save(folder)
    return folder


def run(table, **changes):
    data = LabelledTexts(str(table), ("dull", "fine"), T=16, holdout=0.3)
    return tiny.run(
        model=MODEL, data=data, objective=Classify(), **{"batch": 8, "steps": 30, "eval_every": 30} | changes
    )


@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(2, 2, 2)], ids=["one", "eight"])
def test_the_body_is_kept_and_the_head_is_new(base, table, mesh):
    setup = Setup(run(table, start=str(base)), make_mesh(mesh, jax.devices()[:1] if mesh.data == 1 else None))
    state, _ = setup.create(start.load(setup))
    there = jaxlm.load(base).params
    fresh = setup.create()[0].params
    assert state.params.keys() == fresh.keys() and "transform" in there
    for name, tree in state.params.items():
        wanted = there[name] if name in there and not name.startswith("head") else None
        if wanted is not None:
            jax.tree.map(np.testing.assert_array_equal, jax.device_get(tree), jax.device_get(wanted))
    assert state.params["head"].shape == (2, 32) and np.std(state.params["pooler"]) > 0.01
    jax.tree.map(lambda x, y: x.sharding == y.sharding, state, setup.state)


def test_the_same_head_is_kept(base, table):
    same = dataclasses.replace(run(table, start=str(base)), model=MASKED, objective=MaskedTokens(mask=263))
    setup = Setup(same, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    jax.tree.map(np.testing.assert_array_equal, start.load(setup), jaxlm.load(base).params)
    wider = dataclasses.replace(same, model=dataclasses.replace(MASKED, D=64))
    with pytest.raises(UserError, match="is another model"):
        start.load(Setup(wider, setup.mesh))


def test_a_run_learns_the_labels(base, table, tmp_path, monkeypatch):
    put_on_one_device(monkeypatch)
    loop.train(run(table, start=str(base)), tmp_path / "run")
    last = numbers(tmp_path / "run", "eval/")[-1]
    assert last["eval/accuracy"] == 1 and last["eval/loss"] < 0.2
    encoder = jaxlm.load(tmp_path / "run")
    assert encoder.classify(["zz 7", "aaa 3"]).labels == ["fine", "dull"]
    encoder.save(tmp_path / "hf")
    again = jaxlm.load(tmp_path / "hf")
    np.testing.assert_allclose(again.logits([[256, 97, 98]]), encoder.logits([[256, 97, 98]]), atol=1e-6)
