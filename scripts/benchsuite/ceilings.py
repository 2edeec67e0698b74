"""What the machine can do: products of large matrices, and reading or copying memory."""

from typing import Any

from benchsuite.bench import Bench, Rows
from benchsuite.row import Row, facts
from benchsuite.timing import best

# Pieces -------------------------------------------------------------------------------------------------------------


def matmul(size: int, dtype: str, seconds: float) -> dict:
    """FLOP/s of the product of two matrices of random numbers (an H200 is 13 % faster on zeros)."""
    import jax
    import jax.numpy as jnp

    a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.dtype(dtype))
    product = jax.jit(lambda a, b: a @ b)
    return {"value": 2 * size**3 / best(lambda: product(a, b), jax.block_until_ready, seconds)}


def read(side: int, seconds: float) -> dict:
    """Bytes/s of reading a float32 matrix: the best of a few ways, as no one way is best everywhere."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (side, side))
    x = jax.random.normal(jax.random.key(1), (side,))
    ways = {
        "a @ x": jax.jit(lambda a, x: a @ x),
        "x @ a": jax.jit(lambda a, x: x @ a),
        "sum": jax.jit(lambda a, x: jnp.sum(a)),
        "sums of rows": jax.jit(lambda a, x: jnp.sum(a, 1)),
        "max": jax.jit(lambda a, x: jnp.max(a)),
    }
    rates = {
        name: a.nbytes / best(lambda f=f: f(a, x), jax.block_until_ready, seconds / len(ways))
        for name, f in ways.items()
    }
    way = max(rates, key=rates.__getitem__)
    return {"value": rates[way], "way": way, "rates": rates}


def copy(nbytes: int, seconds: float) -> dict:
    """Bytes/s, read and written ones counted, of copying so much memory."""
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(0), (nbytes // 4,), jnp.float32)
    copied = jax.jit(lambda x: x + 1)
    return {"value": 2 * x.nbytes / best(lambda: copied(x), jax.block_until_ready, seconds)}


# Rows ---------------------------------------------------------------------------------------------------------------


def measure(bench: Bench, name: str, **args: Any) -> float:
    """Measures a ceiling, once more if it was measured before; returns the best so far."""
    bench.ceilings.setdefault(name, []).append(bench.run(f"ceilings:{name}", args))
    return known(bench, name, **args)


def known(bench: Bench, name: str, **args: Any) -> float:
    """The best measurement of a ceiling; measures it if there is none."""
    if name not in bench.ceilings:
        return measure(bench, name, **args)
    return max(piece["value"] for piece in bench.ceilings[name])


def row(bench: Bench, id: str, name: str, unit: str, scale: float, **args: Any) -> Rows:
    value = known(bench, name, **args) / scale
    pieces = bench.ceilings[name]
    repeats = tuple(piece["value"] / scale for piece in pieces)
    note = f"the best of {len(pieces)}"
    if way := pieces[0].get("way"):
        note += f", by {way}"
    yield Row(id, value, unit, repeats=repeats, note=note, facts=facts(*pieces))
