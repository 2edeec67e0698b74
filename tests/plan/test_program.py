"""What a process that compiles says when it ends badly."""

import subprocess

import pytest

from jaxlm.errors import UserError
from jaxlm.plan import program
from tests import tiny


@pytest.mark.parametrize(
    "code, stderr, words",
    [
        (-9, b"", "killed, most likely because memory ran out"),
        (-11, b"E1130 RAW: Raising signal 11", "crashed with Segmentation fault: try other versions"),
        (1, b"Traceback\nValueError: why" + b"!" * 9999, "ValueError: why!"),
        (3, b"", "exit code 3"),
    ],
)
def test_a_compiler_that_ends_badly_is_one_line(code, stderr, words, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda args, **_: subprocess.CompletedProcess(args, code, b"", stderr))
    with pytest.raises(UserError) as raised:
        program.train_program(tiny.run(), "cpu:1")
    told = str(raised.value)
    assert told.startswith("compiling for cpu:1 failed: ") and words in told
    assert "\n" not in told and len(told) < 400
