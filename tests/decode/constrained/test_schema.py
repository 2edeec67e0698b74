import json

import jsonschema
import numpy as np
import pytest

from jaxlm.decode import JsonSchema
from jaxlm.decode.constrained.matching import Automaton, Matcher, Vocabulary
from jaxlm.decode.constrained.schema import schema
from jaxlm.errors import UserError
from jaxlm.text.bytes import ByteTokenizer
from tests.decode.constrained.schemas import REFUSED, SCHEMAS

VOCABULARY = Vocabulary(ByteTokenizer())
FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER


def check(text, of):
    value = json.loads(text)
    jsonschema.validate(value, of, cls=jsonschema.Draft202012Validator, format_checker=FORMATS)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no infinity, no half of a pair of surrogates
    return value


def written(expression, most, rng, vocabulary=VOCABULARY, n=1):
    """Texts of random tokens that may come, and what each took."""
    automaton, found = Automaton(expression, vocabulary), []
    for _ in range(n):
        matcher, data, taken = Matcher(automaton), b"", 0
        while not matcher.ended:
            assert taken < most
            token = int(rng.choice(np.flatnonzero(matcher.allowed(most - taken))))
            matcher.advance(token)
            data += bytes(vocabulary.bytes_VL[token, : vocabulary.lengths_V[token]])
            taken += 1
        found.append(data.decode())
    return found


@pytest.mark.parametrize("part", range(4))
def test_random_texts_are_valid_and_end(part):
    """A share of the 200 schemas, few tokens each, down to the fewest; the whole is `test_all_schemas`."""
    assert len(SCHEMAS) + len(REFUSED) == 200
    rng = np.random.default_rng(part)
    for of in SCHEMAS[part::12]:
        expression = schema(of)
        for most in (int(expression.shortest) + 1, 60):
            for text in written(expression, max(most, int(expression.shortest) + 1), rng, n=2):
                check(text, of)


def test_all_schemas():
    """178 schemas, 20 texts each."""
    rng, texts = np.random.default_rng(9), set()
    for of in SCHEMAS:
        expression = schema(of)
        for text in written(expression, max(80, int(expression.shortest) + 1), rng, n=20):
            check(text, of)
            texts.add(text)
    assert len(texts) > 10 * len(SCHEMAS)


@pytest.mark.parametrize("of", REFUSED, ids=json.dumps)
def test_what_cannot_be_kept_is_refused_before_decoding(of):
    with pytest.raises(UserError, match=r"schema|regular expression"):
        JsonSchema(of)


ACCEPTED = [
    ({"properties": {"a": {"type": "integer"}, "b": {}}}, ['{}', '{"a":1}', '{"b": [1, {"c": null}]}']),
    ({"type": "number"}, ["1.5", "-0", "12e+5", "7"]),
    ({"type": "string"}, ['"\\u00e9\\n"', '"é"', '""']),
    ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1]", "[1,2, 3]"]),
    ({"const": {"a": "é"}}, ['{"a": "é"}']),
]  # fmt: skip


@pytest.mark.parametrize("of, texts", ACCEPTED, ids=str)
def test_usual_spellings_are_accepted_and_white_space_is_bounded(of, texts):
    def accepts(text):
        x = schema(of)
        for byte in text.encode():
            x = x.step(byte)
        return x.nullable

    for text in texts:
        assert accepts(text) and check(text, of) is not ...
        assert not accepts(f" {text}") and not accepts(f"{text}\n") and not accepts(text[:-1] or "x")
    assert not accepts('{"a":  1}')


@pytest.mark.parametrize(
    "given, message",
    [
        ("{", "the schema is not JSON: Expecting"),
        ([], "a schema is a JSON object, got a list"),
        ({"properties": {"a": {"minLenght": 1}}}, "at #/properties/a has 'minLenght'.*nearest is 'minLength'"),
        ({"type": "string", "maxLength": "5"}, "maxLength of the schema at # must be an integer"),
        ({"type": "integer", "minimum": "0"}, "minimum of the schema at # must be a number"),
        ({"enum": []}, "enum of the schema at # must be a list"),
        ({"anyOf": {}}, "anyOf of the schema at # must be a list of schemas"),
        ({"items": 3}, "the schema at #/items must be an object, true or false, got 3"),
    ],
    ids=str,
)
def test_mistakes_are_named_with_their_place(given, message):
    with pytest.raises(UserError, match=message):
        JsonSchema(given)
