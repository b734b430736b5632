"""What is pushed beside a checkpoint so that an Inference Endpoint can serve it: `handler.py` and what it imports.

The handler's modules are copied from this package, found by following its imports: a folder of readable files that needs
no installation of realfake, and no more of it than answering takes.
"""

import ast
from pathlib import Path

from .records import write_atomically

PACKAGE = Path(__file__).parent
TEMPLATES = PACKAGE / "templates" / "endpoint"
# What the copied modules need that Endpoints' own image lacks or has in other versions.
REQUIREMENTS = (
    "transformers", "huggingface_hub", "captum", "numpy", "scipy", "pillow", "httpx", "httpcore", "safetensors", "defusedxml",
    "c2pa-python",
)  # fmt: skip


def write_endpoint(folder: str | Path, requirements: str | Path | None = None) -> list[Path]:
    """Write the handler, the modules it imports and their requirements into a checkpoint's folder.

    Args:
        folder: Of the checkpoint.
        requirements: *optional*. The project's list of requirements, whose bounds are taken over.

    Returns:
        The files, relative to the folder. Earlier copies that are needed no more are removed.
    """
    folder = Path(folder)
    handler = (TEMPLATES / "handler.py").read_text(encoding="utf-8")
    files = {Path("handler.py"): handler}
    for path in modules_of(handler):
        files[Path(PACKAGE.name) / path] = (PACKAGE / path).read_text(encoding="utf-8")
    files[Path("requirements.txt")] = _requirements(requirements)
    for old in (folder / PACKAGE.name).rglob("*.py"):
        if old.relative_to(folder) not in files:
            old.unlink()
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, content)
    return sorted(files)


def modules_of(source: str) -> list[Path]:
    """The files of this package that a program imports, directly or through others, relative to the package.

    Imports inside functions count: they are made when the function is called. Those under `TYPE_CHECKING` never are.
    """
    found: set[Path] = set()
    waiting = _imports(ast.parse(source), Path())
    while waiting:
        path = waiting.pop()
        if path in found or not (PACKAGE / path).is_file():
            continue
        found.add(path)
        waiting |= {parent / "__init__.py" for parent in path.parents}
        waiting |= _imports(ast.parse((PACKAGE / path).read_text(encoding="utf-8")), path.parent)
    return sorted(found)


def _imports(tree: ast.AST, here: Path) -> set[Path]:
    found: set[Path] = set()
    for node in _executed(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level:
            base = here
            for _ in range(node.level - 1):
                base = base.parent
        elif parts[:1] == [PACKAGE.name]:
            base, parts = Path(), parts[1:]
        else:
            continue
        module = base.joinpath(*parts)
        if parts:
            found |= {module.with_suffix(".py"), module / "__init__.py"}
        else:
            found.add(module / "__init__.py")
        # `from . import text` names modules, `from .text import percent` does not.
        found |= {module / f"{alias.name}.py" for alias in node.names}
    return found


def _executed(tree: ast.AST):
    """All nodes but those under `if TYPE_CHECKING:`."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            checking = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            waiting += child.orelse if checking else [child]


def _requirements(path: str | Path | None) -> str:
    """The project's lines for the handler's packages; from the installed versions where there is no list."""
    bounds = {}
    path = PACKAGE.parent / "requirements.txt" if path is None else Path(path)
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            name = line.split("#")[0].strip()
            for mark in "[<>=~! ":
                name = name.split(mark)[0]
            bounds[name.lower()] = line.split("#")[0].strip()
    lines = [bounds.get(name) or _installed(name) for name in REQUIREMENTS]
    return "\n".join(["# What handler.py imports besides PyTorch.", *lines]) + "\n"


def _installed(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        major = version(name).split(".")[0]
    except PackageNotFoundError:
        return name
    return f"{name}>={major},<{int(major) + 1}"
