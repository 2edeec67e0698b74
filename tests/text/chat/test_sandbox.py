import time
import tracemalloc

import pytest

from jaxlm.errors import UserError
from jaxlm.text import render_chat
from jaxlm.text.chat.sandbox.budget import Budget, TooMuch

STOPPED = "stopped: it loops too long, or makes too much"
BIG = "{% set x = 'a' * 1000000 %}"
MANY = "{% for i in range(99999) %}"


def doubled(expression: str, start: str = "'a'", use: str = "") -> str:
    """Doubles `ns.x` 64 times."""
    loop = f"{{% for i in range(64) %}}{{% set ns.x = {expression} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(x={start}, y={start}) %}}{loop}{{{{ {use or 'ns.x | length'} }}}}"


def shared(use: str, start: str = "[1]", pair: str = "[{0}, {0}]") -> str:
    """64 short lists that would write out as 2^64 items, and as many again."""
    grow = "".join(f"{{% set ns.{name} = {pair.format(f'ns.{name}')} %}}" for name in "xy")
    loop = f"{{% for i in range(64) %}}{grow}{{% endfor %}}"
    return f"{{% set ns = namespace(x={start}, y={start}) %}}{loop}{{{{ {use} }}}}"


TOO_MUCH = {
    # too many steps
    "loops": MANY * 3 + "{% endfor %}" * 3,
    "a loop's condition": MANY + "{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "letters": BIG + "{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "a macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "blocks": "{% block a %}" + MANY + "{{ self.b() }}{% endfor %}{% endblock %}"
    "{% block b %}" + MANY + "{% endfor %}{% endblock %}",
    "a recursive loop": "{% for x in range(999) recursive %}{{ loop(range(999)) if loop.depth < 5 }}{% endfor %}",
    # text that grows
    "+": doubled("ns.x + ns.x"),
    "~": doubled("ns.x ~ ns.x"),
    "%": doubled("'%s%s' % (ns.x, ns.x)"),
    "format": doubled("'{0}{0}'.format(ns.x)"),
    "join": doubled("[ns.x, ns.x] | join"),
    "replace": doubled("ns.x.replace('a', 'aa')"),
    "lists": doubled("ns.x + ns.x", "[1]"),
    "json": doubled("ns.x | tojson", "'\"'"),
    "cycle": doubled("loop.cycle(ns.x ~ ns.x)"),
    "a set block": "{% set ns = namespace(x='a') %}{% for i in range(64) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "a macro's text": "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}" + doubled("d(ns.x)"),
    "output": BIG + MANY + "{{ x }}{% endfor %}",
    "output of sums": BIG + MANY + "{{ x+x+x+x+x+x+x+'b' }}{% endfor %}",
    "plain text": MANY + "z" * 50_000 + "{% endfor %}",
    "captured text": "{% set x %}" + MANY + "z" * 50_000 + "{% endfor %}{% endset %}",
    # one huge value
    "'a' * n": "{{ 'a' * 10**10 }}",
    "n * 'a'": "{{ (10**10 * 'a') | length }}",
    "[1] * n": "{{ ([1] * 10**10) | length }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "center": "{{ 'x' | center(10**10) }}",
    "a wide field": "{{ '{:10000000000}'.format(1) }}",
    "a field in a field": "{{ '{:{}}'.format(1, 10**10) }}",
    "a wide %": "{{ '%10000000000d' % 1 }}",
    "a precise %": "{{ '%.1000000000f' % 1 }}",
    "a wide % with a key": "{{ '%(a)1000000000d' % {'a': 1} }}",
    "a key used often": BIG + "{{ ('%(a)s' * 10000) % {'a': x} }}",
    "| format": "{{ '%10000000000d' | format(1) }}",
    "| indent": "{{ 'x\ny' | indent(10**9) }}",
    "| indent with text": BIG + "{{ ('\r' * 10000) | indent(x) }}",
    "| replace": BIG + "{{ x | replace('', x) }}",
    "| join": BIG + "{{ x | join(x) }}",
    "join one text often": BIG + "{{ ''.join([x] * 10000) }}",
    "| batch": "{{ [1] | batch(10**10, 0) | list }}",
    "| slice": "{{ [1] | slice(10**10) | list }}",
    # slow on what is small
    "rfind": BIG + "{{ x.rfind('b' + x[:500000]) }}",
    "strip": BIG + "{{ x.strip('b' * 500000 + 'a') }}",
    "in a text": BIG + MANY + "{% if 'ab' in x %}{% endif %}{% endfor %}",
    "in a list": "{% set x = [0] * 9999 %}" + MANY + "{% if 1 in x %}{% endif %}{% endfor %}",
    "==": BIG + "{% set y = x ~ 'a' %}" + MANY + "{% if x ~ 'a' == y %}{% endif %}{% endfor %}",
    "slices": BIG + MANY + "{% set y = x[1:] %}{% endfor %}",
    "| upper": BIG + MANY + "{% set y = x | upper %}{% endfor %}",
    "| sum": MANY + "{{ range(9999) | sum }}{% endfor %}",
    "| select": MANY + "{{ range(9999) | select('none') | first }}{% endfor %}",
    "| sort": MANY + "{{ range(9999) | sort | first }}{% endfor %}",
    "numbers with one hash": "{% set p = 2**61 - 1 %}{{ range(0, 20000 * p, p) | unique | list | length }}",
    # cheating: a cost below nothing, or one that is not a number
    "ljust to less": "{% for i in range(999) %}{% set y = 'x'.ljust(-10**9) %}{% endfor %}"
    + MANY * 2
    + "{% endfor %}" * 2,
    "not a number": "{{ [1] | batch('nan' | float, 0) | list }}",
    # lists in lists
    "writing out": shared("ns.x"),
    "~ shared": shared("'' ~ ns.x"),
    "| tojson": shared("ns.x | tojson"),
    "| string": shared("ns.x | string | length"),
    "'%s' shared": shared("'%s' % [ns.x]"),
    "'{}' shared": shared("'{}'.format(ns.x)"),
    "== shared": shared("ns.x == ns.y"),
    "in shared": shared("ns.x in [ns.y]"),
    "is eq": shared("ns.x is eq(ns.y)"),
    "| max": shared("[ns.x, ns.y] | max | length"),
    "| unique": shared("[ns.x] | unique | list | length", "(1,)", "({0}, {0})"),
    "a key": shared("{}[ns.x]", "(1,)", "({0}, {0})"),
    "a literal's key": shared("{ns.x: 1}", "(1,)", "({0}, {0})"),
    "get": shared("{}.get(ns.x)", "(1,)", "({0}, {0})"),
    "dict in dict": shared("ns.x", "{}", "{{'a': {0}, 'b': {0}}}"),
    "arguments": "{% macro f(n) %}{{ f(n + 1, varargs, varargs) if n < 60 else varargs }}{% endmacro %}{{ f(0, 1) }}",
    "an error's words": shared("raise_exception(ns.x)"),
}

MISTAKES = {
    # the sandbox
    "{{ ''.__class__.__mro__ }}": "the attribute '__class__' of a str is not available",
    "{{ ''['__class__'] }}": "the attribute '__class__' of a str is not available",
    "{{ (''|attr('__class__')).x }}": "the attribute '__class__' of a str is not available",
    "{{ '{0.__class__}'.format(1) }}": "the attribute '__class__' of a int is not available",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}": "the attribute '__class__' of a int is not available",
    "{{ raise_exception.__globals__ }}": "the attribute '__globals__' of a function is not available",
    "{{ namespace.__init__ }}": "the attribute '__init__' of a type is not available",
    "{{ (messages | map('upper')).gi_frame }}": "the attribute 'gi_frame' of a generator is not available",
    "{{ messages.append(1) }}": "the attribute 'append' of a list is not available",
    "{{ messages[0].update(a=1) }}": "the attribute 'update' of a dict is not available",
    "{{ 'a'.encode().ljust(10**10) }}": "the attribute 'encode' of a str is not available",
    "{{ (1).to_bytes(10**10) }}": "the attribute 'to_bytes' of a int is not available",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}": "do not begin with _",
    "{{ messages() }}": "a list cannot be called",
    "{% include '/etc/passwd' %}": "'include' is not available in a chat template",
    "{% import 'os' as os %}": "'import' is not available",
    "{% extends 'a' %}": "'extends' is not available",
    "{% autoescape true %}{% endautoescape %}": "'autoescape' is not available",
    # numbers
    "{{ (9**999)**999 }}": "a number is too large",
    doubled("ns.x * ns.x", "10"): "a number is too large",
    "{{ 1 | round(10**9, 'ceil') }}": "round to 1000000000 places",
    "{{ range(10**9) | list }}": "Range too big",
    "{{ 1 / 0 }}": "division by zero",
    "{{ [1] | tojson(indent=10**9) }}": "an indent or a separator of more than 100 characters",
    "{{ [1] | tojson(separators=('a' * 9999, ':')) }}": "an indent or a separator of more than 100 characters",
    "{% set p = 'a.' * 50000 %}{{ range(9999) | map(attribute=p) | list }}": "a path is one name",
    "{% set p = 'a,' * 50000 %}{{ range(9) | sort(attribute=p) }}": "a path is one name",
    # nesting
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "stopped: it calls itself too deeply",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}": "stopped: it calls itself too deeply",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "cannot be compiled",
    "{{ " + "not " * 5000 + "1 }}": "cannot be compiled",
    "{% if a %}" * 300 + "{% endif %}" * 300: "cannot be compiled",
    "{{ " + "9" * 100_000 + " }}": "cannot be compiled",
    # size
    "a" * 300_000: "300,000 characters are too many",
    "{{ a }}" * 20_000: "too large to compile",
    "".join(f"{{% set x{i} = 1 %}}{{% if a %}}{{% endif %}}" for i in range(2000)): "too large to compile",
    # words
    "{{ 1 }}\n{% for %}": "line 2: Expected an expression",
    "{{ 1 }}\n\n{{ 'a' + 1 }}": 'line 3: can only concatenate str (not "int") to str',
    "{{ 1 }}\n{{ foo.bar }}": "line 2: 'foo' is undefined",
    "{% macro f(x) %}\n{{ x.y.z }}{% endmacro %}\n{{ f({}) }}": "line 2: 'dict object' has no attribute 'y'",
    "{{ messages[9].role }}": "line 1: list object has no element 9",
    "{{ lipsum(n=10**9) }}": "'lipsum' is undefined",
    "{{ 1 | nofilter }}": "No filter named 'nofilter'",
    "{% foo %}": "unknown tag 'foo'",
    "{% break %}": "'break' outside loop",
    "{{ raise_exception('No <b> \"ñ\"!') }}": 'No <b> "ñ"!',
    "{{ raise_exception('two\nlines') }}": "two lines",
}


