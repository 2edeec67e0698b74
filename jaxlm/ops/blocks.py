"""The blocks of GGUF files: 32 or 256 weights of a row in a few bits each, with scales (ggml's ggml-common.h).

Every kind is unpacked to the same three things, and one equation gives the weights: w = scale * code - least, where
each scale (and least) is of a run of neighbouring weights. The functions take numpy's arrays and jax's alike, so that a
stored weight can be made dense on the device.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.errors import UserError, unknown

Bytes = Any  # uint8 (..., bytes of a block), numpy's or jax's
Unpacked = tuple[Any, Any, Any]  # codes (..., runs, size of a run), scales (..., runs), leasts (..., runs) or None

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # a fit to normal weights
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # 4-bit floats, doubled


@dataclasses.dataclass(frozen=True)
class Kind:
    """How `weights` numbers lie in `size` bytes."""

    number: int  # in the files
    weights: int
    size: int
    unpack: Callable[[Bytes], Unpacked]


def dequantize(raw: Bytes, kind: str) -> Any:
    """Rows of blocks, uint8 (..., bytes), as float32 (..., weights), bit for bit as ggml has them.

    Raises UserError for an unknown kind and for bytes that are no whole blocks.
    """
    if kind not in KINDS:
        raise unknown("kind of blocks", kind, KINDS)
    form, xp = KINDS[kind], _of(raw)
    if raw.shape[-1] % form.size:
        raise UserError(f"{raw.shape[-1]} bytes are no whole blocks of {kind}, which have {form.size}")
    codes, scale, least = form.unpack(raw.reshape(*raw.shape[:-1], -1, form.size))
    w = scale[..., None] * codes.astype(xp.float32)
    w = w if least is None else w - least[..., None]
    return w.reshape(*raw.shape[:-1], -1)


# Pieces of a block ---------------------------------------------------------------------------------------------------


def _of(x: Any) -> Any:
    return jnp if isinstance(x, jax.Array) else np


def _bits(x: Bytes, bits: int, run: int) -> Any:
    """Fields of `bits` bits, uint8: of each run of bytes first the lowest field of all, then the next."""
    x = x.reshape(*x.shape[:-1], -1, 1, run)
    return ((x >> _column(x, range(0, 8, bits))) & 2**bits - 1).reshape(*x.shape[:-3], -1)


def _column(x: Bytes, values: Iterable[int]) -> Any:
    """uint8 (n, 1), with leading ones for the dimensions that x has more."""
    column = np.array([*values], np.uint8)
    return _of(x).asarray(column.reshape((1,) * (x.ndim - 2) + (-1, 1)))


def _half(x: Bytes) -> Any:
    """float32 (..., 1) of float16 in two bytes."""
    if isinstance(x, jax.Array):
        x = lax.bitcast_convert_type(x, jnp.float16)[..., None]
    else:
        x = np.ascontiguousarray(x).view("<f2")
    return x.astype(np.float32)


def _signed(x: Any) -> Any:
    return lax.bitcast_convert_type(x, jnp.int8) if isinstance(x, jax.Array) else x.view(np.int8)


def _table(values: tuple[int, ...], codes: Any) -> Any:
    xp = _of(codes)
    return xp.asarray(values, xp.int8)[codes]


def _runs(codes: Any, size: int) -> Any:
    return codes.reshape(*codes.shape[:-1], -1, size)


# Blocks of 32 --------------------------------------------------------------------------------------------------------


def _q4_0(x: Bytes) -> Unpacked:
    return _runs(_signed(_bits(x[..., 2:], 4, 16)) - 8, 32), _half(x[..., :2]), None


def _q4_1(x: Bytes) -> Unpacked:
    return _runs(_bits(x[..., 4:], 4, 16), 32), _half(x[..., :2]), -_half(x[..., 2:4])


def _q5(high: Bytes, low: Bytes) -> Any:
    """32 codes of 5 bits: the fifth bits in four bytes."""
    return _runs(_bits(low, 4, 16) | (_bits(high, 1, 1) << 4), 32)


def _q5_0(x: Bytes) -> Unpacked:
    return _signed(_q5(x[..., 2:6], x[..., 6:])) - 16, _half(x[..., :2]), None


def _q5_1(x: Bytes) -> Unpacked:
    return _q5(x[..., 4:8], x[..., 8:]), _half(x[..., :2]), -_half(x[..., 2:4])


def _q8_0(x: Bytes) -> Unpacked:
    return _runs(_signed(x[..., 2:]), 32), _half(x[..., :2]), None


def _iq4_nl(x: Bytes) -> Unpacked:
    return _runs(_table(IQ4, _bits(x[..., 2:], 4, 16)), 32), _half(x[..., :2]), None


def _mxfp4(x: Bytes) -> Unpacked:
    """The scale is a power of two, 2 ** (e - 128): half of the format's, since the codes are doubled."""
    xp = _of(x)
    e = x[..., :1].astype(xp.uint32)
    bits = xp.where(e < 2, xp.uint32(0x00200000) << xp.minimum(e, 1), (xp.maximum(e, 1) - 1) << 23)
    scale = lax.bitcast_convert_type(bits, jnp.float32) if xp is jnp else bits.view(np.float32)
    return _runs(_table(E2M1, _bits(x[..., 1:], 4, 16)), 32), scale, None


