"""What a program exchanges, read from its text: every way to write a group, loops, fusions, slices."""

from pathlib import Path

import numpy as np
import pytest

from jaxlm.plan.collectives import collectives, part
from jaxlm.plan.hlo import Module, dims, plain, sizes

AXES = ("data", "fsdp", "tensor")
ONE = np.zeros((2, 2, 2), int)
TEXT = (Path(__file__).parent / "step.hlo").read_text()


def test_every_way_to_write_them():
    module = Module(TEXT)
    found = {(c.kind, c.shape): c for c in collectives(module, AXES, ONE, own_ids=False)}
    told = {key: (c.nbytes, c.times, c.axes, c.size, c.part) for key, c in found.items()}
    assert told == {
        ("reduce-scatter", "bf16[4,8]"): (64, 6, ("tensor",), 2, "layers"),
        ("all-gather", "bf16[8,8]"): (128, 6, ("fsdp",), 2, "layers"),  # copied into two fusions
        ("all-reduce", "(f32[3,4], f32[])"): (52, 1, ("data", "fsdp"), 4, "loss"),
        ("all-gather", "f32[4]"): (16, 1, ("data",), 2, "other"),
        ("collective-permute", "f32[16]"): (64, 1, ("tensor",), 2, "optimizer"),
        ("reduce-scatter", "f32[3]"): (96, 1, AXES, 8, "other"),  # no groups: all devices
        ("all-to-all", "f32[6]"): (24, 1, ("fsdp",), 2, "other"),
    }
    assert module.size == len([line for line in TEXT.splitlines() if " = " in line])


def test_a_group_of_several_nodes_is_slow():
    nodes = np.arange(2).repeat(4).reshape(2, 2, 2)
    slow = {c.shape for c in collectives(Module(TEXT), AXES, nodes, own_ids=False) if c.slow}
    assert slow == {"(f32[3,4], f32[])", "f32[4]", "f32[3]"}


def test_between_slices_of_tpus_is_a_pair_of_send_and_receive():
    """Within a slice devices are numbered from 0; what crosses says so itself."""
    text = (Path(__file__).parent / "slices.hlo").read_text()
    slices = np.arange(2).repeat(4).reshape(2, 2, 2)
    far, near = collectives(Module(text), AXES, slices, own_ids=True)
    assert (far.kind, far.nbytes, far.axes, far.size, far.slow) == ("all-reduce", 8192, ("data",), 2, True)
    assert (near.kind, near.nbytes, near.axes, near.size, near.slow) == ("all-reduce", 16, ("fsdp",), 2, False)


@pytest.mark.parametrize("trips", ['backend_config={"known_trip_count":{"n":"9"}}', "frontend_attributes={}"])
def test_loops_within_loops(trips):
    """A loop that does not tell runs once."""
    text = f"""%inner (p: f32[]) -> f32[] {{
  %sum = f32[2]{{0}} all-reduce(%y), channel_id=1, replica_groups={{}}
}}

%outer (p: f32[]) -> f32[] {{
  %w = f32[] while(%p), condition=%none, body=%inner, {trips}
}}

ENTRY %main () -> f32[] {{
  %w.1 = f32[] while(%p), condition=%none, body=%outer, backend_config={{"known_trip_count":{{"n":"3"}}}}
}}
"""
    (found,) = collectives(Module(text), AXES, ONE, own_ids=False)
    assert found.times == (27 if "known" in trips else 3)


def test_shapes():
    shape = "(bf16[4,8]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[], pred[3]{0}, s4[2]{0})"
    assert plain(shape) == "(bf16[4,8], f32[], pred[3], s4[2])"
    assert dims(shape) == [(4, 8), (), (3,), (2,)] and sizes(shape)[:3] == [64, 4, 3]


def test_parts():
    assert part("jit(step)/jvp(LM.forward)/embed/shard_map/all_gather") == "embedding"
    assert part("jit(step)/transpose(jvp(LM.forward))/segment_0/while/body") == "layers"
    assert part("jit(step)/jvp(loss)/while/body") == "loss" and part("") == "other"
    assert [part(rf"state.params[\'{name}\']") for name in ("embed", "segment_0", "head")] == [
        "embedding",
        "layers",
        "loss",
    ]
    assert part("params['head']") == "loss" and part(r"state.opt_state[0].mu[\'head\']") == "other"
