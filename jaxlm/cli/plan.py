"""The verb `plan`: what a config costs, and what comes of it on a topology that need not be there."""

import dataclasses
import json
import os
import re
from typing import Any

from jaxlm.cli.verb import Args, Parser, Verb
from jaxlm.errors import UserError, unknown
from jaxlm.paths import expand


def _arguments(parser: Parser) -> None:
    from jaxlm.cli.models import config_arguments

    config_arguments(parser)
    parser.add_argument("--topology", metavar="NAME", help="such as v5p:8x8x8, 2xv5e:16x16 (two slices) or h100:64")
    parser.add_argument("--mesh", metavar="AXIS=N,...", help="such as data=8,fsdp=64; other axes are 1")
    parser.add_argument("--search", action="store_true", help="try meshes, batches and memory levers, and rank them")
    parser.add_argument("--decode", metavar="ROWSxLENGTH", help="the decoding step too, such as 64x8192")
    parser.add_argument("--picture", metavar="PNG", help="draw what fills the memory and what takes the time")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def plan(args: Args) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is run: accelerators are left alone
    from jaxlm.config import override, resolve
    from jaxlm.plan.published import published

    found = published(expand(args.config))
    run = override(found[0], args.overrides) if found else resolve(args.config, args.overrides)
    if args.mesh:
        run = dataclasses.replace(run, mesh=_mesh(args.mesh, run.mesh))
    from jaxlm.plan import costs

    facts = costs.plan(run) | (costs.divided(run) if args.mesh else {})
    if found and found[1]:
        facts["quantised"] = f"{found[1]}; bytes are those of plain weights"
    if args.topology is None:
        for option in ("search", "decode", "picture"):
            if getattr(args, option):
                raise UserError(f"plan: --{option} needs --topology, such as v5p:8x8x8")
        print(json.dumps(facts) if args.json else costs.table(facts))
        return
    from jaxlm.plan import topology as topologies

    topology = topologies.parse(args.topology)
    if args.search:
        _search(args, run, topology, facts)
    else:
        _one(args, run, topology, facts)


def _search(args: Args, run: Any, topology: Any, facts: dict[str, Any]) -> None:
    from jaxlm.plan import report
    from jaxlm.plan.search import search

    if topology.chip is None:
        raise UserError("plan: --search needs a topology of chips whose speed is known: a TPU or GPU")
    options = search(run, topology)
    if args.picture:
        _draw(args, options[0], topology)
    if args.json:
        found = [{"changes": o.changes} | report.facts(o, topology) for o in options]
        print(json.dumps(facts | {"options": found}))
    else:
        print(f"{args.config} on {topology.name}, estimated, fastest first:\n{report.ranking(options)}")


def _one(args: Args, run: Any, topology: Any, facts: dict[str, Any]) -> None:
    from jaxlm.plan import pods, report
    from jaxlm.plan.search import cheapest

    found = pods.on(run, topology)
    told, better = facts | report.facts(found, topology), None
    if not found.program.fits:
        better = cheapest(run, topology)
        told["cheapest_change"] = None if better is None else better.changes
    decoding = pods.decoding(run, topology, *_size(args.decode)) if args.decode else None
    if args.picture:
        _draw(args, found, topology)
    if args.json:
        print(json.dumps(told | ({"decode": report.facts(decoding, topology)} if decoding else {})))
        return
    print(f"{args.config}: {report.table(found, topology)}")
    if not found.program.fits:
        print(f"\n{report.advice(better, found)}")
    if decoding:
        print(f"\ndecoding {args.decode}: {report.table(decoding, topology)}")


def _draw(args: Args, option: Any, topology: Any) -> None:
    from jaxlm.plan.picture import draw

    if option.timing is None or option.program.limit is None:
        raise UserError("plan: --picture needs a topology of chips whose memory and speed are known")
    title = f"{args.config} on {topology.name}"
    program = option.program
    draw(program.memory, program.limit, option.timing, title, args.picture, program.compiled)


def _mesh(text: str, before: Any) -> Any:
    """`before` with the axes that are named, and all others 1."""
    from jaxlm.sharding import AXES, MeshConfig

    sizes: dict[str, int] = dict.fromkeys(AXES, 1)
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)\s*=\s*(-?\d{1,9})\s*", part)
        if not found:
            raise UserError(f"plan: --mesh {text[:80]!r} is not like data=8,fsdp=64")
        if found[1] not in sizes:
            raise unknown("mesh axis", found[1], AXES)
        sizes[found[1]] = int(found[2])
    return MeshConfig(**sizes, explicit=before.explicit)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text)
    if not found:
        raise UserError(f"plan: --decode {text[:80]!r} is not like 64x8192, rows x tokens of each")
    return int(found[1]), int(found[2])


VERBS = {
    "plan": Verb(
        "what a config costs, here or on a pod",
        "jaxlm plan llama_3_1_8b --topology v5e:16x16 --mesh fsdp=64,tensor=4",
        _arguments,
        plan,
    )
}
