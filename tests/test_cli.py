import io
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

import jaxlm
from jaxlm import cli
from jaxlm.errors import UserError


def run(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jaxlm.cli", *argv], capture_output=True, text=True, **options
    )


def imported(result: subprocess.CompletedProcess) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], ["configs"], ["trian"]])
def test_the_command_answers_at_once_and_without_jax(argv):
    before = os.times()
    result = run(*argv)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 1  # seconds of a processor, about 0.1, whatever else runs there
    modules = imported(result)
    assert "jaxlm.errors" in modules
    assert modules.isdisjoint({"jax", "numpy", "flax", "optax", "orbax", "grain", "matplotlib", "sentencepiece"})


def test_help_shows_each_verb_with_an_example(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, verb in cli.VERBS.items():
        assert f"  {name}" in text and verb.summary in text and verb.example in text
        assert verb.example.startswith(f"jaxlm {name}")


@pytest.mark.parametrize("name", cli.VERBS)
def test_each_verb_has_help_with_its_example(name, capsys):
    assert cli.main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: jaxlm {name} ") and cli.VERBS[name].example in text


def test_a_group_of_verbs_has_help(capsys):
    assert cli.main(["tokenizer", "--help"]) == 0
    text = capsys.readouterr().out
    assert "tokenizer encode" in text and "generate" not in text


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jaxlm {jaxlm.__version__}\n"


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "say what to do: train, generate,"),
        (["trian"], "unknown verb 'trian': did you mean 'train'? (train, generate,"),
        (["--verson"], "unknown verb '--verson'"),
        (["tokenizer"], "unknown verb 'tokenizer': did you mean 'tokenizer "),
        (["tokenizer", "encod"], "unknown verb 'tokenizer encod': did you mean 'tokenizer encode'?"),
        (["train"], "train: the following arguments are required: config, such as: jaxlm train quickstart steps=200"),
        (["train", "x", "--rum", "y"], "train: unexpected '--rum': the nearest is '--run'"),
        (["train", "x", "--run"], "train: argument --run: expected one argument"),
        (["configs", "x"], "configs: unexpected 'x'"),
        (["generate", "x"], "generate: the following arguments are required: --prompt"),
        (["generate", "x", "--prompt", "a", "--top-k", "0.5"], "argument --top-k: invalid int value: '0.5'"),
        (["generate", "x", "--prompt", "a", "--max-new-tokens", "-1"], "argument --max-new-tokens: must be at least 0"),
        (["generate", "x", "--prompt", "a", "--seed", "x"], "argument --seed: invalid integer value: 'x'"),
        (["generate", "x", "--prompt", "a", "--seed", "9" * 30], "argument --seed: must be at least 0 and below 2**63"),
        (["generate", "x", "--prompt", "a", "--greedy", "--top-k", "1"], "leave out --top-k"),
        (["train", "nothing_so_called", "steps=1"], "no config is called 'nothing_so_called'"),
        (["plan", "nothing_so_called"], "no config is called 'nothing_so_called'"),
        (["train", "runs/none"], "cannot read the config runs/none"),
    ],
)
def test_mistakes_exit_with_2_and_one_line(argv, message, capsys):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("jaxlm: error: ") and err.count("\n") == 1
    assert message in err


