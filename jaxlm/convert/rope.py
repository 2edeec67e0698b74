"""Rotary positions in config.json, in both spellings: `rope_parameters`, or `rope_theta` beside `rope_scaling`."""

from jaxlm.convert.fields import Fields
from jaxlm.errors import unknown
from jaxlm.nn import RopeConfig
from jaxlm.ops import rope


def read(
    c: Fields,
    *,
    base: float = 10_000.0,
    fraction: float | None = None,
    interleaved: bool = False,
) -> RopeConfig:
    """The rotary positions of `c`, where `base` and `fraction` are the family's own defaults; without a `fraction` its
    heads are rotated whole, whatever the file says."""
    p = c.section("rope_scaling", "rope_parameters", default={})
    if fraction is not None:
        fraction = p.float("partial_rotary_factor", default=c.float("partial_rotary_factor", default=fraction))
    base = p.float("rope_theta", default=c.float("rope_theta", default=base))
    return RopeConfig(base, scaling(c, p), 1.0 if fraction is None else fraction, interleaved)


def scaling(c: Fields, p: Fields) -> rope.Scaling:
    """The scaling that the section `p` of `c` describes. Raises UserError for an unknown kind."""
    kind = p.str("rope_type", "type", default="default")
    if "short_factor" in p.values:
        kind = "longrope"  # in the first Phi-3 files it is "su" or "yarn"
    if kind not in KINDS:
        raise unknown("rope_type", kind, KINDS)
    return KINDS[kind](c, p)


def by_kind(c: Fields, local: bool, base: float, local_base: float, key: str = "rope_theta") -> RopeConfig:
    """The rotary positions of local layers or of global ones, where `rope_parameters` has a section for each. Older
    files scale the global layers only: `rope_scaling` is theirs, and the local ones' base is at `key`."""
    whole = c.section("rope_parameters", default={})
    apart = whole.section("sliding_attention" if local else "full_attention", default={})
    p = apart if local else c.section("rope_scaling", default={}).over(apart)
    base = c.float(key if local else "rope_theta", default=local_base if local else base)
    return RopeConfig(p.float("rope_theta", default=base), scaling(c, p))


def _dynamic(c: Fields, p: Fields) -> rope.Scaling:
    return rope.DynamicNTK(p.float("factor"), c.size("max_position_embeddings"))


def _yarn(c: Fields, p: Fields) -> rope.Scaling:
    length = _length(c, p)
    return rope.Yarn(
        factor=_factor(c, p, length),
        length=length,
        beta_fast=p.float("beta_fast", default=32.0),
        beta_slow=p.float("beta_slow", default=1.0),
        truncate=p.bool("truncate", default=True),
        attention=p.float("attention_factor", default=None),
        mscale=p.float("mscale", default=None),
        mscale_all_dim=p.float("mscale_all_dim", default=None),
    )


def _llama3(c: Fields, p: Fields) -> rope.Scaling:
    return rope.Llama3(p.float("factor"), _length(c, p), p.float("low_freq_factor"), p.float("high_freq_factor"))


def _longrope(c: Fields, p: Fields) -> rope.Scaling:
    length = _length(c, p)
    short, long = (_numbers(p, key) for key in ("short_factor", "long_factor"))
    return rope.LongRope(short, long, length, _factor(c, p, length), p.float("attention_factor", default=None))


KINDS = {
    "default": lambda c, p: rope.Unscaled(),
    "reversed": lambda c, p: rope.Reversed(),  # a name of our own: nanochat's files say nothing of it
    "linear": lambda c, p: rope.Linear(p.float("factor")),
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
}


def _length(c: Fields, p: Fields) -> int:
    """Positions before stretching: Phi-3 says them beside the section, others in it."""
    known = p.size("original_max_position_embeddings", default=None)
    known = c.size("original_max_position_embeddings", default=known)
    return c.size("max_position_embeddings") if known is None else known


def _factor(c: Fields, p: Fields, length: int) -> float:
    factor = p.float("factor", default=None)
    return c.size("max_position_embeddings") / length if factor is None else factor


def _numbers(p: Fields, key: str) -> tuple[float, ...]:
    numbers = p.list(key)
    if not all(type(x) in (int, float) and x > 0 for x in numbers):
        raise p.error(key, "must be a list of positive numbers")
    return tuple(map(float, numbers))
