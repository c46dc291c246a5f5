"""What Ruff cannot check of the lines of the package: that short functions are not bought with
crowded ones.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "hopmix"

TUPLES = 1
"""How many assignments of several values at once a thousand lines may have."""

NESTED = 5
"""How many conditional expressions within others a thousand lines may have."""


def tuple_assignments(tree: ast.AST) -> Iterator[int]:
    """Lines that assign several values at once which no function returned: a tuple, but for a swap,
    or what a generator or a list comprehension makes.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple | ast.List):
            left = node.targets[0]
            made = isinstance(node.value, ast.GeneratorExp | ast.ListComp)
            if made or (isinstance(node.value, ast.Tuple) and not is_swap(left, node.value)):
                yield node.lineno


def is_swap(left: ast.Tuple | ast.List, right: ast.Tuple) -> bool:
    """Whether the same places stand on both sides."""
    return {ast.unparse(e) for e in left.elts} == {ast.unparse(e) for e in right.elts}


def nested_conditionals(tree: ast.AST) -> Iterator[int]:
    """Lines with a conditional expression that is not the whole of what is assigned, returned, made
    by a lambda, or given as an argument.
    """
    whole = {id(part) for node in ast.walk(tree) for part in whole_parts(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp) and id(node) not in whole:
            yield node.lineno


def whole_parts(node: ast.AST) -> list[ast.expr | None]:
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return | ast.keyword):
        return [node.value]
    if isinstance(node, ast.Lambda):
        return [node.body]
    if isinstance(node, ast.Call):
        return list(node.args)
    return []


def found(check) -> list[str]:
    return [
        f"{path.relative_to(PACKAGE.parent)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in check(ast.parse(path.read_bytes()))
    ]


def allowed(share: int) -> float:
    """How many there may be in the package, with so many for each thousand lines."""
    lines = sum(len(path.read_bytes().splitlines()) for path in PACKAGE.rglob("*.py"))
    return share * lines / 1000


@pytest.mark.parametrize(
    "check, share", [(tuple_assignments, TUPLES), (nested_conditionals, NESTED)]
)
def test_lines_say_one_thing(check, share):
    lines = found(check)
    assert len(lines) <= allowed(share), "\n".join(lines)


@pytest.mark.parametrize(
    "check, line",
    [
        (tuple_assignments, "a, b = 1, 2"),
        (tuple_assignments, "a, (b, c) = f(x), g(y)"),
        (tuple_assignments, "a, b = (f(x) for x in pair)"),
        (tuple_assignments, "[a, b] = [f(x) for x in pair]"),
        (tuple_assignments, "a, b = b, a + b"),
        (nested_conditionals, "x = 1 + (a if b else c)"),
        (nested_conditionals, "x = a if b else c if d else e"),
        (nested_conditionals, "x = [a if b else c]"),
        (nested_conditionals, "return_ = (a if b else c).shape"),
        (nested_conditionals, "if (a if b else c): pass"),
    ],
)
def test_a_crowded_line_is_caught(check, line):
    assert list(check(ast.parse(line))) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "a, b = b, a",
        "x[i], x[j] = x[j], x[i]",
        "a, b = f(x)",
        "a, *b = shape",
        "a = 1, 2",
        "x = a if b else c",
        "def f(): return a if b else c",
        "f = lambda x: a if x else c",
        "f(a if b else c, key=d if e else g)",
    ],
)
def test_a_line_that_says_one_thing_passes(line):
    tree = ast.parse(line)
    assert [*tuple_assignments(tree), *nested_conditionals(tree)] == []
