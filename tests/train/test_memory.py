"""Too little memory is said before it is used, with what helps."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from jaxlm.errors import UserError
from jaxlm.machine import hardware
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import memory
from jaxlm.train.setup import Setup
from tests import tiny

GiB = 2**30
RUN = tiny.run(batch=64)


def one():
    return make_mesh(MeshConfig(data=1), jax.devices()[:1])


def need(run) -> float:
    """GiB that the step needs beside its state."""
    return memory.compile_step(Setup(run, one())).memory_analysis().temp_size_in_bytes / GiB


@pytest.fixture
def refused(monkeypatch):
    """What is said when a device has next to nothing."""

    def message(run, mesh) -> str:
        with monkeypatch.context() as patch, pytest.raises(UserError) as e:
            patch.setattr(hardware, "memory_limit", lambda: 2**18)
            memory.compile_step(Setup(run, mesh))
        return str(e.value)

    return message


def test_the_savings_are_about_what_the_compiler_finds(refused):
    said = refused(RUN, one())
    assert re.match(r"the training step needs 0\.0 GiB, a device has 0\.0 GiB: try accumulate=2 \(saves", said)
    saved = dict(re.findall(r"(\S+) \(saves about (\S+) GiB\)", said))
    assert set(saved) == {"accumulate=2", "model.remat=full"}
    before = need(RUN)
    parts = before - need(dataclasses.replace(RUN, accumulate=2))
    remat = before - need(dataclasses.replace(RUN, model=tiny.model(remat="full")))
    assert 0.6 < parts / float(saved["accumulate=2"]) < 1.6
    assert 0.6 < remat / float(saved["model.remat=full"]) < 1.6


def test_what_cannot_help_is_not_offered(refused):
    said = refused(dataclasses.replace(RUN, batch=1, model=tiny.model(remat="full")), one())
    assert "accumulate" not in said and "remat" not in said and said.endswith(", or a smaller batch, data.T or model")
    said = refused(dataclasses.replace(RUN, batch=8), make_mesh(MeshConfig(data=8)))
    assert "accumulate" not in said  # eight rows on eight devices
    assert "mesh.fsdp=8 mesh.data=1 (divides weights and optimizer state by 8)" in said
    said = refused(dataclasses.replace(RUN, batch=8, mesh=MeshConfig(data=1, fsdp=8)), make_mesh(MeshConfig(1, 8)))
    assert "mesh" not in said


def test_a_batch_larger_than_any_machine():
    with pytest.raises(
        UserError, match=r"the training step needs \d{4,}\.\d GiB, .* try accumulate=2 \(saves about \d"
    ):
        memory.compile_step(Setup(dataclasses.replace(RUN, batch=2**25), one()))


def test_the_runtime_is_translated():
    line = r"^out of memory \(while allocating 1048576\.0 GiB\): try accumulate=2, or "
    with pytest.raises(UserError, match=line), memory.memory_explained(RUN):
        jnp.zeros(2**50, jnp.uint8).block_until_ready()


def test_other_errors_are_not():
    with pytest.raises(jax.errors.JaxRuntimeError), memory.memory_explained(RUN):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
    with pytest.raises(KeyError), memory.memory_explained(RUN):
        raise KeyError
