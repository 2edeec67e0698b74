"""A sandbox for programs that a model wrote: a child in a session of its own, behind the kernel's walls, with limits.

On Linux the program sees a root of its own in memory with the machine's libraries read-only, no network, no other
processes, no file of the user; it has few processes, a bounded address space, and many system calls fail
(`evals/confine.py`). It lives no longer than `seconds`, then its whole group dies. Elsewhere, or where the machine
lets no process have namespaces, only limits are there, and that must be asked for: `isolation="limits"`.
"""

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.evals import confine

FILE = 1 << 24


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds of wall clock (and of processor time), bytes of address space, processes, bytes of one written file, of
    all files, and of what is printed."""

    seconds: float = 5.0
    memory: int = 1 << 29
    processes: int = 8
    file: int = FILE
    disk: int = 4 * FILE
    output: int = 1 << 16

    def __post_init__(self):
        arguments.positive(self.seconds, "seconds")
        for name in ("memory", "processes", "file", "disk", "output"):
            arguments.integer(getattr(self, name), name, 1)


@dataclasses.dataclass(frozen=True)
class Ran:
    """What became of a program. `status` is "ok" (exit code 0), "error", "timeout", "output" (it printed too much)."""

    status: str
    code: int
    out: str
    err: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@functools.cache
def walls() -> str:
    """Why this machine has no walls for a program; "" where it has them."""
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces"
    tried = _run("print(6 * 7)", "", {}, Limits(seconds=20), True)
    return "" if tried.out.strip() == "42" else (tried.err.strip() or f"exit code {tried.code}")


def run(
    program: str,
    stdin: str = "",
    files: Mapping[str, bytes] | None = None,
    limits: Limits = Limits(),
    isolation: str = "walls",
) -> Ran:
    """Runs a Python program with `files` (relative names) beside it.

    Raises UserError where the machine has no walls, unless `isolation` is "limits": then the program could read and
    write what the user can, and is only limited; and for a name that leads out of the folder.
    """
    if isolation not in ("walls", "limits"):
        raise UserError(f'isolation must be "walls" or "limits", not {isolation!r}')
    if isolation == "walls" and walls():
        raise UserError(
            f"no sandbox on this machine ({walls()}): programs would see your files; for trusted ones say "
            'isolation="limits"'
        )
    return _run(program, stdin, files or {}, limits, isolation == "walls")


def run_all(
    programs: Sequence[str], limits: Limits = Limits(), isolation: str = "walls", workers: int = 0
) -> list[Ran]:
    """`run` of each, some at a time (by default one less than there are cores, at least one)."""
    with ThreadPoolExecutor(workers or max(1, (os.cpu_count() or 2) - 1)) as pool:
        return list(pool.map(lambda program: run(program, limits=limits, isolation=isolation), programs))


def passes(program: str, tests: str, limits: Limits = Limits(), isolation: str = "walls") -> bool:
    """Whether tests appended to a program run to their end: a program that exits before them has not passed."""
    word = secrets.token_hex(8)
    ran = run(f"{program}\n{tests}\nprint({word!r}, end='')\n", limits=limits, isolation=isolation)
    return ran.ok and ran.out.endswith(word)


def _run(program: str, stdin: str, files: Mapping[str, bytes], limits: Limits, wall: bool) -> Ran:
    with tempfile.TemporaryDirectory(prefix="box", ignore_cleanup_errors=True) as folder:
        box, root = Path(folder, "files"), Path(folder, "root")
        box.mkdir()
        root.mkdir()
        for name, data in {**files, confine.PROGRAM: program.encode("utf-8", "surrogatepass")}.items():
            path = box / name
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"a file of the sandbox must lie within it, not at {name!r}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        needed = {sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)}
        needed |= {os.path.dirname(path) for path in (sys.executable, os.path.realpath(sys.executable))}
        said = {**dataclasses.asdict(limits), "walls": wall, "files": str(box), "root": str(root)}
        said |= {"python": sys.executable, "prefixes": sorted(needed - {"/", "/usr"})}
        inside = [sys.executable, "-I", "-S", confine.__file__, json.dumps(said)]
        return _watched(inside, stdin.encode(), limits, wall)


def _watched(command: list[str], stdin: bytes, limits: Limits, wall: bool) -> Ran:
    """Reads what the child prints until it ends, or prints too much, or its time is over; then its group is killed."""
    began, pipe = time.monotonic(), subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, env={"PATH": "/usr/bin:/bin"}
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        kept: dict[IO[bytes], bytearray] = {child.stdout: bytearray(), child.stderr: bytearray()}
        status, deadline = "", began + limits.seconds + 0.5  # what the walls take to be put up
        try:
            with selectors.DefaultSelector() as events:
                for stream in kept:
                    events.register(stream, selectors.EVENT_READ)
                os.set_blocking(child.stdin.fileno(), False)
                if stdin:
                    events.register(child.stdin, selectors.EVENT_WRITE)
                else:
                    child.stdin.close()
                while len(events.get_map()) > (0 if child.stdin.closed else 1) and not status:
                    for key, _ in events.select(max(0, deadline - time.monotonic())):
                        stdin = _exchange(key.fileobj, events, kept, child, stdin)
                    if time.monotonic() >= deadline:
                        status = "timeout"
                    elif max(map(len, kept.values())) > limits.output:
                        status = "output"
            if not status:
                child.wait(max(0.01, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = "timeout"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                child.stdin.close()
        code = child.wait()
    out, err = (bytes(data[: limits.output]).decode("utf-8", "replace") for data in kept.values())
    return Ran(status or ("ok" if code == 0 else "error"), code, out, err, time.monotonic() - began)


def _exchange(stream, events, kept, child, stdin: bytes) -> bytes:
    """Reads once, or writes once; what is still to be written."""
    if stream is child.stdin:
        try:
            stdin = stdin[os.write(stream.fileno(), stdin[:FILE]) :]
        except BlockingIOError:
            return stdin
        except BrokenPipeError:  # it reads no more
            stdin = b""
        if not stdin:
            events.unregister(stream)
            stream.close()
        return stdin
    data = os.read(stream.fileno(), 1 << 16)
    kept[stream] += data
    if not data:
        events.unregister(stream)
    return stdin
