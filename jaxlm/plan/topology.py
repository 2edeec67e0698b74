"""Devices that need not be there: "v5p:8x8x8", "2xv5p:16x16x16" (two slices), "h200:8", "h100:64", "cpu:8".

A TPU is named with the shape of its slice in chips, and how many slices; a GPU with how many there are, in nodes.
"""

import dataclasses
import importlib.util
import itertools
import math
import os
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm import compat, sharding
from jaxlm.errors import UserError, unknown
from jaxlm.machine.chips import CHIPS, Chip
from jaxlm.sharding import MeshConfig

DIGITS = 9  # of a number in a name
MOST = 2**20  # devices of a topology
HOST = 4  # chips of a machine, 2 x 2
EXAMPLES = "v5e:16x16, 2xv5p:8x8x8 (two slices), h100:64, cpu:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of chips in a torus (TPU), nodes of devices (GPU), or fake devices of this machine (`chip` is None)."""

    name: str
    chip: Chip | None
    shape: tuple[int, ...]  # in chips, of a slice; or devices of a node
    slices: int = 1  # or nodes, which the slow network connects

    @property
    def tpu(self) -> bool:
        return self.chip is not None and self.chip.tpu

    @property
    def per_slice(self) -> int:
        """Devices of a slice or node."""
        return math.prod(self.shape) * (self.chip.cores if self.chip else 1)

    @property
    def devices(self) -> int:
        return self.per_slice * self.slices


