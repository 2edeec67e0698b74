"""The recipes of CONTRIBUTING.md, each run as a file outside of the package."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import cli, config, config_tree
from jaxlm.api import LanguageModel
from jaxlm.convert import families
from jaxlm.decode import generate, prepare
from jaxlm.models import forward
from jaxlm.ops.leaves import dense
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.loop import train
from jaxlm.train.setup import Setup
from tests import tiny
from tests.train.runs import numbers, put_on_one_device
from tests.weights import weights

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = {m[1]: m[2] for m in re.finditer(r"```python\n# (\w+)\.py\n(.*?)```", TEXT, re.DOTALL)}
SMALL = [
    "steps=3",
    "batch=2",
    "data.T=32",
    "eval_every=0",
    "save_every=0",
    "sample_every=0",
    "eval_tokens=64",
    "mesh.data=1",
]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A function that writes a block to a file of its own and imports it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(config_tree, "_trusted", set(config_tree._trusted))
    put_on_one_device(monkeypatch)

    def load(name):
        (tmp_path / f"{name}.py").write_text(BLOCKS[name])
        monkeypatch.delitem(sys.modules, name, raising=False)
        module = importlib.import_module(name)
        config.trust(name)
        return module

    return load


def test_all_five_are_here():
    assert list(BLOCKS) == ["my_family", "my_mixer", "my_objective", "my_leaf", "my_data"]


def test_a_family(recipe, tmp_path, monkeypatch):
    family = recipe("my_family")
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, family))
    fields = {"model_type": "normed_llama", "vocab_size": 264, "hidden_size": 32, "intermediate_size": 64}
    fields |= {"num_hidden_layers": 2, "num_attention_heads": 4, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    model = families.lm_config(fields)
    source = families.Source(family, {"architectures": ["NormedLlamaForCausalLM"], **fields})
    lm = LanguageModel(model, weights(model.build(), np.zeros((1, 1), np.int32)), None, source)
    lm.save(tmp_path / "saved")
    again = jaxlm.load(tmp_path / "saved")
    assert "model.embed_norm.weight" in again.to_hf() and again.config.embed_norm is not None
    tokens = np.arange(8)[None]
    np.testing.assert_array_equal(again.logits(tokens), lm.logits(tokens))


def test_a_mixer(recipe, tmp_path, capsys):
    module = recipe("my_mixer")
    text = tiny.write_text(tmp_path / "text")
    argv = ["train", "my_mixer.py:tiny", "--run", "run", f"data.sources.0.path={text}", *SMALL]
    assert cli.main(argv) == 0, capsys.readouterr()
    assert cli.main(["--module", "my_mixer.py", "generate", "run", "--prompt", "to be", "--max-new-tokens", "4"]) == 0
    model = module.tiny().model
    params = weights(model.build(), np.zeros((1, 1), np.int32))
    rows = np.array([[0, 0, 7, 5, 9, 3], [4, 8, 2, 6, 1, 12]])
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    new, _ = generate(model, params, rows, mask_BT=mask, max_new_tokens=5)
    for b, real in enumerate(mask.astype(bool)):
        alone = np.concatenate([rows[b][real], new[b]])[None]
        logits = model.build().apply({"params": params}, alone)
        assert logits.argmax(-1)[0, real.sum() - 1 : -1].tolist() == new[b].tolist()
    batch = tiny.batch(8)
    hidden = jax.jit(
        lambda params, batch: (
            forward(model.build(), params, *(batch[k] for k in ("tokens", "positions", "segments"))).hidden_BTD
        )
    )
    with jax.set_mesh(mesh := make_mesh(MeshConfig(2, 1, 2, context=2))):
        np.testing.assert_allclose(hidden(params, tiny.place(batch, mesh)), hidden(params, batch), atol=1e-5)


def test_an_objective(recipe, tmp_path):
    objective = recipe("my_objective").FocalNextToken(gamma=1.0)
    run = tiny.run(tiny.write_text(tmp_path / "text"), objective=objective, steps=3, prompts=())
    train(run, tmp_path / "run")
    first = numbers(tmp_path / "run", "train/")[0]
    assert first["train/objective"] < first["train/loss"] and 0 < first["train/sure"] < 1
    assert config.load(tmp_path / "run").objective == objective
    batch = tiny.batch(2)
    params = weights(run.model.build(), batch["tokens"])
    logits = run.model.build().apply({"params": params}, batch["tokens"], batch["positions"], batch["segments"])
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], -1)[..., 0]
    expected = np.sum(-(1 - jnp.exp(logp)) * logp * batch["weights"])
    np.testing.assert_allclose(objective.loss(run.model, params, batch)[0].total, expected, rtol=1e-5)


def test_a_leaf(recipe):
    module, model = recipe("my_leaf"), tiny.model()
    tokens = np.arange(10)[None]
    params = module.ternary(model, weights(model.build(), tokens))
    out = lambda params: forward(model.build(), params, tokens).hidden_BTD
    np.testing.assert_allclose(out(params), out(dense(params)), atol=1e-5)
    kinds = [x.dtype for x in jax.tree.leaves(params)]
    assert kinds.count(jnp.int8) == 7
    new, _ = generate(*prepare(model, params), tokens, max_new_tokens=3)
    assert new.tolist() == generate(*prepare(model, dense(params)), tokens, max_new_tokens=3)[0].tolist()


def test_a_data_source(recipe, tmp_path):
    data = recipe("my_data").Sums(seed=3)
    row = data.row(0, 5)
    text = bytes(row["tokens"][row["segments"] > 0].astype(np.uint8)).decode()
    result = bytes(row["labels"][row["weights"] > 0].astype(np.uint8)).decode()
    left, right = text.partition("=")[0].split("+")
    assert result == f"{int(left) + int(right)}."
    run = dataclasses.replace(tiny.run(), data=data, steps=3, prompts=())
    train(run, tmp_path / "run")
    assert {line["step"] for line in numbers(tmp_path / "run", "train/")} == {1, 2, 3}
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["data"]["type"] == "my_data.Sums"
    setup = Setup(run, make_mesh(run.mesh, jax.devices()[:1]))
    assert setup.batch["weights"].shape == (1, 4, 16)
