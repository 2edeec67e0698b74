"""Tasks from plain files: what a row of each published form asks, and how its answer is scored.

    task("gsm8k", "gsm8k_test.jsonl.gz")     # KINDS lists the forms

The prompts are those of the public harness where it has the task, so that numbers can be compared.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError, unknown
from jaxlm.evals import answers, code, ifeval
from jaxlm.evals.items import Choices, Item, Reading, Scores, Writing, choices
from jaxlm.evals.metrics import exact_match, translation, word_f1
from jaxlm.evals.rouge import rouge
from jaxlm.evals.rows import Row, rows

LETTERS = "ABCDEFGHIJ"


@dataclasses.dataclass(frozen=True)
class Task:
    """Items of one kind. `corpus` scores all texts and references at once, beside the scores of each."""

    name: str
    kind: str
    items: tuple[Item, ...]
    corpus: Callable[[Sequence[str], Sequence[str]], dict[str, Any]] | None = None


def _gold(row: Row, count: int, *names: str) -> int:
    """An index, from 0 or as a letter or as a digit that counts from 0."""
    value = row.need(*names, kind=(int, str))
    text = str(value).strip()
    at = LETTERS.find(text) if len(text) == 1 and text.isalpha() else int(text) if text.lstrip("-").isdigit() else -1
    if not 0 <= at < count:
        raise UserError(f"{row.place}: {names[0]!r} is {value!r}, which is none of the {count} options")
    return at


def _options(row: Row) -> list[str]:
    """The options of a row in any of the published spellings."""
    if isinstance(given := row.get("choices"), dict):
        return Row(given, f"{row.place} choices").texts("text")
    columns = sorted(name for name in row if re.fullmatch(r"choice\d", name)) or [x for x in "ABCD" if x in row]
    return [row.need(name) for name in columns] if given is None and columns else row.texts("choices", "endings")


def _query(row: Row) -> Choices:
    options = _options(row)
    return choices(row.need("query", "context", "question"), options, _gold(row, len(options), "gold", "label"))


def _arc(row: Row) -> Choices:
    if "query" in row:
        options = _options(row)
        question = f"{row['query'].removesuffix('Answer:').strip()}\nAnswer:"
        return choices(question, options, _gold(row, len(options), "gold"))
    options, labels = _options(row), row.need("choices", kind=dict).get("label") or []
    key = row.need("answerKey")
    if key not in labels:
        raise UserError(f"{row.place}: 'answerKey' is {key!r}, which is none of the options {', '.join(labels)}")
    return choices(f"Question: {row.need('question')}\nAnswer:", options, labels.index(key))


def _hellaswag(row: Row) -> Choices:
    def clean(text: str) -> str:
        text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
        return text.replace("  ", " ")

    options = [clean(one) for one in row.texts("endings")]
    context = f"{row.need('ctx_a')} {row.need('ctx_b').capitalize()}" if "ctx_a" in row else row.need("ctx")
    query = clean(f"{row.need('activity_label')}: {context}")
    return choices(query, options, _gold(row, len(options), "label"))


def _mmlu(row: Row) -> Choices:
    options = _options(row)
    lines = "".join(f"{letter}. {one}\n" for letter, one in zip(LETTERS, options))
    context = f"{row.need('question').strip()}\n{lines}Answer:"
    group = re.sub(r"_(test|dev|val)$", "", str(row.get("subject", row["file"])))
    return choices(context, list(LETTERS[: len(options)]), _gold(row, len(options), "answer", "gold"), group)


def _winogrande(row: Row) -> Choices:
    if "context_options" in row:
        contexts, rest = row.texts("context_options"), " " + row.need("continuation")
        gold = _gold(row, len(contexts), "gold")
    else:
        before, blank, rest = row.need("sentence").partition("_")
        if not blank:
            raise UserError(f"{row.place}: 'sentence' has no blank _")
        contexts = [before + row.need(f"option{i}") for i in (1, 2)]
        gold = _gold(Row({"answer": int(row.need("answer", kind=(str, int))) - 1}, row.place), 2, "answer")
        rest = " " + rest.strip()
    return Choices(tuple((one, rest) for one in contexts), (gold,), contexts[gold] + rest)


def _truthful(row: Row, key: str) -> Choices:
    """mc1: the best answer against all wrong ones; mc2: all right ones against them."""
    question = row.need("Question", "question")
    if f"{key}_targets" in row:
        targets = row.need(f"{key}_targets", kind=dict)
        given = targets if "choices" not in targets else dict(zip(targets["choices"], targets["labels"]))
        options, labels = list(given), [int(x) for x in given.values()]
    else:
        split = lambda name: [one.strip() for one in row.need(name).split(";") if one.strip()]
        right = [row.need("Best Answer").strip()] if key == "mc1" else split("Correct Answers")
        wrong = split("Incorrect Answers")
        options, labels = right + wrong, [1] * len(right) + [0] * len(wrong)
    gold = [i for i, label in enumerate(labels) if label]
    if not gold or len(gold) == len(options):
        raise UserError(f"{row.place}: right and wrong answers are both needed")
    return choices(f"Q: {question}\nA:", options, gold)


def _lambada(row: Row) -> Choices:
    if "continuation" in row:
        return choices(row.need("context"), [row.need("continuation")], 0)
    before, _, last = row.need("text").rpartition(" ")
    return choices(before, [last], 0)


def _gsm8k(row: Row) -> Writing:
    prompt, answer = f"Question: {row.need('question')}\nAnswer:", row.need("answer")
    gold = answers.strict_number(answer) or answers.plain_number(answer)
    if gold is None:
        raise UserError(f"{row.place}: 'answer' ends with no number behind ####")

    def judge(text: str) -> Scores:
        strict, flexible = answers.strict_number(text), answers.last_number(text)
        return {"strict": float(strict == gold), "flexible": float(flexible == gold)}

    return Writing(prompt, judge, ("Question:", "</s>", "<|im_end|>"), 256, f"{prompt} {answer}", reference=gold)


def _humaneval(row: Row) -> Writing:
    prompt = row.need("prompt")
    judge = code.humaneval(prompt, row.need("test"), row.need("entry_point"))
    return Writing(prompt, judge, code.HUMANEVAL_STOPS, 384, prompt + row.get("canonical_solution", ""))


def _mbpp(row: Row) -> Writing:
    tests = row.texts("test_list")
    prompt = (
        "You are an expert Python programmer, and here is your task: "
        f"{row.need('text', 'prompt')} Your code should pass these tests:\n\n" + "\n".join(tests) + "\n[BEGIN]\n"
    )
    judge = code.mbpp(tests, row.get("test_setup_code") or "")
    return Writing(prompt, judge, code.MBPP_STOPS, 384, f"{prompt}{row.get('code', '')}\n[DONE]")


def _ifeval(row: Row) -> Writing:
    names, given = row.texts("instruction_id_list"), row.need("kwargs", kind=list)
    if len(names) != len(given):
        raise UserError(f"{row.place}: {len(names)} instructions, but {len(given)} kwargs")
    for name in names:
        if name not in ifeval.CHECKS:
            raise UserError(f"{row.place}: {unknown('instruction', name, ifeval.CHECKS)}")
    return Writing(row.need("prompt"), ifeval.judge(list(zip(names, given))), new=1280)


def _arc_agi(row: Row) -> list[Writing]:
    spell = lambda grid: "\n".join(" ".join(map(str, line)) for line in grid)
    shown = "".join(
        f"Input:\n{spell(pair['input'])}\nOutput:\n{spell(pair['output'])}\n\n" for pair in row.need("train", kind=list)
    )

    def one(pair: dict[str, Any]) -> Writing:
        judge = lambda text: {"exact": float(answers.grid(text) == pair["output"])}
        size = 2 * sum(map(len, pair["output"])) + 16
        return Writing(f"{shown}Input:\n{spell(pair['input'])}\nOutput:\n", judge, ("\n\n",), size, row["file"])

    return [one(pair) for pair in row.need("test", kind=list)]


def _short(row: Row) -> Writing:
    prompt = f"Question: {row.need('question', 'problem')}\nAnswer:"
    answer = row.need("answer", kind=(str, int, float))
    judge = lambda text: {"exact": float(answers.same_answer(answers.short_answer(text), str(answer)))}
    return Writing(prompt, judge, ("\nQuestion:",), 512, f"{prompt} {answer}", reference=str(answer))


def _qa(row: Row) -> Writing:
    found = row.get("answers")
    wanted = found["text"] if isinstance(found, dict) and "text" in found else row.texts("answers")
    prompt = f"{row.need('context')}\n\nQuestion: {row.need('question')}\nAnswer:"
    judge = lambda text: {"exact": exact_match(text, wanted), "f1": word_f1(text, wanted)}
    return Writing(prompt, judge, ("\n",), 64, f"{prompt} {wanted[0]}", reference=wanted[0])


def _babi(row: Row) -> list[Writing]:
    """bAbI's own text: numbered lines, of which those with tabs are question, answer and supporting facts."""
    found, story = [], []
    for i, line in enumerate(row.need("text").splitlines(), 1):
        number, _, rest = line.strip().partition(" ")
        if not line.strip():
            continue
        if not number.isdigit():
            raise UserError(f"{row.place}:{i}: a line of bAbI begins with its number")
        story = [] if number == "1" else story
        if "\t" not in rest:
            story.append(rest)
            continue
        question, answer = [part.strip() for part in rest.split("\t")[:2]]
        prompt = "\n".join([*story, f"Question: {question}", "Answer:"])
        judge = lambda text, answer=answer: {"exact": exact_match(text.strip().split("\n")[0], answer)}
        found.append(Writing(prompt, judge, ("\n",), 8, f"{prompt} {answer}", Path(row["name"]).stem, 1, answer))
    return found


