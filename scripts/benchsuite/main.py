"""The command line of `scripts/bench`."""

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchsuite import cpu, h200, plans, recurrent, tpu
from benchsuite.bench import Bench, Family, Rows
from benchsuite.piece import ROOT, PieceFailed
from benchsuite.row import Row, table

SUITES = {"cpu": cpu, "h200": h200, "plan": plans, "recurrent": recurrent, "tpu": tpu}


def main(argv: Sequence[str]) -> int:
    """Measure and print; 0 if every row was measured or needs what was not given, 1 if one failed, 2 on bad usage."""
    options = _parser().parse_args(argv)
    suite = SUITES[options.suite]
    families = [family for family in suite.families(options.tiny) if _wanted(family.ids, options.rows)]
    if not families:
        known = ", ".join(id for family in suite.families(options.tiny) for id in family.ids)
        print(f"bench: error: no row is called {options.rows!r}: {known}", file=sys.stderr)
        return 2
    commit, rows = _commit(), []
    before = suite.kept(options.out) if suite is tpu else {}
    lines = {id: json.dumps(row) for id, row in before.items()}
    with tempfile.TemporaryDirectory(prefix="jaxlm-bench-") as folder:
        bench = Bench(options, Path(folder), suite.PLATFORM, suite.CORES)
        bench.before = before
        for family in families:
            for row in _measured(family, bench):
                if _wanted([row.id], options.rows):
                    rows.append(row)
                    lines[row.id] = row.json(commit)
                    print(lines[row.id], flush=True)
                    _write(options.out, list(lines.values()))
    shown = suite.table([json.loads(line) for line in lines.values()]) if suite is tpu else table(rows)
    print("\n" + shown)
    return int(any(row.note.startswith(("failed", "void")) for row in rows))


def _measured(family: Family, bench: Bench) -> Rows:
    """The rows of a family; what a failed piece leaves unmeasured says so."""
    left = list(family.ids)
    try:
        for row in family.run(bench):
            left.remove(row.id)
            yield row
    except PieceFailed as e:
        for id in left:
            yield Row(id, None, "", note=f"failed: {e}")


def _wanted(ids: Sequence[str], pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(id, one) for id in ids for one in pattern.split(","))


def _write(path: Path | None, lines: list[str]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("\n".join(lines) + "\n")
        os.replace(temporary, path)


def _commit() -> str:
    """The commit of the working tree, with "+" where what is measured was changed since; "" outside a repository."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "jaxlm", "configs", "scripts"], capture_output=True
        )
    except OSError:  # no git
        return ""
    return head.stdout.strip() + "+" * bool(changed.stdout)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure jaxlm on this machine; see benchmarks/README.md"
    )
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument(
        "--rows", "--only", default="*", metavar="PATTERN", help="only these: 'train.*,ceiling.matmul' (default: all)"
    )
    parser.add_argument(
        "--peer", metavar="PYTHON", help="a Python with what to compare with: torch and transformers, of tpu MaxText"
    )
    parser.add_argument("--text", metavar="FILE", help="the text of Tiny Shakespeare, for the row that learns it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to keep the rows, one JSON object a line")
    parser.add_argument("--tiny", action="store_true", help="small shapes, which measure nothing: to try the suite")
    return parser
