"""Decoding: new tokens per second of a greedy continuation, and how much of the memory's speed that is."""

import shutil
from typing import Any

from benchsuite.bench import Bench, Rows
from benchsuite.ceilings import known
from benchsuite.row import Row, facts, median
from benchsuite.sizes import Size

MARGIN = 1e-3  # logits closer than this may be ordered either way

# Pieces -------------------------------------------------------------------------------------------------------------


def decode(
    size: dict[str, Any],
    prompt: int,
    new: int,
    warm: int,
    repeats: int,
    batch: int = 1,
    layout: str = "unstacked",
    export: str | None = None,
) -> dict[str, Any]:
    """Greedy `generate`, prompt included (`seconds`), and its compiled loop alone (`loop_seconds` for new - 1)."""
    import time

    import jax
    import numpy as np

    from benchsuite import gpt2
    from jaxlm import decode as decoding
    from jaxlm.nn import stack

    shape = Size(**size)
    config = gpt2.run_config(shape).model
    params = gpt2.roughen(gpt2.fresh(config))
    ids = gpt2.tokens(shape, batch, prompt)
    if export is not None:
        gpt2.export(params, ids, export)
    config, layers = decoding.prepare(config, params)
    if layout == "stacked":
        layers = jax.jit(stack)(layers)
    del params
    jax.block_until_ready(layers)

    def whole():
        return decoding.generate(config, layers, ids, max_new_tokens=new)[0]

    start = time.perf_counter()
    tokens = whole()
    first = time.perf_counter() - start
    for _ in range(warm - 1):
        whole()
    seconds, prefill_seconds, loop_seconds = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        whole()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        state, how = decoding.prefill(config, layers, ids, None, new, decoding.Greedy(), None, ())
        jax.block_until_ready(state)
        prefill_seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        jax.block_until_ready(decoding.decode(how, layers, state, new))
        loop_seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "prefill_seconds": prefill_seconds,
        "loop_seconds": loop_seconds,
        "tokens": np.asarray(tokens).tolist(),
        "nbytes": sum(x.nbytes for x in jax.tree.leaves(layers)),
        "prefill_flops": _prefill_flops(config, batch, prompt),
        "first_seconds": first,
    }


def _prefill_flops(config: Any, batch: int, prompt: int) -> float:
    """A forward pass, whose head multiplies the last position of each row only."""
    from jaxlm.models import flops

    return batch * (prompt * flops.train_flops(config, prompt) / 3 - 2 * config.V * config.D * (prompt - 1))


def margin(size: dict[str, Any], prompt: int, ours: list[int], a: int, b: int) -> dict[str, Any]:
    """How far apart the logits of ids a and b are after the prompt and the tokens `ours`."""
    import jax
    import numpy as np

    from benchsuite import gpt2
    from jaxlm.models import LM

    shape = Size(**size)
    config = gpt2.run_config(shape).model
    params = gpt2.roughen(gpt2.fresh(config))
    ids = np.concatenate([gpt2.tokens(shape, 1, prompt), np.array([ours], np.int32)], 1)
    logits = jax.jit(lambda p, t: LM(config).apply({"params": p}, t))(params, ids)[0, -1]
    return {"value": abs(float(logits[a] - logits[b]))}


# Rows ---------------------------------------------------------------------------------------------------------------


def compared(
    bench: Bench,
    id: str,
    size: Size,
    *,
    goal: str,
    effort: dict[str, int],
    static: bool = False,
    bandwidth: tuple[str, dict[str, Any]] | None = None,
    fraction: str = "",
) -> Rows:
    """ours, peer, ours: new tokens/s at batch 1; with `bandwidth` also the fraction of that ceiling."""
    folder = bench.folder / id
    args = {"size": size.json()} | effort
    ours = [bench.run("decoding:decode", {"export": str(folder) if bench.peer else None} | args)]
    peer, why = None, "no --peer"
    if bench.peer:
        theirs = {"folder": str(folder), "static": static} | {k: v for k, v in args.items() if k != "prompt"}
        peer = bench.run("peer:decode", theirs, peer=True)
        why = gate(bench, size, effort["prompt"], ours[0], peer)
        shutil.rmtree(folder)
    ours.append(bench.run("decoding:decode", args))
    new = effort["new"]
    rates = [new / s for piece in ours for s in piece["seconds"]]
    value = None if peer and why.startswith("void") else median(rates)
    rate_of_peer = new / median(peer["seconds"]) if peer else None
    again = median(ours[1]["seconds"]) / median(ours[0]["seconds"]) - 1
    note = [why, f"{new} new tokens after {effort['prompt']}", f"again {again:+.1%}", loop_note(ours, new)]
    told = facts(*ours, *filter(None, [peer]))
    ratio = value / rate_of_peer if value and rate_of_peer else None
    yield Row(id, value, "tokens/s", rate_of_peer, ratio, goal, tuple(rates), "; ".join(filter(None, note)), told)
    if bandwidth:
        yield from share(bench, f"{id}.read_fraction", ours, new, fraction, bandwidth)


