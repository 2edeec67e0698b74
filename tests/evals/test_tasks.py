"""Tasks from files in their published forms, asked of a model that is told what to say."""

import json
import math
import zipfile

import pytest

from jaxlm.cli import main
from jaxlm.errors import UserError
from jaxlm.evals import answers, ifeval, sandbox
from jaxlm.evals.run import evaluate
from jaxlm.evals.tasks import KINDS, task
from tests.evals.models import Told


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ARC = {"question": "Sky?", "choices": {"text": ["blue", "a very long green"], "label": ["A", "B"]}, "answerKey": "B"}
GSM = {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}


def test_choices_and_their_normalisations(tmp_path):
    found = task("arc", write(tmp_path / "a.jsonl", ARC, {**ARC, "answerKey": "A"}))
    assert found.items[0].pairs[0] == ("Question: Sky?\nAnswer:", " blue")
    report = evaluate(Told(), [found])  # a nat a letter: the short one is likelier, and all are alike a byte
    assert report["arc", "acc"] == 0.5 and report["arc", "mc2"] == pytest.approx(0.5)
    assert 0 <= report["arc", "ece"] <= 1 and report["arc", "brier"] > 0.9
    good = evaluate(Told(liked={"a very long green"}), [task("arc", write(tmp_path / "a.jsonl", ARC))])
    assert good["arc", "acc"] == good["arc", "acc_norm"] == good["arc", "acc_token"] == 1


FORMS = {
    "hellaswag": {"activity_label": "Pole", "ctx_a": "A", "ctx_b": "b [x] c", "endings": ["u", "v"], "label": "1"},
    "mmlu": {"question": "Q ", "choices": ["u", "v", "w", "x"], "answer": 1, "subject": "anatomy"},
    "winogrande": {"sentence": "He and _ ran.", "option1": "u", "option2": "v", "answer": "2"},
    "truthfulqa_mc1": {"question": "Q", "mc1_targets": {"choices": ["u", "v"], "labels": [0, 1]}},
    "truthfulqa_mc2": {"Question": "Q", "Correct Answers": "v; w", "Incorrect Answers": "u", "Best Answer": "v"},
    "choices": {"query": "Q", "choices": ["u", "v"], "gold": 1},
    "lambada": {"text": "a b v"},
}
LAST = {"mmlu": " B", "winogrande": " ran.", "hellaswag": " v"}


@pytest.mark.parametrize("kind", FORMS)
def test_published_forms(kind, tmp_path):
    found = task(kind, write(tmp_path / "x.jsonl", FORMS[kind]))
    item = found.items[0]
    assert item.pairs[item.gold[0]][1] == LAST.get(kind, " v")
    right = {item.pairs[item.gold[0]][0 if kind == "winogrande" else 1].strip(), "w"}
    report = evaluate(Told(liked=right), [found])
    assert report[kind, "acc"] == 1
    if kind == "hellaswag":
        assert item.pairs[0][0] == "Pole: A B c"
    if kind == "truthfulqa_mc2":
        assert item.gold == (0, 1) and report[kind, "mc2"] > 0.5
    if kind == "mmlu":
        assert item.pairs[0][0] == "Q\nA. u\nB. v\nC. w\nD. x\nAnswer:"


def test_gsm8k_with_shots_strict_and_flexible(tmp_path):
    rows = [{**GSM, "question": f"{i} + 5?", "answer": f"#### {i + 5}"} for i in range(4)]
    model = Told(answers={"1 + 5": "so #### 6", "2 + 5": "It is $7.00.", "3 + 5": "#### 9 or 8"})
    report = evaluate(model, [task("gsm8k", write(tmp_path / "g.jsonl", *rows))], shots=1)
    assert report["gsm8k", "strict"] == pytest.approx(1 / 3) and report["gsm8k", "flexible"] == 1
    assert model.prompts[0] == "Question: 0 + 5?\nAnswer: #### 5\n\nQuestion: 1 + 5?\nAnswer:"
    assert report.measures[0].n == 3 and report.measures[0].low < 1 / 3 < report.measures[0].high
    assert json.loads(report.json())["measures"][0]["metric"] == "strict" and "strict" in report.table()
    report.save(tmp_path / "out")
    log = [json.loads(line) for line in (tmp_path / "out/items.jsonl").read_text().splitlines()]
    assert log[0]["scores"]["strict"] == 1 and log[0]["answer"] == ["so #### 6"]


