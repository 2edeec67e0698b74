"""A scripted model solves a small world of 20 tasks through the tools; what goes wrong is told to it."""

import json
import time

import pytest

from jaxlm.apps import agents, rag
from jaxlm.apps.agents import Agent, Limits, NativeAgent, Tool, calculate, calculator, file_tools, search_tool, tool
from jaxlm.errors import UserError
from jaxlm.evals import sandbox

CORPUS = {
    "Madrid": "Madrid is the capital of Spain and has 3300000 people.",
    "Lima": "Lima is the capital of Peru and has 10000000 people.",
    "Ebro": "The river Ebro is 930 kilometres long.",
    "Tajo": "The river Tajo is 1007 kilometres long.",
    "Teide": "Mount Teide is 3715 metres high.",
}
FILES = {"prices.txt": "apple 3, pear 4", "name.txt": "Ada", "numbers.txt": "5 6 7"}
S, C, R = "search", "calculator", "read_file"
# question: (steps, answer); {0} is what the first step gave
WORLD = [
    ("17 times 23?", [(C, "17 * 23")], "391"),
    ("(2 + 3) to the third?", [(C, "(2 + 3) ** 3")], "125"),
    ("1 / 8?", [(C, "1 / 8")], "0.125"),
    ("Remainder of 1000 by 7?", [(C, "1000 % 7")], "6"),
    ("Minus 5 squared?", [(C, "-(5 ** 2)")], "-25"),
    ("Capital of Spain?", [(S, "capital Spain")], "Madrid"),
    ("Capital of Peru?", [(S, "capital Peru")], "Lima"),
    ("How long is the Ebro?", [(S, "river Ebro")], "930"),
    ("How long is the Tajo?", [(S, "river Tajo")], "1007"),
    ("How high is Teide?", [(S, "mount Teide")], "3715"),
    ("Ebro and Tajo together?", [(S, "Ebro"), (S, "Tajo"), (C, "930 + 1007")], "1937"),
    ("How much longer is the Tajo?", [(S, "Ebro"), (S, "Tajo"), (C, "1007 - 930")], "77"),
    ("People of Madrid and Lima?", [(S, "Madrid"), (S, "Lima"), (C, "3300000 + 10000000")], "13300000"),
    ("Teide in kilometres?", [(S, "Teide"), (C, "3715 / 1000")], "3.715"),
    ("What does an apple cost?", [(R, "prices.txt")], "3"),
    ("Two apples and a pear?", [(R, "prices.txt"), (C, "2 * 3 + 4")], "10"),
    ("Whose name is in the file?", [("list_files", None), (R, "name.txt")], "Ada"),
    ("Sum of the numbers?", [(R, "numbers.txt"), (C, "5 + 6 + 7")], "18"),
    ("Write the product.", [(R, "numbers.txt"), (C, "5 * 6 * 7"), ("write_file", {"name": "p", "text": "210"})], "210"),
    ("Read the product.", [(R, "p")], "210"),
]


def world():
    index = rag.Index([rag.Passage(text) for text in CORPUS.values()], [[1.0]] * len(CORPUS))
    return [calculator(), search_tool(index, 1), *file_tools(dict(FILES))]


def script(prompt, stops):
    """The next step of the question's plan. The answer is read off the last observation."""
    *_, last = prompt.split("Question: ")
    question, seen = last.partition("\n")[0], last.count("Observation:")
    plan, answer = next((plan, answer) for asked, plan, answer in WORLD if asked == question)
    if seen == len(plan):
        assert answer in last.rpartition("Observation:")[2] or plan[-1][0] == "write_file"
        return f"Thought: I know it.\nAnswer: {answer}\n"
    name, given = plan[seen]
    text = json.dumps(given) if isinstance(given, dict) else given or "{}"
    return f"Thought: step {seen + 1}\nAction: {name}[{text}]\nObservation: made up"


def test_the_world_is_solved():
    agent = Agent(script, world())
    traces = [agent.run(question) for question, _, _ in WORLD]
    assert [trace.answer for trace in traces] == [answer for _, _, answer in WORLD]
    assert [len(trace.steps) for trace in traces] == [len(plan) for _, plan, _ in WORLD]
    assert all("made up" not in str(trace) and "Error" not in str(trace) for trace in traces)
    assert "-> 391" in str(traces[0]) and str(traces[0]).endswith("Answer: 391")


