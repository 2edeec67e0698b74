"""Real processes on loopback: they train, evaluate and save as one, agree, stop and end together."""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxlm import compat, config
from jaxlm.checkpoints.checkpoint import steps
from jaxlm.sharding import MeshConfig
from jaxlm.train import loop
from tests import tiny
from tests.train.runs import numbers

ROOT = Path(__file__).resolve().parents[2]
MINUTE = 60  # within which all must have ended when one has died


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def process(*argv, env=None, moment=None, patch=()) -> dict:
    return {"argv": ["train", *map(str, argv)], "env": env or {}, "moment": moment, "patch": list(patch)}


def together(folder: Path, specs: list[dict], seconds: float = 500) -> tuple[list[int], list[float], list[str]]:
    """Exit codes, ends in seconds since the first one's, and outputs of processes of one device each."""
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("many.py")), str(folder), str(seconds)]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, input=json.dumps(specs), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codes, ends = zip(*json.loads(done.stdout))
    return list(codes), list(ends), [(folder / f"{i}.txt").read_text() for i in range(len(specs))]


def by_flags(count: int, *argv, moments=None, patches=None) -> list[dict]:
    """Processes told of each other by flags."""
    coordinator = f"127.0.0.1:{free_port()}"
    flags = lambda i: ("--coordinator", coordinator, "--num-processes", count, "--process-id", i)
    moments, patches = moments or {}, patches or {}
    return [process(*argv, *flags(i), moment=moments.get(i), patch=patches.get(i, ())) for i in range(count)]


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("jaxlm: error: ")]


@pytest.fixture(scope="module")
def saved_config(tmp_path_factory, text) -> Path:
    run = tiny.run(text, steps=8, save_every=2, eval_every=3, sample_every=3, mesh=MeshConfig(data=-1), accumulate=2)
    run = dataclasses.replace(run, batch=8, model=tiny.model(dropout=0.1))
    path = tmp_path_factory.mktemp("many") / "tiny.json"
    config.save(run, path)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_as_one_process_killed_stopped_and_gone_on_with_other_numbers(saved_config, tmp_path, capsys):
    """Four processes, one of them killed; two, one of them told to stop; one to the end. And one alone, undisturbed."""
    folder, more = tmp_path / "run", ("--run", tmp_path / "run")
    meshes = ("mesh.data=2", "mesh.fsdp=2"), ("mesh.data=1", "mesh.tensor=2")
    four = by_flags(4, saved_config, *more, *meshes[0], "sample_every=0", moments={2: "KILL:step:5"})
    codes, ends, outputs = together(tmp_path / "four", four)
    assert codes == [2, 2, -9, 2], "\n".join(outputs)
    assert max(ends) < MINUTE
    for i in (0, 1, 3):
        assert errors(outputs[i])[-1].startswith(f"jaxlm: error: process {i} of 4: another process"), outputs[i]
        assert "Traceback" not in outputs[i]
    newest = steps(folder / "checkpoints")[-1]  # that of step 4 may not have been whole

    two = by_flags(2, saved_config, *more, *meshes[1], moments={1: "TERM:step:5"})
    codes, _, outputs = together(tmp_path / "two", two)
    assert codes == [0, 0], "\n".join(outputs)
    assert f"{folder}: at step {newest} of 8" in outputs[0] and "SIGTERM: saved step 6 and stopped" in outputs[0]
    assert [line for line in outputs[1].splitlines() if not line.startswith("[Gloo]")] == []  # only the first one tells
    assert steps(folder / "checkpoints")[-1] == 6

    run = dataclasses.replace(config.load(saved_config), mesh=MeshConfig(data=1))
    loop.train(run, folder)
    assert f"{folder}: at step 6 of 8" in capsys.readouterr().out
    loop.train(run, tmp_path / "alone")
    ours, theirs = numbers(folder), numbers(tmp_path / "alone")
    assert [line["step"] for line in theirs if "eval/loss" in line] == [3, 6, 8]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=1e-5, atol=1e-5)
    assert re.findall(r"=== step \d+", (folder / "samples.txt").read_text())[-2:] == ["=== step 6", "=== step 8"]