# Blocks of 256, in runs of 16 or 32 whose scales are integers --------------------------------------------------------


def _scales_and_leasts(x: Bytes) -> tuple[Any, Any]:
    """Eight scales and eight leasts of 6 bits in 12 bytes: four of each whole, of the others the low halves together
    and the upper bits above those whole ones."""
    xp = _of(x)
    a, b, c = x[..., :4], x[..., 4:8], x[..., 8:]
    scales = xp.concatenate([a & 63, (c & 15) | (a >> 2 & 48)], -1)
    return scales, xp.concatenate([b & 63, (c >> 4) | (b >> 2 & 48)], -1)


def _times(d: Any, x: Any) -> Any:
    return d * x.astype(np.float32)


def _q2_k(x: Bytes) -> Unpacked:
    scales, codes = x[..., :16], _bits(x[..., 16:80], 2, 32)
    return _runs(codes, 16), _times(_half(x[..., 80:82]), scales & 15), _times(_half(x[..., 82:84]), scales >> 4)


def _q3_k(x: Bytes) -> Unpacked:
    """Where the third bit is not set, 4 is taken away."""
    codes = _bits(x[..., 32:96], 2, 32) | (_bits(x[..., :32], 1, 32) << 2)
    scales = _bits(x[..., 96:104], 4, 8) | (_bits(x[..., 104:108], 2, 4) << 4)
    return _runs(_signed(codes) - 4, 16), _times(_half(x[..., 108:110]), _signed(scales) - 32), None


def _q4_k(x: Bytes) -> Unpacked:
    scales, leasts = _scales_and_leasts(x[..., 4:16])
    return _runs(_bits(x[..., 16:], 4, 32), 32), _times(_half(x[..., :2]), scales), _times(_half(x[..., 2:4]), leasts)


def _q5_k(x: Bytes) -> Unpacked:
    scales, leasts = _scales_and_leasts(x[..., 4:16])
    codes = _bits(x[..., 48:], 4, 32) | (_bits(x[..., 16:48], 1, 32) << 4)
    return _runs(codes, 32), _times(_half(x[..., :2]), scales), _times(_half(x[..., 2:4]), leasts)


def _q6_k(x: Bytes) -> Unpacked:
    codes = _bits(x[..., :128], 4, 64) | (_bits(x[..., 128:192], 2, 32) << 4)
    return _runs(_signed(codes) - 32, 16), _times(_half(x[..., 208:210]), _signed(x[..., 192:208])), None


def _iq4_xs(x: Bytes) -> Unpacked:
    xp = _of(x)
    high = _bits(x[..., 2:4], 2, 1)
    scales = _signed(_bits(x[..., 4:8], 4, 1) | (high << 4)) - 32
    return _runs(_table(IQ4, _bits(x[..., 8:], 4, 16)), 32), _times(_half(x[..., :2]), scales.astype(xp.int8)), None


