import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxlm import config
from jaxlm.cli import main
from jaxlm.cli.info import LINES, WIDTH, describe
from jaxlm.errors import UserError
from jaxlm.text import BPETokenizer
from tests import tiny

LLAMA = {
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "torch_dtype": "bfloat16",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def told(path: str | Path) -> str:
    lines = describe(str(path))
    assert len(lines) <= LINES and all(len(line) <= WIDTH for line in lines)
    return "\n".join(lines)


def test_a_run_and_a_checkpoint_of_it():
    config.save(tiny.run(steps=6), make("run") / "config.json")
    assert told("run").startswith("run: a run of 6 steps, without a checkpoint yet\n  model      ")
    for step in (2, 4):
        (make(f"run/checkpoints/{step}") / "_CHECKPOINT_METADATA").write_text("{}")
    make("run/checkpoints/5")  # never became whole
    Path("run/metrics.jsonl").write_text('{"step": 4, "train/loss": 2.5}\n{"step": 4, "eval/loss": 3.5}\n{"step"')
    said = told("run")
    assert said.startswith("run: a run, at step 4 of 6 (goes on from step 4)\n")
    assert "  checkpoints  2, 4\n  last         loss 2.5000 at step 4, held-out loss 3.5000 at step 4\n" in said
    assert said.endswith('jaxlm generate run --prompt "..."')
    assert told("run/config.json").splitlines()[1:] == said.splitlines()[1:]
    assert told("run/checkpoints/4").startswith("run/checkpoints/4: checkpoint 4 of a run, 2B\n  run        run: a run")
    assert "5 of a run, 0B, not whole" in told("run/checkpoints/5")
    assert told(".") == ".: a folder of 1 models or runs\n  folders  run"


def test_a_model_in_hugging_faces_layout():
    folder = make("m")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert "  weights    (m has no weights" in told("m")
    save_file({"lm_head.weight": np.zeros((16, 8), np.float16)}, folder / "model.safetensors")
    said = told("m")
    assert said.startswith("m: a model in Hugging Face's layout, llama\n  model      ")
    assert "1 layers, width 8, vocabulary 16, dtype bfloat16\n  family     llama, which jaxlm opens\n" in said
    assert "  weights    1 file, 336B; 1 tensors: 1 F16\n  tokenizer  none\n" in said
    assert told("m/model.safetensors").startswith("m/model.safetensors: weights: 128 numbers in 1 tensors (1 F16)")
    (folder / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    assert "  quantised  NVFP4: dequantise it first" in told("m") and "next" not in told("m")
    (folder / "config.json").write_text(json.dumps(LLAMA | {"quantization_config": {"quant_method": "fp8"}}))
    assert "  quantised  fp8" in told("m/config.json")
    (folder / "config.json").write_text('{"model_type": "xlnet"}')
    assert "not opened here: config.json: unknown model_type 'xlnet'" in told("m")


def test_tokenizers():
    BPETokenizer.train(["ab abc abcd"], 260).save("tok")
    for path in ("tok", "tok/tokenizer.json"):
        assert told(path).startswith(f"{path}: a tokenizer, FastTokenizer of ")


def test_text():
    Path("a.txt").write_text("to be")
    assert told("a.txt").splitlines()[:2] == ["a.txt: text to train on, 5B", "  begins  'to be'"]
    assert told(".").startswith(".: text to train on, 5B in 1 .txt files")
    Path("b.jsonl").write_text('{"text": "x\\ty"}\n')
    assert "'x\\ty'" in told("b.jsonl")
    Path("c.txt").write_bytes(b"\xff")
    assert "no text (c.txt: byte 0 is not UTF-8" in told("c.txt")


def test_configs():
    Path("my.py").write_text("from tests import tiny\ndef small(steps=3): return tiny.run(steps=steps)\n")
    for name in ("my.py:small", "my.py:small(steps=4)", "quickstart"):
        assert told(name).startswith(f"{name}: a config\n  model     ")
    assert told("my.py(steps=4)").endswith("jaxlm train 'my.py(steps=4)', or jaxlm plan 'my.py(steps=4)'")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "nothing: no such file or folder, and no config is called 'nothing'"),
        ("empty", "empty: no file of a known kind in this folder"),
        ("file.bin", "file.bin: a file of a kind that jaxlm does not know (3B)"),
        ("cut.json", "cut.json is not valid JSON"),
        ("other.json", "other.json: the config of neither a run (it has no type) nor a model"),
        ("cut.safetensors", "cut.safetensors is not a whole safetensors file"),
        ("~no_such_user/x", "no such user here"),
        ("x" * 5000, "too long for a path"),
        ("a\0b", "is no path"),
        ("stop.py", "stop.py:1: SystemExit: 3"),
        ("list.json", "list.json must hold a JSON object"),
        ("gone.py", "gone.py: no such file or folder, and unknown config file"),
    ],
)
def test_what_is_nothing_is_one_line(path, said, capsys):
    make("empty")
    for name in ("file.bin", "cut.safetensors"):
        Path(name).write_bytes(b"\x89PN")
    Path("cut.json").write_text('{"a": ')
    Path("list.json").write_text("[]")
    Path("stop.py").write_text("def f(): raise SystemExit(3)")
    Path("other.json").write_text('{"a": 1}')
    assert main(["info", path]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    with pytest.raises(UserError):
        describe(path)


def test_odd_parts_of_a_config_hide_nothing():
    Path("odd.json").write_text('{"model_type": "llama", "text_config": [1], "quantization_config": [2]}')
    assert "family     not opened here: odd.json: " in told("odd.json") and "quantised  somehow" in told("odd.json")


def make(folder: str) -> Path:
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)
