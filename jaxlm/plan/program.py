"""A training or decoding step for a topology that is not there, compiled in a process of its own.

The process has as many fake devices as the topology, keeps what the TPU compiler writes on stderr to itself, and can
be given up: whatever state this process's jax is in, it stays so.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from jaxlm.config import from_dict, to_dict
from jaxlm.errors import UserError
from jaxlm.models.lm import LMConfig
from jaxlm.plan import topology as topologies
from jaxlm.plan.facts import Program
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig

LIMIT = 1800  # seconds that compiling may take
CAUSE = 300  # characters of an error


def train_program(run: RunConfig, topology: str, seconds: float = LIMIT) -> Program:
    """The training step of `run` on the mesh that it asks for, of the topology of this name.

    `compiled` is False where its compiler is not here (GPUs always; TPUs without libtpu): an estimate by this machine's
    own. A step that does not fit has the memory that it needs, and no collectives. Raises UserError for a
    topology that is unknown, a mesh or batch that does not match, and a compiler that fails or takes too long.
    """
    return _ask("compile_train", topology, run.mesh, seconds, run)


def decode_program(
    config: LMConfig, mesh: MeshConfig, topology: str, rows: int, length: int, seconds: float = LIMIT
) -> Program:
    """The step that gives each of `rows` texts of `length` tokens one more; all else as in `train_program`."""
    return _ask("compile_decode", topology, mesh, seconds, config, rows, length)


def _ask(function: str, name: str, mesh: MeshConfig, seconds: float, what: Any, *more: int) -> Program:
    topology = topologies.parse(name)  # nothing is started for a name that is wrong
    with tempfile.NamedTemporaryFile(prefix="jaxlm-plan-") as answer:
        asked = {"answer": answer.name, "function": function, "topology": name, "mesh": to_dict(mesh)}
        asked |= {"what": to_dict(what), "more": more}
        try:
            child = subprocess.run(
                [sys.executable, "-m", "jaxlm.plan.child"],
                input=json.dumps(asked).encode(),
                env=environment(topology),
                capture_output=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"compiling for {name} takes more than {seconds:.0f} s") from None
        if child.returncode:
            raise UserError(f"compiling for {name} failed: {_cause(child.returncode, child.stderr)}")
        told = json.loads(answer.read())
    if "error" in told:
        raise UserError(told["error"])
    return from_dict(told)


def _cause(code: int, stderr: bytes) -> str:
    """Why the process ended, in one line."""
    if code == -signal.SIGKILL:
        return "its process was killed, most likely because memory ran out: close other programs, or plan less"
    if code < 0:
        return f"the compiler crashed with {signal.strsignal(-code)}: try other versions of jax and libtpu"
    lines = stderr.decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
    return lines[-1][:CAUSE]


def environment(topology: topologies.Topology) -> dict[str, str]:
    """Of a process that has the devices and touches no accelerator."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "host_platform_device_count" not in flag]
    fake = [*flags, f"--xla_force_host_platform_device_count={topology.devices}"]
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_TRACEBACK_FILTERING": "off",  # it would make the last line of an error one about filtering
        # libtpu reads these too, and ends the process at a flag that only other compilers know.
        "XLA_FLAGS": "" if topologies.has_compiler(topology) else " ".join(fake),
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is found there is not compiled, and leaves no text
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
