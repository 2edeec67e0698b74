"""`python many.py FOLDER SECONDS`, with a list of processes on standard input: jaxlm in several processes at once.

Each process is an object of `argv`; `env`, added to the environment; `moment`, as in killed.py; and `patch`, names of
this file's functions to call first. All are forked from one that has only imported, their output goes to FOLDER/N.txt,
and what is left after SECONDS is killed. Printed is a list of (exit status, when it ended in seconds since the first).
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from jaxlm.cli import main
from jaxlm.data import DataConfig
from jaxlm.machine import processes

sys.path.insert(0, str(Path(__file__).parent))
killed = importlib.import_module("killed")


def other_sources() -> None:
    """Like an older version."""
    processes._sources = lambda: "0ld"


def impatient() -> None:
    """Gives a network file system one second."""
    importlib.import_module("jaxlm.train.folder").VISIBLE = 1


def die_preparing() -> None:
    """Is killed while it prepares the data."""
    DataConfig.prepare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def child(output: Path, argv: list[str], env: dict[str, str], moment: str | None, patch: list[str]) -> int:
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(env)
    for name in patch:
        globals()[name]()
    if moment:
        killed.arm(moment)
    return main(argv)


def watch(children: dict[int, int], seconds: float) -> dict[int, tuple[int, float]]:
    """Exit status and end of every child."""
    ended, start = {}, time.monotonic()
    try:
        while len(ended) < len(children) and time.monotonic() - start < seconds:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                ended[children[pid]] = os.waitstatus_to_exitcode(status), time.monotonic()
            else:
                time.sleep(0.02)
    finally:
        for pid, i in children.items():
            if i not in ended:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                ended[i] = -signal.SIGKILL, float("inf")
    return ended


if __name__ == "__main__":
    folder, children = Path(sys.argv[1]), {}
    for i, spec in enumerate(json.load(sys.stdin)):
        pid = os.fork()
        if pid == 0:
            code = child(folder / f"{i}.txt", spec["argv"], spec["env"], spec["moment"], spec["patch"])
            sys.exit(code)
        children[pid] = i
    ended = watch(children, float(sys.argv[2]))
    first = min(when for _, when in ended.values())
    print(json.dumps([[code, when - first] for _, (code, when) in sorted(ended.items())]))