def _needle(row: Row, sizes: Sequence[int] = (1000, 4000, 16000), depths: Sequence[float] = (0, 0.25, 0.5, 0.75, 1)):
    """A fact put at a depth of a long text, asked for behind it; sizes in characters of the text."""
    text, found = row.need("text"), []
    for number, (size, depth) in enumerate((s, d) for s in sizes for d in depths):
        if size > len(text):
            continue
        secret = str(10_000 + 7919 * (number + 1) % 90_000)
        at = text.rfind(" ", 0, int(depth * size) + 1) + 1
        hay = f"{text[:at]}The secret number is {secret}. {text[at:size]}"
        judge = lambda said, secret=secret: {"found": float(secret in said)}
        prompt = f"{hay}\n\nQuestion: What is the secret number?\nAnswer: The secret number is"
        found.append(Writing(prompt, judge, ("\n",), 8, "", f"{size} at {depth:g}", 1, secret))
    if not found:
        raise UserError(f"{row.place}: a text of {len(text)} characters is shorter than the haystacks: {sizes}")
    return found


def _translation(row: Row) -> Writing:
    source, target = row.need("source"), row.need("target")
    prompt = f"Source: {source}\nTranslation:"
    judge = lambda text: {"exact": float(text.strip() == target.strip())}
    return Writing(prompt, judge, ("\n",), 128, f"{prompt} {target}", reference=target)


