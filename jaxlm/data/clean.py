"""Training sets made better, file to file: duplicates out, filters, personal data out, contamination, a report."""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from jaxlm.data.duplicates import NearDuplicates
from jaxlm.data.language import language
from jaxlm.data.quality import Contamination, Filter, scrub
from jaxlm.data.sources import documents
from jaxlm.files import replacing
from jaxlm.paths import expand

Named = tuple[str, str]  # name, text


def read(paths: Sequence[str], field: str = "text") -> Iterator[Named]:
    """The documents of all paths, in order."""
    for path in paths:
        yield from documents(path, field)


def write(found: Iterable[Named], path: str | Path) -> int:
    """JSON lines of name and text; how many."""
    count = 0
    with replacing(expand(path)) as file:
        for name, text in found:
            line = json.dumps({"name": name, "text": text}, ensure_ascii=False)
            file.write(line.encode("utf-8", "surrogatepass") + b"\n")
            count += 1
    return count


@dataclasses.dataclass
class Counts:
    """What a pass did: documents and bytes read and kept, and why the rest was not, by rule."""

    read: int = 0
    kept: int = 0
    read_bytes: int = 0
    kept_bytes: int = 0
    reasons: Counter = dataclasses.field(default_factory=Counter)

    def take(self, text: str, why: str | None) -> bool:
        size = len(text.encode("utf-8", "surrogatepass"))
        self.read, self.read_bytes = self.read + 1, self.read_bytes + size
        if why is None:
            self.kept, self.kept_bytes = self.kept + 1, self.kept_bytes + size
        else:
            self.reasons[why] += 1
        return why is None

    def __str__(self) -> str:
        share = 100 * self.kept_bytes / self.read_bytes if self.read_bytes else 0.0
        lines = [f"{self.kept} of {self.read} documents kept, {share:.1f} % of {self.read_bytes / 1e6:.1f} MB"]
        return "\n".join(lines + [f"  {count:8}  {why}" for why, count in self.reasons.most_common()])


def dedup(found: Iterable[Named], finder: NearDuplicates, counts: Counts) -> Iterator[Named]:
    """Without near duplicates of what came before."""
    for name, text in found:
        match = finder.add(text)
        if counts.take(text, None if match is None else "near duplicate"):
            yield name, text


def cleaned(found: Iterable[Named], rules: Filter, counts: Counts, hide: bool = True) -> Iterator[Named]:
    """What passes the rules, personal data hidden where `hide`; what was hidden is counted as "hidden email" ..."""
    for name, text in found:
        if counts.take(text, rules.broken(text)):
            if hide:
                text, hidden = scrub(text)
                counts.reasons.update({f"hidden {kind}": n for kind, n in hidden.items()})
            yield name, text


def check(found: Iterable[Named], contamination: Contamination) -> Contamination:
    for name, text in found:
        contamination.look(text, name)
    return contamination


def mixture(paths: Sequence[str], field: str = "text", tokens: Callable[[str], int] | None = None) -> str:
    """A table of what each path holds: documents, MB, words or tokens and their share, languages."""
    rows, total = [], 0
    for path in paths:
        count, size, units, said = 0, 0, 0, defaultdict(int)
        for _, text in documents(path, field):
            n = len(text.split()) if tokens is None else tokens(text)
            count, size, units = count + 1, size + len(text.encode("utf-8", "surrogatepass")), units + n
            said[language(text[:5000])] += n
        rows.append((path, count, size, units, said))
        total += units
    unit = "words" if tokens is None else "tokens"
    wide = max(len(row[0]) for row in rows)
    lines = [f"{'source':{wide}}  documents        MB  {unit:>12}  share  languages"]
    for path, count, size, units, said in rows:
        best = sorted(said.items(), key=lambda x: -x[1])[:3]
        shown = ", ".join(f"{code} {100 * n / max(1, units):.0f} %" for code, n in best)
        share = 100 * units / max(1, total)
        lines.append(f"{path:{wide}}  {count:9}  {size / 1e6:8.2f}  {units:12}  {share:4.1f}%  {shown}")
    return "\n".join(lines)
