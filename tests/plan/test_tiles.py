"""What fills tiles of 128 lanes on TPUs, and what that costs."""

import pytest

from jaxlm import compat
from jaxlm.data import DataConfig
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.plan import hlo, topology, walk
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig


def test_what_a_kernel_reads_stands_in_whole_tiles():
    """On TPUs, with the heads' width padded to 128, also where it is saved; other chips have no such need."""
    block = BlockConfig(AttentionConfig(H=4, K=64), MLPConfig(F=1024))
    model = LMConfig(V=2048, D=256, layers=(LayersConfig((block,), 8),), remat="qkv", dtype="bfloat16")
    run = RunConfig(model=model, data=DataConfig(T=512), batch=8, mesh=MeshConfig(data=8))

    def saved(name):
        largest = walk.estimate_train(run, topology.parse(name)).largest
        return [b.nbytes for b in largest if sorted(hlo.dims(b.shape)[0]) == [1, 4, 8, 64, 512]]

    q = 8 * 512 * 4 * 64 * 2
    assert saved("v5e:2x4") == 4 * [2 * q]  # queries, keys, values, and what the kernel gives
    assert saved("h100:8") == 3 * [q]


@pytest.mark.skipif(not compat.leaves_unreduced(), reason="this jax sums the head's gradient chunk by chunk")
@pytest.mark.parametrize("name", ["v5e:2x4", "h100:8"])
def test_parts_that_fill_no_tile_are_added_up_whole(name):
    """On TPUs: gradients of head and table in parts of 96 columns, but not of 128."""

    def sums(D):
        block = BlockConfig(AttentionConfig(H=8, K=128), MLPConfig(F=1024))
        model = LMConfig(V=2048, D=D, layers=(LayersConfig((block,), 2),), tied=False, dtype="bfloat16")
        run = RunConfig(model=model, data=DataConfig(T=512), batch=8, mesh=MeshConfig(data=1, fsdp=8))
        sent = walk.estimate_train(run, topology.parse(name)).collectives
        return {c.kind for c in sent if hlo.dims(c.shape)[:1] == [(2048, D)] and c.kind != "all-gather"}

    assert sums(1024) == {"reduce-scatter"}
    assert sums(768) == {"all-reduce" if name == "v5e:2x4" else "reduce-scatter"}


@pytest.mark.skipif(not compat.leaves_unreduced(), reason="this jax sums the head's gradient chunk by chunk")
def test_what_such_a_part_updates_is_copied_into_tiles():
    """Weights and moments of head and table, in float32 beside gradients in bfloat16; the smallest parts are not."""

    def copies(D):
        block = BlockConfig(AttentionConfig(H=8, K=128), MLPConfig(F=1024))
        model = LMConfig(V=65_536, D=D, layers=(LayersConfig((block,), 2),), tied=False, dtype="bfloat16")
        run = RunConfig(model=model, data=DataConfig(T=512), batch=8, mesh=MeshConfig(data=1, fsdp=8))
        there = walk.estimate_train(run, topology.parse("v5e:2x4")).largest
        return [b.nbytes for b in there if b.shape == f"f32[65536,{D // 8}]"]

    assert copies(512) == 6 * [65_536 * 128 * 4]
    assert copies(1024) == copies(128) == []


def test_decoding_turns_projections_round_on_tpus():
    """Queries', keys' and values' of all layers stand in memory twice; on GPUs once."""
    block = BlockConfig(AttentionConfig(H=4, K=16), MLPConfig(F=128))
    model = LMConfig(V=256, D=64, layers=(LayersConfig((block,), 4),), dtype="bfloat16")
    step = lambda name: walk.estimate_decode(model, topology.parse(name), MeshConfig(data=8), rows=16, length=128)
    turned = [b for b in step("v5e:2x4").largest if b.shape == "bf16[4,64,4,16]"]
    assert [b.nbytes for b in turned] == 3 * [4 * 64 * 4 * 16 * 2]
    assert not [b for b in step("h100:8").largest if b.shape == turned[0].shape]