def parse(name: str) -> Topology:
    """The topology of this name. Raises UserError for one that is unknown, or that cannot be built."""
    if (cut := re.search(r"[^a-z0-9]?(?:un|no)?(?:wrap|twist)", name)) and cut.start():
        own = parse(name[: cut.start()])
        links = own.tpu and any(wrap(own))
        raise UserError(
            f"topology {name[:40]!r}: which sides links close follows from the shape, {own.name} has "
            f"{'such' if links else 'no such'} links: write {own.name}"
        )
    found = re.fullmatch(r"(?:(\d+)x)?([a-z]\w*):(\d+(?:x\d+)*)", name)
    if not found:
        raise UserError(f"topology {name[:40]!r} is not like {EXAMPLES}: know {', '.join([*CHIPS, 'cpu'])}")
    if max(map(len, re.findall(r"\d+", name))) > DIGITS:
        raise UserError(f"topology {name[:40]!r}...: a number in it is too large")
    slices, kind, shape = int(found[1] or 1), found[2], tuple(map(int, found[3].split("x")))
    if kind != "cpu" and kind not in CHIPS:
        raise unknown("topology", kind, [*CHIPS, "cpu"])
    chip = CHIPS.get(kind)
    if 0 in shape or not slices:
        raise UserError(f"topology {name!r}: every number must be at least 1")
    if chip is not None and chip.tpu:
        return _slices(Topology(name, chip, shape, slices))
    if len(shape) != 1 or found[1]:
        raise UserError(f"topology {name!r}: say how many devices there are, as in {kind}:8")
    if shape[0] > MOST:
        raise UserError(f"topology {name!r}: at most {MOST:,} devices")
    count, most = shape[0], chip.most if chip else shape[0]
    if count > most and count % most:
        raise UserError(f"topology {name!r}: more than {most} come in nodes of {most}: choose a multiple of {most}")
    return Topology(name, chip, (min(count, most),), max(count // most, 1))


def _slices(topology: Topology) -> Topology:
    name, chip, shape = topology.name, topology.chip, topology.shape
    assert chip is not None
    if len(shape) != chip.torus:
        example = f"{chip.name}:{'x'.join(['4'] * chip.torus)}"
        raise UserError(f"topology {name!r}: a slice of {chip.name} has {chip.torus} dimensions, as in {example}")
    if math.prod(shape) > chip.most:
        raise UserError(
            f"topology {name!r}: a slice of {chip.name} has at most {chip.most} chips, not {math.prod(shape)}: "
            f"take several slices, as in 2x{chip.name}:..."
        )
    known = _known(chip)
    if sorted(shape) not in map(sorted, known):
        apart = lambda other: sum(abs(math.log(a / b)) for a, b in zip(sorted(other), sorted(shape)))
        near = "x".join(map(str, min(known, key=apart)))
        raise UserError(
            f"topology {name!r}: no slice of {chip.name} has these sides: the nearest is {chip.name}:{near}"
        )
    return topology


def _known(chip: Chip) -> list[tuple[int, ...]]:
    """The sides of the slices of a TPU that there are: of v5e and v6e powers of two up to 16, of the others multiples
    of 4 from 4x4x4 on. Less than a host, which has 2x2 chips, is a line."""
    if chip.torus == 2:
        return [(a, b) for a in (1, 2, 4, 8, 16) for b in (a, 2 * a) if a * b <= chip.most]
    few = [(1, 1, 1), (1, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)]
    sides = range(4, chip.most // 16 + 1, 4)
    return few + [s for s in itertools.combinations_with_replacement(sides, 3) if math.prod(s) <= chip.most]


def wrap(topology: Topology) -> tuple[bool, ...]:
    """Along which sides of a slice links close the torus: of v5e and v6e a side of 16 chips, of the others all where
    every side is a multiple of 4. Without them the compiler sends round no ring."""
    assert topology.chip is not None
    if topology.chip.torus == 2:
        return topology.shape[0] == 16, topology.shape[1] == 16, False
    return (all(n % 4 == 0 for n in topology.shape),) * 3


def has_compiler(topology: Topology) -> bool:
    """Whether programs for it can be compiled by its own compiler here: TPUs where libtpu is installed."""
    return topology.tpu and importlib.util.find_spec("libtpu") is not None


def compiles(topology: Topology) -> bool:
    """Whether the devices' own compiler is here: a TPU's, or of fake devices this machine's."""
    return topology.chip is None or has_compiler(topology)


def mesh(topology: Topology, config: MeshConfig = MeshConfig()) -> Mesh:
    """The mesh of the topology's devices: to compile for, not to run on.

    Without its compiler the devices are this machine's CPU, of which XLA must be told to make enough
    (`--xla_force_host_platform_device_count`). Raises UserError for a shape that does not match.
    """
    if has_compiler(topology):
        return sharding.make_mesh(config, _described(topology))
    here = jax.devices("cpu")
    if len(here) < topology.devices:
        raise UserError(f"topology {topology.name!r} needs {topology.devices} fake devices, here are {len(here)}")
    placed = [_Placed(here[i], i // topology.per_slice) for i in range(topology.devices)]
    fake = sharding.make_mesh(config, placed)
    own = np.vectorize(lambda device: device.device, otypes=[object])(fake.devices)
    return Mesh(own, fake.axis_names, axis_types=fake.axis_types)


def slice_of(topology: Topology, mesh: Mesh) -> np.ndarray:
    """The number of each device's slice or node, in the shape of the mesh."""
    fake = lambda device: getattr(device, "id", 0) // topology.per_slice
    one = (lambda device: getattr(device, "slice_index", 0)) if has_compiler(topology) else fake
    return np.vectorize(one, otypes=[int])(mesh.devices)


def _described(topology: Topology) -> list[Any]:
    from jax.experimental import topologies

    # libtpu may be in use by another process, and would ask a cloud's servers what machine this is.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    compat.allow_absent_tpus()
    assert topology.chip is not None
    name = {"v7x": "tpu7x"}.get(topology.chip.name, topology.chip.name)
    more: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        more["chip_config_name"] = "megacore"  # both cores of a chip are one device, as on the machines themselves
    if math.prod(topology.shape) < HOST:
        more["chips_per_host_bounds"] = (*topology.shape, 1, 1)[:3]  # without which older libtpu wants whole hosts
    more["wrap"] = wrap(topology)
    shape = "x".join(map(str, topology.shape))
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=f"{name}:{shape}", **more).devices)
    except jax.errors.JaxRuntimeError as e:
        raise UserError(f"topology {topology.name!r}: {str(e).partition(': ')[2].splitlines()[0]}") from None


class _Placed:
    """A fake device that says in which node it would be."""

    def __init__(self, device: Any, slice_index: int):
        self.device, self.slice_index = device, slice_index

    def __getattr__(self, name: str) -> Any:
        return getattr(self.device, name)
