import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.convert.load import _write
from jaxlm.text import ByteTokenizer
from tests.convert import checkpoints
from tests.convert.checkpoints import BFLOAT16, GPT2, LLAMA
from tests.meshes import MESHES, lies, name, on

TOKENS = np.array([[1, 2, 3, 4], [5, 6, 7, 0]])


def assert_llama(lm, tensors):
    """Each of our weights is the tensor it should be."""
    p, D, H, G, K, F = lm.params, 8, 4, 2, 2, 12
    layers = p["segment_0"]["periods"]["block_0"]
    for i in range(3):
        t = {key.removeprefix(f"model.layers.{i}."): np.float32(x) for key, x in tensors.items()}
        mixer, ffn = ({key: np.float32(x[i]) for key, x in layers[part].items()} for part in ("mixer", "ffn"))
        np.testing.assert_array_equal(mixer["q"], t["self_attn.q_proj.weight"].T.reshape(D, H, K))
        np.testing.assert_array_equal(mixer["k"], t["self_attn.k_proj.weight"].T.reshape(D, G, K))
        np.testing.assert_array_equal(mixer["v"], t["self_attn.v_proj.weight"].T.reshape(D, G, K))
        np.testing.assert_array_equal(mixer["o"], t["self_attn.o_proj.weight"].T.reshape(H, K, D))
        np.testing.assert_array_equal(ffn["gate"], t["mlp.gate_proj.weight"].T.reshape(D, F))
        np.testing.assert_array_equal(ffn["up"], t["mlp.up_proj.weight"].T)
        np.testing.assert_array_equal(ffn["down"], t["mlp.down_proj.weight"].T)
        np.testing.assert_array_equal(layers["norm1"]["scale"][i], t["input_layernorm.weight"])
        np.testing.assert_array_equal(layers["norm2"]["scale"][i], t["post_attention_layernorm.weight"])
    np.testing.assert_array_equal(p["embed"]["table"], tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(p["norm"]["scale"], tensors["model.norm.weight"])
    if "lm_head.weight" in tensors:
        np.testing.assert_array_equal(p["head"], tensors["lm_head.weight"])


@pytest.mark.parametrize("shards", [1, 4])
def test_every_weight_is_where_it_belongs(tmp_path, shards):
    tensors = checkpoints.llama()
    lm = jaxlm.load(checkpoints.write(tmp_path, tensors, LLAMA, shards))
    assert_llama(lm, tensors)
    assert lm.config.tied is False and lm.config.depth == 3 and lm.tokenizer is None
    assert lm.config.layers[0].blocks[0].mixer.rope.base == 500.0
    assert lm.logits(TOKENS).shape == (2, 4, 20)


@pytest.mark.parametrize("mesh", MESHES[4:6], ids=name)
def test_on_a_mesh_every_weight_lies_divided(tmp_path, mesh):
    tensors = checkpoints.llama()
    folder = checkpoints.write(tmp_path, tensors, LLAMA)
    with on(mesh):
        lm = jaxlm.load(folder)
        layers = lm.params["segment_0"]["periods"]["block_0"]
        assert lies(layers["mixer"]["q"], "layers", "embed", "heads", None)
        assert lies(layers["ffn"]["down"], "layers", "mlp", "embed")
        assert lies(lm.params["embed"]["table"], "vocab", "embed")
        lm.params = jax.device_get(lm.params)
    assert_llama(lm, tensors)


@pytest.mark.parametrize("mesh", [None, *MESHES], ids=name)
def test_an_expert_is_written_into_a_stack_divided_over_experts(mesh):
    wanted = np.arange(2 * 4 * 8 * 2, dtype=np.float32).reshape(2, 4, 8, 2)
    with on(mesh) as put:
        names = ("layers", "heads", "embed", None)
        stack, part = put(np.zeros_like(wanted), *names), put(wanted[1, 2], *names[2:])
        stack = _write(stack, part, (1, 2, 0), stack.sharding)
        assert mesh is None or lies(stack, *names)
    np.testing.assert_array_equal(stack[1, 2] if mesh is None else jax.device_get(stack)[1, 2], wanted[1, 2])
    assert np.count_nonzero(jax.device_get(stack)) == 16


def test_files_may_be_links(tmp_path):
    """So the hub's own cache lies."""
    folder = checkpoints.write(tmp_path / "blobs", checkpoints.llama(), LLAMA)
    (tmp_path / "snapshot").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "snapshot" / file).symlink_to(folder / file)
    assert_llama(jaxlm.load(tmp_path / "snapshot"), checkpoints.llama())


def test_what_transformers_computed(shared):
    folder = shared / "parity/gpt2"
    lm = jaxlm.load(folder)
    inputs, expected = np.load(folder / "inputs.npz"), np.load(folder / "expected.npz")
    most = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(lm.logits(inputs["input_ids"]), expected["logits"], atol=1e-4 * most)
    out = lm.generate(inputs["prompt_ids"], 16)
    np.testing.assert_array_equal(out.tokens, expected["greedy"][:, inputs["prompt_ids"].shape[1] :])


