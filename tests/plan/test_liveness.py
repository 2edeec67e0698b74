"""Which arrays of a program take the place of others."""

import jax
import jax.numpy as jnp
import pytest

from jaxlm.plan import fusion, liveness, reader, topology, walk

X = jax.ShapeDtypeStruct((64, 64), jnp.float32)


@pytest.mark.parametrize("platform", ["tpu", "gpu", "cpu"])
@pytest.mark.parametrize("read", [False, True], ids=["begins", "read"])
def test_a_carry_takes_the_place_of_what_it_begins_as(platform, read):
    """Not of another array of its size, which the loop reads until its last turn."""

    def program(x):
        y = x @ x
        begin = jnp.zeros_like(y) if read else y
        return jax.lax.scan(lambda carry, _: (jnp.sin(carry) + (y if read else 1), None), begin, None, 3)[0]

    block = reader.read(jax.make_jaxpr(program)(X), walk.abstract_mesh(topology.parse("cpu:1")))
    assert liveness.height(block, fusion.COMPILERS[platform])[0] == (1 + read) * 4 * 64 * 64