def native(messages, tools):
    question = next(m["content"] for m in messages if m["role"] == "user")
    seen = sum(m["role"] == "tool" for m in messages)
    plan, answer = next((plan, answer) for asked, plan, answer in WORLD if asked == question)
    if seen == len(plan):
        return {"content": answer}
    name, given = plan[seen]
    schema = next(t["function"] for t in tools if t["function"]["name"] == name)["parameters"]
    given = given if isinstance(given, dict) else dict(zip(schema["properties"], [given]))
    return {"content": "", "tool_calls": [{"id": "1", "function": {"name": name, "arguments": json.dumps(given)}}]}


def test_the_world_by_native_calls():
    agent = NativeAgent(native, world(), system="Use tools.")
    assert [agent.run(question).answer for question, _, _ in WORLD] == [answer for _, _, answer in WORLD]


def says(*texts):
    rest = iter(texts)
    return lambda prompt, stops: next(rest)


def test_what_goes_wrong_is_an_observation():
    def bad(x: int) -> int:
        raise ValueError("no")

    def slow(x: int) -> int:
        time.sleep(5)
        return x

    said = ["Action: calculater[1]", "hm", 'Action: bad[{"x": 1}]', 'Action: bad[{"x": "a"}]', 'Action: bad[{"y": 1}]']
    said += ["Action: bad[{}]", 'Action: slow[{"x": 1}]', "Action: calculator[__import__('os')]", "Answer: done"]
    limits = Limits(steps=9, tool_seconds=0.1)
    trace = Agent(says(*said), [calculator(), tool(bad), tool(slow)], limits).run("q")
    want = [
        "did you mean 'calculator'?",
        "neither an answer nor an action",
        "ValueError: no",
        "must be of type integer",
    ]
    want += ["has no argument 'y'", "bad needs x", "slow did not return within 0.1 s", "not arithmetic"]
    assert len(trace.steps) == len(want) and trace.answer == "done"
    for step, part in zip(trace.steps, want):
        assert part in step.observation, step
    assert Agent(says("hm", "hm"), [], Limits(steps=2)).run("q").ended == "steps"
    assert Agent(says("hm"), [], Limits(seconds=1e-9)).run("q").ended == "time"


def test_memory_and_long_observations():
    long = Tool("long", "", {}, lambda: "x" * 99)
    agent = Agent(says("Action: long[{}]", "Answer: 1"), [long], Limits(observation=10))
    trace = agent.run("first", remember=True)
    assert trace.steps[0].observation == "x" * 10 + " ... (99 characters)"
    assert "Question: first\nAnswer: 1\n\nQuestion: second" in agent.prompt("second")


def test_schemas_of_functions():
    def f(a: int, b: list[str], c: float = 1.0):
        """Does it.

        More."""

    assert tool(f).schema()["function"] == {
        "name": "f",
        "description": "Does it.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "array"}, "c": {"type": "number"}},
            "required": ["a", "b"],
        },
    }
    with pytest.raises(UserError, match="named parameters only"):
        tool(lambda *x: 1)
    with pytest.raises(UserError, match="two tools are named 'f'"):
        Agent(says(), [tool(f), tool(f)])
    with pytest.raises(UserError, match="steps must be at least 1"):
        Limits(steps=0)


def test_arithmetic():
    assert calculate("2^10 // 3") == 341 and calculate("-1.5e2 % 7") == -150 % 7
    for bad in ("f(1)", "9**9**9", "1 / 0", "'a' * 9", "1 +"):
        with pytest.raises(UserError):
            calculate(bad)


@pytest.mark.skipif(bool(sandbox.walls()), reason=f"no sandbox: {sandbox.walls()}")
def test_programs_run_in_the_sandbox():
    said = [
        'Action: python[{"program": "print(open(\'a\').read() * 2)"}]',
        'Action: python[{"program": "1 / 0"}]',
        "Answer: x",
    ]
    trace = Agent(says(*said), [agents.python(files={"a": "xy"})]).run("q")
    assert [step.observation for step in trace.steps] == ["xyxy\n", "Error: ZeroDivisionError: division by zero"]
