"""The process that `test_tpu` starts: compiles splash attention and its gradients for one chip of the topology named.

Ends with an error where a kernel's blocks need more vector memory than a core has.
"""

import sys

import jax
from jax.sharding import NamedSharding

from jaxlm import sharding
from jaxlm.ops.kernels import splash_attention
from jaxlm.ops.rule import Extras, Rule
from jaxlm.plan import topology


def compile(T: int, K: int, window: int | None) -> None:
    """For T positions, two heads of width K, and one of keys."""

    def gradients(q_BTHK, k_BTGK, v_BTGK, segments_BT):
        attend = lambda *qkv: splash_attention(*qkv, Extras(segments_BT), Rule(True, window, None, K**-0.5, None))
        o_BTHK, pull = jax.vjp(attend, q_BTHK, k_BTGK, v_BTGK)
        return pull(o_BTHK)

    array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=here)
    k_BTGK = array((1, T, 1, K), "bfloat16")
    jax.jit(gradients).lower(array((1, T, 2, K), "bfloat16"), k_BTGK, k_BTGK, array((1, T), "int32")).compile()


if __name__ == "__main__":
    mesh = topology.mesh(topology.parse(sys.argv[1]))
    here = NamedSharding(mesh, sharding.spec(mesh=mesh))
    with jax.set_mesh(mesh):
        for case in [(8192, 128, None), (4096, 256, None), (4096, 128, 1024)]:  # one kernel backward, one, two
            compile(*case)
