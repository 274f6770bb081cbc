"""What each job of the graph depends on, as short digests of content: never of dates, comments or layout.

A digest is stored with a job's outputs.  When it differs at the next call the job runs again, and the digest's name is
the reason that the log gives.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
import tomllib
from collections.abc import Iterable

from selfstab import source

#: Tables whose rows count through the digest of each setting, not as code.
TABLES = ("selfstab.settings", "selfstab.chapters")
#: Where the search for a notebook's modules stops: what lies behind these reaches a notebook as run files.
INTERFACES = ("selfstab.runs.compute", "selfstab.runs.files", *TABLES)
#: Packages besides the library's own that decide what an executed notebook looks like.
NOTEBOOK_PACKAGES = ("papermill", "ipykernel")


def short(*parts: str | bytes) -> str:
    """SHA-256 of some texts, 16 hex digits."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(b"\0".join(encoded)).hexdigest()[:16]


def of_files(root: pathlib.Path, files: Iterable[pathlib.Path]) -> str:
    """Digest of names and bytes of some files."""
    parts = [(str(file.relative_to(root)).encode(), file.read_bytes()) for file in sorted(files)]
    return short(*(part for pair in parts for part in pair))


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> dict[str, tuple[str, set[str]]]:
    """The lock by package: its pin (with marker) and the packages that ask for it.

    Raises:
        ValueError: on a line that is neither a pin nor its hash nor a comment.
    """
    packages: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in text.splitlines():
        if pin := re.match(r"([A-Za-z0-9][\w.-]*)(\[[\w,-]+\])?==", line):
            name = canonical(pin.group(1))
            if name in packages:
                raise ValueError(f"requirements.lock pins {name} twice; one version must serve every Python")
            packages[name] = (line.rstrip(" \\"), set())
        elif line.startswith(" ") and line.strip().startswith("#"):
            parent = line.strip().removeprefix("#").strip().removeprefix("via").strip()
            if name and parent:
                packages[name][1].add(canonical(parent.split(" ")[0]))
        elif line.strip() and not line.startswith(("    --hash=sha256:", "#")):
            raise ValueError(f"requirements.lock: neither a pin nor a comment: {line!r}")
    return packages


def needed_by(roots: Iterable[str], lock: dict[str, tuple[str, set[str]]]) -> list[str]:
    """Pins of some packages and of all that they ask for, sorted."""
    wanted = {canonical(root) for root in roots}
    while more := {name for name, (_, parents) in lock.items() if parents & wanted} - wanted:
        wanted |= more
    return sorted(lock[name][0] for name in wanted & lock.keys())


def declared(project: dict, *extras: str) -> list[str]:
    """Names of the packages that a project's table asks for, with some of its extras."""
    asked = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [canonical(re.match(r"[\w.-]+", line).group()) for line in asked]


def versions(root: pathlib.Path, *extras: str, besides: Iterable[str] = ()) -> str:
    """Digest of the pins that the library (with extras, and other packages) needs: not the whole lock."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = read_lock((root / "requirements.lock").read_text(encoding="utf-8"))
    return short(*needed_by([*declared(project, *extras), *besides], lock))


def notebook(file: pathlib.Path) -> str:
    """Digest of a notebook's cells and tags; outputs and the rest of its metadata do not count."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    kept = [[cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])] for cell in cells]
    return short(json.dumps(kept))


def code(file: pathlib.Path) -> str:
    """The Python of a notebook, without its magics."""
    cells = [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
    return "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in lines)


def modules_behind(code: str) -> list[str]:
    """Modules of the packages whose code a notebook executes, directly or not; what lies behind runs comes as files."""
    found = source.behind(*source.imports(code), stop=INTERFACES)
    return [name for name in found if name not in TABLES]
