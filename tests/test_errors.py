import errno
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError, machine_trouble, nearest, unknown, user_path

NO_PATHS = [None, 3, b"a", "", "a\0b", "a\ud800", "x" * 5000, "y/" * 2500, "~nobody-of-this-name/x"]


def test_nearest_is_the_likest_whatever_its_case():
    assert nearest("wdith", ["depth", "width", "with_bias"]) == "width"
    assert nearest("d", ["D", "depth"]) == "D"
    assert nearest("nothing alike", ["x"]) == "x"
    assert nearest("x", []) == ""


def test_unknown_names_the_nearest_and_all():
    assert (
        str(unknown("verb", "trian", ["plan", "train"])) == "unknown verb 'trian': did you mean 'train'? (plan, train)"
    )
    assert str(unknown("file", "x", [])) == "unknown file 'x': there are none"


def test_paths_of_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x" and user_path(Path("a/b")) == Path("a/b")


@pytest.mark.parametrize("path", NO_PATHS, ids=lambda path: repr(path)[:12])
def test_what_can_be_no_path(path):
    with pytest.raises(UserError) as info:
        user_path(path)
    assert "path" in str(info.value) and len(str(info.value)) < 200 and str(info.value).isprintable()


def caught(call) -> BaseException:
    with pytest.raises(Exception) as info:
        call()
    return info.value


def test_machine_troubles_are_told_in_one_line():
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/x")
    assert machine_trouble(full) == "the disk is full (/runs/x): free some space, or use another folder"
    wrapped = ValueError("saving failed")
    wrapped.__cause__ = full
    assert machine_trouble(wrapped) == machine_trouble(full)
    assert "the disk is full:" in str(
        machine_trouble(ValueError("tensorstore: [OS error 28: No space left on device]"))
    )
    assert "out of memory" in str(machine_trouble(caught(lambda: np.zeros(2**60, np.int8))))
    assert "out of device memory" in str(machine_trouble(caught(lambda: jnp.zeros((1 << 46,)) + 1)))
    assert machine_trouble(caught(lambda: Path("/nowhere/x").read_text())) == "/nowhere/x: No such file or directory"
    assert "check JAX_PLATFORMS" in str(machine_trouble(RuntimeError("Unable to initialize backend 'foo': why\nmore")))


@pytest.mark.parametrize(
    "bug", [ValueError("x"), RuntimeError("y"), KeyError("z"), OSError("no file named"), TypeError()]
)
def test_bugs_are_not_hidden(bug):
    assert machine_trouble(bug) is None