@pytest.mark.skipif(compat.older(0, 10), reason="this jax ends the process itself, in its own words")
def test_the_others_end_when_the_coordinator_dies(saved_config, tmp_path):
    specs = by_flags(2, saved_config, "--run", tmp_path / "run", patches={0: ["die_preparing"]})
    codes, ends, outputs = together(tmp_path / "out", specs)
    assert codes == [-9, 2], "\n".join(outputs)
    assert max(ends) < MINUTE and "Traceback" not in outputs[1]
    last = errors(outputs[1])[-1]
    assert last.startswith("jaxlm: error: process 1 of 2: another process or its machine is gone (")
    assert last.endswith("): start all processes again, and the run goes on from its newest checkpoint")


def test_processes_of_other_configs_say_so_under_slurm(saved_config, tmp_path):
    env = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    env |= {"JAX_COORDINATOR_PORT": str(free_port())}
    tasks = [env | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    rates = ("optimizer.learning_rate=0.02", "optimizer.learning_rate=0.03")
    specs = [process(saved_config, "--run", tmp_path / "run", rate, env=task) for rate, task in zip(rates, tasks)]
    codes, _, outputs = together(tmp_path / "out", specs)
    assert codes == [2, 2], "\n".join(outputs)
    for i, output in enumerate(outputs):
        assert errors(output) == [
            f"jaxlm: error: process {i} of 2: the processes disagree on the config: from process 0 to process 1 "
            "optimizer.learning_rate: 0.02 -> 0.03: start all with the same config and overrides"
        ]
    assert not (tmp_path / "run").exists()


def test_processes_of_other_versions_say_so(saved_config, tmp_path):
    specs = by_flags(2, saved_config, "--run", tmp_path / "run", patches={1: ["other_sources"]})
    codes, _, outputs = together(tmp_path / "out", specs)
    assert codes == [2, 2], "\n".join(outputs)
    version = r"jax [\d.]+, jaxlm sources"
    want = (
        rf"process \d of 2: the processes disagree on the versions: process 0 has {version} [0-9a-f]+; process 1 has "
    )
    for output in outputs:
        (error,) = errors(output)
        assert re.search(want + rf"{version} 0ld: install the same ones everywhere", error), error


def test_a_folder_that_is_not_shared_is_refused_under_mpi(saved_config, tmp_path):
    env = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}
    env |= {"JAX_COORDINATOR_PORT": str(free_port())}
    ranks = [env | {"OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)} for i in range(2)]
    specs = [
        process(saved_config, "--run", tmp_path / f"run{i}", env=rank, patch=["impatient"])
        for i, rank in enumerate(ranks)
    ]
    codes, _, outputs = together(tmp_path / "out", specs)
    assert codes == [2, 2], "\n".join(outputs)
    for i, output in enumerate(outputs):
        assert re.search(
            rf"process {i} of 2: process 1 does not see the folder .*run{i} of process 0", errors(output)[0]
        )


def test_nobody_comes(saved_config, tmp_path):
    """A coordinator that is not there; one that waits for others; and one that is asked by too many."""
    where, there = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    flags = lambda coordinator, count, i: ("--coordinator", coordinator, "--num-processes", count, "--process-id", i)
    alone = lambda *argv: process(saved_config, "--timeout", 3, *argv)
    specs = [alone(*flags(where, 2, 1)), alone(*flags(there, 3, 0)), alone(*flags(there, 3, 1))]
    codes, _, outputs = together(tmp_path / "out", specs)
    assert codes == [2, 2, 2], "\n".join(outputs)
    lines = [line for output in outputs for line in output.splitlines()]
    assert lines[0] == (
        "jaxlm: error: process 1 of 2 waited 3 s for the coordinator, which is not there: "
        f"{where}: Connection refused: is process 0 running on that machine, and may this one reach that port?"
    )
    same = "start 3 processes with the same --coordinator and --num-processes, each with its --process-id"
    assert lines[1] == f"jaxlm: error: process 0 of 3 waited 3 s at {there} for the other processes: {same}"
    assert lines[2] == (
        f"jaxlm: error: process 1 of 3 waited 3 s: the coordinator {there} is there, but not all others are: {same}"
    )


def test_a_port_that_is_taken(saved_config, tmp_path):
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        argv = ("--coordinator", f"127.0.0.1:{taken.getsockname()[1]}", "--num-processes", 2, "--process-id", 0)
        codes, _, (output,) = together(tmp_path / "out", [process(saved_config, *argv)])
    assert codes == [2], output
    assert errors(output) == [
        f"jaxlm: error: the port of the coordinator {argv[1]} is taken on this machine: choose another"
    ]
