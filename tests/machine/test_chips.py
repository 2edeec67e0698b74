"""The table of accelerators is about what it says."""

import pytest

from jaxlm.errors import UserError
from jaxlm.machine.chips import CHIPS, GiB, chip, of_kind


def test_figures_are_of_one_device_in_bytes_and_seconds():
    for c in CHIPS.values():
        assert 1e14 < c.flops < 5e15 and 5e11 < c.hbm < 1e13 and 10 * GiB < c.usable <= c.memory < 200 * GiB
        # What is farther is slower, and no product of large matrices waits for memory.
        assert c.network < c.links * c.link < c.hbm < c.flops
        assert c.tpu == (c.torus in (2, 3)) and (not c.tpu or c.links == 2 * c.torus)


@pytest.mark.parametrize(
    "kind, name",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GB200", "gb200"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "v7x"),
        ("cpu", None),
    ],
)
def test_jax_calls_them_so(kind, name):
    found = of_kind(kind)
    assert (found and found.name) == name


def test_an_unknown_one_lists_those_known():
    with pytest.raises(UserError, match=r"unknown accelerator 'h1000': did you mean 'h100'\? \(v4, .*gb200\)"):
        chip("h1000")
