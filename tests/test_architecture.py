"""The two rings, from the imports: no circle, no arrow outwards, no JAX in what only describes; and their sizes."""

from __future__ import annotations

import ast
import graphlib
import json
import pathlib

import pytest

from selfstab import source

ROOT = source.ROOT

#: Where the library meets other people's code: what they hand in, and their optimizers.
INTERFACES = ("eoslib/inputs.py", "eoslib/optimizers.py", "eoslib/transformation.py")
#: Most lines, with comments and blank ones: those of the library's parts, and of all code that is kept by hand.
MOST_LINES = {"eoslib": 2260, "eoslib's interfaces": 500, "eoslib/trajectories": 1600, "in all": 22_100}
#: Modules that the book and the workflow import, on machines and at moments that should not pay for computing.
DESCRIBE = ("selfstab.settings", "selfstab.chapters", "selfstab.source", "selfstab.records")


def inside(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def name_of(file: pathlib.Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for package in source.PACKAGES for file in sorted((ROOT / package).rglob("*.py"))}
GRAPH = {name: source.imports(file.read_text(encoding="utf-8")) for name, file in MODULES.items()}


def test_the_import_graph_has_no_circle():
    """Whoever imports a module of a package from outside waits for the package's own file, too."""
    waits = {
        name: imported | {p for i in imported for p in MODULES if i.startswith(f"{p}.") and not inside(name, p)}
        for name, imported in GRAPH.items()
    }
    assert len(waits) > 40
    try:
        order = list(graphlib.TopologicalSorter(waits).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
    assert set(order) == set(MODULES)


def test_no_import_is_hidden_from_the_graph():
    """Relative imports and names built at run time would be; the library's lazy public names alone may."""
    for name, file in MODULES.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level], name
        if name != "eoslib":
            assert "import_module(" not in file.read_text(encoding="utf-8"), name


def test_no_arrow_leads_from_the_library_to_the_companion():
    outwards = {name: found for name in GRAPH if (found := {i for i in GRAPH[name] if inside(i, "selfstab")})}
    assert not {name: found for name, found in outwards.items() if inside(name, "eoslib")}
    assert any(inside(imported, "eoslib") for name in GRAPH if inside(name, "selfstab") for imported in GRAPH[name])


def imported_when_loaded(tree: ast.Module) -> ast.Module:
    """The code without what stands under ``if TYPE_CHECKING:``."""
    typing = lambda node: isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")  # noqa: E731
    return ast.Module([node for node in tree.body if not typing(node)], [])


@pytest.mark.parametrize("name", sorted(name for name in MODULES if inside(name, "eoslib") and name.count(".") < 2))
def test_flat_modules_do_not_build_on_trajectories(name):
    if name == "eoslib.trajectories":
        return
    loaded = source.imports(ast.unparse(imported_when_loaded(ast.parse(MODULES[name].read_text(encoding="utf-8")))))
    assert not {imported for imported in loaded if inside(imported, "eoslib.trajectories")}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if inside(name, *DESCRIBE)))
def test_what_only_describes_imports_neither_the_library_nor_jax(name):
    behind = source.behind(name)
    assert not [module for module in behind if inside(module, "eoslib")]
    for module in behind:
        tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        assert not {n.split(".")[0] for n in names} & {"jax", "jaxlib", "flax", "optax", "xarray", "matplotlib"}, module


def lines(*patterns: str) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for p in patterns for file in ROOT.glob(p))


def lines_of_notebooks() -> int:
    cells = [
        cell
        for file in ROOT.glob("notebooks/*.ipynb")
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]
    ]
    return sum(len("".join(cell["source"]).splitlines()) for cell in cells if cell["cell_type"] == "code")


def test_the_code_stays_small(capsys):
    """The library is what another researcher reads; all together is what the next person keeps."""
    parts = {
        "eoslib": lines("eoslib/*.py") - lines(*INTERFACES),
        "eoslib's interfaces": lines(*INTERFACES),
        "eoslib/trajectories": lines("eoslib/trajectories/**/*.py"),
        "selfstab": lines("selfstab/**/*.py"),
        "notebooks' code": lines_of_notebooks(),
        "workflow": lines("workflow/**/*.py"),
        "book's extensions and scripts": lines("book/_ext/*.py", "book/_assets/*.js"),
    }
    parts["in all"] = sum(parts.values())
    with capsys.disabled():
        print("\nlines:", ", ".join(f"{part} {count:,}" for part, count in parts.items()), end=" ")
    assert not {part: (parts[part], bound) for part, bound in MOST_LINES.items() if parts[part] > bound}
