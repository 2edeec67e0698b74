"""Where a process finds the others, what it says of mistakes; and the launch examples, run with stand-ins."""

import os
import re
import shlex
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest
import yaml

from jaxlm import cli, config
from jaxlm.errors import UserError
from jaxlm.machine import processes
from jaxlm.machine.processes import Place, environment
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import batch
from jaxlm.train.batch import rows_here

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "scripts" / "launch"

MPI = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}
SLURM = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}
TASK = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    "env, found",
    [
        ({}, None),
        (MPI, "Open MPI"),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (SLURM | TASK, "SLURM"),
        (SLURM, None),  # in a batch script, outside of srun
        (SLURM | TASK | {"SLURM_NTASKS": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "the TPU pod"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"MEGASCALE_NUM_SLICES": "2"}, "the TPU pod"),
        (KUBERNETES, "Kubernetes"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_the_environment_tells_of_others(env, found, monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: name == "kubernetes")
    assert environment(env) == found
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    assert environment(env) == (None if found == "Kubernetes" else found)  # jax could not ask it


@pytest.mark.parametrize("place", [Place(), Place(count=1)])
def test_one_process_is_left_alone(place, monkeypatch):
    if place.count:
        monkeypatch.setattr(os, "environ", os.environ | MPI)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
    with processes.joined(place):
        assert processes.gather("mine") == ["mine"]


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--coordinator", "a:1"], "give all of --coordinator, --num-processes and --process-id, or none of them"),
        (["--process-id", "1"], "give all of --coordinator, --num-processes and --process-id, or none of them"),
        (["--num-processes", "2"], "give all of --coordinator, --num-processes and --process-id, or none of them"),
        (
            ["--coordinator", "here", "--num-processes", "2", "--process-id", "0"],
            "--coordinator must be HOST:PORT of process 0, such as 10.0.0.1:8476, not here",
        ),
        (
            ["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id must be from 0 to 1 of 2 processes, not 2",
        ),
    ],
)
def test_flags_that_cannot_be(flags, line, capsys):
    assert cli.main(["train", "quickstart", *flags]) == 2
    assert capsys.readouterr().err == f"jaxlm: error: {line}\n"


def test_disagreement_names_who_has_what(monkeypatch):
    monkeypatch.setattr(processes, "gather", lambda text: [text, "b", text, "b", "b", "b", "b", "b"])
    want = "the processes disagree on it: processes 0, 2 have a; processes 1, 3, 4, 5 and 2 more have b: do"
    with pytest.raises(UserError, match=f"^{want}$"):
        processes.agree("it", "a", "do")


def test_other_numbers_of_devices_are_refused_before_a_word_is_said(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(process_index=i) for i in (0, 0, 1)])
    monkeypatch.setattr(processes, "gather", lambda text: pytest.fail("asked"))
    with pytest.raises(UserError, match=r"different numbers of devices: \[2, 1\]"):
        processes.agree_on_run(None)


def test_the_rows_of_a_process(monkeypatch):
    """Every device here is this process's, so the shards that it holds are pretended."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert rows_here(mesh, 16) == rows_here(mesh, 16, 2) == list(range(16))
    monkeypatch.setattr(batch, "_held", lambda mesh: (4, [1, 2]))
    assert rows_here(mesh, 16) == [4, 5, 6, 7, 8, 9, 10, 11]
    assert rows_here(mesh, 16, 2) == [2, 3, 4, 5, 10, 11, 12, 13]  # of each half


@pytest.mark.parametrize(
    "text", ["UNKNOWN: Gloo all-reduce failed: Connection closed by peer", "UNAVAILABLE: task 1 is unhealthy"]
)
def test_a_lost_process_is_told_from_other_errors(text, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_leave", lambda line: said.append(line))
    said: list[str] = []
    with processes.leaving_when_lost():
        raise ValueError(text)
    assert said == [f"process 0 of 2: another process or its machine is gone ({text}): {processes.AGAIN}"]
    with pytest.raises(ValueError, match="shapes"), processes.leaving_when_lost():
        raise ValueError("shapes differ")


# The launch examples -------------------------------------------------------------------------------------------------

STAND_IN = """#!{python}
import os, sys
sys.path.insert(0, {root!r})
from jaxlm import cli
from jaxlm.train import loop
def train(run, folder, feed):
    import jax
    from jaxlm.machine import processes
    os.write(2, f"{{processes.who()}}: {{processes.gather(str(folder))}} {{run.steps}}\\n".encode())
