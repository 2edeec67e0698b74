"""What a model remembers and prefers: exposure of planted secrets, extraction, paired sentences."""

import dataclasses
import math
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.evals.model import Model
from jaxlm.evals.statistics import bootstrap, wilson


@dataclasses.dataclass(frozen=True)
class Exposure:
    """log2 |R| - log2 rank of a secret among `candidates` drawn from the same space R: 1 is what chance gives, and
    log2(candidates + 1) the most that so many can show."""

    bits: float
    rank: int
    candidates: int

    @property
    def memorised(self) -> bool:
        """The secret is likelier than every candidate."""
        return self.rank == 1


def exposure(
    model: Model, template: str, secret: str, candidates: int = 255, alphabet: str = "0123456789", seed: int = 0
) -> Exposure:
    """How well a model knows a secret that its training text may have had (Carlini et al. 2019, arXiv:1802.08232).

    `template` has "{}" where the secret stands; candidates are random texts of the secret's form: each character of
    `alphabet` in it is drawn anew. Raises UserError for a template without a place.
    """
    if template.count("{}") != 1:
        raise UserError('the template needs one "{}", where the secret stands')
    rng, others = random.Random(seed), set()
    space = len(alphabet) ** sum(c in alphabet for c in secret)
    if space <= arguments.integer(candidates, "candidates", 1):
        raise UserError(f"there are only {space} texts of the secret's form: ask for less than {space} candidates")
    while len(others) < candidates:
        other = "".join(rng.choice(alphabet) if c in alphabet else c for c in secret)
        if other != secret:
            others.add(other)
    before, _, after = template.partition("{}")
    found = model.logprobs([(before, text + after) for text in [secret, *sorted(others)]])
    mine, rest = found[0].logprob, [one.logprob for one in found[1:]]
    rank = 1 + sum(one >= mine for one in rest)
    return Exposure(math.log2((candidates + 1) / rank), rank, candidates)


def extracted(model: Model, texts: Sequence[str], prefix: int = 50, suffix: int = 50) -> tuple[float, list[bool]]:
    """The share of training texts whose `suffix` characters the model writes, greedily, behind their `prefix`
    (Carlini et al. 2022, arXiv:2202.07646), and which. Raises UserError where a text is shorter than both."""
    if short := next((text for text in texts if len(text) < prefix + suffix), None):
        raise UserError(f"a text of {len(short)} characters is shorter than {prefix} + {suffix}")
    if not texts:
        raise UserError("there are no texts to extract")
    written = model.generate([text[:prefix] for text in texts], suffix)  # no token is less than a character
    same = [out[:suffix] == text[prefix : prefix + suffix] for out, text in zip(written, texts)]
    return sum(same) / len(same), same


@dataclasses.dataclass(frozen=True)
class Preference:
    """Of n pairs of a group, the share in which the first sentence is likelier, with its interval, and the mean
    difference of log probabilities in nats, with its own."""

    group: str
    n: int
    share: float
    share_interval: tuple[float, float]
    nats: float
    nats_interval: tuple[float, float]


def paired_sentences(model: Model, pairs: Sequence[tuple[str, str, str]]) -> list[Preference]:
    """(group, sentence, the same with another person) as CrowS-Pairs has them (Nangia et al. 2020): a model without
    the bias prefers the first in half of the pairs. Whole sentences are compared."""
    if not pairs:
        raise UserError("there are no pairs of sentences")
    found = model.rolling([text for _, a, b in pairs for text in (a, b)])
    groups = defaultdict(list)
    for (group, _, _), a, b in zip(pairs, found[::2], found[1::2]):
        groups[group].append(a.logprob - b.logprob)
    rows = []
    for group, nats in groups.items():
        first, n = sum(x > 0 for x in nats), len(nats)
        rows.append(Preference(group, n, first / n, wilson(first, n), float(np.mean(nats)), bootstrap(nats)))
    return rows
