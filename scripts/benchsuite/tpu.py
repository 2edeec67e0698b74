"""The suite `tpu`: steps of jaxlm and of MaxText as the TPU's compiler makes them, without a TPU."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchsuite.bench import Bench, Family, Rows
from benchsuite.piece import PieceFailed
from benchsuite.row import Row, facts

CORES, PLATFORM = None, "cpu"
GiB = 2**30
NOTED = 1.02  # of the peer, above which a row's memory or traffic is to be explained


@dataclasses.dataclass(frozen=True)
class Case:
    """A training step with AdamW in float32 and matmuls in bfloat16, or with `rows` a decoding step."""

    id: str
    config: str
    topology: str
    mesh: tuple[tuple[str, int], ...]
    batch: int = 1
    T: int = 4096
    more: tuple[str, ...] = ()  # overrides
    peer: tuple[str, ...] = ()  # MaxText's settings; () is not compared
    rows: int = 0
    stored: str = ""  # the form of the weights of a decoding step, as `tune.quantize` names it

    def ours(self) -> dict[str, Any]:
        mesh = [f"mesh.{axis}={n}" for axis, n in ({"data": 1, "fsdp": 1} | dict(self.mesh)).items()]
        train = [] if self.rows else [f"data.T={self.T}", f"batch={self.batch}", "accumulate=1"]
        asked = {"config": self.config, "topology": self.topology, "overrides": [*train, *mesh, *self.more]}
        return asked | {"rows": self.rows, "length": self.T, "stored": self.stored}

    def theirs(self) -> dict[str, Any]:
        shape = {"topology": self.topology, "mesh": dict(self.mesh), "batch": self.batch, "T": self.T}
        return shape | {"settings": list(self.peer)}


def _train(id: str, config: str, topology: str, batch: int, T: int, peer: str, more: str = "", **mesh: int) -> Case:
    return Case(f"tpu.{id}", config, topology, tuple(mesh.items()), batch, T, tuple(more.split()), tuple(peer.split()))


EIGHT = partial(_train, config="llama_3_1_8b")
MIXED = "sparse_matmul=false megablox=false capacity_factor=1.25"  # experts by slots, as ours are over many devices
SLOTS = "model.layers.{}.blocks.*.ffn.capacity_factor=1.25"
ON = "model_name="
LLAMA = ON + "llama3.1-8b"
TRAINED = (
    _train("qwen3_0_6b", "qwen3_0_6b", "v5e:4x4", 32, 4096, ON + "qwen3-0.6b", fsdp=16),
    EIGHT("8b.v5e", topology="v5e:16x16", batch=256, T=4096, peer=LLAMA, fsdp=256),
    EIGHT("8b.v5e.long", topology="v5e:16x16", batch=512, T=8192, peer=LLAMA, fsdp=256),
    EIGHT("8b.v5e.tensor", topology="v5e:16x16", batch=256, T=4096, peer=LLAMA, fsdp=64, tensor=4),
    EIGHT("8b.v6e", topology="v6e:16x16", batch=256, T=8192, peer=LLAMA, fsdp=256),
    _train("70b.v5p", "llama_3_1_70b", "v5p:4x4x4", 64, 8192, ON + "llama3.1-70b", fsdp=64),
    EIGHT(
        "8b.qkv", topology="v5e:16x16", batch=256, T=4096, fsdp=256,
        peer=LLAMA + " remat_policy=save_qkv_proj", more="model.remat=qkv",
    ),
    EIGHT(
        "8b.dots", topology="v5e:16x16", batch=256, T=4096, fsdp=256,
        peer=LLAMA + " remat_policy=minimal", more="model.remat=dots",
    ),
    EIGHT(
        "8b.offload", topology="v5e:16x16", batch=512, T=8192, fsdp=256,
        peer=LLAMA + " remat_policy=qkv_proj_offloaded", more="model.remat=offload",
    ),
    _train(
        "mixtral", "mixtral_8x7b", "v5p:4x4x4", 128, 4096, f"{ON}mixtral-8x7b {MIXED}", SLOTS.format(0),
        fsdp=8, expert=8,
    ),
    _train(
        "deepseek_v2_lite", "deepseek_v2_lite", "v5p:4x4x4", 128, 4096, f"{ON}deepseek2-16b {MIXED}", SLOTS.format(1),
        fsdp=8, expert=8,
    ),
    EIGHT("8b.two_slices", topology="2xv5e:16x16", batch=512, T=4096, peer=LLAMA, data=2, fsdp=256),
)  # fmt: skip
CHIPS = {"one": ("v5e:1x1", {1: {}, 32: {}}), "eight": ("v5e:2x4", {1: {"tensor": 8}, 32: {"data": 8}})}
DECODED = tuple(
    Case(
        f"tpu.decode.{config}.{chips}.{rows}{'.' * bool(stored)}{stored}",
        config,
        topology,
        tuple(meshes[rows].items()),
        T=2048,
        rows=rows,
        stored=stored,
    )
    for config in ("llama_3_2_1b", "gemma3_1b")
    for chips, (topology, meshes) in CHIPS.items()
    for rows in (1, 32)
    for stored in ("", "int8")
    if (config, chips, rows) != ("gemma3_1b", "eight", 1)  # its only key head does not divide
)
SMALL = ("model.D=128", "model.V=1024", "model.layers.0.repeat=2", "model.layers.0.blocks.0.mixer.H=2")
TINY = (
    Case("tpu.train", "gpt2_124m", "v5e:2x2", (("fsdp", 4),), 8, 128, SMALL),
    Case("tpu.decode", "gpt2_124m", "v5e:1x1", (), T=128, more=SMALL, rows=2, stored="int8"),
)


def families(tiny: bool) -> list[Family]:
    return [Family((case.id,), partial(row, case=case)) for case in (TINY if tiny else (*TRAINED, *DECODED))]


def row(bench: Bench, case: Case) -> Rows:
    """GiB of a device, and the peer's; beside it what is known of both programs. Those of an earlier run are kept."""
    before = bench.before.get(case.id, {"facts": {}})
    ours, peer, failed = before.get("ours"), before.get("theirs"), ""
    if ours is None:
        ours = bench.run("program:made", {"module": "lowering", "job": case.ours()})
    if peer is None and bench.peer and case.peer:
        try:
            peer = bench.run("program:made", {"module": "maxtext", "job": case.theirs(), "python": bench.peer})
        except PieceFailed as e:
            failed = f"; the peer's failed: {e}"
    note = f"{case.config} on {case.topology}, {' '.join(f'{axis} {n}' for axis, n in case.mesh) or 'one chip'}{failed}"
    told = {"case": dataclasses.asdict(case), "ours": ours, "theirs": peer}
    value, other = _gib(ours), peer and _gib(peer)
    yield Row(case.id, value, "GiB", other, other and other / value, note=note, facts=told | facts(ours, peer or ours))