@pytest.mark.skipif(bool(sandbox.walls()), reason=f"no sandbox: {sandbox.walls()}")
def test_code(tmp_path):
    row = {"prompt": "def f(x):\n", "test": "def check(g):\n    assert g(1) == 2", "entry_point": "f"}
    model = Told(answers={"def f": lambda seed: "    return x + 1\n" if seed % 2 else "    while True: pass"})
    report = evaluate(model, [task("humaneval", write(tmp_path / "h.jsonl", row))], samples=2)
    assert report["humaneval", "pass"] == 0.5 and report["humaneval", "pass@2"] == 1
    row = {"text": "Add one.", "test_list": ["assert f(1) == 2"], "code": "def f(x): return x + 1"}
    model = Told(answers={"Add one": "```python\ndef f(x):\n    return x + 1\n```"})
    assert evaluate(model, [task("mbpp", write(tmp_path / "m.jsonl", row))])["mbpp", "pass"] == 1


def test_other_writing_tasks(tmp_path):
    grid = {"train": [{"input": [[1, 2]], "output": [[2, 1]]}], "test": [{"input": [[3, 4]], "output": [[4, 3]]}]}
    with zipfile.ZipFile(tmp_path / "arc.zip", "w") as packed:
        packed.writestr("a/t.json", json.dumps(grid))
    report = evaluate(Told(answers={"3 4\nOutput": "4 3"}), [task("arc_agi", tmp_path / "arc.zip")])
    assert report["arc_agi", "exact"] == 1
    (tmp_path / "qa1.txt").write_text("1 Mary went home.\n2 Where is Mary?\thome\t1\n1 Bo ran.\n2 Who ran?\tBo\t1\n")
    babi = task("babi", tmp_path / "qa1.txt")
    assert babi.items[1].prompt == "Bo ran.\nQuestion: Who ran?\nAnswer:"
    assert evaluate(Told(answers={"Mary": " Home."}), [babi])["babi", "exact"] == 0.5
    (tmp_path / "hay.txt").write_text("hay and straw " * 200)
    needle = task("needle", tmp_path / "hay.txt")
    said = {item.prompt[-400:]: item.reference for item in needle.items[:1]}
    report = evaluate(Told(answers=said), [needle])
    assert report["needle", "found"] == pytest.approx(1 / 5) and report["needle", "found of 1000 at 1"] == 0
    short = task("short", write(tmp_path / "s.jsonl", {"question": "Half?", "answer": 0.5}))
    assert evaluate(Told(answers={"Half": "So\nthe answer is: 0.50"}), [short])["short", "exact"] == 1
    qa = {"context": "c", "question": "q", "answers": {"text": ["El niño rojo"]}}
    report = evaluate(Told(answers={"q": "niño"}), [task("qa", write(tmp_path / "q.jsonl", qa))])
    assert report["qa", "exact"] == 0 and report["qa", "f1"] == 0.5
    rows = [{"document": "d", "summary": "the cat"}, {"document": "e", "summary": "a dog"}]
    report = evaluate(
        Told(answers={"d\n": "the cat", "e\n": "x"}), [task("summary", write(tmp_path / "u.jsonl", *rows))]
    )
    assert report["summary", "rouge1"] == 0.5
    pytest.importorskip("sacrebleu")
    pair = {"source": "el gato se sienta", "target": "the cat sits on the mat"}
    report = evaluate(
        Told(answers={"gato": "the cat sits on the mat"}), [task("translation", write(tmp_path / "t.jsonl", pair))]
    )
    assert report["translation", "bleu"] == pytest.approx(100)


