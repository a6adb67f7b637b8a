"""Expressions of a search space: `sqrt(train.batch_size / 64)`, with + - * / ** sqrt, parentheses, numbers and paths.

The text is parsed by Python's own parser into a tree of which a few kinds of nodes are allowed; nothing is executed.
Arithmetic is that of floats, so that no power can take long or fill the memory.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lmcore.runfile.paths import RUN_DEFAULTS, FieldError, plain_types, show, unknown

MAX_LENGTH = 200
"""Characters of an expression."""
GRAMMAR = "must be made of + - * / ** sqrt(...), parentheses, numbers and fields such as train.batch_size"

_BINARY: dict[type[ast.operator], Callable[[float, float], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    >>> parse("sqrt(train.batch_size / 64)").value({"train.batch_size": 256})
    2.0
    """

    text: str
    tree: ast.expr
    paths: tuple[str, ...]
    """The fields that it refers to."""

    def value(self, fields: Mapping[str, Any]) -> float:
        """Its value where `fields` has those of its paths. FieldError if that is no finite number."""
        given = {path: fields[path] for path in self.paths}
        for path, number in given.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                rule = f"must refer to numbers (got {path}, which is {show(number)}); set it to a number"
                raise FieldError("", rule)
        with_values = f" with {', '.join(f'{path} {show(number)}' for path, number in given.items())}" if given else ""
        shown = f"(got {show(self.text)}{with_values})"
        try:
            result = _value(self.tree, given)
        except ZeroDivisionError:
            raise FieldError("", f"must not divide by 0 {shown}; change it, or leave that value out") from None
        except (ValueError, OverflowError):
            result = math.nan
        if isinstance(result, complex) or not math.isfinite(result):
            raise FieldError("", f"must be a finite number {shown}; change it, or leave that value out")
        return result


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """The expression that `text` is. FieldError if it is none, or refers to what is not a field with numbers.

    >>> parse("4 * model.d_model").paths
    ('model.d_model',)
    """
    if len(text) > MAX_LENGTH:
        raise FieldError("", f"must have at most {MAX_LENGTH} characters (got {len(text)}); shorten it")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise FieldError("", f"{GRAMMAR} (got {show(text)}); correct it") from None
    paths = tuple(dict.fromkeys(_paths(tree)))
    for path in paths:
        if path not in RUN_DEFAULTS:
            error = unknown(path)
            raise FieldError("", f"must refer to fields (got {path}, which {error.rule})")
        if plain_types(path).isdisjoint((int, float)):
            raise FieldError("", f"must refer to numbers (got {path}, which is none); use another field")
    return Expression(text, tree, paths)


def _paths(node: ast.expr) -> Iterator[str]:
    """The paths in a tree. FieldError for a node that is not part of the grammar."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            yield from _paths(left)
            yield from _paths(right)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            yield from _paths(operand)
        case ast.Call(func=ast.Name(id="sqrt"), args=[argument], keywords=[]):
            yield from _paths(argument)
        case ast.Constant(value=number) if type(number) in (int, float):
            pass
        case ast.Attribute() | ast.Name() if all(map(str.isidentifier, ast.unparse(node).split("."))):
            yield ast.unparse(node)
        case _:
            raise FieldError("", f"{GRAMMAR} (got {show(ast.unparse(node))}); correct it")


def _value(node: ast.expr, fields: Mapping[str, float]) -> float:
    match node:
        case ast.BinOp():
            result: float = _BINARY[type(node.op)](_value(node.left, fields), _value(node.right, fields))
            if isinstance(result, complex):
                raise ValueError
            return result
        case ast.UnaryOp():
            return _UNARY[type(node.op)](_value(node.operand, fields))
        case ast.Call():
            return math.sqrt(_value(node.args[0], fields))
        case ast.Constant(value=int() | float() as number):
            return float(number)
    return float(fields[ast.unparse(node)])
