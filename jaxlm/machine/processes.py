"""Many processes as one program: found and joined by `jax.distributed`, of one mind when they begin, gone together.

    with joined(Place("10.0.0.1:8476", 4, 2)):     # or Place(), under SLURM, Open MPI, Kubernetes or on a TPU pod
        train(run, folder)

jax ends a process from within (by `abort`, with a page of C++) when the coordinator does not answer or another process
dies. So that the last line is always one to act on, this module speaks when `abort` is called.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlm import compat, config
from jaxlm.errors import UserError, machine_trouble

HEARTBEAT = 40  # seconds of silence after which a process counts as dead; the others end within a minute
GRACE = 60  # seconds that jax gets beyond our own limit, so that it is we who speak
LINGER = 3  # seconds that process 0 stays after an error
PATIENCE = 10  # seconds of waiting for the first process before saying so
AGAIN = "start all processes again, and the run goes on from its newest checkpoint"
LOST = re.compile(r"gloo|nccl|coordination|heartbeat|connection (closed|reset)|UNAVAILABLE|DEADLINE_EXCEEDED", re.I)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among others: all of it given, or None of it and found in the environment.

    `search` asks jax to look even where nothing cheap to see says that there are others (Cloud TPU machines).
    """

    coordinator: str | None = None  # HOST:PORT of process 0, which listens there
    count: int | None = None
    index: int | None = None
    search: bool = False
    timeout: int = 300  # seconds until all must have come

    def __post_init__(self):
        given = [x is not None for x in (self.coordinator, self.count, self.index)]
        if self.count == 1 and given == [False, True, False]:
            return  # alone, whatever the environment says
        if any(given) and not all(given):
            raise UserError("give all of --coordinator, --num-processes and --process-id, or none of them")
        if self.coordinator is None or self.count is None or self.index is None:
            return
        if not re.fullmatch(r"[^\s:/]+:\d+|\[[0-9a-fA-F:]+\]:\d+", self.coordinator):
            raise UserError(
                f"--coordinator must be HOST:PORT of process 0, such as 10.0.0.1:8476, not {self.coordinator}"
            )
        if not 0 <= self.index < self.count:
            raise UserError(
                f"--process-id must be from 0 to {self.count - 1} of {self.count} processes, not {self.index}"
            )


def environment(env: Mapping[str, str]) -> str | None:
    """What in the environment says that this process is one of several, by the rules of jax's own search; or None."""
    many = lambda name: env.get(name, "").isdecimal() and int(env[name]) > 1
    listed = lambda name: "," in env.get(name, "")
    if "OMPI_MCA_orte_hnp_uri" in env and many("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI"
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")  # srun sets them, sbatch not all
    if all(name in env for name in slurm) and many("SLURM_NTASKS"):
        return "SLURM"
    if listed("TPU_PROCESS_ADDRESSES") or listed("TPU_WORKER_HOSTNAMES") or many("MEGASCALE_NUM_SLICES"):
        return "the TPU pod"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= env.keys() and importlib.util.find_spec("kubernetes"):
        return "Kubernetes"
    return None


@contextlib.contextmanager
def joined(place: Place) -> Iterator[None]:
    """Within it this process is one of several, if `place` or the environment says so; else nothing happens.

    Only the first one prints; errors go to stderr, which all keep. Leaving it waits for the others; leaving it by an
    exception does not, and ends them too. Raises UserError for what stands in the way of joining; ends the process,
    with one line, when the others do not come in time.
    """
    source = "the flags" if place.coordinator else None if place.count else environment(os.environ)
    if not source and place.search:
        source = "the search"
    if not source:
        yield
        return
    if place.coordinator and place.index == 0:
        _check_port(place.coordinator)
    _last_words(f"{_who(place)}: jax could not join the processes that {source} told of (see above)")
    limit = threading.Timer(place.timeout, lambda: _leave(_nobody(place, source), place.index))
    limit.daemon = True
    limit.start()
    inside = False
    try:
        compat.leave_signals_alone()
        jax.distributed.initialize(
            place.coordinator,
            place.count,
            place.index,
            initialization_timeout=place.timeout + GRACE,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
        limit.cancel()
        inside = True
        _last_words(f"{who()}: another process or its machine is gone (see above): {AGAIN}")
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere if jax.process_index() else sys.stdout),
        ):
            yield
        with leaving_when_lost():
            jax.distributed.shutdown()
    except BaseException as error:
        limit.cancel()
        failure = error
        if not inside and isinstance(error, Exception):
            failure = UserError(f"{_who(place)} could not join the others by {source}: {_line(error)}")
        elif line := str(error) if isinstance(error, UserError) else machine_trouble(error):
            failure = UserError(f"{who()}: {line}")
        code = {UserError: 2, KeyboardInterrupt: 128 + signal.SIGINT}.get(type(failure), 1)
        # Not by jax's way out, which waits for the others, and they for us.
        atexit.register(_end, code, jax.process_index() if inside else place.index)
        if failure is error:
            raise
        raise failure from None


def who() -> str:
    """ "process 1 of 4"; of the only one "the process"."""
    return f"process {jax.process_index()} of {jax.process_count()}" if jax.process_count() > 1 else "the process"


# Of one mind ---------------------------------------------------------------------------------------------------------