def test_reading(tmp_path):
    report = evaluate(
        Told(), shots=3, tasks=[task("text", write(tmp_path / "t.jsonl", {"text": "ab cd"}, {"text": "ñ"}))]
    )
    assert report.measures[0].shots == 0
    assert report["text", "bits_per_byte"] == pytest.approx(1 / math.log(2))
    assert report["text", "word_perplexity"] == pytest.approx(math.exp(7 / 3))


def test_answers():
    assert answers.strict_number("#### 1,234.50") == "1234.5" and answers.strict_number("42") is None
    assert answers.last_number("from 3 to -7.") == "-7" and answers.last_number("none") is None
    assert answers.last_number("$1,000") == "1000" and answers.plain_number("1.2.3") is None
    assert answers.last_box(r"\boxed{1} then \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert answers.short_answer("La respuesta es: **Madrid**.") == "Madrid"
    assert answers.grid("so [[1, 2], [3, 4]] then") == [[1, 2], [3, 4]]
    assert answers.grid("12\n34\nend") == [[1, 2], [3, 4]] and answers.grid("1 2\n3") is None
    assert answers.code_block("x\n```py\na = 1\n```") == "a = 1\n" and answers.code_block("a") == "a"


GOOD = {
    "keywords:existence": ("a Cat sat", {"keywords": ["cat"]}, "a dog"),
    "keywords:frequency": ("la la la", {"keyword": "la", "frequency": 3, "relation": "at least"}, "la la"),
    "keywords:forbidden_words": ("category", {"forbidden_words": ["cat"]}, "a cat."),
    "keywords:letter_frequency": ("AaB", {"letter": "a", "let_frequency": 3, "let_relation": "less than"}, "aaa"),
    "language:response_language": (
        "El niño come en la casa de la abuela",
        {"language": "es"},
        "The boy is in the house",
    ),
    "length_constraints:number_sentences": ("One. Two! Three?", {"num_sentences": 3, "relation": "at least"}, "One."),
    "length_constraints:number_words": ("a b c", {"num_words": 4, "relation": "less than"}, "a b c d"),
    "length_constraints:number_paragraphs": ("a\n***\nb", {"num_paragraphs": 2}, "a\n***\n\n***\nb"),
    "length_constraints:nth_paragraph_first_word": (
        "a b\n\n'Hello, x",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "hello"},
        "hello\n\nb",
    ),
    "detectable_content:number_placeholders": ("[a] [b]", {"num_placeholders": 2}, "[a]"),
    "detectable_content:postscript": ("x\nP.S. y", {"postscript_marker": "P.S."}, "x"),
    "detectable_format:number_bullet_lists": ("* a\n- b", {"num_bullets": 2}, "* a"),
    "detectable_format:constrained_response": ("My answer is yes.", {}, "yes"),
    "detectable_format:number_highlighted_sections": ("*a* and *b*", {"num_highlights": 2}, "*a*"),
    "detectable_format:multiple_sections": (
        "Section 1\na\nSection 2\nb",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1",
    ),
    "detectable_format:json_format": ('```json\n{"a": 1}\n```', {}, "{a}"),
    "detectable_format:title": ("<<T>>\nx", {}, "<< >>"),
    "combination:two_responses": ("a******b", {}, "a******a"),
    "combination:repeat_prompt": ("Say x. y", {"prompt_to_repeat": "say x."}, "y"),
    "startend:end_checker": ('x the end."', {"end_phrase": "The end."}, "the end. no"),
    "startend:quotation": ('"a"', {}, "a"),
    "change_case:capital_word_frequency": ("AB CD e", {"capital_frequency": 2, "capital_relation": "at least"}, "AB c"),
    "change_case:english_capital": ("THE CAT IS IN THE HAT", {}, "The cat"),
    "change_case:english_lowercase": ("the cat is in the hat", {}, "The cat"),
    "punctuation:no_comma": ("a; b", {}, "a, b"),
}


