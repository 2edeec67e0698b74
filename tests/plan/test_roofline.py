"""Times by hand, on chips of the table."""

import dataclasses

import pytest

from jaxlm.machine.chips import chip
from jaxlm.plan import topology as topologies
from jaxlm.plan.facts import Collective, Memory, Pass, Program, Work
from jaxlm.plan.roofline import COMPUTE, MEMORY, NETWORK, bandwidth, predict, seconds

POD, NODES, SLICES = map(topologies.parse, ("v5p:8x8x8", "h100:64", "2xv5p:8x8x8"))


def program(flops=0.0, moved=0.0, *sent: Collective) -> Program:
    return Program(Memory(0, 0, 0), Work(flops / 2, (Pass(flops, moved),)), sent)


def test_a_step_takes_what_takes_longest():
    v5p = chip("v5p")
    computing = predict(program(v5p.flops, v5p.hbm / 10), POD)
    assert computing.step == computing.compute == pytest.approx(1 / COMPUTE) and computing.bound == "compute"
    assert computing.mfu == pytest.approx(COMPUTE / 2)  # half of the FLOPs are the model's own
    moving = predict(program(v5p.flops / 10, v5p.hbm), POD)
    assert moving.step == moving.memory == pytest.approx(1 / MEMORY) and moving.bound == "memory"


def test_passes_do_not_overlap():
    """One that computes and then two that move are not one that does both at once."""
    v5p = chip("v5p")
    passes = Pass(v5p.flops, 0), Pass(0, v5p.hbm, 2)
    timing = predict(Program(Memory(0, 0, 0), Work(v5p.flops, passes), ()), POD)
    assert timing.step == pytest.approx(timing.compute + timing.memory) == pytest.approx(1 / COMPUTE + 2 / MEMORY)
    assert timing.parts()["waiting for memory"] == pytest.approx(timing.memory)


def test_what_fsdp_sends_is_hidden_and_what_tensor_parallelism_sends_is_not():
    flops = chip("v5p").flops
    gathered = Collective("all-gather", 10**9, 100, "layers", ("fsdp",), 8)
    hidden, waited = (
        predict(program(flops, 0, one), POD) for one in (gathered, dataclasses.replace(gathered, axes=("tensor",)))
    )
    assert hidden.network == waited.network == waited.exposed > 0 == hidden.exposed
    assert hidden.step == hidden.compute and waited.step == pytest.approx(waited.compute + waited.exposed)
    for timing in (hidden, waited, predict(program(flops), POD, bubble=0.25)):
        assert sum(timing.parts().values()) == pytest.approx(timing.step)


def test_a_bubble_is_a_share_of_the_step():
    timing = predict(program(chip("v5p").flops), POD, bubble=0.2)
    assert timing.step == pytest.approx(timing.compute / 0.8) and timing.bubble == pytest.approx(0.2 * timing.step)


@pytest.mark.parametrize(
    "kind, ways",
    [("all-gather", 7 / 8), ("reduce-scatter", 7 / 8), ("all-reduce", 14 / 8), ("all-to-all", 7 / 16)],
)
def test_how_often_an_array_goes_round_a_ring(kind, ways):
    one = Collective(kind, 10**6, 3, "layers", ("fsdp",), 8)
    assert seconds(one, POD) == pytest.approx(3 * ways * 10**6 / bandwidth(one, POD))


def test_the_network_between_devices():
    v5p, h100 = chip("v5p"), chip("h100")
    ring = lambda n, **how: Collective("all-gather", 1, 1, "layers", ("fsdp",), n, **how)
    assert bandwidth(ring(4), POD) == pytest.approx(NETWORK * v5p.link)  # half of a dimension of the torus: no ring
    assert bandwidth(ring(8), POD) == pytest.approx(NETWORK * 2 * v5p.link)  # one dimension, both directions
    assert bandwidth(ring(64), POD) == pytest.approx(NETWORK * 4 * v5p.link)
    assert bandwidth(ring(512), POD) == pytest.approx(NETWORK * 6 * v5p.link)
    assert bandwidth(ring(8), NODES) == pytest.approx(NETWORK * h100.link * h100.links)
    assert bandwidth(ring(8, slow=True), NODES) == pytest.approx(NETWORK * h100.network)  # one in each of eight nodes
    assert bandwidth(ring(64, slow=True), NODES) == pytest.approx(
        NETWORK * 8 * h100.network
    )  # a whole node shares the work
    assert bandwidth(ring(2, slow=True), SLICES) == pytest.approx(NETWORK * v5p.network)
