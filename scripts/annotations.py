"""List the public functions of `realfake/` without full annotations, and print the share with them.

python scripts/annotations.py
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "realfake"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(node: ast.AST) -> Iterator[tuple[Function, bool]]:
    """Yield the public functions of a module or class, and whether each is a method."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function) and not child.name.startswith("_"):
            yield child, isinstance(node, ast.ClassDef)
        elif isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)


def annotated(function: Function, method: bool) -> bool:
    """Return whether all arguments and the result have annotations."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    static = any(getattr(name, "id", "") == "staticmethod" for name in function.decorator_list)
    checked = named[1:] if method and not static else named
    return function.returns is not None and all(each.annotation for each in checked)


def main() -> int:
    """Print the functions without annotations, and the share."""
    total, missing = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for function, method in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            total += 1
            if not annotated(function, method):
                missing.append(f"{path.relative_to(PACKAGE.parent)}:{function.lineno}")
    print("\n".join(missing))
    print(f"{total - len(missing)} of {total} public functions are fully annotated, ", end="")
    print(f"{(total - len(missing)) / total:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
