"""Wrong programs near a right one: a stub, and mutants by operators on the syntax tree.

Tests that a mutant passes do not see the change. The operators are those of mutation testing: Offutt et al., An
experimental determination of sufficient mutant operators (1996), without those on pointers, and with the deletion of
statements. A mutant may compute the same as the program, so no test has to reject all of them.
"""

import ast
import hashlib
from collections.abc import Iterator, Sequence

from tasks.synthesis.parsing import Case

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),  # codespell:ignore notin
    ast.NotIn: (ast.In,),  # codespell:ignore notin
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


def functions(cases: Sequence[Case], program: str) -> tuple[str, ...]:
    """The names of the functions and classes of a program that tests call."""
    defined = {
        node.name
        for node in ast.parse(program).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    called = {
        node.func.id
        for case in cases
        for node in ast.walk(ast.parse(case.source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return tuple(sorted(defined & called))


def stub(program: str) -> str:
    """The program with functions that do nothing and return None."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def mutants(program: str, most: int, seed: int) -> list[str]:
    """Different programs, each of which differs from this one in one place, in a function.

    If there are more than `most`, a choice that is a function of the seed and the program.
    """
    tree = ast.parse(program)
    places = [
        (parent, field, index, replacement)
        for parent, field, index, node in _inside_functions(tree)
        for replacement in _replacements(node)
    ]

    def order(number: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{number}".encode()).digest()

    found = {ast.unparse(tree): None}
    for number in sorted(range(len(places)), key=order):
        if len(found) > most:
            break
        source = _changed(tree, *places[number])
        try:
            compile(source, "<mutant>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError):
            continue
        found.setdefault(source)
    return list(found)[1:]


def _inside_functions(tree: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """The nodes in bodies of functions with their places: parent, field, and index if the field is a list."""
    for field, value in ast.iter_fields(tree):
        function = isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
        if function and field != "body":
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # a docstring
            if isinstance(node, ast.AST) and not text:
                if inside or function:
                    yield tree, field, index, node
                yield from _inside_functions(node, inside or function)


def _changed(tree: ast.AST, parent: ast.AST, field: str, index: int | None, replacement: ast.AST) -> str:
    """The source with another node at a place; the tree stays as it is."""
    if index is None:
        original = getattr(parent, field)
        setattr(parent, field, replacement)
    else:
        original = getattr(parent, field)[index]
        getattr(parent, field)[index] = replacement
    try:
        return ast.unparse(ast.fix_missing_locations(tree))
    finally:
        if index is None:
            setattr(parent, field, original)
        else:
            getattr(parent, field)[index] = original


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What the operators put in the place of a node.

    Results are not replaced by None: whatever rejects the stub rejects that.
    """
    match node:
        case ast.Compare(left, ops, comparators):
            for index, op in enumerate(ops):
                for other in _COMPARISONS[type(op)]:
                    yield ast.Compare(left, [*ops[:index], other(), *ops[index + 1 :]], comparators)
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            yield ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in _ARITHMETIC:
            yield ast.AugAssign(target, _ARITHMETIC[type(op)](), value)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
            if value != 0:
                yield ast.Constant(0)
        case ast.Constant(str() as value):
            yield ast.Constant("" if value else "mutant")
        case ast.If(test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.While(test, body, orelse):
            yield ast.While(ast.Constant(False), body, orelse)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Expr(value) if not isinstance(value, ast.Constant):
            yield ast.Pass()
        case ast.Call(_, args, keywords) if args and not keywords and isinstance(args[0], ast.Name):
            yield args[0]