def share(
    bench: Bench, id: str, pieces: list[dict], new: int, goal: str, bandwidth: tuple[str, dict[str, Any]]
) -> Rows:
    """Bytes of the weights x tokens/s of the loop, as a fraction of a ceiling."""
    name, args = bandwidth
    ceiling = known(bench, name, **args)
    rates = [(new - 1) / s * piece["nbytes"] / ceiling for piece in pieces for s in piece["loop_seconds"]]
    note = f"{pieces[0]['nbytes'] / 1e6:.3g} MB of weights a token, of {ceiling / 1e9:.1f} GB/s; prompt not counted"
    yield Row(id, median(rates), "", goal=goal, repeats=tuple(rates), note=note, facts=facts(*pieces))


def loop_note(pieces: list[dict], new: int) -> str:
    loop = median([s for piece in pieces for s in piece["loop_seconds"]])
    prefill = median([s for piece in pieces for s in piece["prefill_seconds"]])
    return f"loop alone {(new - 1) / loop:.4g}/s, prompt {prefill * 1e3:.3g} ms"


def gate(bench: Bench, size: Size, prompt: int, ours: dict[str, Any], peer: dict[str, Any]) -> str:
    """ "" if the tokens are equal; why they may differ, or "void: ..."."""
    (a,), (b,) = ours["tokens"], peer["tokens"]
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
    if at is None:
        return ""
    args = {"size": size.json(), "prompt": prompt, "ours": a[:at], "a": a[at], "b": b[at]}
    gap = bench.run("decoding:margin", args)["value"]
    if gap < MARGIN:
        return f"equal for {at} tokens, then two logits only {gap:.1e} apart"
    return f"void: token {at} is {a[at]}, the peer's {b[at]}, and their logits are {gap:.1e} apart"


def rate(
    bench: Bench,
    id: str,
    size: Size,
    *,
    goal: str,
    effort: dict[str, int],
    layout: str,
    batch: int = 1,
    bandwidth: tuple[str, dict[str, Any]] | None = None,
) -> Rows:
    """The loop alone: tokens/s of all rows, or with `bandwidth` the fraction of that ceiling."""
    piece = bench.run("decoding:decode", {"size": size.json(), "layout": layout, "batch": batch} | effort)
    if bandwidth:
        yield from share(bench, id, [piece], effort["new"], goal, bandwidth)
        return
    rates = tuple(batch * (effort["new"] - 1) / s for s in piece["loop_seconds"])
    note = f"{layout}, batch {batch}; {loop_note([piece], effort['new'])}"
    yield Row(id, median(rates), "tokens/s", goal=goal, repeats=rates, note=note, facts=facts(piece))


def scaling(bench: Bench, id: str, size: Size, *, goal: str, effort: dict[str, int], batch: int) -> Rows:
    """Tokens/s of the loop over all rows of a batch, over those of one row."""
    one, many = (bench.run("decoding:decode", {"size": size.json(), "batch": n} | effort) for n in (1, batch))
    times = [batch * median(one["loop_seconds"]) / s for s in many["loop_seconds"]]
    total = batch * (effort["new"] - 1) / median(many["loop_seconds"])
    note = f"{total:,.0f} tokens/s at batch {batch}, texts up to {effort['prompt'] + effort['new']} tokens"
    yield Row(id, median(times), "x", goal=goal, repeats=tuple(times), note=note, facts=facts(one, many))


def prefill(bench: Bench, id: str, size: Size, *, goal: str, effort: dict[str, int], batch: int, peak: float) -> Rows:
    """The fraction of the datasheet peak that reading a batch of prompts reaches."""
    piece = bench.run("decoding:decode", {"size": size.json(), "batch": batch} | effort)
    rates = tuple(piece["prefill_flops"] / s / peak for s in piece["prefill_seconds"])
    tokens = batch * effort["prompt"] / median(piece["prefill_seconds"])
    note = f"{batch} x {effort['prompt']} tokens, {tokens:,.0f} tokens/s; the head counted for the last position"
    yield Row(id, median(rates), "MFU", goal=goal, repeats=rates, note=note, facts=facts(piece))
