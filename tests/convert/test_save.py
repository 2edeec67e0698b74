import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import jaxlm
from jaxlm import cli
from jaxlm.errors import UserError
from jaxlm.text.formats import layout
from tests.convert import checkpoints
from tests.convert.checkpoints import BFLOAT16, GPT2, LLAMA, NO_PATHS
from tests.meshes import MESHES, name, on

TOKENIZER = json.dumps(layout.document(layout.bpe({"a": 0, "b": 1, "ab": 2}, [("a", "b")]), {}))


def contents(folder: Path) -> dict[str, np.ndarray]:
    return {key: x for file in folder.glob("*.safetensors") for key, x in load_file(file).items()}


def assert_same_bits(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for key, x in wanted.items():
        assert (found[key].dtype, found[key].shape) == (x.dtype, x.shape), key
        assert found[key].tobytes() == x.tobytes(), key


def mixed() -> dict[str, np.ndarray]:
    """bfloat16, with a float32 matrix in one layer and a float16 norm; a NaN that says something in its bits."""
    tensors = {key: x.astype(BFLOAT16) for key, x in checkpoints.llama().items()}
    tensors["model.layers.1.mlp.up_proj.weight"] = checkpoints.llama()["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    return tensors


@pytest.mark.parametrize("size, files", [("5GB", 1), ("1KB", 10), (700, 20)])
@pytest.mark.parametrize("tensors", [checkpoints.llama(), mixed()], ids=["float32", "mixed"])
def test_what_was_loaded_is_written_bit_for_bit(tmp_path, tensors, size, files):
    source = checkpoints.write(tmp_path / "a", tensors, LLAMA)
    beside = {"generation_config.json": '{"eos_token_id": [2, 3]}', "tokenizer.json": TOKENIZER, "merges.txt": "a b"}
    beside |= {"additional_chat_templates/rag.jinja": "{{ documents }}", "kimi.tiktoken": "YQ== 0"}
    (source / "additional_chat_templates").mkdir()
    for file, text in beside.items():
        (source / file).write_text(text)
    lm = jaxlm.load(source)
    lm.save(tmp_path / "b", max_shard_size=size)
    assert_same_bits(contents(tmp_path / "b"), tensors)
    assert json.loads((tmp_path / "b/config.json").read_text()) == LLAMA
    assert {file: (tmp_path / "b" / file).read_text() for file in beside} == beside
    written = sorted((tmp_path / "b").glob("*.safetensors"))
    assert (len(written) > 1) == (files > 1) and len(written) <= 30
    for file in written:
        assert file.stat().st_mode == (tmp_path / "b/config.json").stat().st_mode
        with safe_open(file, "np") as f:
            assert f.metadata() == {"format": "pt"}
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".")]
    assert_same_bits(jaxlm.load(tmp_path / "b").to_hf(), lm.to_hf())
    if size == 700:
        index = json.loads((tmp_path / "b/model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == tensors.keys()
        assert index["metadata"] == {"total_size": sum(x.nbytes for x in tensors.values())}
        assert all(path.stat().st_size < 700 + 1000 for path in written)


def test_gradients_under_their_names(tmp_path):
    """A tied table has the sum of both uses; the derivative of a sum of squares is twice the tensor."""
    tensors = checkpoints.gpt2()
    lm = jaxlm.load(checkpoints.write(tmp_path, tensors, GPT2))
    loss = lambda params: sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params))
    found = lm.to_hf(jax.grad(loss)(lm.params))
    assert_same_bits(found, {key: 2 * x for key, x in tensors.items()})
    assert_same_bits(lm.to_hf(jax.tree.map(np.asarray, lm.params)), tensors)
    with pytest.raises(UserError, match=r"the tree must be a tree of arrays like lm\.params, got a dict"):
        lm.to_hf({"other": lm.params})