@pytest.fixture
def rooms(monkeypatch, tmp_path):
    """Stand-ins for the rooms that the verbs call; the calls they got, by name."""
    calls = {}
    (tmp_path / "my.py").write_text("from tests.config_zoo import Run\ndef tiny(steps=1, name=''): return Run(steps)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def module(name: str, **names):
        stand_in = types.ModuleType(name)
        vars(stand_in).update(names)
        monkeypatch.setitem(sys.modules, name, stand_in)
        return stand_in

    loop = module("jaxlm.train.loop", train=lambda run, folder, feed: calls.update(run=run, folder=folder))
    module("jaxlm.train", loop=loop)
    module("jaxlm.align", rollout=module("jaxlm.align.rollout", feed_of=lambda run: None))
    costs = module("jaxlm.plan.costs", plan=lambda run: {"params": run.steps}, table=lambda f: f"params {f['params']}")
    monkeypatch.setitem(vars(jaxlm), "plan", module("jaxlm.plan", costs=costs))

    class Model:
        def stream(self, *args):
            calls["stream"] = args
            yield from (" a", " b")

    monkeypatch.setitem(vars(jaxlm), "load", lambda path, **options: Model())

    class Sampler(tuple):
        def __or__(self, other):
            return Sampler((*self, *other))

    for name in ("Greedy", "Temperature", "TopK", "TopP", "MinP"):
        monkeypatch.setitem(vars(jaxlm), name, lambda *args, name=name: Sampler(((name, *args),)))
    return calls


@pytest.mark.parametrize(
    "argv, folder, steps",
    [
        (["my.py:tiny"], "runs/tiny", 1),
        (["my.py"], "runs/my", 1),
        (["my.py:tiny(steps=5)"], "runs/tiny-steps5", 5),
        (["my.py(steps=5, name='a/b: c')"], "runs/my-steps5-namea_b_c", 5),
        (["my.py:tiny", "steps=2", "--run", "here", "steps=3"], "here", 3),
    ],
)
def test_train_resolves_the_config_and_names_the_run_folder(rooms, argv, folder, steps):
    assert cli.main(["train", *argv]) == 0
    assert rooms["folder"] == Path(folder) and rooms["run"].steps == steps


def test_train_on_a_run_folder_goes_on_there(rooms, tmp_path):
    from jaxlm.config import save

    (tmp_path / "kept" / "old").mkdir(parents=True)
    assert cli.main(["train", "my.py:tiny"]) == 0
    save(rooms["run"], tmp_path / "kept/old/config.json")
    for name in ("kept/old", "kept/old/config.json"):
        assert cli.main(["train", name]) == 0
        assert rooms["folder"] == Path("kept/old")


def test_plan_prints_a_table_or_json(rooms, capsys):
    assert cli.main(["plan", "my.py:tiny"]) == 0 and cli.main(["plan", "my.py:tiny", "steps=2", "--json"]) == 0
    assert capsys.readouterr().out == 'params 1\n{"params": 2}\n'


@pytest.mark.parametrize(
    "options, sampler",
    [
        ("", (("Temperature", 1.0),)),
        ("--greedy", (("Greedy",),)),
        ("--temperature 0", (("Greedy",),)),
        ("--temperature 0.5", (("Temperature", 0.5),)),
        ("--top-k 3", (("Temperature", 1.0), ("TopK", 3))),
        (
            "--min-p 0.1 --top-p 0.9 --top-k 3 --temperature 2",
            (("Temperature", 2.0), ("TopK", 3), ("TopP", 0.9), ("MinP", 0.1)),
        ),
    ],
)
def test_generate_streams_the_text_with_the_sampler_asked_for(rooms, capsys, options, sampler):
    argv = ["generate", "x", "--prompt", "hi", "--max-new-tokens", "5", "--stop", ".", "--stop", "\n", *options.split()]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == "hi a b\n"
    prompt, count, got, _, stop = rooms["stream"]
    assert (prompt, count, got, stop) == ("hi", 5, sampler, [".", "\n"])


class Letters:
    """A stand-in tokenizer: one id a character."""

    def encode(self, text, special=False, literal=False):
        return [0] * special + [ord(letter) for letter in text]

    def decode(self, ids, skip_special=False):
        return "".join(chr(i) for i in ids)


def test_tokenizer_verbs(monkeypatch, capsys):
    monkeypatch.setitem(vars(jaxlm), "load_tokenizer", lambda path: Letters())
    assert cli.main(["tokenizer", "encode", "x", "ab", "--special"]) == 0
    assert cli.main(["tokenizer", "decode", "x", "97", "98"]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"b a")))
    assert cli.main(["tokenizer", "encode", "x"]) == 0
    assert capsys.readouterr().out == "0 97 98\nab\n98 32 97\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert cli.main(["tokenizer", "encode", "x"]) == 2
    assert cli.main(["tokenizer", "decode", "x", "9x"]) == 2
    assert cli.main(["tokenizer", "train", "/nowhere/corpus.txt", "--out", "/nowhere/t"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err == [
        "jaxlm: error: standard input is not UTF-8 text: byte 0 is 0xff",
        "jaxlm: error: '9x' is not a token id",
        "jaxlm: error: /nowhere/corpus.txt: no such file or folder",
    ]


def fail(error: BaseException):
    def verb(args):
        raise error

    return cli.verb.Verb("", "", lambda parser: None, verb)


def test_troubles_of_the_machine_and_bugs(monkeypatch, capsys):
    for error, code in [(UserError("a\nb"), 2), (KeyboardInterrupt(), 130), (MemoryError(), 2)]:
        monkeypatch.setitem(cli.VERBS, "configs", fail(error))
        assert cli.main(["configs"]) == code
    assert capsys.readouterr().err.splitlines() == [
        "jaxlm: error: a b",
        "jaxlm: error: out of memory: use a smaller batch, a shorter sequence or a smaller model",
    ]
    monkeypatch.setitem(cli.VERBS, "configs", fail(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        cli.main(["configs"])


def test_a_warning_is_one_line(monkeypatch, capsys):
    def main() -> int:
        warnings.warn("checkpoint 3\nis damaged", stacklevel=2)
        return 0

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["jaxlm", "configs"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.console() == 0
    assert capsys.readouterr() == ("", "jaxlm: warning: checkpoint 3 is damaged\n")


def test_a_reader_that_leaves_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        command = [sys.executable, "-m", "jaxlm.cli", "--help"]
        result = subprocess.run(command, stdout=broken, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (141, b"")


def test_a_terminal_without_unicode_is_no_error(monkeypatch, rooms):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["generate", "x", "--prompt", "é"]) == 0
    assert out.buffer.getvalue() == b"? a b\n"  # type: ignore[attr-defined]


def test_importing_jaxlm_is_cheap_and_its_names_are_listed():
    code = "import jaxlm, sys; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert {"load", "load_tokenizer", "Greedy", "TopP", "UserError", "__version__"} <= set(dir(jaxlm))
    assert jaxlm.UserError is UserError
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jaxlm.nothing  # type: ignore[attr-defined]
