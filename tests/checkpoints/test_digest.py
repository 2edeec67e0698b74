import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm.checkpoints.digest import MULTIPLIER, digest, names
from jaxlm.sharding import MeshConfig, make_mesh


def reference(x) -> int:
    """Element by element, in Python integers."""
    bits = np.asarray(x).view(f"uint{8 * x.dtype.itemsize}")
    total = 0
    for index in np.ndindex(bits.shape):
        weight = 0
        for i in index:
            weight = weight * MULTIPLIER + i
        h = int(bits[index]) ^ weight % 2**32
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ h >> shift) * factor % 2**32
        total += h
    return total % 2**32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "uint32", "float8_e4m3fn"])
def test_equals_the_sum_in_integers(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)) * 20, dtype)
    assert digest({"x": x}) == {"x": reference(x)}


def test_scalars_booleans_complex_numbers_and_keys():
    key = jax.random.key(7)
    tree = {
        "step": jnp.int32(3),
        "mask": jnp.array([True, False, True]),
        "z": jnp.array([1 + 2j, 3 - 4j], jnp.complex64),
        "key": key,
        "empty": jnp.zeros((0, 3)),
    }
    found = digest(tree)
    assert found["step"] == reference(np.int32(3)) and found["empty"] == 0
    assert found["mask"] == reference(np.array([1, 0, 1], np.uint8))
    assert found["z"] == reference(np.array([[1, 2], [3, -4]], np.float32))
    assert found["key"] == reference(np.asarray(jax.random.key_data(key)))


def test_eight_byte_elements():
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        x = np.random.default_rng(0).normal(size=(3, 4))
        assert digest([jnp.asarray(x)]) == {"0": reference(x.view(np.uint32).reshape(3, 4, 2))}


def test_names_are_paths():
    assert names({"params": {"b": [1, 2], "a": 3}, "step": 4}) == ["params/a", "params/b/0", "params/b/1", "step"]


def test_every_single_bit_is_seen():
    x = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    whole = digest([jnp.asarray(x)])
    for bit in range(0, x.size * 32, 41):
        y = x.copy()
        y.reshape(-1).view(np.uint32)[bit // 32] ^= np.uint32(1) << np.uint32(bit % 32)
        assert digest([jnp.asarray(y)]) != whole, bit


def test_exchanged_rows_columns_shapes_and_signs_are_seen():
    x = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    others = [x[[1, 0, 2, 3, 4, 5]], x[:, [1, 0, 2, 3, 4, 5]], x.T, x.reshape(4, 9), x[::-1], -x, np.zeros_like(x)]
    found = [digest([jnp.asarray(y)])["0"] for y in (x, *others)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("config", [{"fsdp": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 4, "tensor": 2}])
def test_the_same_on_any_mesh(config, explicit):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    mesh = make_mesh(MeshConfig(**{"data": 1, **config}, explicit=explicit))
    for spec in (P("fsdp", "tensor"), P(None, "fsdp"), P()):
        assert digest([jax.device_put(x, NamedSharding(mesh, spec))]) == digest([x])