def _summary(row: Row) -> Writing:
    summary = row.need("summary", "highlights")
    prompt = f"{row.need('document', 'article')}\n\nSummary:"
    judge = lambda text: {kind: score[2] for kind, score in rouge(text, summary).items()}
    return Writing(prompt, judge, ("\n\n",), 160, f"{prompt} {summary}", reference=summary)


KINDS: dict[str, Callable[[Row], Any]] = {
    "choices": _query,
    "arc": _arc,
    "hellaswag": _hellaswag,
    "mmlu": _mmlu,
    "winogrande": _winogrande,
    "truthfulqa_mc1": partial(_truthful, key="mc1"),
    "truthfulqa_mc2": partial(_truthful, key="mc2"),
    "lambada": _lambada,
    "gsm8k": _gsm8k,
    "humaneval": _humaneval,
    "mbpp": _mbpp,
    "ifeval": _ifeval,
    "arc_agi": _arc_agi,
    "short": _short,
    "qa": _qa,
    "babi": _babi,
    "needle": _needle,
    "translation": _translation,
    "summary": _summary,
    "text": lambda row: Reading(row.need("text")),
}


def task(kind: str, path: str | Path, limit: int | None = None, name: str = "") -> Task:
    """The first `limit` items of a file. Raises UserError for an unknown kind, and for a row without a field, by its
    line."""
    if kind not in KINDS:
        raise unknown("kind of task", kind, KINDS)
    items: list[Item] = []
    for row in rows(path):
        found = KINDS[kind](row)
        items += found if isinstance(found, list) else [found]
        if limit is not None and len(items) >= limit:
            break
    corpus = translation if kind == "translation" else None
    return Task(name or kind, kind, tuple(items[:limit]), corpus)
