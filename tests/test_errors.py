import errno
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import machine_trouble, nearest, unknown


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


def test_an_absent_accelerator_of_which_jax_says_nothing(monkeypatch):
    """With JAX_PLATFORMS=cuda and no plugin jax fails at an assertion of its own."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    try:
        exec(compile("assert None is not None", "jax/_src/xla_bridge.py", "exec"))
    except AssertionError as error:
        assert "no device for JAX_PLATFORMS=cuda" in (machine_trouble(error) or "")
    try:
        exec(compile("assert None is not None", "other.py", "exec"))
    except AssertionError as error:
        assert machine_trouble(error) is None
