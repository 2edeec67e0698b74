"""Digests beside the weights: any changed bit of any tensor is seen, and named."""

import json
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm import cli
from jaxlm.convert.digests import digest
from tests.convert import checkpoints
from tests.convert.checkpoints import BFLOAT16, LLAMA

DIGESTS = "model.digests.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """bfloat16 in several files, as `save` writes them."""
    folder = tmp_path_factory.mktemp("digests")
    tensors = {name: x.astype(BFLOAT16) for name, x in checkpoints.llama().items()}
    jaxlm.load(checkpoints.write(folder / "source", tensors, LLAMA)).save(folder / "saved", max_shard_size="2KB")
    return folder / "saved"


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_every_tensor_has_one(saved):
    """SHA-256 of a tensor's bytes in the file, so other programs can check them too."""
    assert digest(np.frombuffer(b"abc", np.uint8)).startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2, B.1
    said = json.loads((saved / DIGESTS).read_text())
    stored = {name: x for file in saved.glob("*.safetensors") for name, x in load_file(file).items()}
    assert said == {"algorithm": "sha256", "tensors": {name: digest(x) for name, x in stored.items()}}


def test_a_flipped_bit_anywhere_in_the_data(folder):
    rng, files = np.random.default_rng(0), sorted(folder.glob("*.safetensors"))
    for _ in range(12):
        file = files[rng.integers(len(files))]
        whole = file.read_bytes()
        at = int(rng.integers(8 + struct.unpack("<Q", whole[:8])[0], len(whole)))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        with pytest.raises(
            jaxlm.UserError, match=rf"{folder}: (model|lm_head)\.\S+ is not what was saved, says {DIGESTS}"
        ):
            jaxlm.load(folder)
        file.write_bytes(whole)
    jaxlm.load(folder)


def test_other_weights_are_loaded_without_verifying(folder, capsys):
    """As another program leaves them, which wrote into the folder and knows no digests."""
    for file in folder.glob("*.safetensors"):
        save_file({name: x + 1 for name, x in load_file(file).items()}, file)
    assert cli.main(["convert", str(folder), str(folder.parent / "b")]) == 2
    err = capsys.readouterr().err
    assert f"delete {DIGESTS}, or load it with verify=False (--no-verify)" in err and err.count("\n") == 1
    assert cli.main(["convert", str(folder), str(folder.parent / "b"), "--no-verify"]) == 0
    a, b = jaxlm.load(folder, verify=False).to_hf(), jaxlm.load(folder.parent / "b").to_hf()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    (folder / DIGESTS).unlink()
    jaxlm.load(folder)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", f"{DIGESTS} is not valid JSON"),
        ("[]", f"{DIGESTS} must hold a JSON object"),
        ("{}", "does not hold sha256 digests"),
        ('{"algorithm": "md5", "tensors": {}}', "does not hold sha256 digests"),
        ('{"algorithm": "sha256", "tensors": []}', "does not hold sha256 digests"),
        ('{"algorithm": "sha256", "tensors": {}}', "is not what was saved"),
        ('{"algorithm": "sha256", "tensors": {"model.embed_tokens.weight": 3}}', "is not what was saved"),
    ],
)
def test_a_file_of_digests_that_is_none(folder, text, message):
    (folder / DIGESTS).write_text(text)
    with pytest.raises(jaxlm.UserError, match=message):
        jaxlm.load(folder)
    jaxlm.load(folder, verify=False)