def test_gradients_that_transformers_computed(shared):
    folder = shared / "parity/gpt2"
    lm, inputs, expected = jaxlm.load(folder), np.load(folder / "inputs.npz"), np.load(folder / "expected.npz")
    tokens = np.int32(inputs["input_ids"])

    @jax.jit
    @jax.grad
    def gradient(params):
        logp = jax.nn.log_softmax(lm.logits(tokens, params=params)[:, :-1])
        return -jnp.take_along_axis(logp, tokens[:, 1:, None], -1).mean()

    found = lm.to_hf(gradient(lm.params))
    norms = dict(zip(expected["grad_norm_names"].tolist(), expected["grad_norm_values"]))
    assert found.keys() == norms.keys()
    for key, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(found[key]), norm, rtol=1e-3, atol=1e-6, err_msg=key)
    for key in expected:
        if key.startswith("grad/"):
            wanted = expected[key]
            np.testing.assert_allclose(found[key.removeprefix("grad/")], wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("mesh", MESHES[4:6], ids=name)
def test_from_a_mesh(tmp_path, mesh):
    tensors = checkpoints.llama()
    checkpoints.write(tmp_path, tensors, LLAMA)
    with on(mesh):
        assert_same_bits(jaxlm.load(tmp_path).to_hf(), tensors)


def test_over_its_own_folder_and_over_other_shards(tmp_path):
    tensors = checkpoints.llama()
    checkpoints.write(tmp_path, tensors, LLAMA)
    (tmp_path / "README.md").write_text("kept")
    lm = jaxlm.load(tmp_path)
    for size in ("1KB", "2KB", "5GB", "1KB"):
        lm.save(tmp_path, max_shard_size=size)
        assert_same_bits(jaxlm.load(tmp_path).to_hf(), tensors)
        assert (tmp_path / "model.safetensors").exists() == (size == "5GB")
    assert (tmp_path / "README.md").read_text() == "kept"


def test_cast(tmp_path):
    tensors = checkpoints.llama()
    lm = jaxlm.load(checkpoints.write(tmp_path / "a", tensors, LLAMA))
    lm.save(tmp_path / "b", dtype="bfloat16")
    assert_same_bits(contents(tmp_path / "b"), {key: x.astype(BFLOAT16) for key, x in tensors.items()})
    assert json.loads((tmp_path / "b/config.json").read_text()) == LLAMA | {"torch_dtype": "bfloat16"}
    lm.params["norm"]["scale"] = lm.params["norm"]["scale"].at[3].set(1e6)
    with pytest.raises(UserError, match=r"model\.norm\.weight has values beyond the range of float16"):
        lm.save(tmp_path / "b", dtype="float16")
    assert_same_bits(contents(tmp_path / "b"), {key: x.astype(BFLOAT16) for key, x in tensors.items()})


def test_training_in_a_wider_dtype_is_not_lost(tmp_path):
    """A layer stored narrower than its stack goes back to its dtype only where that loses nothing."""
    lm = jaxlm.load(checkpoints.write(tmp_path / "a", mixed(), LLAMA))
    up = lm.params["segment_0"]["periods"]["block_0"]["ffn"]["up"]
    lm.params["segment_0"]["periods"]["block_0"]["ffn"]["up"] = up.at[2, 0, 0].add(1e-4)
    lm.save(tmp_path / "b")
    dtypes = [str(contents(tmp_path / "b")[f"model.layers.{i}.mlp.up_proj.weight"].dtype) for i in range(3)]
    assert dtypes == ["bfloat16", "float32", "float32"]


def test_the_text_part_of_a_larger_model(tmp_path, monkeypatch):
    """It is loaded from among the other parts, and saved as a model of its own."""
    from jaxlm.convert import llama

    monkeypatch.setattr(llama, "WRAPPERS", ("llava",), raising=False)
    monkeypatch.setattr(llama, "SPELLINGS", ({"": "language_model."},), raising=False)
    monkeypatch.setattr(llama, "IGNORED", ("vision_tower.*", "*.layers.{}.*"))
    tensors = checkpoints.llama()
    text = {key: x for key, x in LLAMA.items() if key not in ("model_type", "architectures", "tie_word_embeddings")}
    others = {"vision_tower.patch": np.ones((2, 2), np.float32), "language_model.model.layers.3.mtp": np.ones(2)}
    everything = others | {f"language_model.{key}": x for key, x in tensors.items()}
    fields = {"model_type": "llava", "text_config": text, "tie_word_embeddings": False}
    lm = jaxlm.load(checkpoints.write(tmp_path / "a", everything, fields))
    lm.save(tmp_path / "b")
    assert_same_bits(contents(tmp_path / "b"), tensors)
    assert json.loads((tmp_path / "b/config.json").read_text()) == {
        **text,
        "model_type": "llama",
        "tie_word_embeddings": False,
    }
    everything["language_model.model.layers.2.mtp"] = np.ones(2, np.float32)  # of a layer that the model has
    with pytest.raises(UserError, match=r"one tensor is unknown to this model: language_model\.model\.layers\.2\.mtp"):
        jaxlm.load(checkpoints.write(tmp_path / "a", everything, fields))


# What cannot be written ----------------------------------------------------------------------------------------------


@pytest.fixture
def lm(tmp_path):
    return jaxlm.load(checkpoints.write(tmp_path / "source", checkpoints.llama(), LLAMA))


def test_a_file_in_the_way(tmp_path, lm):
    (tmp_path / "file").write_text("")
    for target in ("file", "file/below"):
        with pytest.raises(UserError, match=r"cannot write to .*file.*: (File exists|Not a directory)"):
            lm.save(tmp_path / target)


@pytest.mark.parametrize("size", ["0", "-1", "5TB", "a lot", "", 0, "9" * 5000, 1.5, None])
def test_sizes_that_are_none(tmp_path, lm, size):
    with pytest.raises(UserError, match="a shard's size is a number of bytes or such as 5GB"):
        lm.save(tmp_path / "b", max_shard_size=size)


@pytest.mark.parametrize("dtype", ["float8", "int8", "float64", "F32", "", 3, np.float32], ids=str)
def test_dtypes_that_are_none(tmp_path, lm, dtype):
    for call in (lambda: lm.save(tmp_path / "b", dtype=dtype), lambda: jaxlm.load(tmp_path / "source", dtype=dtype)):
        with pytest.raises(UserError, match=r"unknown dtype .*: did you mean .* \(float32, float16, bfloat16\)"):
            call()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("path", NO_PATHS, ids=lambda path: repr(path)[:12])
def test_paths_that_are_none(lm, path):
    with pytest.raises(UserError, match=r"path|no such user"):
        lm.save(path)


def test_a_run_is_not_overwritten(tmp_path, lm):
    (tmp_path / "config.json").write_text('{"type": "jaxlm.run.RunConfig"}')
    with pytest.raises(UserError, match=r"is a run, whose config\.json would be lost"):
        lm.save(tmp_path)


FULL = """
import resource, signal, sys, jaxlm
lm = jaxlm.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    lm.save(sys.argv[2])
except jaxlm.UserError as error:
    print(error)
"""


def test_a_write_that_fails_leaves_what_was_there(tmp_path, lm):
    old = checkpoints.write(tmp_path / "old", checkpoints.gpt2(), GPT2)
    run = subprocess.run([sys.executable, "-c", FULL, tmp_path / "source", old], capture_output=True, text=True)
    assert run.stdout.startswith(f"cannot write to {old}: ") and "File too large" in run.stdout, run.stderr
    assert sorted(path.name for path in old.iterdir()) == ["config.json", "model.safetensors"]
    assert_same_bits(contents(old), checkpoints.gpt2())
    assert jaxlm.load(old).config.depth == 2


# jaxlm convert -------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path, capsys):
    source = checkpoints.write(tmp_path / "a", checkpoints.llama(), LLAMA)
    assert cli.main(["convert", str(source), str(tmp_path / "b"), "--dtype", "float16", "--max-shard-size", "1KB"]) == 0
    wanted = {key: x.astype(np.float16) for key, x in checkpoints.llama().items()}
    assert_same_bits(contents(tmp_path / "b"), wanted)
    out = capsys.readouterr().out.splitlines()
    count = len(list((tmp_path / "b").glob("*.safetensors")))
    assert out[0] == f"reading {source}/model.safetensors" and len(out) == 1 + count and count > 1
    assert out[-1] == f"writing {tmp_path}/b/model-{count:05}-of-{count:05}.safetensors"
    shutil.rmtree(source)
    assert cli.main(["convert", str(source), str(tmp_path / "c")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "has no config.json" in err and not (tmp_path / "c").exists()
