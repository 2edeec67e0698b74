"""A simulated judge with planted biases: they are measured, and the controls remove them."""

import re
from pathlib import Path

import numpy as np
import pytest

from jaxlm.apps import arena
from jaxlm.apps.judge import Judge, agreement, play, position_bias, preference_bias, templates
from jaxlm.errors import UserError
from tests.evals.models import Told


def simulated(position=0.0, verbosity=0.0, own=0.0, seed=0, noise=1.0):
    """Answers are "q=3 by=x word word ...": their quality, who wrote them, and how long they are."""
    rng = np.random.default_rng(seed)

    def worth(answer):
        return (
            float(re.search(r"q=(\d+)", answer)[1]) + verbosity * len(answer.split()) / 10 + own * ("by=me" in answer)
        )

    def write(prompt):
        a, b = re.search(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n\nYour", prompt, re.DOTALL).groups()
        p = 1 / (1 + np.exp(-(worth(a) - worth(b) + position) / noise))
        return f"Because. [[{'A' if rng.random() < p else 'B'}]]"

    return Judge(write, "sim")


ALIKE = [("why?", "q=5 by=x ok", "q=5 by=y ok")] * 400
LONG = [("why?", "q=5 by=x " + "so " * 20, "q=5 by=y ok")] * 400
OWN = [("why?", "q=5 by=me ok", "q=5 by=y ok")] * 400
sigmoid = lambda x: 1 / (1 + np.exp(-x))


def test_position_is_measured_and_removed():
    biased = simulated(position=1.0)
    found = position_bias(biased, ALIKE)
    assert found.low < sigmoid(1.0) - 0.5 < found.high and found.low > 0.1
    assert position_bias(simulated(), ALIKE).low < 0 < position_bias(simulated(), ALIKE).high
    before, after = preference_bias(biased, ALIKE, both=False), preference_bias(biased, ALIKE)
    assert before.low < sigmoid(1.0) - 0.5 < before.high
    assert after.low < 0 < after.high


def test_verbosity_is_measured_and_removed():
    judge = simulated(verbosity=0.5)
    assert preference_bias(judge, LONG, both=False).low > 0.1
    rng, names, battles = np.random.default_rng(1), ("x", "long"), []
    for _ in range(800):  # of the same quality, one of them twice as long
        words = rng.integers(2, 20, 2) * (1, 2)
        a, b = (f"q=5 by={name} " + "so " * n for name, n in zip(names, words))
        battles.append(arena.Battle(*names, judge.once("why?", a, b).score, (arena.style(a), arena.style(b))))
    plain, controlled = arena.bradley_terry(battles), arena.bradley_terry(battles, ["length"])
    assert plain["long"].low > plain["x"].high
    assert controlled["long"].low < 1000 < controlled["long"].high and controlled.style["length"] > 0


def test_self_preference_is_measured_and_refused():
    found = preference_bias(simulated(own=1.0), OWN, both=False)
    assert found.low < sigmoid(1.0) - 0.5 < found.high and found.low > 0.1
    assert abs(preference_bias(simulated(), OWN).value) < 0.07
    model = Told(answers={"": "x"})
    with pytest.raises(UserError, match="told is to judge itself: take another"):
        play([model], ["q"], Judge(lambda prompt: "", "told"))


def test_both_orders_and_forms():
    first = Judge(lambda prompt: "[[A]]")
    assert first.compare("q", "a", "b").score == 0.5 and first.once("q", "a", "b").score == 1
    good = Judge(lambda prompt: "x [[A]] no, [[B]]" if prompt.index("bad") < prompt.index("good") else "[[A]]")
    verdict = good.compare("q", "good", "bad")
    assert verdict.score == 1 and verdict.rationales == ("[[A]]", "x [[A]] no, [[B]]")
    assert Judge(lambda prompt: "A").compare("q", "a", "b").score is None
    marks = ["so [[7.5]]", "[8]", "eight", "[[11]]"]
    assert [Judge(lambda prompt, said=said: said).mark("q", "a").score for said in marks] == [7.5, 8, None, None]
    with pytest.raises(UserError, match="no verdict in its form"):
        position_bias(Judge(lambda prompt: "A"), ALIKE[:3])


def test_models_play_and_people_agree():
    x, y = Told(answers={"q": "q=9 by=x"}), Told(answers={"q": "q=1 by=y"})
    x.name, y.name = "x", "y"
    battles = play([x, y], ["q", "q"], simulated(noise=0.1))
    assert [(one.a, one.b, one.score) for one in battles] == [("y", "x", 0.0)] * 2
    with pytest.raises(UserError, match="two models have one name, 'x'"):
        play([x, x], ["q"], simulated())
    assert agreement([1, 0, 1, 0], [1, 0, 0, 0]) == {"agreement": 0.75, "kappa": 0.5}


def test_published_templates():
    path = Path(__file__).resolve().parents[3] / "shared/data/judge/judge_prompts.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    seen = []
    judge = Judge(lambda prompt: seen.append(prompt) or "[[B]]", **templates(path))
    assert judge.once("why?", "one", "two").score == 0 and "[User Question]\nwhy?" in seen[0] and "two" in seen[0]
    with pytest.raises(UserError, match="unknown template 'x'"):
        templates(path, "x")
