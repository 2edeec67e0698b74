"""Weights to begin from: a run, one of its checkpoints, a folder in Hugging Face's layout; adapters on top of them."""

import dataclasses
import json
import shutil

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm import config
from jaxlm.errors import UserError
from jaxlm.ops.leaves import LowRank, dense
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import loop, start
from jaxlm.train.setup import Setup
from jaxlm.tune import LoRA
from tests import tiny
from tests.train.runs import digests, numbers, put_on_one_device, stop_at


@pytest.fixture(scope="module")
def run(text):
    return tiny.run(text, steps=4, save_every=2, eval_every=4, sample_every=4)


@pytest.fixture(scope="module")
def base(run, tmp_path_factory):
    """A short run, and its model in Hugging Face's layout."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        put_on_one_device(patch)
        loop.train(run, folder / "run")
    jaxlm.load(folder / "run").save(folder / "hf")
    return folder


@pytest.mark.parametrize("where", ["run", "run/checkpoints/2", "hf"])
@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(2, 2, 2)], ids=["one", "eight"])
def test_the_first_weights_are_those(base, run, where, mesh):
    setup = Setup(
        dataclasses.replace(run, start=str(base / where)),
        make_mesh(mesh, jax.devices()[:1] if mesh.data == 1 else None),
    )
    state, _ = setup.create(start.load(setup))
    chex.assert_trees_all_equal(jax.device_get(state.params), jax.device_get(jaxlm.load(base / where).params))
    jax.tree.map(lambda x, y: chex.assert_equal(x.sharding, y.sharding), state, setup.state)
    assert int(state.step) == 0


@pytest.fixture(scope="module")
def adapted(base, run, tmp_path_factory):
    """LoRA on the folder, stopped on its way and gone on with, and in one go."""
    folder = tmp_path_factory.mktemp("adapted")
    lora = dataclasses.replace(run, start=str(base / "hf"), trains=LoRA(rank=2, of="q|v"), ema=0.5)
    with pytest.MonkeyPatch.context() as patch:
        put_on_one_device(patch)
        loop.train(lora, folder / "whole")
        with pytest.MonkeyPatch.context() as stop:
            stop_at(stop, 2)
            loop.train(lora, folder / "stopped")
        loop.train(lora, folder / "stopped")
    return folder


def test_an_adapter_run_resumes_as_if_it_had_not_stopped(adapted):
    assert numbers(adapted / "stopped") == numbers(adapted / "whole")
    assert digests(adapted / "stopped") == digests(adapted / "whole")
    assert (adapted / "stopped" / "samples.txt").read_bytes() == (adapted / "whole" / "samples.txt").read_bytes()


def test_its_checkpoints_hold_adapters_only(adapted, base):
    size = lambda folder: sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    names = digests(adapted / "whole")[4]
    assert all(
        name.endswith((".a", ".b", ".mu", ".nu", "a", "b")) or "." not in name or "count" in name for name in names
    )
    assert size(adapted / "whole" / "checkpoints" / "4") < size(base / "run" / "checkpoints" / "4")


def test_it_is_loaded_with_its_base(adapted, base, tmp_path):
    lm, plain = jaxlm.load(adapted / "whole"), jaxlm.load(base / "hf")
    leaf = lm.params["segment_0"]["periods"]["block_0"]["mixer"]["q"]
    assert isinstance(leaf, LowRank) and np.abs(leaf.b).max() > 0
    tokens = np.arange(20).reshape(2, 10)
    logits = lm.logits(tokens)
    assert np.abs(logits - plain.logits(tokens)).max() > 1e-4
    assert lm.generate(["to be"], max_new_tokens=4).texts
    lm.save(tmp_path / "merged")
    merged = jaxlm.load(tmp_path / "merged")
    np.testing.assert_allclose(merged.logits(tokens), logits, atol=1e-5)
    chex.assert_trees_all_close(merged.params, jax.device_get(dense(lm.params)), atol=1e-6)


def test_another_base_is_refused(adapted, base, tmp_path, monkeypatch):
    put_on_one_device(monkeypatch)
    folder, other = (
        shutil.copytree(adapted / "whole", tmp_path / "run"),
        shutil.copytree(base / "hf", tmp_path / "other"),
    )
    (file,) = other.glob("*.safetensors")
    tensors = load_file(file)
    save_file({name: x * 1.5 for name, x in tensors.items()}, file, {"format": "pt"})
    (other / "model.digests.json").unlink(missing_ok=True)
    saved = config.load(folder)
    with pytest.raises(UserError, match=r"other holds other weights than those that this run began with"):
        loop.train(dataclasses.replace(saved, start=str(other), steps=5), folder)


def test_another_model_is_refused_before_anything_is_prepared(base, run, tmp_path, monkeypatch):
    put_on_one_device(monkeypatch)
    wider = dataclasses.replace(run, model=tiny.model(D=64))
    for where in ("hf", "run", "run/checkpoints/2"):
        with pytest.raises(
            UserError, match=r"is another model: embed\.table is \(264, 32\) there and \(264, 64\) in this"
        ):
            loop.train(dataclasses.replace(wider, start=str(base / where)), tmp_path / "new")
        assert not (tmp_path / "new").exists()
    start.check(dataclasses.replace(run, start=str(base / "hf")))


def test_what_cannot_be(base, run, tmp_path):
    setup = lambda **changes: Setup(dataclasses.replace(run, **changes), make_mesh(run.mesh, jax.devices()[:1]))
    with pytest.raises(UserError, match=r"nowhere is neither a run nor a checkpoint of one, nor another model"):
        start.load(setup(start=str(tmp_path / "nowhere")))
    wider = setup(model=tiny.model(D=64), start=str(base / "hf"))
    with pytest.raises(
        UserError, match=r"hf is another model: embed\.table is \(264, 32\) there and \(264, 64\) in this"
    ):
        start.load(wider)
    with pytest.raises(UserError, match=r"embed\.table is .* in this model and .* in the checkpoint|is another model"):
        start.load(setup(model=tiny.model(D=64), start=str(base / "run")))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text(json.dumps(config.to_dict(run)))
    with pytest.raises(UserError, match="empty has no checkpoint yet: train it first"):
        start.load(setup(start=str(tmp_path / "empty")))
