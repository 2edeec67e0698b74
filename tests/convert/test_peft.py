"""Adapters that peft wrote, and back: the folders were made with scripts/make_adapter_goldens.py."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.errors import UserError
from jaxlm.ops.leaves import LowRank, dense, is_leaf
from jaxlm.sharding import MeshConfig, make_mesh
from tests.convert import golden

FOLDERS = sorted((Path(__file__).resolve().parents[1] / "goldens_peft").iterdir())
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def base_of(folder, path):
    return golden.write(path / "base", folder.name.partition("-")[0])


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name, scope="module")
def folder(request):
    return request.param


@pytest.fixture(scope="module")
def base(folder, tmp_path_factory):
    return base_of(folder, tmp_path_factory.mktemp(folder.name))


@pytest.fixture(scope="module")
def lm(folder, base):
    return jaxlm.load(base, adapter=folder)


@pytest.fixture(scope="module")
def expected(folder):
    with np.load(folder / "expected.npz") as arrays:
        return dict(arrays)


def test_logits(lm, expected, base):
    close = lambda model: np.testing.assert_allclose(model.logits(expected["tokens"]), expected["logits"], atol=1e-4)
    close(lm)
    if lm.config.virtual is not None:  # what is no adapter of matrices stays
        return close(lm.merge())
    merged = lm.merge()
    assert not any(map(is_leaf, jax.tree.leaves(merged.params, is_leaf=is_leaf)))
    close(merged)
    assert np.abs(jaxlm.load(base).logits(expected["tokens"]) - expected["logits"]).max() > 1e-2


def test_written_again(lm, folder, base, tmp_path, expected):
    lm.save_adapter(tmp_path)
    found, wanted = load_file(tmp_path / WEIGHTS), load_file(folder / WEIGHTS)
    adapted = {name for name in wanted if "lora" in name or "ia3" in name or name == "prompt_embeddings"}
    assert found.keys() == adapted
    for name in adapted:
        if not (name.endswith("lora_B.weight") and "alpha_pattern" in name):
            assert found[name].shape == wanted[name].shape, name
    settings, given = (json.loads((place / CONFIG).read_text()) for place in (tmp_path, folder))
    assert settings["peft_type"] == given["peft_type"].replace("P_TUNING", "PROMPT_TUNING") and settings.get(
        "use_dora"
    ) == given.get("use_dora")
    if adapted == wanted.keys():
        again = jaxlm.load(base, adapter=tmp_path)
        np.testing.assert_allclose(again.logits(expected["tokens"]), expected["logits"], atol=1e-4)


def test_peft_opens_what_is_written(lm, folder, base, tmp_path, expected):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft", reason="pip install peft torch")
    transformers = pytest.importorskip("transformers")
    if any("modules_to_save" in name or name.endswith("lm_head.weight") for name in load_file(folder / WEIGHTS)):
        pytest.skip("tensors that the adapter has in place of the base's are not written")
    lm.save_adapter(tmp_path)
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path)
    with torch.no_grad():
        logits = model(torch.tensor(expected["tokens"])).logits
    np.testing.assert_allclose(logits[:, -expected["tokens"].shape[1] :], expected["logits"], atol=1e-4)


def test_on_a_mesh(tmp_path):
    folder = next(folder for folder in FOLDERS if folder.name == "llama-dora")
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=4))):
        lm = jaxlm.load(base_of(folder, tmp_path), adapter=folder)
        expected = np.load(folder / "expected.npz")
        logits = lm.logits(np.tile(expected["tokens"], (4, 1)))
        np.testing.assert_allclose(logits, np.tile(expected["logits"], (4, 1, 1)), atol=1e-4)


def test_it_decodes(tmp_path):
    folder = next(folder for folder in FOLDERS if folder.name == "llama-lora")
    lm = jaxlm.load(base_of(folder, tmp_path), adapter=folder)
    tokens = np.arange(6)[None]
    plain = jaxlm.load(tmp_path / "base")
    plain.params = dense(lm.params)
    np.testing.assert_array_equal(lm.generate(tokens, 5).tokens, plain.generate(tokens, 5).tokens)


def test_virtual_tokens_decode_and_are_trained_on(tmp_path):
    folder = next(folder for folder in FOLDERS if folder.name == "llama-prompt")
    lm = jaxlm.load(base_of(folder, tmp_path), adapter=folder)
    expected = np.load(folder / "expected.npz")
    found = lm.generate(expected["tokens"], 1).tokens[:, 0]
    np.testing.assert_array_equal(found, expected["logits"][:, -1].argmax(-1))
    lm.save(tmp_path / "saved")
    plain = jaxlm.load(tmp_path / "base").logits(expected["tokens"])
    np.testing.assert_allclose(jaxlm.load(tmp_path / "saved").logits(expected["tokens"]), plain, atol=1e-5)
    with pytest.raises(UserError, match="'prompt' has virtual tokens, which are of all rows"):
        jaxlm.load(tmp_path / "base").add_adapter("prompt", folder)
    narrow = lambda t: {name: x[:, 1:] for name, x in t.items()}
    spoiled = copied(folder, tmp_path / "narrow")
    change(narrow)(spoiled)
    with pytest.raises(
        UserError, match=r"another base: prompt_embeddings is \(3, 23\), and this one's would be \(3, 24\)"
    ):
        jaxlm.load(tmp_path / "base", adapter=spoiled)


def copied(folder, copy):
    copy.mkdir()
    for name in (WEIGHTS, CONFIG):
        (copy / name).write_bytes((folder / name).read_bytes())
    return copy


def change(tensors=None, **settings):
    def one(folder):
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        if tensors:
            save_file(tensors(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return one


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (change(peft_type="VERA"), "unknown peft_type 'VERA'"),
        (change(lora_bias=True), "lora_bias is not read"),
        (change(lambda t: {Q + "A.weight": t[Q + "A.weight"]}), r"layers\.0\.self_attn\.q_proj has no lora_B"),
        (change(lambda t: {k.replace("q_proj", "wq"): x for k, x in t.items()}), r"another base: this one has no .*wq"),
        (change(lambda t: t | {Q + "A.weight": np.ones((3, 5), np.float32)}), r"q_proj.lora_A is \(3, 5\), and this"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"adapter_model\.bin is a pickle"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"1234"), "is damaged"),
        (lambda folder: (folder / CONFIG).unlink(), r"cannot read .*adapter_config\.json"),
    ],
)
def test_bad_input(tmp_path, spoil, line):
    folder = next(folder for folder in FOLDERS if folder.name == "llama-lora")
    copy = copied(folder, tmp_path / "adapter")
    spoil(copy)
    with pytest.raises(UserError, match=line):
        jaxlm.load(base_of(folder, tmp_path), adapter=copy)


def test_nothing_to_write(tmp_path):
    lm = jaxlm.load(golden.write(tmp_path / "base", "llama"))
    with pytest.raises(UserError, match="the model has no adapter"):
        lm.save_adapter(tmp_path / "adapter")
    assert lm.merge().params is not None and not isinstance(lm.params["embed"]["table"], LowRank)