@pytest.mark.parametrize("name", ifeval.CHECKS)
def test_instructions(name):
    good, given, bad = GOOD[name]
    assert ifeval.follows(good, name, {**given, "other": None}) and not ifeval.follows(bad, name, given)
    assert not ifeval.follows(" ", name, given)


def test_loose_instructions_and_their_shares(tmp_path):
    row = {"prompt": "Say", "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    other = {**row, "prompt": "Sing", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    model = Told(answers={"Say": 'Sure:\n"a b"', "Sing": "la"})
    report = evaluate(model, [task("ifeval", write(tmp_path / "i.jsonl", row, other))])
    assert report["ifeval", "prompt_strict"] == 0.5 and report["ifeval", "prompt_loose"] == 1
    assert report["ifeval", "inst_strict"] == pytest.approx(2 / 3)
    assert [
        ifeval.language(t)
        for t in ("Привет, мир", "你好世界", "これは本です", "나는 학생", "Der Hund ist in dem Haus und")
    ] == [
        *("ru", "zh", "ja", "ko", "de"),
    ]


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("gsm8k", '{"question": "q"}', r"x.jsonl:1: the field 'answer' is missing; it has 'question'"),
        ("gsm8k", '{"question": "q", "answer": "none"}', r"x.jsonl:1: 'answer' ends with no number"),
        (
            "choices",
            '{"query": "q", "choices": [], "gold": 0}',
            r"x.jsonl:1: 'choices' must be a list of texts, and not",
        ),
        ("choices", '{"query": "q", "choices": ["a"], "gold": 1}', r"'gold' is 1, which is none of the 1 options"),
        ("choices", '{"query": 3, "choices": ["a"], "gold": 0}', r"'query' must be str, not int"),
        ("arc", json.dumps({**ARC, "answerKey": "E"}), r"'answerKey' is 'E', which is none of the options A, B"),
        ("text", "{", r"x.jsonl:1 is not valid JSON"),
        ("text", "[1]", r"x.jsonl:1: an item must be an object"),
        ("text", "", r"there are no items in it"),
        ("winogrande", '{"sentence": "no blank"}', r"has no blank"),
        ("ifeval", '{"prompt": "p", "instruction_id_list": ["x"], "kwargs": [{}]}', r"unknown instruction 'x'"),
        ("nothing", "", r"unknown kind of task 'nothing'"),
    ],
)
def test_bad_files_are_one_line(kind, text, message, tmp_path):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        task(kind, tmp_path / "x.jsonl")


def test_bad_questions(tmp_path):
    gsm = task("gsm8k", write(tmp_path / "g.jsonl", GSM))
    with pytest.raises(UserError, match="has 1 items, too few for 1 shots"):
        evaluate(Told(), [gsm], shots=1)
    with pytest.raises(UserError, match="two tasks are named 'gsm8k'"):
        evaluate(Told(), [gsm, gsm])
    with pytest.raises(UserError, match="such file"):
        task("text", tmp_path / "none.jsonl")
    assert set(FORMS) < set(KINDS)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxlm.cli.evals._model", lambda args: Told(answers={"2 + 3": "5"}))
    path = write(tmp_path / "g.jsonl", GSM)
    assert main(["eval", "x", "--tasks", f"mine:gsm8k={path}", "--out", str(tmp_path / "o")]) == 0
    assert "mine  0      flexible  1.0000" in capsys.readouterr().out and (tmp_path / "o/results.json").exists()
    assert main(["eval", "x", "--tasks", f"gsm8k={path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "told"
    assert main(["eval", "x", "--tasks", "gsm8k"]) == 2
    assert "--tasks wants KIND=FILE" in capsys.readouterr().err
