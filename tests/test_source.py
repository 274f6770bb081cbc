"""The code behind something: imports, their closure, digests; and the code behind a run's numbers."""

import ast
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from selfstab import source

#: What importing the numerical code executes besides: packages that only name things, and the table of settings.
NAMES_ALONE = {
    "eoslib", "eoslib.sharpness", "eoslib.trajectories", "selfstab", "selfstab.runs", "selfstab.settings",
}  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    """A small tree of both packages; returns a function that writes a module and gives the tree's root."""

    def write(**modules: str) -> pathlib.Path:
        for name, code in modules.items():
            file = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code, encoding="utf-8")
        return tmp_path

    write(eoslib__one="A = 1\n", eoslib__two="B = 2\n", eoslib__deep__init="", selfstab__data__sources="")
    (tmp_path / "eoslib/deep/init.py").rename(tmp_path / "eoslib/deep/__init__.py")
    (tmp_path / "selfstab/data/__init__.py").touch()
    return write


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import eoslib.one", {"eoslib.one"}),
        ("import eoslib.one as other, numpy", {"eoslib.one"}),
        ("from eoslib import one, two", {"eoslib.one", "eoslib.two"}),
        ("from eoslib.one import A", {"eoslib.one"}),
        ("from eoslib.deep import name", {"eoslib.deep"}),
        ("from selfstab.data import sources", {"selfstab.data.sources"}),
        ("from selfstab.data import sources, load", {"selfstab.data", "selfstab.data.sources"}),
        ("def f():\n    if True:\n        from eoslib import two", {"eoslib.two"}),
        ("class A:\n    import eoslib.two", {"eoslib.two"}),
        ("if TYPE_CHECKING:\n    from eoslib.one import A", {"eoslib.one"}),
        ("try:\n    import eoslib.one\nexcept ImportError:\n    import eoslib.two", {"eoslib.one", "eoslib.two"}),
        ("import numpy, jax.numpy\nfrom other.eoslib import one", set()),
        ("'import eoslib.one'  # import eoslib.two", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(tree, code, found):
    assert source.imports(code, tree()) == found


def test_a_package_is_the_file_that_it_begins_with(tree):
    root = tree()
    assert source.file_of("eoslib.deep", root) == root / "eoslib/deep/__init__.py"
    assert source.file_of("eoslib.one", root) == root / "eoslib/one.py"
    assert source.file_of("eoslib.none", root) is None


def test_all_behind_a_module_is_found_even_in_a_circle(tree):
    root = tree(
        eoslib__one="from eoslib import two",
        eoslib__two="def f():\n    from selfstab import table",
        selfstab__table="import eoslib.one, selfstab.data.sources",
        selfstab__apart="import eoslib.one",
    )
    behind = ["eoslib.one", "eoslib.two", "selfstab.data.sources", "selfstab.table"]
    assert source.behind("eoslib.one", root=root) == behind
    assert source.behind("selfstab.apart", root=root) == sorted([*behind, "selfstab.apart"])
    assert source.behind("eoslib.one", stop=["selfstab.table"], root=root) == [
        "eoslib.one",
        "eoslib.two",
        "selfstab.table",
    ]
    assert source.behind("selfstab.data.sources", "eoslib.deep", root=root) == ["eoslib.deep", "selfstab.data.sources"]
    with pytest.raises(ValueError, match=r"no module 'eoslib\.none' under "):
        source.behind("eoslib.none", root=root)


CODE = '''"""Docstring."""
x = 1  # comment


def f(a, b=2):
    """Docstring."""
    return {"η": a + b}
'''


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("Docstring", "Another"),
        CODE.replace("  # comment", ""),
        CODE.replace("\n\n\n", "\n"),
        CODE.replace("(a, b=2)", "(\n    a,\n    b = 2\n)"),
        CODE.replace('"η"', "'η'"),
        CODE.split("\n", 1)[1].replace('    """Docstring."""\n', ""),
    ],
)
def test_a_digest_does_not_see_comments_docstrings_and_layout(tree, other):
    root = tree(eoslib__one=CODE, eoslib__two=other)
    assert source.digest("eoslib.one", root=root) == source.digest("eoslib.two", root=root)


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("x = 1", "x = 2"),
        CODE.replace("b=2", "b=3"),
        CODE.replace("η", "θ"),
        CODE.replace("a + b", "b + a"),
        CODE.replace("x = 1", "x = 1.0"),
        CODE.replace('    return {"η": a + b}', "    pass"),
        CODE.replace("x = 1", "x = 1\n'a string that is no docstring'"),
    ],
)
def test_a_digest_sees_code(tree, other):
    root = tree(eoslib__one=CODE, eoslib__two=other)
    assert source.digest("eoslib.one", root=root) != source.digest("eoslib.two", root=root)


VERSIONED = '''
def f(x, /, *, y=None, **z) -> "a":
    """Text."""
    match x:
        case {"a": [1, *rest], **others} if (n := len(rest)):
            return f"{x['a']!r:>{y}} it's {n}\\n"
        case _:
            return [lambda a: {**z}, 1e-3, 1j, b"c", ..., None, x[::2], "d" "e"]
'''


