"""What is written to memory, and what is computed where it is read."""

from jaxlm.data import DataConfig
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.plan import topology, walk
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig


def test_what_two_products_read_is_computed_for_each_where_fewer_bytes_move():
    """The gradient of a chunk of logits, from the logits; a GPU's products are a library's, which reads it."""
    block = BlockConfig(AttentionConfig(H=4, K=64), MLPConfig(F=1024))
    model = LMConfig(V=65536, D=256, layers=(LayersConfig((block,), 2),), dtype="bfloat16")
    run = RunConfig(model=model, data=DataConfig(T=1024), batch=8, mesh=MeshConfig(data=8))

    def logits(name):
        return {b.shape for b in walk.estimate_train(run, topology.parse(name)).largest if b.shape.endswith(",65536]")}

    assert logits("v5e:2x4") == {"f32[512,65536]"}
    assert logits("h100:8") == {"f32[512,65536]", "bf16[512,65536]"}
