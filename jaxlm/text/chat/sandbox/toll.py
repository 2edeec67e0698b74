"""Puts tolls into a template's syntax tree before it is compiled, so that the running template pays as it goes.

What a pass through a loop or a macro costs apart from its data is known from its text: it is added up here, and one
`tick` at the head of the body pays it. Only what depends on data is weighed where it happens: sums and slices where
they are made, what is written out, and comparisons with more than a constant. Each toll is a filter under a name that
begins with a space, which no template can spell; the compiler makes one plain function call of it.
"""

from collections.abc import Sequence
from typing import cast

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.visitor import NodeTransformer

TICK, MADE, TEXT, SHOWN, READ, SEARCHED, KEY = " tick", " made", " text", " shown", " read", " searched", " key"
START, STOP = " start", " stop"  # around what the assistant writes

# Compiling takes time and memory for each node, and for each name in each branch.
_MOST_NODES = 12_000
_MOST_PAIRS = 500_000

_COST: dict[type[nodes.Node], int] = {
    nodes.Getattr: 16,
    nodes.Getitem: 16,
    nodes.Filter: 32,
    nodes.Test: 32,
    nodes.Call: 32,
    nodes.List: 128,
    nodes.Tuple: 128,
    nodes.Dict: 256,
    nodes.Macro: 512,
    nodes.CallBlock: 512,
}
_ITEM = 100  # a literal's item may keep alive a small object that nobody else pays for
_TEXT_FILTERS = {"capitalize", "indent", "join", "lower", "replace", "string", "title", "tojson", "trim", "upper"}
_TERMS = 8  # a sum of up to so many terms is weighed once, as a whole
_OUTSIDE = {
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Extends: "extends",
    nodes.ScopedEvalContextModifier: "autoescape",
}
_CAPTURES = (nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock, nodes.Block)


def add_tolls(template: nodes.Template) -> nodes.Template:
    """The tree with its tolls; the argument is changed.

    Raises:
        TemplateSyntaxError: it wants other templates or HTML escaping, which chat templates do not have; it is so large
            that compiling it would take long.
    """
    names = {node.name for node in template.find_all(nodes.Name)}
    branches = sum(1 for _ in template.find_all((nodes.If, nodes.For, nodes.Macro, nodes.CallBlock)))
    if sum(1 for _ in template.find_all(nodes.Node)) > _MOST_NODES or len(names) * branches > _MOST_PAIRS:
        raise TemplateSyntaxError("too large to compile", template.lineno)
    for node in template.find_all(tuple(_OUTSIDE)):
        raise TemplateSyntaxError(f"{_OUTSIDE[type(node)]!r} is not available in a chat template", node.lineno)
    return cast(nodes.Template, _Tolls().visit(template))


def captures_generation(template: nodes.Template) -> bool:
    """Whether a generation block writes into a macro's or a variable's text, so that its place is not known."""
    captures = [*template.find_all(_CAPTURES), *(loop for loop in template.find_all(nodes.For) if loop.recursive)]
    return any(mark.name == START for node in captures for mark in node.find_all(nodes.Filter))