def test_a_digest_is_the_same_in_every_python(tree):
    """The value was equal in 3.11, 3.12 and 3.13, whose trees have other fields and are written out differently."""
    root = tree(eoslib__versioned=VERSIONED)
    assert source.digest("eoslib.versioned", root=root) == "c6810cad3e0145ed"
    now, later = ast.parse(VERSIONED), ast.parse(VERSIONED)
    for node in ast.walk(later):
        node._fields = (*node._fields, "new_list", "new_value")
        node.new_list, node.new_value = [], None
    assert source._canonical(later) == source._canonical(now)


def test_a_digest_tells_modules_and_their_order_apart(tree):
    root = tree(eoslib__one="a = 1", eoslib__two="b = 2")
    digests = {source.digest(*names, root=root) for names in (("eoslib.one",), ("eoslib.two",))}
    digests |= {
        source.digest("eoslib.one", "eoslib.two", root=root),
        source.digest("eoslib.two", "eoslib.one", root=root),
    }
    assert len(digests) == 4


# --- the code behind a run's numbers ----------------------------------------------------------------------------------


def run(code: str, folder: pathlib.Path = source.ROOT, **environment: str) -> list[str]:
    """What some code prints in a process of its own, in a folder that holds both packages."""
    environment = os.environ | {"PYTHONPATH": str(folder)} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of both packages' code, to be changed."""
    folder = tmp_path_factory.mktemp("copy")
    for package in source.PACKAGES:
        shutil.copytree(
            source.ROOT / package, folder / package, ignore=shutil.ignore_patterns("_subset", "__pycache__")
        )
    return folder


def test_every_module_that_computing_loads_is_numerical():
    """As Python itself counts: whatever the experiment and its checkpoints bring into a process."""
    found = run("import sys, selfstab.experiment, selfstab.runs.checkpoints; print(*sys.modules)")
    loaded = {name for name in found if name.split(".")[0] in source.PACKAGES}
    assert loaded >= {"eoslib.trajectories.track", "selfstab.networks", "selfstab.data.images", "selfstab.data.sources"}
    assert loaded - NAMES_ALONE == set(source.numerical())


def test_what_is_loaded_besides_computes_no_run():
    assert not set(source.behind("selfstab.settings")) & set(source.numerical())
    for name in ("eoslib", "eoslib.trajectories", "selfstab", "selfstab.runs"):
        body = ast.parse(source.file_of(name).read_text(encoding="utf-8")).body
        # A docstring, imports, names and tables of names, and what looks up names; no call, so no setting of JAX.
        known = ast.Import | ast.ImportFrom | ast.Assign | ast.AugAssign | ast.FunctionDef | ast.If
        assert all(isinstance(node, known) or ast.get_docstring(ast.Module([node], [])) for node in body), name
        assert {node.name for node in body if isinstance(node, ast.FunctionDef)} <= {"__getattr__", "__dir__"}
        named = [node for node in body if isinstance(node, ast.Assign | ast.AugAssign)]
        assert not [call for node in named for call in ast.walk(node) if isinstance(call, ast.Call)], name
    for name in source.numerical():
        inner = source.imports(source.file_of(name).read_text(encoding="utf-8"))
        assert not inner & (NAMES_ALONE - {"selfstab.settings"}), f"{name} computes with what no digest sees"


def test_changed_code_of_any_numerical_module_changes_the_digest(copy):
    for name in source.numerical():
        file = source.file_of(name, copy)
        before = file.read_text(encoding="utf-8")
        assert source.digest(name, root=copy) == source.digest(name), name
        source.digest.cache_clear()
        file.write_text(before + "1\n", encoding="utf-8")
        assert source.digest(name, root=copy) != source.digest(name), name
        file.write_text(before, encoding="utf-8")
    source.digest.cache_clear()
    assert source.digest(*source.numerical(), root=copy) == source.numerical_digest()


def test_a_new_module_enters_the_digest_by_being_imported(copy):
    ask = "from selfstab import source; print(source.numerical_digest(), *source.numerical())"
    digest, *modules = run(ask, copy)
    assert (digest, modules) == (source.numerical_digest(), list(source.numerical()))
    (copy / "selfstab/data/extra.py").write_text("A = 1\n")
    assert run(ask, copy)[0] == digest, "nobody imports it yet"
    with open(copy / "selfstab/data/images.py", "a") as images:
        images.write("\ndef f():\n    from selfstab.data import extra\n")
    other, *more = run(ask, copy)
    assert other != digest
    assert set(more) - set(modules) == {"selfstab.data.extra"}


def test_the_digest_is_the_same_whatever_the_locale():
    ask = "import locale, selfstab.source as s; print(locale.getpreferredencoding(False), s.numerical_digest())"
    encoding, digest = run(ask, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert encoding.lower() != "utf-8"
    assert digest == source.numerical_digest()
