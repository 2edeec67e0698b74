"""Every family against what transformers computed on the goldens, and their folders read and written again."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxlm
from jaxlm.convert import FAMILIES
from tests.convert import golden, golden_families
from tests.convert.reference import close, ended, learn


@pytest.fixture(params=golden.NAMES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def expected(name):
    return golden.expected(name)


@pytest.fixture(scope="module")
def lm(name, tmp_path_factory):
    return jaxlm.load(golden.write(tmp_path_factory.mktemp(name), name))


def test_every_family_has_one():
    found = {golden.config(name)["model_type"] for name in golden.NAMES}
    found |= {one["model_type"] for one in golden_families.CONFIGS.values()}
    assert found == {kind for family in FAMILIES for kind in family.MODEL_TYPES}


GROWING = ("llama_dynamic", "phi3_growing")  # a longer text says otherwise of its beginning: see tests/decode


def test_logits_loss_and_gradients(lm, expected):
    loss, logits, gradients = learn(lm, expected["tokens"])
    close(logits, expected["logits"])
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    assert {key: x.shape for key, x in gradients.items()} == expected["tensors"]
    for key, norm, projection in zip(expected["tensors"], expected["gradients"], expected["projections"]):
        d, size = np.float64(gradients[key]), max(1e-3 * norm, 1e-6)
        assert abs(np.linalg.norm(d) - norm) < size, key
        assert abs(np.sum(d * golden.noise(key, d.shape, int(expected["seed"]) + 1)) - projection) < size, key


def test_padded_on_the_left(lm, expected):
    close(lm.logits(expected["padded"], expected["mask"]), expected["padded_logits"], expected["mask"])


def test_decoding(name, lm, expected):
    """The tokens are right, and the cache makes no difference to how likely they are."""
    new, mask = expected["greedy"], expected["prompts_mask"]
    out = lm.generate(expected["prompts"], new.shape[1], mask_BT=mask)
    np.testing.assert_array_equal(out.tokens, ended(new, lm.stops))
    if name in GROWING:
        return
    whole = np.concatenate([expected["prompts"], new], 1)
    logits = lm.logits(whole, np.pad(mask, ((0, 0), (0, new.shape[1])), constant_values=1))
    logprobs = jax.nn.log_softmax(logits)[:, mask.shape[1] - 1 : -1]
    wanted = np.take_along_axis(logprobs, new[..., None], -1)[..., 0]
    np.testing.assert_allclose(out.logprobs, np.where(out.tokens < 0, 0, wanted), atol=1e-4)


# There and back -------------------------------------------------------------------------------------------------------


def contents(folder):
    """All tensors of a folder; where an index says so, from their files."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    said = json.loads(index.read_text())
    files = {file: load_file(folder / file) for file in set(said["weight_map"].values())}
    found = {name: files[file].pop(name) for name, file in said["weight_map"].items()}
    assert len(files) > 1 and not any(files.values())
    assert said["metadata"]["total_size"] == sum(x.nbytes for x in found.values())
    return found


def assert_equal_folders(found, wanted):
    a, b = contents(found), contents(wanted)
    assert {key: (x.shape, x.dtype) for key, x in a.items()} == {key: (x.shape, x.dtype) for key, x in b.items()}
    assert [key for key in a if a[key].tobytes() != b[key].tobytes()] == []
    assert json.loads((found / "config.json").read_text()) == json.loads((wanted / "config.json").read_text())


@pytest.mark.parametrize("size", ["5GB", "8KB"])
def test_saved_as_it_was(lm, tmp_path, size):
    lm.save(tmp_path, max_shard_size=size)
    assert_equal_folders(tmp_path, lm.source.folder)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_sixteen_bits_stay_as_they_are(name, tmp_path, dtype):
    stored = golden.write(tmp_path / "a", name, dtype)
    jaxlm.load(stored).save(tmp_path / "b")
    assert_equal_folders(tmp_path / "b", stored)
