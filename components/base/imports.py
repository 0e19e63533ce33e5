"""The graph of imports between our own modules, read without running them, and digests of code without its comments.

The graph decides what retrains, and shows circles. Late imports (inside functions) count. Imports under `if TYPE_CHECKING:` do not,
because they never run.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.base.errors import FarposeError, unknown_name
from components.base.files import digest_of


@dataclass(frozen=True)
class Sources:
    """Modules of our packages.

    Attributes:
        paths: file of each module by dotted name; a package's is its `__init__.py`.
        imports: which of these modules each one imports.
    """

    paths: Mapping[str, Path]
    imports: Mapping[str, frozenset[str]]

    def closure(self, roots: Iterable[str]) -> list[str]:
        """All modules that importing `roots` runs, sorted: imported modules, what those import, and the packages around each.

        Raises:
            FarposeError: a root is not one of the modules.
        """
        found, waiting = set(), list(roots)
        for root in waiting:
            if root not in self.paths:
                raise unknown_name("module", root, self.paths)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += [*self.imports[name], *(package for package in _around(name) if package in self.paths)]
        return sorted(found)

    def digests(self, modules: Iterable[str]) -> dict[str, str]:
        """SHA-256 of each module's code, see `code_digest`."""
        return {name: code_digest(self.paths[name]) for name in modules}

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other, each sorted; empty if there is none.

        A module also imports the packages around it, and a package often imports its own modules; that does not count as a circle.
        """
        reached = {name: self._reached(name) for name in self.paths}
        groups = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in self.paths if name in reached[name]}
        return [list(group) for group in sorted(groups)]

    def _reached(self, name: str) -> set[str]:
        found: set[str] = set()
        waiting = list(self.imports[name])
        while waiting:
            module = waiting.pop()
            if module not in found:
                found.add(module)
                waiting += self.imports[module]
        return found


def read(root: str | Path, packages: Iterable[str] = ("components",)) -> Sources:
    """Read every Python file of some packages below `root`.

    Raises:
        FarposeError: a file is not valid Python.
    """
    root = Path(root)
    paths = {_name(path.relative_to(root)): path for package in packages for path in sorted((root / package).rglob("*.py"))}
    imports = {name: frozenset(_ours(name, _mentions(path.read_bytes(), path), paths)) for name, path in paths.items()}
    return Sources(paths, imports)


def named_in(path: Path, function: str, sources: Sources) -> list[str]:
    """The modules that a function imports, itself or through functions of the same file, sorted.

    Raises:
        FarposeError: the file has no such function.
    """
    functions = {node.name: node for node in _parsed(path.read_bytes(), path).body if isinstance(node, ast.FunctionDef)}
    if function not in functions:
        raise unknown_name("function", function, functions, where=path)
    found: set[str] = set()
    waiting, seen = [function], {function}
    while waiting:
        node = functions[waiting.pop()]
        found |= set(_ours("", _imports(ast.Module(node.body, [])), sources.paths))
        used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and inner.id in functions}
        waiting += sorted(used - seen)
        seen |= used
    return sorted(found)


def code_digest(path: Path) -> str:
    """SHA-256 of a file's syntax tree: comments, docstrings, blank lines and line breaks do not count.

    Fields without a value are left out, so that a Python version that adds one gives the same digest.
    """
    code = path.read_bytes()
    known = _DIGESTS.get(code)
    if known is None:
        known = _DIGESTS[code] = digest_of(_plain(_parsed(code, path)))
    return known


_DIGESTS: dict[bytes, str] = {}  # by content, wherever the file lies


def together(digests: Mapping[str, str]) -> str:
    """One digest of several."""
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(digests.items())).encode()).hexdigest()


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _around(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _parsed(code: bytes, path: Path) -> ast.Module:
    try:
        return ast.parse(code, str(path))
    except SyntaxError as error:
        raise FarposeError(f"not valid Python: {error.msg}, line {error.lineno}", where=path, fix="correct the file") from None


Statements = tuple[ast.Import | ast.ImportFrom, ...]
_MENTIONS: dict[bytes, Statements] = {}  # by content, wherever the file lies


def _mentions(code: bytes, path: Path) -> Statements:
    """The import statements of a file's code."""
    known = _MENTIONS.get(code)
    if known is None:
        known = _MENTIONS[code] = _imports(_parsed(code, path))
    return known


def _imports(tree: ast.Module) -> Statements:
    """The import statements of a module, but those under `if TYPE_CHECKING:`."""
    found: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.expr):  # an expression holds no statement
            waiting += ast.iter_child_nodes(node)
    return tuple(found)


def _ours(own: str, statements: Statements, paths: Mapping[str, Path]) -> Iterator[str]:
    """The modules that import statements name. `from package import module` names the module, not the package."""
    for node in statements:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in paths)
        else:
            source = _source(own, node, paths)
            for alias in node.names:
                module = f"{source}.{alias.name}"
                if module in paths or source in paths:
                    yield module if module in paths else source


def _source(own: str, node: ast.ImportFrom, paths: Mapping[str, Path]) -> str:
    if not node.level:
        return node.module or ""
    parts = own.split(".")
    depth = len(parts) - node.level + (paths[own].name == "__init__.py")
    return ".".join([*parts[:depth], *([node.module] if node.module else [])])


def _is_type_checking(test: ast.expr) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", None)) == "TYPE_CHECKING"


def _plain(node: Any) -> Any:
    """A syntax tree as nested lists, without docstrings and without empty fields."""
    if isinstance(node, ast.Constant):
        return ["Constant", type(node.value).__name__, repr(node.value)]
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node)}
        return [type(node).__name__, {name: value for name, value in fields.items() if value not in (None, [])}]
    if isinstance(node, list):
        return [_plain(item) for item in node if not _is_docstring(item)]
    return node


def _is_docstring(node: Any) -> bool:
    """Whether a statement is only a string, which has no effect anywhere."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