def test_names_without_their_prefix_and_masks_among_the_weights(tmp_path):
    short = checkpoints.gpt2("") | {"h.0.attn.bias": np.ones((1, 1, 16, 16), bool)}
    a = jaxlm.load(checkpoints.write(tmp_path / "short", short, GPT2))
    b = jaxlm.load(checkpoints.write(tmp_path / "long", checkpoints.gpt2(), GPT2))
    chex.assert_trees_all_equal(a.params, b.params)
    assert set(a.to_hf()) == set(checkpoints.gpt2("")) and set(b.to_hf()) == set(checkpoints.gpt2())


def test_parameters_keep_their_dtypes_and_compute_in_float32(tmp_path):
    tensors = {name: x.astype(BFLOAT16) for name, x in checkpoints.llama().items()}
    tensors["model.layers.1.mlp.up_proj.weight"] = checkpoints.llama()["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.float16)
    lm = jaxlm.load(checkpoints.write(tmp_path, tensors, LLAMA))
    assert_llama(lm, tensors)
    layers = lm.params["segment_0"]["periods"]["block_0"]
    assert layers["mixer"]["q"].dtype == jnp.bfloat16 and lm.params["norm"]["scale"].dtype == jnp.float16
    assert layers["ffn"]["up"].dtype == jnp.float32  # the widest of its layers
    assert lm.config.dtype == "float32"
    wide = jax.tree.map(np.float32, lm.params)
    np.testing.assert_allclose(lm.logits(TOKENS), lm.logits(TOKENS, params=wide), atol=1e-6)
    assert jaxlm.load(tmp_path, dtype="bfloat16").config.dtype == "bfloat16"


def test_biases_in_bfloat16_compute_in_float32(tmp_path):
    tensors = {name: x.astype(BFLOAT16) for name, x in checkpoints.gpt2().items()}
    lm = jaxlm.load(checkpoints.write(tmp_path, tensors, GPT2))
    wide = jax.tree.map(np.float32, lm.params)
    np.testing.assert_allclose(lm.logits(TOKENS), lm.logits(TOKENS, params=wide), atol=1e-6)
    np.testing.assert_array_equal(lm.generate(TOKENS, 3).tokens.shape, (2, 3))


def test_a_head_in_the_file_counts_whatever_the_config_says(tmp_path):
    tied = LLAMA | {"tie_word_embeddings": True}
    lm = jaxlm.load(checkpoints.write(tmp_path / "with", checkpoints.llama(), tied))
    assert lm.config.tied is False
    assert_llama(lm, checkpoints.llama())
    tensors = checkpoints.llama(tie_word_embeddings=True)
    lm = jaxlm.load(checkpoints.write(tmp_path / "without", tensors, tied))
    assert lm.config.tied is True and "lm_head.weight" not in lm.to_hf()


def test_tokenizers(tmp_path):
    folder = checkpoints.write(tmp_path, checkpoints.llama(), LLAMA)
    assert jaxlm.load(folder).tokenizer is None
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(jaxlm.UserError, match=r"tokenizer.json: not a tokenizer.json"):
        jaxlm.load(folder)
    (folder / "tokenizer.json").unlink()
    ByteTokenizer().save(folder)
    assert jaxlm.load(folder).tokenizer.V == 257
    (folder / "tokenizer.model").write_bytes(b"damaged")
    with pytest.raises(jaxlm.UserError, match=r"tokenizer.model: not a SentencePiece model"):
        jaxlm.load(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted(tmp_path, bad):
    tensors = checkpoints.llama()
    tensors["model.layers.2.mlp.up_proj.weight"][3, :5] = bad
    tensors["lm_head.weight"][0, 0] = -bad
    checkpoints.write(tmp_path, tensors, LLAMA)
    expected = r": 6 NaN or infinite values: lm_head.weight \(1\), model.layers.2.mlp.up_proj.weight \(5\)$"
    with pytest.warns(UserWarning, match=expected):
        jaxlm.load(tmp_path)


MEMORY = """
import gc, sys, threading, time
import jax, jaxlm

def anonymous():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon"))

def watch():
    while not done.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)

lm = jaxlm.load(sys.argv[1])  # imports and compiles
arrays = sum(x.nbytes for x in jax.tree.leaves(lm.params))
del lm
gc.collect()
before, peak, done = anonymous(), [0], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
lm = jaxlm.load(sys.argv[1])
done.set()
thread.join()
print(arrays, peak[0] - before, anonymous() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory of a process from /proc")
def test_memory_beyond_the_arrays_is_about_one_tensor(tmp_path):
    sizes = {"hidden_size": 1024, "intermediate_size": 2560, "vocab_size": 1000, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    tensors = checkpoints.llama(**sizes)
    folder = checkpoints.write(tmp_path, tensors, LLAMA | sizes)
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the process at once
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, folder], env=environment, capture_output=True, text=True, check=True
    )
    arrays, peak, after = map(int, run.stdout.split())
    largest = max(x.nbytes for x in tensors.values())
    assert arrays == sum(x.nbytes for x in tensors.values()) > 2e8
    assert after - arrays < 0.5 * largest and peak - arrays < 2 * largest, run.stdout


def test_tensors_are_read_one_by_one(tmp_path):
    """`say` names each file once, in the order of reading."""
    lines: list[str] = []
    jaxlm.load(checkpoints.write(tmp_path, checkpoints.llama(), LLAMA, 3), say=lines.append)
    assert sorted(lines) == [f"reading {tmp_path}/model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
