import errno
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import LINE, UserError, machine_trouble, nearest, one_line, unknown


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


def test_private_names_are_not_offered_and_long_lists_left_out():
    assert str(unknown("file", "_x.py", ["_pretrain.py", "gpt.py"])).endswith("did you mean 'gpt.py'? (gpt.py)")
    many = [f"a_rather_long_name_{i}" for i in range(40)]
    assert str(unknown("name", "a_rather_long_name_7", many)).endswith("did you mean 'a_rather_long_name_7'?")


def test_messages_are_one_printable_line_whatever_they_quote():
    said = one_line("not " + "x" * 10_000 + "\n\x1b[31m\udc80 é '  two spaces': do this")
    assert said.startswith("not xxx") and said.endswith(r"xxx \x1b[31m\udc80 é '  two spaces': do this")
    assert len(said) < 300 and said.isprintable()
    assert len(str(UserError("many words " * 1000 + "end"))) <= LINE and str(UserError("a " * 999 + "end")).endswith(
        "end"
    )


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
