"""Filters that people write: ``aesthetic_score > 5 and relation == 'antonym'`` -> a pyarrow expression.

The text is read as a Python expression but never run: only comparisons, ``and``, ``or``, ``not``, ``in``,
``is None`` and ``contains(column, 'text')`` over declared columns and plain values are understood.
"""

import ast
import difflib
from typing import TYPE_CHECKING, Any

from storage.errors import FilterError
from storage.tables import TableSchema, compute

if TYPE_CHECKING:
    import pyarrow.compute as pc

_MAX_CHARACTERS = 10_000
_MAX_DEPTH = 50


def parse_filter(text: str, schema: TableSchema) -> "pc.Expression":
    """Return the expression that ``text`` describes, checked against the columns and types of ``schema``.

    Raises:
        FilterError: not an expression of this small language, an unknown column, or a value of the wrong type or one
            that its column never has.
    """
    import pyarrow as pa

    tree = _tree(text)
    try:
        expression = _Translation(text, schema).condition(tree)
        schema.arrow().empty_table().filter(expression)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        # What arrow says of a value that no column can hold: another type, too large a number, half a surrogate pair.
        raise FilterError(f"the filter {text!r:.200} does not fit the columns of {schema.name}: {error}") from error
    return expression


def canonical_filter(text: str) -> str:
    """Return the filter in one spelling: the same for any spacing, quotes and needless brackets.

    Raises:
        FilterError: the text is no expression.
    """
    return ast.unparse(_tree(text))


def _tree(text: str) -> ast.expr:
    if len(text) > _MAX_CHARACTERS:
        raise FilterError(f"a filter has at most {_MAX_CHARACTERS} characters, not {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FilterError(f"the filter {text!r:.200} is no expression: {error}") from error
    level: list[ast.AST] = [tree]
    depth = 0
    while level := [child for node in level for child in ast.iter_child_nodes(node)]:
        depth += 1
        if depth > _MAX_DEPTH:  # what walks the tree later calls itself
            raise FilterError(f"the filter {text!r:.200} is nested deeper than {_MAX_DEPTH}")
    return tree


class _Translation:
    """One filter on its way from Python's syntax tree to pyarrow; keeps the text for its errors."""

    def __init__(self, text: str, schema: TableSchema) -> None:
        self._text = text
        self._names = schema.names
        self._allowed = {column.name: column.allowed for column in schema.columns if column.allowed}
        self._booleans = {column.name for column in schema.columns if column.type == "bool"}

    def condition(self, node: ast.expr) -> "pc.Expression":
        match node:
            case ast.BoolOp(op=operator, values=values):
                return self._joined(
                    [self.condition(value) for value in values], conjunction=isinstance(operator, ast.And)
                )
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.condition(operand)
            case ast.Compare(left=left, ops=operators, comparators=rights):
                lefts = [left, *rights]
                pairs = zip(lefts, operators, rights, strict=False)
                return self._joined([self._compared(*pair) for pair in pairs], conjunction=True)
            case ast.Call(func=ast.Name(id="contains"), args=[ast.Name(id=name), ast.Constant(value=str(part))]):
                pc = compute()

                return pc.match_substring(self._column(name), part)
            case ast.Name(id=name) if name in self._booleans:
                return self._column(name)
        raise self._refused(node)

    def _compared(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> "pc.Expression":
        if isinstance(operator, ast.Is | ast.IsNot):
            if not isinstance(right, ast.Constant) or right.value is not None:
                raise self._refused(right)
            null = self._operand(left).is_null()
            return null if isinstance(operator, ast.Is) else ~null
        if isinstance(operator, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
                raise self._refused(right)
            self._check_possible(left, *right.elts)
            inside = self._operand(left).isin([self._constant(item) for item in right.elts])
            return inside if isinstance(operator, ast.In) else ~inside
        if isinstance(operator, ast.Eq | ast.NotEq):
            self._check_possible(left, right)
            self._check_possible(right, left)
        return self._ordered(self._operand(left), operator, self._operand(right))

    def _check_possible(self, column: ast.expr, *values: ast.expr) -> None:
        """Refuse to compare a column with a value that it never has: such a filter finds nothing, or everything."""
        allowed = self._allowed.get(column.id, ()) if isinstance(column, ast.Name) else ()
        for value in values:
            if allowed and isinstance(value, ast.Constant) and value.value not in allowed:
                raise FilterError(
                    f"the filter {self._text!r:.200} asks for {ast.unparse(column)} {value.value!r:.80}, which is "
                    f"never there: it is one of {', '.join(allowed)}"
                )

    def _ordered(self, left: Any, operator: ast.cmpop, right: Any) -> "pc.Expression":
        match operator:
            case ast.Eq():
                return left == right
            case ast.NotEq():
                return left != right
            case ast.Lt():
                return left < right
            case ast.LtE():
                return left <= right
            case ast.Gt():
                return left > right
            case _:
                return left >= right

    def _operand(self, node: ast.expr) -> "pc.Expression":
        pc = compute()

        return self._column(node.id) if isinstance(node, ast.Name) else pc.scalar(self._constant(node))

    def _constant(self, node: ast.expr) -> bool | int | float | str:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._constant(node.operand)
            if not isinstance(value, str):
                return -value
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            return node.value
        raise self._refused(node)

    def _column(self, name: str) -> "pc.Expression":
        pc = compute()

        if name not in self._names:
            near = difflib.get_close_matches(name, self._names, n=3) or self._names
            raise FilterError(
                f"the filter {self._text!r:.200} names the unknown column {name!r}; try {', '.join(near)}"
            )
        return pc.field(name)

    def _joined(self, parts: "list[pc.Expression]", *, conjunction: bool) -> "pc.Expression":
        joined = parts[0]
        for part in parts[1:]:
            joined = joined & part if conjunction else joined | part
        return joined

    def _refused(self, node: ast.AST) -> FilterError:
        return FilterError(
            f"the filter {self._text!r:.200} holds {ast.unparse(node)!r:.80}; only comparisons of columns and values, "
            "and, or, not, in (...), is None and contains(column, 'text') are understood"
        )
