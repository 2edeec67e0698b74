import ast
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jaxlm import config
from jaxlm.errors import UserError
from tests.config_zoo import Attention, Layer, Mixer, Model, Run

GOOD = '''
    """A file of configs."""
    from jaxlm.config_zoo import Model, Run

    def small():
        """A small one.

        More about it.
        """
        return Run(steps=1)

    def large(D=128, *, K=64):
        return Run(steps=2, model=Model(D, K))

    def sized(D): ...
    def keyed(*, D): ...
    def _helper(): ...
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files into a folder that is the working directory; `configs/` in it holds the shipped ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "_folder", lambda: tmp_path / "configs")
    monkeypatch.syspath_prepend(tmp_path)  # restores sys.path

    def write(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    (tmp_path / "configs").mkdir()
    return write


def test_shipped_configs_are_found_by_bare_and_by_qualified_name(write):
    write("configs/first.py", GOOD)
    for name in ("small", "first.py:small", "configs/first.py:small"):
        assert config.resolve(name) == Run(steps=1)
    assert config.resolve("large", ["lr=3", "model.D=64"]) == Run(steps=2, model=Model(64, 64), lr=3.0)
    assert config.list_configs() == [("first.py:small", "", "A small one."), ("first.py:large", "D=128, K=64", "")]


def test_shipped_configs_may_build_on_each_other(write):
    write("configs/base.py", GOOD)
    write("configs/derived.py", "from .base import small\nimport dataclasses\n"
          "def longer():\n    return dataclasses.replace(small(), steps=9)\n")  # fmt: skip
    assert config.resolve("longer").steps == 9


def test_a_name_in_two_files_is_ambiguous(write):
    write("configs/a.py", GOOD)
    write("configs/b.py", GOOD)
    with pytest.raises(UserError, match=r"'small' is ambiguous: say which of a.py:small, b.py:small"):
        config.resolve("small")
    assert config.resolve("b.py:small") == Run(steps=1)


def test_a_file_of_ones_own(write):
    path = write("my.py", GOOD + "\n    import neighbour\n")
    write("neighbour.py", "")
    assert config.resolve("my.py:small") == config.resolve(f"{path}:small") == Run(steps=1)
    write("my.py", GOOD.replace("steps=1", "steps=5"))  # read afresh, no stale bytecode
    assert config.resolve("my.py:small").steps == 5
    write("one.py", "from jaxlm.config_zoo import Run\ndef only(): return Run(steps=7)")
    assert config.resolve("one.py").steps == 7


def test_a_class_of_ones_own_takes_overrides(write):
    write(
        "own.py",
        """
        from __future__ import annotations
        import dataclasses

        @dataclasses.dataclass(frozen=True)
        class Mine:
            width: int = 3

        def mine():
            return Mine()
        """,
    )
    assert config.resolve("own.py", ["width=4"]).width == 4


@pytest.mark.parametrize(
    "name, message",
    [
        ("smal", "no config is called 'smal': the nearest is 'small', `jaxlm configs` lists them all"),
        ("first.py:smal", "unknown config function of first.py 'smal': did you mean 'small'? (small, large)"),
        ("first.py:sized", "unknown config function of first.py 'sized'"),  # it has a required argument
        ("first.py:keyed", "unknown config function of first.py 'keyed'"),
        ("first.py:_helper", "unknown config function of first.py '_helper'"),
        ("first.py", "say which config of first.py: first.py:small, first.py:large"),
        ("fist.py:small", "unknown config file 'fist.py': did you mean 'first.py'? (first.py)"),
        ("elsewhere/first.py:small", "unknown config file 'elsewhere/first.py'"),
        ("runs/none", "cannot read the config runs/none: No such file"),
        ("none.json", "cannot read the config none.json: No such file"),
        ("", "no config is called ''"),
    ],
)
def test_unknown_names_offer_the_nearest(write, name, message):
    write("configs/first.py", GOOD)
    with pytest.raises(UserError) as caught:
        config.resolve(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("def f():\n    return (\n", 2, "'(' was never closed"),
        ("import nothing_like_it\ndef f(): ...\n", 1, "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def f():\n    return 1 / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("from jaxlm.config_zoo import *\ndef f():\n    return Run(stps=1)\n", 3, "TypeError: Run.__init__() got an"),
        ("def _g():\n    return 1 / 0\ndef f():\n    return _g()\n", 2, "ZeroDivisionError"),
        ("def f():\n    raise ValueError('a\\nb')\n", 2, "ValueError: a b"),
    ],
)
@pytest.mark.parametrize("folder", ["", "configs/"])
def test_a_mistake_in_a_config_file_is_named_with_its_line(write, folder, text, line, message):
    path = write(f"{folder}bad_{line}_{abs(hash(text))}.py", text)
    with pytest.raises(UserError) as caught:
        config.resolve(f"{path}:f")
    assert str(caught.value).startswith(f"{path}:{line}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_function_must_return_a_sound_frozen_dataclass(write):
    write("my.py", "from jaxlm.config_zoo import *\ndef a(): return {}\ndef b(): return Thawed()\n"
          "def c(): return Run(steps='3')\ndef d(): return Run(steps=1, model=Model(D=3))")  # fmt: skip
    for name, message in [
        ("a", "a() must return a frozen dataclass, not a dict"),
        ("b", "must return a frozen dataclass, not a Thawed"),
        ("c", "steps must be int, not '3'"),
        ("d", "D must be a multiple of K"),  # the config's own words
    ]:
        with pytest.raises(UserError) as caught:
            config.resolve(f"my.py:{name}")
        assert message in str(caught.value)


def test_a_config_function_takes_keyword_arguments(write):
    write("configs/first.py", GOOD)
    for name in ("large(D=64, K=32)", "first.py:large(K=32,D=64)", "configs/first.py:large( D = 64, K=32, )"):
        assert config.resolve(name) == Run(steps=2, model=Model(64, 32))
    assert config.resolve("large()") == config.resolve("large") == Run(steps=2, model=Model(128, 64))
    assert config.resolve("large(D=64)", ["steps=7", "model.K=16"]) == Run(steps=7, model=Model(64, 16))
    path = write(
        "my.py",
        """
        from jaxlm.config_zoo import Run
        def only(*, lr: float = 1.0, note: str | None = None): return Run(1, lr=lr, note=note)
        """,
    )
    for name in ("my.py(lr=2, note='a:b(c)')", f"{path}:only(note='a:b(c)', lr=2)"):
        assert config.resolve(name) == Run(1, lr=2, note="a:b(c)")


@pytest.mark.parametrize(
    "name, message",
    [
        ("sized(deph=3)", "unknown argument of sized 'deph': did you mean 'depth'? (depth, ratio, tied)"),
        ("sized(depth=3.5)", "depth of sized must be int, not 3.5"),
        ("sized(tied=1)", "tied of sized must be bool, not 1"),
        ("sized(ratio='a')", "ratio of sized must be float, not 'a'"),
        ("sized(3)", "cannot read 'sized(3)': write keywords with plain values, as in gpt(depth=24)"),
        ("sized(depth=3+x)", "cannot read 'sized(depth=3+x)'"),
        ("sized(depth=f())", "cannot read 'sized(depth=f())'"),
        ("sized(**{'depth': 3})", "cannot read \"sized(**{'depth': 3})\""),
        ("sized(depth=3, depth=4)", "cannot read 'sized(depth=3, depth=4)'"),
        ("sized(depth=)", "cannot read 'sized(depth=)'"),
        ("sized(depth=3)(tied=True)", "cannot read 'sized(depth=3)(tied=True)'"),
        ("called.py:sized(dept=3)", "did you mean 'depth'?"),
        ("size(depth=3)", "no config is called 'size': the nearest is 'sized'"),
        ("plain(depth=3)", "unknown argument of plain 'depth': there are none"),
        ("sized(depth=0)", "depth=0 must be at least 1"),
        ("runs/one(depth=3)", "cannot read the config runs/one(depth=3): No such file"),
    ],
)
def test_arguments_that_do_not_fit(write, name, message):
    write(
        "configs/called.py",
        """
        from jaxlm.config_zoo import Run
        from jaxlm.errors import UserError

        def sized(depth: int = 3, ratio: float = 2, tied: bool = False):
            if depth < 1:
                raise UserError(f"depth={depth} must be at least 1")
            return Run(steps=depth)

        def plain():
            return Run(steps=1)
        """,
    )
    with pytest.raises(UserError) as caught:
        config.resolve(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_saved_configs_resolve_by_file_and_by_folder(write, tmp_path):
    run = Run(steps=3, options=(("a", Attention(window=2)),))
    (tmp_path / "runs" / "one").mkdir(parents=True)
    config.save(run, tmp_path / "runs" / "one" / "config.json")
    assert os.listdir(tmp_path / "runs" / "one") == ["config.json"]
    for name in ("runs/one", "runs/one/config.json", "./runs/one/"):
        assert config.resolve(name) == run
    os.chdir("runs")
    assert config.resolve("one") == run
    assert config.load("one") == run
    assert config.resolve("one", ["steps=4"]).steps == 4


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    config.save(Run(steps=1), path)
    with pytest.raises(UserError, match="sizes is a list"):
        config.save(Run(steps=1, sizes=[1]), path)  # type: ignore[arg-type]
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)  # a crash between writing and renaming
    with pytest.raises(ZeroDivisionError):
        config.save(Run(steps=2), path)
    assert config.load(path) == Run(steps=1) and os.listdir(tmp_path) == ["config.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"3", b"{}", b'{"type": 3}'])
def test_a_spoilt_file_gives_one_line_naming_it(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        config.load(tmp_path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_describe_is_indented_and_complete():
    assert config.describe(Run(steps=3, model=Model(layers=(Layer(Mixer()),)))) == textwrap.dedent(
        """\
        Run
          steps: 3
          model: Model
            D: 64
            K: 16
            layers:
              0: Layer
                mixer: Mixer
                  Z: 16
                dropout: 0.0
          lr: 0.001
          betas: (0.9, 0.95)
          sizes: ()
          resume: true
          name: run
          note: none
          options: ()
          weights: none
          scalars: ()
          either: 1
          blocks: ((2, (a, b)))"""
    )


def test_diff_lists_what_changed():
    old = Run(steps=1)
    assert config.diff(old, Run(steps=1)) == []
    new = Run(steps=2, model=Model(layers=(Layer(Mixer()), Layer(None), Layer())), betas=(0.9, 0.99), note="x")
    assert config.diff(old, new) == [
        "steps: 1 -> 2",
        "model.layers.0.mixer: jaxlm.config_zoo.Attention -> jaxlm.config_zoo.Mixer",
        "model.layers.1.mixer: jaxlm.config_zoo.Mixer -> none",
        "model.layers.2: (absent) -> jaxlm.config_zoo.Layer",
        "betas: (0.9, 0.95) -> (0.9, 0.99)",
        "note: none -> x",
    ]
    assert config.diff(old, old.model) == ["config: jaxlm.config_zoo.Run -> jaxlm.config_zoo.Model"]


def test_an_installed_package_finds_the_configs_inside_it(tmp_path):
    """A wheel keeps `configs/` inside the package: the same files, laid out so."""
    (tmp_path / "jaxlm" / "configs").mkdir(parents=True)
    for file in Path(config.__file__).parent.glob("*.py"):
        shutil.copy(file, tmp_path / "jaxlm")
    (tmp_path / "jaxlm/configs/first.py").write_text(
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass A: x: int = 1\ndef small(): return A()"
    )
    code = "from jaxlm.config import resolve; assert resolve('small', ['x=2']).x == 2"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_the_shipped_configs_have_docstrings_and_bare_names_that_are_theirs_alone():
    names = [name.partition(":")[2] for name, _, _ in config.list_configs()]
    assert len(set(names)) == len(names)
    assert [name for name, _, summary in config.list_configs() if not summary] == []
    for path in config._folder().glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_an_override_that_decides_on_others_reaches_the_function(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass C:\n    start: str\n    size: int\n\n\n"
        "def made(start: str = '') -> C:\n    return C(start, len(start))\n"
    )
    name = f"{tmp_path}/mine.py:made"
    assert config.resolve(name).size == 0
    found = config.resolve(name, ["start=four", "size=9"])
    assert (found.start, found.size) == ("four", 9)