def toll(name: str, node: nodes.Expr) -> nodes.Filter:
    """The expression sent through a toll."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


def statement(name: str, value: int, lineno: int) -> nodes.ExprStmt:
    """A toll that stands alone."""
    return nodes.ExprStmt(toll(name, nodes.Const(value, lineno=lineno)), lineno=lineno)


class _Tolls(NodeTransformer):
    captured = False  # whether what is written goes into a macro's or a variable's text, and not straight out

    def visit_For(self, node: nodes.For) -> nodes.For:
        body, test = _cost(node.body), _cost([node.test] if node.test else [])
        self._inside(node, self.captured or node.recursive)
        node.body.insert(0, statement(TICK, body, node.lineno))
        if node.test:
            tick = toll(TICK, nodes.Const(test, lineno=node.lineno))
            node.test = nodes.And(tick, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        body = _cost(node.body)
        self._inside(node, True)
        node.body.insert(0, statement(TICK, body, node.lineno))
        return node

    visit_CallBlock = visit_Block = visit_Macro

    def visit_AssignBlock(self, node: nodes.AssignBlock | nodes.FilterBlock) -> nodes.Node:
        return self._inside(node, True)

    visit_FilterBlock = visit_AssignBlock

    def visit_Output(self, node: nodes.Output) -> nodes.Output:
        node.nodes = [self._written(child) for child in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:
        node.nodes = [
            child if isinstance(child, nodes.Const) else toll(TEXT, self.visit(child)) for child in node.nodes
        ]
        return node

    def visit_Add(self, node: nodes.Add) -> nodes.Expr:
        sum_ = self._sum(node)
        return sum_ if _is_number(node.left) or _is_number(node.right) else toll(MADE, sum_)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return toll(MADE, node)
        if not (isinstance(node.arg, nodes.Const) or _is_number(node.arg)):
            node.arg = toll(KEY, node.arg)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = node.key if isinstance(node.key, nodes.Const) else toll(KEY, node.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        left, owner, field = node.expr, node, "expr"
        for operand in node.ops:
            right = operand.expr
            if operand.op in ("in", "notin"):
                if not _is_constant(right):
                    setattr(owner, field, left if _is_constant(left) else toll(READ, left))
                    operand.expr = toll(SEARCHED, right)
            elif not (_is_constant(left) or _is_constant(right)):
                setattr(owner, field, toll(READ, left))
            left, owner, field = operand.expr, operand, "expr"
        return node

    def _inside(self, node: nodes.Node, captured: bool) -> nodes.Node:
        outside, self.captured = self.captured, captured
        self.generic_visit(node)
        self.captured = outside
        return node

    def _written(self, node: nodes.Expr) -> nodes.Expr:
        if isinstance(node, nodes.TemplateData | nodes.Const):
            return node
        text = _is_text(node)
        node = self._sum(node) if isinstance(node, nodes.Add) else self.visit(node)
        if self.captured:
            return toll(TEXT, node)
        return node if text else toll(SHOWN, node)  # text that goes straight out is counted there

    def _sum(self, node: nodes.Add) -> nodes.Add:
        short = _terms(node) <= _TERMS
        for side in ("left", "right"):
            term = getattr(node, side)
            setattr(node, side, self._sum(term) if short and isinstance(term, nodes.Add) else self.visit(term))
        return node


def _terms(node: nodes.Node) -> int:
    return _terms(node.left) + _terms(node.right) if isinstance(node, nodes.Add) else 1


def _is_constant(node: nodes.Node) -> bool:
    """Whether comparing with it takes no longer than the template is long."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return all(map(_is_constant, node.items))
    return isinstance(node, nodes.Const | nodes.Compare | nodes.Not | nodes.Test) or _is_number(node)


def _is_number(node: nodes.Node) -> bool:
    """Whether it is a number or fails."""
    if isinstance(node, nodes.Const):
        return isinstance(node.value, int | float)
    return isinstance(node, nodes.Sub | nodes.Div | nodes.FloorDiv)


def _is_text(node: nodes.Node) -> bool:
    """Whether it is text or fails."""
    if isinstance(node, nodes.Add):
        return _is_text(node.left) or _is_text(node.right)
    if isinstance(node, nodes.Filter):
        return node.name in _TEXT_FILTERS
    return isinstance(node, nodes.Concat) or (isinstance(node, nodes.Const) and isinstance(node.value, str))


def _cost(body: Sequence[nodes.Node]) -> int:
    """What one pass costs: every node, and every character of text, apart from bodies that pay for themselves."""
    total, waiting = 16, list(body)
    while waiting:
        node = waiting.pop()
        total += _COST.get(type(node), 4)
        if isinstance(node, nodes.List | nodes.Tuple | nodes.Dict):
            total += _ITEM * len(node.items)
        elif isinstance(node, nodes.TemplateData):
            total += len(node.data)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            total += len(node.value)
        inside = ("body", "test") if isinstance(node, nodes.For) else ()
        inside = ("body",) if isinstance(node, nodes.Macro | nodes.CallBlock | nodes.Block) else inside
        waiting.extend(node.iter_child_nodes(exclude=inside))
    return total
