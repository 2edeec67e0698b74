"""Topologies by name, and the meshes of their devices."""

import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.plan import topology as topologies
from jaxlm.plan.topology import Topology, parse
from jaxlm.sharding import MeshConfig


@pytest.mark.parametrize(
    "name, devices, slices, tpu",
    [
        ("v5p:8x8x8", 512, 1, True),
        ("2xv5p:16x16x16", 8192, 2, True),
        ("v5e:16x16", 256, 1, True),
        ("v5e:1x1", 1, 1, True),
        ("v5e:4x2", 8, 1, True),
        ("v4:8x4x12", 384, 1, True),
        ("v5p:16x16x24", 6144, 1, True),
        ("v7x:2x2x1", 8, 1, True),  # two devices a chip
        ("h200:8", 8, 1, False),
        ("h100:64", 64, 8, False),
        ("a100:2", 2, 1, False),
        ("gb200:144", 144, 2, False),
        ("cpu:8", 8, 1, False),
    ],
)
def test_names(name, devices, slices, tpu):
    topology = parse(name)
    assert (topology.devices, topology.slices, topology.tpu) == (devices, slices, tpu)
    assert topology.per_slice * slices == devices


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5p", "is not like v5e:16x16"),
        ("v5x:4x4", r"unknown topology 'v5x': did you mean 'v\d.'\? \(v4, v5e, .*cpu\)"),
        ("v5p:3x5x7", "no slice of v5p has these sides: the nearest is v5p:4x4x8"),
        ("v4:6x4x4", "the nearest is v4:4x4x"),
        ("v5p:3x2x1", "the nearest is v5p:2x2x1"),
        ("v7x:2x2x6", "the nearest is v7x:2x2x4"),
        ("v5p:2x8x16", "the nearest is v5p:4x8x16"),
        ("v5e:2x8", "no slice of v5e has these sides: the nearest is v5e:2x4"),
        ("2xv6e:12x16", "the nearest is v6e:16x16"),
        ("v6e:3x1", "the nearest is v6e:1x2"),
        ("v5e:4x4:wrap", "follows from the shape, v5e:4x4 has no such links: write v5e:4x4"),
        ("2xv5e:4x16_untwisted", "no slice of v5e has these sides"),
        ("v5p:4x4x4,wrap=111", "v5p:4x4x4 has such links: write v5p:4x4x4"),
        ("h100:8:wrap", "h100:8 has no such links"),
        ("v5p:16x16", "a slice of v5p has 3 dimensions, as in v5p:4x4x4"),
        ("v5e:32x32", "at most 256 chips, not 1024: take several slices"),
        ("v5p:0x2x2", "at least 1"),
        ("0xv5e:2x2", "at least 1"),
        ("h100:12", "come in nodes of 8: choose a multiple of 8"),
        ("2xh100:8", "say how many devices there are, as in h100:8"),
        ("h100:2x4", "say how many devices there are, as in h100:8"),
        ("cpu:0", "at least 1"),
    ],
)
def test_mistakes(name, message):
    with pytest.raises(UserError, match=message):
        parse(name)


def test_nodes_of_fake_devices_are_those_of_the_mesh():
    """Data goes across two nodes, everything else lies within one."""
    nodes = Topology("two nodes of four", None, (4,), 2)
    mesh = topologies.mesh(nodes, MeshConfig(data=2, fsdp=2, tensor=2))
    assert isinstance(mesh.devices.flat[0], jax.Device)
    slices = topologies.slice_of(nodes, mesh)
    np.testing.assert_array_equal(slices, np.arange(2).reshape(1, 2, 1, 1, 1, 1) + np.zeros(mesh.devices.shape))
    with pytest.raises(UserError, match="needs 16 fake devices, here are 8"):
        topologies.mesh(parse("cpu:16"))
    with pytest.raises(UserError, match="the product of the axes must be 8"):
        topologies.mesh(parse("cpu:8"), MeshConfig(data=3))


@pytest.mark.parametrize(
    "name", ["cpu:999999999999", "v5e:" + "9" * 5000, "9" * 5000 + "xv5e:2x2", "h100:" + "8" * 5000, "x" * 5000]
)
def test_numbers_that_are_too_large_are_one_line(name):
    with pytest.raises(UserError) as caught:
        parse(name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name, closed",
    [
        ("v5e:16x16", (True, True, False)),
        ("v6e:8x16", (False, True, False)),
        ("v5e:4x4", (False, False, False)),
        ("v5p:4x4x8", (True, True, True)),
        ("2xv4:4x4x4", (True, True, True)),
        ("v7x:2x4x4", (False, False, False)),
    ],
)
def test_links_that_close_the_torus(name, closed):
    assert topologies.wrap(parse(name)) == closed
