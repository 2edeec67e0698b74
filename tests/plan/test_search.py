"""Ways to run are tried by arithmetic, the best are walked through; a run that does not fit is told what would."""

import dataclasses
import math

import pytest

from jaxlm import compat, sharding
from jaxlm.config import override, resolve
from jaxlm.errors import UserError
from jaxlm.machine import chips
from jaxlm.nn import MoEConfig
from jaxlm.plan import topology as topologies
from jaxlm.plan.napkin import bubble, napkin
from jaxlm.plan.search import POLICIES, cheapest, judged, levers, meshes, search
from jaxlm.plan.walk import estimate_train
from jaxlm.sharding import AXES, MeshConfig
from tests import tiny

NODE = topologies.parse("h100:8")


def on(run, **sizes):
    return dataclasses.replace(run, mesh=MeshConfig(**{"data": 1} | sizes))


GPT = override(resolve("gpt2_124m"), ["model.V=50304", "batch=64", "accumulate=1"])  # which eight divide


def small(chip_bytes: int):
    """A node of chips with so much memory."""
    return dataclasses.replace(NODE, chip=dataclasses.replace(chips.chip("h100"), usable=chip_bytes))


@pytest.mark.skipif(not compat.leaves_unreduced(), reason="this jax sums the head's gradient chunk by chunk")
@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 8}, {"fsdp": 4, "tensor": 2}], ids=str)
def test_a_napkin_is_near_the_walk(sizes):
    run = on(GPT, **sizes)
    rough, walked = napkin(run, sharding.mesh_shape(run.mesh, 8), NODE), estimate_train(run, NODE)
    assert rough.memory.params == pytest.approx(walked.memory.params, rel=0.01)
    assert rough.memory.optimizer == pytest.approx(walked.memory.optimizer, rel=0.01)
    assert rough.work.model_flops == pytest.approx(walked.work.model_flops)
    assert rough.work.flops == pytest.approx(walked.work.flops, rel=0.15)
    assert rough.memory.total == pytest.approx(walked.memory.total, rel=0.5)
    sent = lambda program: sum(c.nbytes * c.times for c in program.collectives)
    assert sent(rough) == pytest.approx(sent(walked), rel=0.5)


def test_meshes_divide_what_they_must():
    found = list(meshes(GPT, NODE))
    assert all(math.prod(sizes.values()) == 8 and set(sizes) == set(AXES) for sizes in found)
    assert {sizes["tensor"] for sizes in found} == {1, 2, 4}  # of 12 heads
    assert {sizes["stage"] for sizes in found} == {1, 2, 4} and {sizes["expert"] for sizes in found} == {1}
    assert {sizes["context"] for sizes in found} == {1}  # 1,024 positions are not divided
    assert len({tuple(sizes.items()) for sizes in found}) == len(found)
    block = GPT.model.layers[0].blocks[0]
    experts = dataclasses.replace(block, ffn=MoEConfig(F=64, E=4, top_k=2))
    layers = (dataclasses.replace(GPT.model.layers[0], blocks=(experts,)),)
    mixture = dataclasses.replace(GPT, model=dataclasses.replace(GPT.model, layers=layers))
    assert {sizes["expert"] for sizes in meshes(mixture, NODE)} == {1, 2, 4}


def test_meshes_lie_across_the_nodes():
    """Of two, with one of data, stage and fsdp: not tensor and context alone."""
    found = list(meshes(override(resolve("llama_3_1_8b"), ["data.T=8192"]), topologies.parse("h100:16")))
    assert {sizes["tensor"] for sizes in found} == {1, 2, 4, 8} and {sizes["context"] for sizes in found} == {1, 2, 4}
    assert all(sizes["data"] * sizes["fsdp"] * sizes["stage"] > 1 for sizes in found)


def test_the_fastest_that_fits_comes_first():
    found = search(GPT, NODE, closer=2)
    assert [option.speed for option in found] == sorted((option.speed for option in found), reverse=True)
    for option in found:
        assert option.program.fits and override(GPT, option.changes) == option.run
    nothing = small(2**20)
    with pytest.raises(UserError, match="no mesh, batch or policy was found that fits h100:8"):
        search(GPT, nothing, closer=1)


def test_less_memory_asks_for_another_way():
    plenty, scarce = (search(GPT, small(n << 30), closer=1)[0] for n in (80, 8))
    assert plenty.program.memory.total > scarce.program.memory.total and scarce.program.memory.total <= 8 << 30
    assert plenty.speed >= scarce.speed


def test_the_cheapest_change_that_makes_it_fit():
    run = on(override(GPT, ["model.remat=none"]), data=8)
    needed = judged(run, NODE).program.memory.total
    scarce = small(int(0.8 * needed))
    found = cheapest(run, scarce)
    assert found is not None and found.program.fits and override(run, found.changes) == found.run
    assert len(found.changes) <= 2
    rivals = [judged(override(run, change), scarce) for change in (["model.remat=full"], ["accumulate=4"])]
    assert all(found.speed >= rival.speed for rival in rivals if rival.program.fits)
    assert cheapest(run, small(2**20)) is None


def test_levers_are_overrides_of_the_run():
    run = on(GPT, data=8)
    for changes in levers(run, NODE):
        assert override(run, changes) != run
    assert ("mesh.data=1", "mesh.fsdp=8") in levers(run, NODE)
    assert not [c for c in levers(override(run, ["model.remat=offload"]), NODE) if c[0].startswith("model.remat")]


def test_a_pipeline_waits_for_its_first_and_last_microbatch():
    run = on(tiny.run(batch=16), stage=2, data=4)
    assert bubble(run, NODE) == pytest.approx(1 / (4 + 2 - 1))  # four rows a device: as many microbatches
    assert bubble(on(run, data=8), NODE) == 0


def test_policies_are_in_the_order_of_what_they_keep():
    """As the walk finds them."""
    policies = [policy for policy in POLICIES if policy not in ("offload", "dots_except_mlp")]
    held = [estimate_train(on(override(GPT, [f"model.remat={p}"]), data=8), NODE).memory.total for p in policies]
    assert held == sorted(held, reverse=True)