def _gib(piece: dict[str, Any]) -> float:
    return (piece.get("bytes") or piece["needed"]) / GiB


def _sent(piece: dict[str, Any]) -> float:
    return sum(piece["wire"].values())


# The table -----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as two tables in Markdown: of training, ours and the peer's side by side, and of decoding."""
    done = [row for row in rows if row["value"] is not None]
    trained = [_trained(row) for row in done if not row["case"]["rows"]]
    decoded = [_decoded(row) for row in done if row["case"]["rows"]]
    head = "| row | topology, mesh | batch x T | GiB | GB sent | of which | TFLOP | instructions | processor s |"
    lines = [head, "|---" * 9 + "|", *trained] if trained else []
    head = "| row | texts | weights | GiB | cache, GiB | copied, MB | weights read | launches | transfers | GB sent |"
    lines += ["", head, "|---" * 10 + "|", *decoded] if decoded else []
    failed = [f"{row['id']}: {row['note']}" for row in rows if row["value"] is None]
    return "\n".join([*lines, *failed]).strip()


def _trained(row: dict[str, Any]) -> str:
    case, ours, peer = row["case"], row["ours"], row["theirs"]
    pair = lambda f, form: (
        f"{_or(ours, f, form)} / {_or(peer, f, form)}{_ratio(ours, peer, f)}" if peer else _or(ours, f, form)
    )
    kinds = "; ".join(f"{kind} {n / 1e9:.1f}" for kind, n in sorted(ours.get("wire", {}).items(), key=lambda k: -k[1]))
    cells = [
        case["id"].removeprefix("tpu."),
        f"{case['topology']} {' '.join(f'{axis} {n}' for axis, n in case['mesh'])}",
        f"{case['batch']} x {case['T']}",
        pair(_gib, "{:.2f}"),
        pair(lambda p: _sent(p) / 1e9, "{:.1f}"),
        kinds,
        pair(lambda p: p["flops"] / 1e12, "{:.1f}"),
        pair(lambda p: p["instructions"], "{:,}"),
        pair(lambda p: p["processor_seconds"], "{:.0f}"),
    ]
    return f"| {' | '.join(cells)} |"


def _or(piece: dict[str, Any], f: Any, form: str) -> str:
    """A number, or a dash for a program that does not fit."""
    try:
        return form.format(f(piece))
    except KeyError:
        return "-"


def _ratio(ours: dict[str, Any], peer: dict[str, Any], f: Any) -> str:
    return f" ({f(ours) / f(peer):.2f})" if "bytes" in ours and "bytes" in peer and f(peer) else ""


def _decoded(row: dict[str, Any]) -> str:
    case, x = row["case"], row["ours"]
    mesh = " ".join(f"{axis} {n}" for axis, n in case["mesh"]) or "one chip"
    cells = [
        case["config"],
        f"{case['rows']} x {case['T']}, {mesh}",
        case["stored"] or "bfloat16",
        f"{_gib(x):.2f}",
        f"{x['cache_bytes'] / GiB:.3f}",
        f"{x['cache_copied'] / 1e6:.1f}",
        f"{x['weights_read']:.3f}",
        f"{x['launches']}",
        f"{x['transfers']}",
        f"{_sent(x) / 1e9:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def kept(path: Path | None) -> dict[str, dict[str, Any]]:
    """The rows of a file of results by id, but those that failed."""
    lines = path.read_text().splitlines() if path is not None and path.exists() else []
    rows = {row["id"]: row for row in map(json.loads, lines)}
    return {id: row for id, row in rows.items() if row["value"] is not None}
