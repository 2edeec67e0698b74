import pytest

from jaxlm.serve.parts import Parts, Value


def parts(text, size, **how):
    """The parts of a text that arrives in pieces, deltas of one kind joined."""
    one, found = Parts(**how), []
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    for i, piece in enumerate(pieces):
        for delta in one.push(piece, i == len(pieces) - 1):
            if found and found[-1][0] == delta.kind != "name":
                found[-1] = (delta.kind, found[-1][1] + delta.text)
            else:
                found.append((delta.kind, delta.text))
    return found


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "}\\"]", "b": [1, {}]}}\n</tool_call>'
ARGUMENTS = '{"a": "}\\"]", "b": [1, {}]}'


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_parts_do_not_depend_on_pieces(size):
    assert parts("a < b <thin", size) == [("content", "a < b <thin")]
    assert parts("<think>\nhm\n</think>\n\nyes", size) == [("reasoning", "hm"), ("content", "yes")]
    assert parts("hm\n</think>\n\nyes", size, thinking=True) == [("reasoning", "hm"), ("content", "yes")]
    assert parts(CALL, size) == [("content", CALL)]
    called = [("name", "f"), ("arguments", ARGUMENTS)]
    assert parts(CALL, size, tools=True) == called
    assert parts(f"look: {CALL}\n{CALL}", size, tools=True) == [("content", "look: "), *called, *called]
    assert parts(f'{{"name": "f", "parameters": {ARGUMENTS}}}', size, tools=True) == called
    assert parts(f"{ARGUMENTS}}}", size, tools=True, call='{"name": "f", "arguments": ') == called
    assert parts(f'f", "arguments": {ARGUMENTS}}}', size, tools=True, call='{"name": "') == called
    assert parts('{"x": 1}', size, tools=True) == [("content", '{"x": 1}')]
    assert parts("<tool_call>nothing</tool_call>!", size, tools=True) == [("content", "nothing!")]
    other = '<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>'
    assert parts(other, size, tools=True) == [("name", "g"), ("arguments", '{"a": 1}')]


@pytest.mark.parametrize(
    "text, length", [("12, 3", 2), ('"a,}" x', 5), ('{"a": "}"}}', 10), ("[[], 1]]", 7), ("true}", 4)]
)
def test_where_a_value_ends(text, length):
    assert Value().take(text) == length
    one, taken = Value(), 0
    for c in text:
        if not one.done:
            taken += one.take(c)
    assert taken == length and one.done
