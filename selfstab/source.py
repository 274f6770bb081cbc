"""The code behind a module, found from its imports, and digests of it; nothing here imports JAX.

A digest decides whether a computed result is still valid.  Comments, docstrings and layout do not count.

>>> "eoslib.objective" in behind("eoslib.geometry")
True
"""

from __future__ import annotations

import ast
import functools
import hashlib
import pathlib
from collections.abc import Iterable

#: Where the two packages lie; their folders have their names.
ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("eoslib", "selfstab")
#: Modules that decide numbers only through a setting, which has a digest of its own.
SETTINGS = ("selfstab.settings",)


def file_of(module: str, root: pathlib.Path = ROOT) -> pathlib.Path | None:
    """Return the file of a module of the packages, given by its dotted name, or None if there is none."""
    place = root.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imports(source: str, root: pathlib.Path = ROOT) -> set[str]:
    """Return the modules of the packages that some code imports, anywhere in it, by dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if file_of(name, root)}
            found |= modules | ({node.module} if modules != inner else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES and file_of(name, root)}


def behind(*modules: str, stop: Iterable[str] = (), root: pathlib.Path = ROOT) -> list[str]:
    """Return some modules and all that they import, directly or indirectly, sorted.

    Args:
        modules: Dotted names.
        stop: Modules that are listed, but not searched for what they import.
        root: The folder in which the packages lie.

    Raises:
        ValueError: if a module is unknown.
    """
    found, ahead = set(), set(modules)
    while ahead:
        module = ahead.pop()
        if (file := file_of(module, root)) is None:
            raise ValueError(f"no module {module!r} under {root}")
        found.add(module)
        if module not in stop:
            ahead |= imports(file.read_text(encoding="utf-8"), root) - found
    return sorted(found)


def _without_docstring(body: list) -> list:
    first = body[0] if body else None
    text = first.value.value if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) else None
    return (body[1:] or [ast.Pass()]) if isinstance(text, str) else body


def _canonical(node) -> str:
    """Return code as nested parentheses, the same whichever Python parsed it; what is absent or empty is left out.

    Later versions write a tree differently (`ast.unparse` its quotes, `ast.dump` what is empty) and give it new fields.
    """
    if isinstance(node, ast.JoinedStr):  # 3.12 leaves empty texts in it
        node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    if isinstance(fields.get("body"), list):
        fields["body"] = _without_docstring(fields["body"])
    return f"{type(node).__name__}({','.join(f'{name}={_canonical(fields[name])}' for name in sorted(fields))})"


@functools.cache
def digest(*modules: str, root: pathlib.Path = ROOT) -> str:
    """Return a SHA-256 (16 hex digits) of the code of some modules, each by its dotted name."""
    files = (file_of(name, root) for name in modules)
    code = (_canonical(ast.parse(file.read_text(encoding="utf-8"))) for file in files)
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


@functools.cache
def numerical() -> tuple[str, ...]:
    """Return the modules whose code decides a run's numbers: all behind the experiment and its checkpoints."""
    modules = behind("selfstab.experiment", "selfstab.runs.checkpoints", stop=SETTINGS)
    return tuple(name for name in modules if name not in SETTINGS)


def numerical_digest() -> str:
    """Return the digest of the numerical code, so that other code is another run."""
    return digest(*numerical())
