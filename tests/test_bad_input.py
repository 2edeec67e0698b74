"""A user's mistake, or a machine's limit, is one clear line on stderr and exit code 2; what was there is not lost."""

import errno
import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxlm import config
from jaxlm.checkpoints.checkpoint import Checkpoints, steps
from jaxlm.cli import main
from jaxlm.sharding import MeshConfig
from jaxlm.text import train_sentencepiece
from jaxlm.train.report import Report
from tests import tiny
from tests.train.runs import a_run, digests, put_on_one_device, stop_at

MESH = MeshConfig(data=2, fsdp=2, tensor=2)  # of the eight devices of these tests


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, data_cache):
    monkeypatch.setenv("JAXLM_CACHE", str(data_cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return tiny.write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture
def saved(tmp_path, text) -> str:
    """The tiny run on eight devices, as a saved config."""
    config.save(tiny.run(text, mesh=MESH), tmp_path / "tiny.json")
    return "tiny.json"


@pytest.fixture
def refused(capsys):
    """Runs the command line; what it says on stderr, which is one line, of a mistake."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 2
        err = capsys.readouterr().err
        assert err.startswith("jaxlm: error: ") and err.count("\n") == 1 and len(err) < 700, err
        return err.removeprefix("jaxlm: error: ").rstrip()

    return run


# Configs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["quikstart"], "no config is called 'quikstart': the nearest is 'quickstart', `jaxlm configs` lists them all"),
        (["quickstart", "stpes=3"], "unknown key 'stpes': did you mean 'steps'?"),
        (["quickstart", "optimizer.learningrate=1"], "did you mean 'optimizer.learning_rate'?"),
        (["quickstart", "model.layers.0.blocks.0.mixer.HH=3"], "did you mean 'model.layers.0.blocks.0.mixer.H'?"),
        (["quickstart", "steps=many"], "steps must be"),
        (["quickstart", "steps=1.5"], "steps must be"),
        (["quickstart", "optimizer.name=adamwww"], "adamw"),
        (["quickstart", "optimizer.schedule=cosin"], "did you mean 'cosine'"),
        (["quickstart", "model.remat=all"], "unknown remat policy 'all'"),
        (["quickstart", "data.tokenizer.kind=bype"], "did you mean 'bpe'"),
        (["quickstart", "steps"], "write key.path=value"),
        (["quickstart", "steps=0"], "steps=0 must be at least 1"),
        (["quickstart", "batch=16", "accumulate=7"], "accumulate=7 must divide batch=16"),
        (["nowhere/config.json"], "cannot read the config nowhere/config.json"),
        (["nowhere.py:small"], "unknown config file 'nowhere.py'"),
        (["gpt2.py:gpt3"], "did you mean 'gpt2_"),
        ([], "config"),
    ],
    ids=str,
)
def test_configs(argv, line, refused):
    assert line in refused("train", *argv)
    assert not Path("runs").exists()


def test_heads_that_do_not_divide(saved, refused):
    assert "G=3" in refused("train", saved, "model.layers.0.blocks.0.mixer.G=3")


def test_a_config_file_with_a_mistake(refused):
    Path("mine.py").write_text("def small():\n    return 1 / 0\n")
    assert refused("train", "mine.py:small").endswith("mine.py:2: ZeroDivisionError: division by zero")


# Meshes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["mesh.data=3"], "mesh data=3, fsdp=2, tensor=2 does not match the 8 devices here"),
        (["mesh.data=0"], "mesh axes must be positive"),
        (["mesh.data=-1", "mesh.fsdp=-1"], "at most one of them -1"),
        (["mesh.data=1", "mesh.fsdp=2", "mesh.tensor=4"], "mesh tensor=4 does not divide the 'heads' axis"),
        (["model.V=265"], "mesh tensor=2 does not divide the 'vocab' axis"),
        (["batch=6"], "batch=6 in 1 parts is 6 rows at a time, which the 4 devices of the mesh axes data, fsdp"),
        (["accumulate=2"], "batch=4 in 2 parts is 2 rows at a time"),
    ],
    ids=str,
)
def test_meshes(overrides, line, saved, refused):
    assert line in refused("train", saved, "--run", "run", *overrides)
    assert not Path("run/config.json").exists()


# Data ----------------------------------------------------------------------------------------------------------------


def train_on(refused, saved, *files: Path | str, **more) -> str:
    source = ",".join(json.dumps({"path": str(f)}) for f in files)
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in more.items()]
    line = refused("train", saved, "--run", "run", f"data.sources=[{source}]", *overrides)
    assert not Path("run/config.json").exists()
    return line


def test_files_that_are_not_there(saved, refused):
    assert train_on(refused, saved, "gone.txt") == "gone.txt: no such file or folder"
    assert "matches no file" in train_on(refused, saved, "gone/*.txt")
    Path("folder").mkdir()
    assert "no file of a known kind in this folder" in train_on(refused, saved, "folder")
    Path("words.doc").write_text("text")
    assert "unknown kind of file" in train_on(refused, saved, "words.doc")


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", b"", "a.txt: no text here: the file is empty"),
        ("a.txt", b"\x7fELF\x00\x01", "a.txt: byte 4 is NUL: a binary file"),
        ("a.txt", b"good \xff bad", "a.txt: byte 5 is not UTF-8"),
        ("a.txt", "Grüße".encode("latin-1"), "a.txt: byte 2 is not UTF-8"),
        ("a.txt.gz", b"not gzip at all", "a.txt.gz: not a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"text " * 1000)[:-9], "a.txt.gz: not a whole gzip file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "a.jsonl:2: a JSON array, not an object"),
        ("a.jsonl", b'{"body": "a"}\n', "a.jsonl:1: no field 'text' (it has 'body'): set the source's field"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: the field 'text' is a JSON number, not a string"),
        ("a.jsonl", b'{"text": "' + b"x" * 2**26 + b'"}\n', "a.jsonl:1: the line is longer than 64 MiB"),
        ("a.parquet", b"PAR1 it is not", "a.parquet: cannot be read as parquet"),
    ],
    ids=[
        "empty",
        "binary",
        "utf-8",
        "latin-1",
        "no gzip",
        "cut",
        "json",
        "array",
        "field",
        "number",
        "huge",
        "parquet",
    ],
)
def test_files_that_are_not_text(name, content, line, saved, refused):
    Path(name).write_bytes(content)
    assert line in train_on(refused, saved, name)


def test_too_little_text(saved, refused):
    Path("a.txt").write_text("a few words\nand a line\n")
    assert "training tokens are fewer than one row of T+1 = 33: lower data.T" in train_on(refused, saved, "a.txt")


def test_a_tokenizer_larger_than_the_model(saved, refused, text):
    train_sentencepiece((p.read_text() for p in text.glob("*")), 300, "bpe").save("tokenizer")
    said = train_on(refused, saved, text, data__tokenizer='{"kind": "file", "path": "tokenizer"}')
    assert said == "the tokenizer has 300 tokens, the model only V=264: raise model.V"


def test_a_tokenizer_that_is_none(saved, refused, text):
    assert "gone" in train_on(refused, saved, text, data__tokenizer='{"kind": "file", "path": "gone"}')


# A run that is there -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, text) -> Path:
    """Three of eight steps on one device; checkpoints of 2 and 3."""
    folder = tmp_path_factory.mktemp("trained")
    config.save(a_run(text), folder / "tiny.json")
    with pytest.MonkeyPatch.context() as patch:
        put_on_one_device(patch)
        stop_at(patch, 3)
        patch.setenv("JAXLM_CACHE", str(folder / "cache"))
        assert main(["train", str(folder / "tiny.json"), "--run", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def copy(trained, tmp_path, monkeypatch) -> Path:
    put_on_one_device(monkeypatch)
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["seed=1"], "run holds a run of another config (seed: 0 -> 1): choose another folder with --run"),
        (["batch=8", "ema=0.5"], "(batch: 4 -> 8 and 1 more)"),
        (["data.holdout=0.3"], "(data.holdout: 0.2 -> 0.3)"),
    ],
    ids=str,
)
def test_a_run_of_another_config(overrides, line, copy, refused):
    before = contents(copy)
    assert line in refused("train", "run/config.json", *overrides)
    assert contents(copy) == before


def test_a_run_of_other_text(copy, refused, tmp_path):
    other = tiny.write_text(tmp_path / "other")
    (other / "00.txt").write_text("document 0: something else " * 9)
    before = contents(copy)
    said = refused("train", "run", f"data.sources.0.path={other}")
    assert said.startswith("the saved position belongs to other training data")
    assert contents(copy) == before


def test_no_whole_checkpoint(copy, refused):
    for step in copy.glob("checkpoints/*"):
        data = max(step.rglob("d/*"), key=lambda p: p.stat().st_size)
        data.write_bytes(data.read_bytes()[:1000])
    before = contents(copy)
    assert "is whole (2 tried); nothing was deleted" in refused("train", "run")
    assert contents(copy) == before


def test_two_processes(copy, refused):
    lock = subprocess.Popen(["flock", "run/.lock", "-c", "echo held; cat"], stdin=-1, stdout=-1)
    try:
        assert lock.stdout.readline() == b"held\n"
        assert refused("train", "run").startswith("another process trains in run")
    finally:
        lock.communicate()


@pytest.mark.parametrize("writers", ["wandb", "tensorbord"])
def test_writers(writers, copy, refused):
    assert writers in refused("train", "run", f"writers={writers}")
    assert steps(copy / "checkpoints") == [2, 3]


# The machine ---------------------------------------------------------------------------------------------------------


def test_more_memory_than_there_is(saved, refused, monkeypatch):
    put_on_one_device(monkeypatch)
    said = refused("train", saved, "--run", "run", f"batch={2**25}", "mesh.data=1", "mesh.fsdp=1", "mesh.tensor=1")
    assert "the training step needs " in said and " GiB, a device has " in said
    assert "try accumulate=2 (saves about " in said and "model.remat=full (saves about " in said
    assert not Path("run/config.json").exists()


def test_memory_that_runs_out(copy, refused, monkeypatch):
    """As the runtime says it, in the middle of a run: older checkpoints stay."""
    import jax.numpy as jnp

    report = Report.step

    def patched(self, number, metrics):
        jnp.zeros(2**50, jnp.uint8).block_until_ready()
        report(self, number, metrics)

    monkeypatch.setattr(Report, "step", patched)
    said = refused("train", "run")
    assert said.startswith("out of memory (while allocating 1048576.0 GiB): try accumulate=2, or model.remat=full")
    assert steps(copy / "checkpoints") == [2, 3]


def test_losses_that_are_not_finite(copy, refused):
    said = refused("train", "run", "optimizer.learning_rate=1e30", "optimizer.warmup=0", "max_nonfinite_steps=2")
    assert said.startswith("loss or gradient was not finite in 2 steps in a row") and "1e+30" in said
    assert 3 in steps(copy / "checkpoints")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB, where the user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "none"]
    if shutil.which("mount") is None or subprocess.run(["mount", *options, folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("free", [0, 100_000])
def test_a_full_disk(free, small_disk, trained, refused, monkeypatch):
    """Full at the start, and full when it is time for a checkpoint."""
    put_on_one_device(monkeypatch)
    run = shutil.copytree(trained, small_disk / "run")
    (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - free))
    said = refused("train", run)
    assert "No space left on device" in said or "the disk is full" in said
    assert steps(run / "checkpoints")[:2] == [2, 3]
    assert config.load(run) == config.load(trained)
    (small_disk / "filler").unlink()
    assert main(["train", str(run)]) == 0
    assert digests(run) != {} and steps(run / "checkpoints")[-1] == 8


@pytest.mark.parametrize("cls, method", [(Checkpoints, "save"), (Report, "samples"), (Report, "scores")])
def test_a_disk_that_fills_up(cls, method, copy, refused, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/file")

    monkeypatch.setattr(cls, method, full)
    said = refused("train", "run", "eval_every=4", "sample_every=4")
    assert said == "the disk is full (run/file): free some space, or use another folder"
    assert 3 in steps(copy / "checkpoints")


def test_a_folder_that_cannot_be_written(saved, refused):
    Path("file").write_text("")
    assert refused("train", saved, "--run", "file/run").startswith("cannot use the run folder file/run: ")