def gather(text: str) -> list[str]:
    """This text from every process, in their order. All must call it, and it waits for all."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    with leaving_when_lost():
        sizes = multihost_utils.process_allgather(np.int32(len(data)))
        rows = multihost_utils.process_allgather(np.pad(data, (0, int(sizes.max()) - len(data))))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes)]


def agree(what: str, value: str, otherwise: str) -> None:
    """Raises UserError, on every process, unless all have the same value of `what`."""
    values = gather(value)
    if len(set(values)) > 1:
        have = "; ".join(f"{_these([i for i, x in enumerate(values) if x == v])} {v}" for v in dict.fromkeys(values))
        raise UserError(f"the processes disagree on {what}: {have}: {otherwise}")


def agree_on_run(run: Any) -> None:
    """Raises UserError, on every process, unless all have the same code, the same config and as many devices."""
    if jax.process_count() == 1:
        return
    counts = [sum(d.process_index == i for d in jax.devices()) for i in range(jax.process_count())]
    if len(set(counts)) > 1:  # told apart without a word between them, which would need equal numbers
        raise UserError(f"the processes have different numbers of devices: {counts}: give each the same")
    agree("the versions", f"jax {jax.__version__}, jaxlm sources {_sources()}", "install the same ones everywhere")
    texts = gather(json.dumps(config.to_dict(run)))
    for i, text in enumerate(texts):
        if text != texts[0]:
            first, other = (config.from_dict(json.loads(t)) for t in (texts[0], text))
            changed = config.diff(first, other)
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UserError(
                f"the processes disagree on the config: from process 0 to process {i} {changed[0]}{more}: start all "
                "with the same config and overrides"
            )


@contextlib.contextmanager
def first_before_others(what: str) -> Iterator[None]:
    """Process 0 does what is within before the others begin with it: one works, the rest find its cache."""
    if jax.process_index():
        say = lambda: print(f"jaxlm: {who()} waits for process 0, which {what}", file=sys.stderr, flush=True)
        patience = threading.Timer(PATIENCE, say)
        patience.daemon = True
        patience.start()
        gather("")
        patience.cancel()
    yield
    if jax.process_index() == 0:
        gather("")


# Gone together -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def leaving_when_lost() -> Iterator[None]:
    """Ends this process with one line when a collective fails because another process is gone.

    At once and without cleaning up, which would wait for the one that is gone.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if jax.process_count() == 1 or not LOST.search(str(error)):
            raise
        _leave(f"{who()}: another process or its machine is gone ({_line(error)}): {AGAIN}")


def _leave(line: str, index: int | None = None) -> NoReturn:
    """Prints one error line and ends this process, now."""
    os.write(2, f"jaxlm: error: {' '.join(line.split())}\n".encode())
    _end(2, index)


def _end(code: int, index: int | None) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    if index == 0:
        time.sleep(LINGER)  # the end of the coordinator is the end of all: they may have something to say
    os._exit(code)


_abort: dict[str, Any] = {}  # what C calls, which must not be collected, and the line that it writes


def _last_words(line: str) -> None:
    """What this process says when `abort` is called, from any thread, by any library."""
    _abort["line"] = f"jaxlm: error: {line}\n".encode()
    if "handler" in _abort or sys.platform == "win32":
        return

    def speak(_: int) -> None:  # Python's own handlers would run after the process has ended
        os.write(2, _abort["line"])
        os._exit(2)

    _abort["handler"] = ctypes.CFUNCTYPE(None, ctypes.c_int)(speak)
    ctypes.CDLL(None).signal(ctypes.c_int(signal.SIGABRT), _abort["handler"])


def _nobody(place: Place, source: str) -> str:
    """Why the others may not have come."""
    waited = f"{_who(place)} waited {place.timeout} s"
    if place.coordinator is None:
        return f"{waited} for the processes that {source} told of: are all of them running, and can they be reached?"
    same = f"start {place.count} processes with the same --coordinator and --num-processes, each with its --process-id"
    if place.index == 0:
        return f"{waited} at {place.coordinator} for the other processes: {same}"
    host, _, port = place.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return (
            f"{waited} for the coordinator, which is not there: {place.coordinator}: {error.strerror or error}: is "
            "process 0 running on that machine, and may this one reach that port?"
        )
    return f"{waited}: the coordinator {place.coordinator} is there, but not all others are: {same}"


def _check_port(coordinator: str) -> None:
    """Raises UserError for a port that another program listens on: jax may crash of it."""
    family, here = (socket.AF_INET6, "::") if socket.has_ipv6 else (socket.AF_INET, "0.0.0.0")
    with contextlib.suppress(OSError), socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was left a moment ago is free
        try:
            trial.bind((here, int(coordinator.rpartition(":")[2])))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"the port of the coordinator {coordinator} is taken on this machine: choose another"
                ) from None


def _who(place: Place) -> str:
    return "this process" if place.index is None else f"process {place.index} of {place.count}"


def _these(indices: list[int]) -> str:
    """ "process 1 has", "processes 0, 2 and 6 more have" """
    named = ", ".join(map(str, indices[:4])) + (f" and {len(indices) - 4} more" if len(indices) > 4 else "")
    return f"process {named} has" if len(indices) == 1 else f"processes {named} have"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _sources() -> str:
    """A hash of the library's own sources, its version among them."""
    root, content = Path(__file__).parent, hashlib.blake2b(digest_size=4)
    for path in sorted(root.rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()