loop.train = train
sys.exit(cli.main(sys.argv[1:]))
"""

SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
for i in 0 1; do
    SLURM_JOB_ID=1 SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_PROCID=$i SLURM_LOCALID=$i "$@" &
done
wait
"""

MPIRUN = """#!/usr/bin/env bash
shift 2
for i in 0 1; do
    OMPI_MCA_orte_hnp_uri="1.0;tcp://127.0.0.1:1" OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=$i \\
        OMPI_COMM_WORLD_LOCAL_RANK=$i "$@" &
done
wait
"""

MPI5RUN = MPIRUN.replace('OMPI_MCA_orte_hnp_uri="1.0;tcp://127.0.0.1:1" OMPI_COMM_WORLD_SIZE=2 ', "")


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.parametrize(
    "script, stand_ins, env",
    [
        ("by_hand 2", {}, ("PORT", "")),
        ("slurm.sbatch", {"srun": SRUN}, ("JAX_COORDINATOR_PORT", "")),
        ("mpi 2", {"mpirun": MPIRUN}, ("JAX_COORDINATOR_PORT", "")),
        ("mpi 2", {"mpirun": MPI5RUN}, ("COORDINATOR", "127.0.0.1:")),
    ],
    ids=["by_hand", "slurm", "mpi", "mpi5"],
)
def test_a_script_starts_processes_that_find_each_other(script, stand_ins, env, tmp_path):
    jaxlm = STAND_IN.format(python=sys.executable, root=str(ROOT))
    for name, text in (stand_ins | {"jaxlm": jaxlm}).items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    added = {"PATH": f"{tmp_path}:{os.environ['PATH']}", env[0]: env[1] + free_port(), "XLA_FLAGS": ""}
    name, *count = script.split()
    command = ["bash", str(LAUNCH / name), *count, "quickstart", "steps=20", "--run", "a b"]
    done = subprocess.run(command, env=os.environ | added, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stderr.splitlines() if line.startswith("process ")]
    assert sorted(lines) == [f"process {i} of 2: ['a b', 'a b'] 20" for i in range(2)], done.stderr
    assert done.returncode == 0


def test_the_pod_script_runs_one_command_everywhere(tmp_path):
    (tmp_path / "gcloud").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "gcloud").chmod(0o755)
    command = ["bash", str(LAUNCH / "tpu_pod"), "pod", "us-x1", "quickstart", "--run", "a b"]
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[:-1] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone", "us-x1", "--worker=all", "--command"]
    args = parsed(out[-1])
    assert (args.config, args.run, args.distributed) == ("quickstart", "a b", True)


def test_the_kubernetes_job_is_one_that_works():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    args = parsed(container["command"][-1].removeprefix("exec ").replace("$JOB_COMPLETION_INDEX", "3"))
    name = job["metadata"]["name"]
    assert args.num_processes == spec["completions"] == spec["parallelism"] and spec["completionMode"] == "Indexed"
    assert args.coordinator.startswith(f"{name}-0.{service['metadata']['name']}:")
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["selector"] == {"job-name": name}
    Place(args.coordinator, args.num_processes, args.process_id)
    mounts = [volume["mountPath"] for volume in container["volumeMounts"]]
    assert any(args.run.startswith(mount) for mount in mounts)


def parsed(command: str):
    """The arguments of a `jaxlm train` command, which the command line would take and whose config is there."""
    program, verb, *argv = shlex.split(command)
    assert (program, verb) == ("jaxlm", "train")
    parser = cli.verb.Parser()
    cli.VERBS["train"].arguments(parser)
    args = parser.parse_intermixed_args(argv)
    config.resolve(args.config, args.overrides)
    return args


def test_the_guide_names_every_example():
    text = (LAUNCH / "README.md").read_text()
    examples = {path.name for path in LAUNCH.iterdir()} - {"README.md"}
    assert examples == set(re.findall(r"\]\((\w[\w.]*)\)", text))
    for command in re.findall(r"\$  (jaxlm train .*)", text):
        args = parsed(command)
        Place(args.coordinator, args.num_processes, args.process_id)