def refusal(template: str) -> str:
    began = time.process_time()
    with pytest.raises(UserError) as refused:
        render_chat(template, [{"role": "user", "content": "hello"}])
    assert time.process_time() - began < 10  # seconds of a processor: one or two
    words = str(refused.value)
    assert words.startswith("chat template") and "\n" not in words and len(words) < 500
    assert refused.value.__context__ is None  # which would keep all that the template made
    return words


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_stopped(name: str) -> None:
    assert STOPPED in refusal(TOO_MUCH[name])


@pytest.mark.parametrize("template", MISTAKES, ids=lambda template: template[:60])
def test_a_mistake_is_one_clear_line(template: str) -> None:
    assert MISTAKES[template] in refusal(template)


@pytest.mark.parametrize(
    "template",
    [
        doubled("ns.x + ns.x"),
        BIG + MANY + "{{ x+x+x+x+x+x+x+'b' }}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% set x = 'ab ' * 20000 %}"
        + MANY
        + "{% set ns.l = [ns.l, x.split()] %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}" + MANY + "{% set ns.l = [ns.l, '\U0001f600' * 9999] %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}" + MANY + "{% set ns.l = [ns.l, range(9999) | list] %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}"
        + MANY
        + "{% set ns.l = [ns.l, 'ab' * 500 | list | map('upper') | list] %}{% endfor %}",
    ],
)
def test_memory_is_bounded_too(template: str) -> None:
    tracemalloc.start()
    try:
        refusal(template)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_the_budget() -> None:
    budget = Budget(1000)
    total = budget.left
    value = [["word"], {"k": ("v", 1)}]
    weight = budget.weight(value)
    assert weight > 300 and budget.weight([value, value]) > 2 * weight and budget.left == total
    budget.spend(weight)
    assert budget.left == total - weight
    with pytest.raises(TooMuch):
        budget.spend(budget.most + 1)
    for cost in (-1, float("nan")):
        with pytest.raises(TooMuch):
            Budget(1000).spend(cost)  # type: ignore[arg-type]
    with pytest.raises(TooMuch):  # for good
        budget.spend(1)
    assert Budget(2000).left > total
