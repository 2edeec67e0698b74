"""Starting a process with huge pages."""

import os
import subprocess
import sys

import pytest

from jaxlm.machine import host

linux = pytest.mark.skipif(sys.platform != "linux", reason="the setting is one of Linux's C library")


def test_environment_keeps_what_was_set():
    assert host.environment({"A": "b"}) == {"A": "b", host.VARIABLE: host.SETTING}
    assert host.environment({host.VARIABLE: "mine"}) == {host.VARIABLE: "mine"}


@linux
def test_restart_happens_once(monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.delenv(host.VARIABLE, raising=False)
    host.restart_with_huge_pages()
    (program, arguments, environment), *_ = calls
    assert (program, arguments) == (sys.executable, sys.orig_argv) and environment[host.VARIABLE] == host.SETTING
    monkeypatch.setenv(host.VARIABLE, "")
    host.restart_with_huge_pages()
    assert len(calls) == 1


@linux
def test_the_command_restarts_itself_and_still_answers():
    show = f"lambda argv: print(argv, os.environ['{host.VARIABLE}'])"
    code = f"import os; from jaxlm import cli; cli._dispatch = {show}; cli.console()"
    environment = {name: value for name, value in os.environ.items() if name != host.VARIABLE}
    command = [sys.executable, "-c", code, "train", "a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"['train', 'a b'] {host.SETTING}"
