"""A program for TPUs that are not there: lowered by one process, compiled there until its memory is assigned, and read
here. Machine code, which takes most of the time and changes neither memory nor traffic, is not made."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchsuite.piece import ROOT

PATIENCE = 1500  # seconds that a program may take
WRITTEN = ("*after_optimizations-memory-usage-report.txt", "*after_optimizations.txt")


class Dumped:
    """What a lowering process tells and the compiler writes, in a folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def tell(self, **what: Any) -> None:
        """Called by the process when it has lowered, before it compiles."""
        spent = os.times()
        told = what | {"lowered": time.time(), "processor": spent.user + spent.system}
        (self._folder / "told.part").write_text(json.dumps(told))
        os.replace(self._folder / "told.part", self._folder / "told.json")

    def told(self) -> dict[str, Any]:
        return json.loads((self._folder / "told.json").read_text())

    def options(self) -> dict[str, Any]:
        """Of the compiler."""
        return {"xla_dump_to": str(self._folder), "xla_dump_hlo_as_text": True}

    def text(self, pattern: str) -> str:
        return max(self._folder.glob(pattern), key=lambda file: file.stat().st_size).read_text()

    def sizes(self) -> list[int]:
        return [sum(file.stat().st_size for file in self._folder.glob(pattern)) for pattern in WRITTEN]


def made(module: str, job: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """A piece: what the program is that `python -m benchsuite.MODULE` lowers: bytes of memory and sent by kind, FLOPs,
    instructions, seconds, and of a decoding step what a token costs. Without room on a device `needed` alone."""
    from jaxlm.plan import memory

    with tempfile.TemporaryDirectory(prefix="jaxlm-bench-") as name:
        folder, dumped = Path(name), Dumped(Path(name))
        (folder / "job.json").write_text(json.dumps(job | {"folder": name}))
        with open(folder / "log", "wb") as log:
            child = subprocess.Popen(
                [python, "-m", f"benchsuite.{module}", str(folder / "job.json")],
                env=os.environ | _absent(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=name,
            )
            try:
                seconds = _wait(child, dumped)
            finally:
                child.kill()
                child.wait()
        if seconds is None:
            said = (folder / "log").read_text(errors="replace")
            if found := memory.needed(Exception(said)):
                return {"needed": found[0], "limit": found[1]}
            raise RuntimeError(said.strip().splitlines()[-1][:300])
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = dumped.told()
        out = _read(dumped, told) | {"lowered_seconds": told["lowered"] - told["started"], "seconds": seconds}
        out["processor_seconds"] = spent.ru_utime + spent.ru_stime - told["processor"]
        return out | {"child_gib": spent.ru_maxrss / 2**20, "by": told["versions"]}


def _absent() -> dict[str, str]:
    """libtpu without TPUs, and no program from a cache, of which there would be no text."""
    paths = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {
        "PYTHONPATH": os.pathsep.join(paths),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "XLA_FLAGS": "",
        "JAX_TRACEBACK_FILTERING": "off",  # it would make the last line of an error one about filtering
    }
    return quiet | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}


def _wait(child: subprocess.Popen, dumped: Dumped) -> float | None:
    """Seconds from the lowered program to the assigned one; None if the process ended without."""
    before, end = None, time.time() + PATIENCE
    while time.time() < end:
        ended, sizes = child.poll() is not None, dumped.sizes()
        if all(sizes) and (sizes == before or ended):
            return time.time() - dumped.told()["lowered"]
        if ended:
            return None
        before = sizes
        time.sleep(1)
    raise TimeoutError(f"not compiled within {PATIENCE} s")


def _read(dumped: Dumped, told: dict[str, Any]) -> dict[str, Any]:
    import re

    import numpy as np

    from benchsuite import per_token, products
    from jaxlm.plan.collectives import collectives
    from jaxlm.plan.hlo import Module

    module = Module(dumped.text("*after_optimizations.txt"))
    report = dumped.text(WRITTEN[0])
    spaces = re.findall(r"Memory Space: (\w+).*?\nTotal bytes: (\d+)", report)
    slices = np.array(told["slices"]).reshape(told["shape"])
    wire: dict[str, float] = {}
    for c in collectives(module, tuple(told["axes"]), slices, own_ids=True):
        share = 1.0 if c.kind == "collective-permute" else (c.size - 1) / c.size
        name = c.kind + " between slices" * c.slow
        wire[name] = wire.get(name, 0) + share * (2 if c.kind == "all-reduce" else 1) * c.nbytes * c.times
    out = {
        "bytes": next(int(n) for space, n in spaces if space == "default"),
        "host_bytes": sum(int(n) for space, n in spaces if "host" in space.lower()),
        "wire": wire,
        "flops": products.flops(module),
        "instructions": module.size,
    }
    if "cache" in told:
        out |= per_token.costs(module, told["cache"], told["weights"])
    return out | {name: told[name] for name in ("params", "cache_bytes", "weights") if name in told}