def _tq1_0(x: Bytes) -> Unpacked:
    """Five digits of base 3 in a byte, which is their number / 243 * 256: each comes out by a multiplication."""
    xp = _of(x)

    def digits(part: Bytes, n: int) -> Any:
        part = part[..., None, :]
        return (part * _column(part, (3**i for i in range(n)))).reshape(*x.shape[:-1], -1)

    every = xp.concatenate([digits(x[..., :32], 5), digits(x[..., 32:48], 5), digits(x[..., 48:52], 4)], -1)
    codes = (every.astype(xp.uint16) * 3 >> 8).astype(xp.int8) - 1
    return _runs(codes, 256), _half(x[..., 52:54]), None


def _tq2_0(x: Bytes) -> Unpacked:
    return _runs(_signed(_bits(x[..., :64], 2, 32)) - 1, 256), _half(x[..., 64:66]), None


KINDS = {
    "Q4_0": Kind(2, 32, 18, _q4_0),
    "Q4_1": Kind(3, 32, 20, _q4_1),
    "Q5_0": Kind(6, 32, 22, _q5_0),
    "Q5_1": Kind(7, 32, 24, _q5_1),
    "Q8_0": Kind(8, 32, 34, _q8_0),
    "Q2_K": Kind(10, 256, 84, _q2_k),
    "Q3_K": Kind(11, 256, 110, _q3_k),
    "Q4_K": Kind(12, 256, 144, _q4_k),
    "Q5_K": Kind(13, 256, 176, _q5_k),
    "Q6_K": Kind(14, 256, 210, _q6_k),
    "IQ4_NL": Kind(20, 32, 18, _iq4_nl),
    "IQ4_XS": Kind(23, 256, 136, _iq4_xs),
    "TQ1_0": Kind(34, 256, 54, _tq1_0),
    "TQ2_0": Kind(35, 256, 66, _tq2_0),
    "MXFP4": Kind(39, 32, 17, _mxfp4),
}


# Rounding ------------------------------------------------------------------------------------------------------------


def quantize(w: np.ndarray, kind: str) -> np.ndarray:
    """Rows of numbers, float32 (..., weights), as blocks, uint8 (..., bytes), rounded to the nearest as ggml does.

    Q8_0: the largest magnitude of 32 becomes 127. Q4_0: the number of largest magnitude becomes -8. Raises UserError
    for other kinds, for rows that are no whole blocks, and for weights beyond what scales of 16 bits reach.
    """
    if kind not in ("Q4_0", "Q8_0"):
        raise unknown("kind of blocks to write", kind, ("Q4_0", "Q8_0"))
    if w.shape[-1] % 32:
        raise UserError(f"rows of {w.shape[-1]} weights are no whole blocks of {kind}, which have 32")
    x = np.asarray(w, np.float32).reshape(*w.shape[:-1], -1, 32)
    largest = np.take_along_axis(x, np.abs(x).argmax(-1, keepdims=True), -1)
    scale = np.abs(largest) / np.float32(127) if kind == "Q8_0" else largest / np.float32(-8)
    if not np.abs(scale).max(initial=0) <= np.finfo(np.float16).max:
        raise UserError(f"a weight of {np.abs(x).max():.3g} is beyond what blocks of {kind} hold, or is no number")
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    if kind == "Q8_0":
        turns = x * inverse
        codes = (np.sign(turns) * np.floor(np.abs(turns) + np.float32(0.5))).astype(np.int8).view(np.uint8)
    else:
        codes = np.clip(np.trunc(x * inverse + np.float32(8.5)), 0, 15).astype(np.uint8)
        codes = codes[..., :16] | codes[..., 16:] << 4
    whole = np.concatenate([scale.astype("<f2").view(np.uint8), codes], -1)
    return whole.reshape(*w.shape[:-1], -1)
