"""Pieces of work: functions run in a process of their own, which take and return plain JSON.

    result = run("training:train", {"size": {...}}, cores=2)

is `benchsuite.training.train(size={...})` in a fresh Python, and adds to its result what was true while it
ran: versions of the libraries it imported, device, load average, processor cores that others used, peak memory, times.
The Python may be another environment's: this file needs the standard library only, and so does `jaxlm.machine.host`.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jaxlm.machine import host

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers", "tokenizers", "sentencepiece", "regex")
TIMEOUT = 1800  # seconds after which a piece is killed


class PieceFailed(Exception):
    """The process of a piece ended without a result; the message is the end of what it wrote."""


def run(
    function: str,
    args: dict[str, Any],
    *,
    python: str = sys.executable,
    cores: int | None = None,
    env: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The result of `function` ("module:name" in this package), computed on `cores` processor cores (None: all)."""
    with tempfile.TemporaryDirectory(prefix="jaxlm-bench-") as folder:
        job, result, log = (Path(folder) / name for name in ("job.json", "result.json", "log"))
        job.write_text(json.dumps({"function": function, "args": args, "cores": cores, "result": str(result)}))
        paths = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = host.environment(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)} | (env or {})
        if cores is not None:
            environment["OMP_NUM_THREADS"] = str(cores)
        started = time.time()
        with open(log, "wb") as out:
            try:
                code = subprocess.run(
                    [python, "-m", "benchsuite.piece", str(job)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=TIMEOUT,
                ).returncode
            except (OSError, subprocess.TimeoutExpired) as e:
                raise PieceFailed(f"{function}: {e}") from None
        if code or not result.exists():
            raise PieceFailed(f"{function}: exit code {code}: {_end(log)}")
        return {"started": started} | json.loads(result.read_text())


def _end(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing was printed"


def _work(job: dict[str, Any]) -> dict[str, Any]:
    if job["cores"] and hasattr(os, "sched_setaffinity"):  # before any library makes its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["cores"]])
    load, others, start = os.getloadavg()[0], _others_seconds(), time.time()
    module, name = job["function"].split(":")
    result = getattr(importlib.import_module(f"benchsuite.{module}"), name)(**job["args"])
    end = time.time()
    return result | {
        "finished": end,
        "others": max(0.0, (_others_seconds() - others) / (end - start)),
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES if name in sys.modules},
        "device": _device(),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30,
    }


def _others_seconds() -> float:
    """Seconds that processor cores were busy with other things than this process; 0 where it is not told."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def _device() -> str:
    if "jax" in sys.modules and (device := sys.modules["jax"].devices()[0]).platform != "cpu":
        return device.device_kind
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} core{'s' if cores != 1 else ''}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    _job = json.loads(Path(sys.argv[1]).read_text())
    _result = json.dumps(_work(_job))
    Path(_job["result"]).write_text(_result)
