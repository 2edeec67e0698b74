"""`python killed.py FOLDER MOMENT ... -- train ...`: jaxlm again and again, each time stopped, then to the end.

A moment is `SIGNAL:WHERE:STEP`, where a process sends itself the signal:

    KILL:step:3     after the third step was taken
    KILL:save:4     while the fourth step is being written
    KILL:eval:6     after the held-out scores of the sixth step, before its checkpoint
    KILL:sample:6   half way through writing its samples
    KILL:soon:0     before the first step, a moment after the process began to work

Every process is forked from one that has only imported, which saves the time of importing; its output goes to
FOLDER/N.txt, and the exit statuses are printed as a list, negative for signals.
"""

import importlib
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", category=DeprecationWarning, module="matplotlib")  # as in pyproject.toml

from jaxlm.checkpoints.checkpoint import Checkpoints  # noqa: E402
from jaxlm.cli import main  # noqa: E402
from jaxlm.train.report import Report  # noqa: E402

importlib.import_module("jaxlm.train.loop")  # not used here, but imported once for all


def arm(moment: str) -> None:
    """Makes this process send itself a signal."""
    name, where, step = moment.split(":")
    fire = lambda: os.kill(os.getpid(), signal.Signals[f"SIG{name}"])
    if where == "soon":
        threading.Timer(0.7, fire).start()
    elif where == "save":
        before(Checkpoints, "save", int(step), lambda checkpoints: watch(checkpoints.folder, fire))
    else:
        after(Report, {"step": "step", "eval": "scores", "sample": "samples"}[where], int(step), fire)


def watch(folder: Path, fire) -> None:
    """Fires as soon as a half-written checkpoint is there."""

    def look():
        while not list(folder.glob("*.orbax-checkpoint-tmp")):
            time.sleep(0.0005)
        fire()

    threading.Thread(target=look, daemon=True).start()


def before(cls, method: str, step: int, act) -> None:
    plain = getattr(cls, method)

    def patched(self, number, *args):
        if number == step:
            act(self)
        return plain(self, number, *args)

    setattr(cls, method, patched)


def after(cls, method: str, step: int, fire) -> None:
    plain = getattr(cls, method)

    def patched(self, number, *args):
        if method == "samples" and number == step:  # only the first half gets to the disk
            with open(self.folder / "samples.txt", "a") as file:
                file.write(f"=== step {number}, sample 0\nhalf")
            fire()
        plain(self, number, *args)
        if number == step:
            fire()

    setattr(cls, method, patched)


def child(output: Path, moment: str | None, argv: list[str]) -> int:
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if moment:
        arm(moment)
    return main(argv)


if __name__ == "__main__":
    at = sys.argv.index("--")
    folder, moments, argv = Path(sys.argv[1]), sys.argv[2:at], sys.argv[at + 1 :]
    codes = []
    for i, moment in enumerate([*moments, None]):
        pid = os.fork()
        if pid == 0:
            sys.exit(child(folder / f"{i}.txt", moment, argv))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(codes)
