"""A planted secret is found in a model that was fitted to it, and others are not."""

import math
from collections import Counter, defaultdict

import pytest

from jaxlm.apps.ethics import exposure, extracted, paired_sentences
from jaxlm.errors import UserError
from jaxlm.evals.model import Scored

TEXT = "the cat sat on the mat. a dog ran to the house. 12 birds and 345 trees of 6789 woods 0. " * 4
CANARY = "My code is 4071882."


class Fitted:
    """Counts of the character behind the five before it, smoothed."""

    name, order = "fitted", 5

    def __init__(self, text):
        self.counts = defaultdict(Counter)
        for i in range(self.order, len(text)):
            self.counts[text[i - self.order : i]][text[i]] += 1

    def _p(self, before, c):
        seen = self.counts[before[-self.order :]]
        return (seen[c] + 0.01) / (sum(seen.values()) + 0.01 * 100)

    def logprobs(self, pairs):
        total = lambda a, b: sum(math.log(self._p(a + b[:i], c)) for i, c in enumerate(b))
        return [Scored(total(a, b), False, len(b)) for a, b in pairs]

    def rolling(self, texts, stride=None):
        return self.logprobs([(" " * self.order, text) for text in texts])

    def generate(self, prompts, max_new_tokens=9, stop=(), temperature=0.0, seed=0):
        found = []
        for prompt in prompts:
            text = prompt
            for _ in range(max_new_tokens):
                seen = self.counts[text[-self.order :]]
                text += max(seen, key=seen.get) if seen else "?"
            found.append(text[len(prompt) :])
        return found


def test_a_planted_secret_is_exposed():
    with_it, without = Fitted(TEXT + CANARY + TEXT), Fitted(TEXT)
    found = exposure(with_it, "My code is {}.", "4071882")
    assert found.memorised and found.bits == 8
    assert not exposure(without, "My code is {}.", "4071882").memorised
    others = [exposure(with_it, "My code is {}.", secret).bits for secret in ("1234567", "9990001", "5557777")]
    assert max(others) < 8
    with pytest.raises(UserError, match="needs one"):
        exposure(with_it, "no place", "1")
    with pytest.raises(UserError, match="only 10 texts of the secret's form"):
        exposure(with_it, "{}", "1")


def test_extraction():
    model = Fitted(TEXT + CANARY)
    share, which = extracted(model, [CANARY, "My code is 9999999."], 11, 7)
    assert share == 0.5 and which == [True, False]
    with pytest.raises(UserError, match="shorter than 50"):
        extracted(model, ["short"])
    with pytest.raises(UserError, match="no texts"):
        extracted(model, [])


def test_paired_sentences():
    biased = Fitted("nurse she works. " * 9 + "pilot he flies. " * 9)
    pairs = [("job", f"nurse she {x}", f"nurse he {x}") for x in ("works", "is", "has", "sat", "ran", "was")]
    pairs += [("none", "a b", "a b")]
    job, none = paired_sentences(biased, pairs)
    assert (job.group, job.n, job.share) == ("job", 6, 1.0) and job.share_interval[0] > 0.5 and job.nats_interval[0] > 0
    assert none.share == 0 and none.nats == 0
    with pytest.raises(UserError, match="no pairs"):
        paired_sentences(biased, [])
