"""The floors, and what stands in for newer releases' names."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from jaxlm import compat
from jaxlm.sharding import make_mesh

ROOT = Path(__file__).resolve().parents[1]
PINNED = dict(
    line.split("==") for line in (ROOT / "constraints/colab.txt").read_text().splitlines() if not line.startswith("#")
)
NEEDED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_the_floors_are_the_same_everywhere():
    floors = dict(re.match(r"([\w-]+)>=([\d.]+)$", need).groups() for need in NEEDED)
    assert {name: floors[name] for name in compat.FLOORS if name != "jaxlib"} == {"jax": "0.7.2", "flax": "0.11.2"}
    assert {name: PINNED[name] for name in compat.FLOORS} == compat.FLOORS
    for name, floor in floors.items():
        pin = PINNED.get(name) or PINNED.get(name.capitalize(), floor)
        assert compat._numbers(floor) <= compat._numbers(pin), name


@pytest.mark.parametrize(
    "found, line",
    [
        ("0.7.1", "jaxlm needs jax 0.7.2 or newer, and this is 0.7.1: pip install --upgrade 'jax>=0.7.2'"),
        ("0.7.2.dev20250901+cpu", None),
        ("0.12", None),
        (None, "jaxlm needs jax, which is not installed: pip install 'jax>=0.7.2'"),
    ],
)
def test_outdated(found, line, monkeypatch):
    def version(name):
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found if name == "jax" else "99"

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert compat.outdated() == line


def test_an_old_jax_is_one_line_at_import(tmp_path):
    """Without a traceback of jax's own names: nothing of jax is imported before it."""
    (tmp_path / "jax-0.6.0.dist-info").mkdir()
    (tmp_path / "jax-0.6.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.6.0\n")
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import jaxlm"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "ImportError: jaxlm needs jax 0.7.2 or newer, and this is 0.6.0: pip"
    )


def test_devices_say_their_platform():
    kinds = {"cpu": "cpu", "TPU v5 lite": "tpu", "NVIDIA H100 80GB HBM3": "gpu"}
    assert {k: compat.device_platform(compat.abstract_device(k, p)) for k, p in kinds.items()} == kinds


def test_the_mesh_that_is_set():
    assert compat.concrete_mesh().empty
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        assert compat.concrete_mesh() == mesh


def test_scans_of_any_jax_are_counted():
    closed = jax.make_jaxpr(lambda x, w: jax.lax.scan(lambda c, y: ((c[0] * w + y, c[1] + y), y), (x[0], x[1]), x))(
        jnp.ones((3, 2)), jnp.ones(2)
    )
    (eqn,) = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "scan"]
    assert compat.scan_counts(eqn.params) == (1, 2)


def test_what_is_read_off_traced_programs():
    assert compat.partitions(jax.sharding.PartitionSpec("data", None, ("fsdp", "tensor"))) == (
        "data",
        None,
        ("fsdp", "tensor"),
    )

    def double(x, y):
        y[...] = 2 * x[...]

    call = pl.pallas_call(double, jax.ShapeDtypeStruct((8,), jnp.float32))
    (eqn,) = jax.make_jaxpr(call)(jnp.ones(8)).eqns
    assert compat.kernel_name(eqn.params) == "double"
