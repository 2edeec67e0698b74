"""Accelerators by their makers' figures: what one jax device of each computes, holds, moves and sends.

Rates are per second and per device, in decimal units where the makers write GB; memory is in bytes. Sources:

[v4], [v5e], [v5p], [v6e], [tpu7x]: docs.cloud.google.com/tpu/docs/<name>, the tables of specifications, which give the
    inter-chip bandwidth of a chip in both directions over all its links; half of it over the links is `link`.
[book]: How To Scale Your Model (Austin et al. 2025), jax-ml.github.io/scaling-book: its tables of TPUs and GPUs; of a
    link it counts on 0.9 of the maker's figure, 4.5e10 and 9e10 one way.
[a100], [h100], [h200], [b200], [gb200]: NVIDIA's datasheets; NVLink is given there in both directions.
[dgx]: NVIDIA's DGX datasheets: one ConnectX adapter a GPU, 200 Gbit/s with A100, 400 with Hopper and Blackwell.
`usable` is what the compiler itself allows a program (libtpu 0.0.52's "exceeds available HBM"), for GPUs the 0.92 of
the memory that is left after the driver's share and XLA's own reserve.
"""

import dataclasses

from jaxlm.errors import unknown

GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a kind, and the network around it."""

    name: str
    kinds: tuple[str, ...]  # how jax calls it: parts of `device_kind`
    flops: float  # dense bfloat16 FLOP/s
    memory: int  # bytes built in
    usable: int  # bytes that a program may use
    hbm: float  # bytes/s between memory and cores
    links: int  # to neighbours (TPU), or to the switch (GPU)
    link: float  # bytes/s of each, one way
    torus: int  # dimensions of the torus of a slice; 0: every device of a node reaches every other at full rate
    most: int  # devices that the fast network joins: a slice, or a node
    network: float  # bytes/s of each device between slices or nodes, one way
    cores: int = 1  # devices on a chip, which share its links

    @property
    def tpu(self) -> bool:
        return self.torus > 0


def _tpu(name, kinds, flops, memory, usable, hbm, links, link, torus, most, network, cores=1) -> Chip:
    sizes = round(memory * GiB), round(usable * GiB)
    return Chip(name, kinds, flops, *sizes, hbm, links, link, torus, most, network, cores)


def _gpu(name, kinds, flops, memory, hbm, links, link, most, network) -> Chip:
    return Chip(name, kinds, flops, round(memory), round(0.92 * memory), hbm, links, link, 0, most, network)


CHIPS = {
    chip.name: chip
    for chip in (
        # name, kinds, FLOP/s, GiB, usable GiB, HBM, links, one way, torus, chips of a pod, between slices, cores.
        # Between slices: v5p and tpu7x 50 and 100 Gbit/s a chip [v5p, tpu7x], v6e 4 NICs of 200 a host of 8 [v6e], v5e
        # 6.4 Tbit/s a pod of 256 [v5e], v4 as v5p [book].
        # Two cores of a v4 are one device ("megacore"); of a tpu7x, which has 192 GiB and 2307e12 FLOP/s, each is one.
        _tpu("v4", ("TPU v4",), 275e12, 32, 30.75, 1.2e12, 6, 4.5e10, 3, 4096, 6.25e9),  # [v4], links [book]
        _tpu("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16, 15.75, 8.19e11, 4, 5e10, 2, 256, 3.1e9),  # [v5e]: 400 GB/s
        _tpu("v5p", ("TPU v5p", "TPU v5"), 459e12, 96, 95.73, 2.765e12, 6, 1e11, 3, 8960, 6.25e9),  # [v5p]: 1200
        _tpu("v6e", ("TPU v6",), 918e12, 32, 31.24, 1.638e12, 4, 1e11, 2, 256, 1.25e10),  # [v6e]: 800 GB/s
        _tpu("v7x", ("TPU7x", "TPU v7"), 1153.5e12, 96, 94.74, 3.69e12, 6, 1e11, 3, 9216, 6.25e9, 2),  # [tpu7x]: 1200
        # name, kinds, FLOP/s, bytes, HBM, links, one way, GPUs that NVLink joins, between them
        _gpu("a100", ("A100",), 312e12, 80e9, 2.039e12, 12, 2.5e10, 8, 2.5e10),  # [a100]: SXM of 80 GB, 600 GB/s
        _gpu("h100", ("H100",), 989e12, 80e9, 3.35e12, 18, 2.5e10, 8, 5e10),  # [h100]: SXM, 900 GB/s
        _gpu("h200", ("H200",), 989e12, 141e9, 4.8e12, 18, 2.5e10, 8, 5e10),  # [h200]
        _gpu("b200", ("B200",), 2250e12, 180e9, 7.7e12, 18, 5e10, 8, 5e10),  # [b200]: HGX, 1800 GB/s
        _gpu("gb200", ("GB200",), 2500e12, 186e9, 8e12, 18, 5e10, 72, 5e10),  # [gb200]: NVL72, per GPU
    )
}


def of_kind(device_kind: str) -> Chip | None:
    """The chip that jax calls so, or None where it is not in the table (any CPU)."""
    matches = [(kind, chip) for chip in CHIPS.values() for kind in chip.kinds if kind in device_kind]
    return max(matches, key=lambda match: len(match[0]), default=(None, None))[1]


def chip(name: str) -> Chip:
    """The chip of this name. Raises UserError listing those known."""
    if name not in CHIPS:
        raise unknown("accelerator", name, CHIPS)
    return CHIPS[name]
