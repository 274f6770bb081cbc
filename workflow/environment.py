"""Make ``.venv`` from ``requirements.lock`` with nothing but Python's own ``venv`` and ``pip``; say so; do it once.

A stamp in ``.venv`` names the lock and the declared dependencies that it was made from.  Where it fits, this program
says nothing and ends at once.  An environment whose making was interrupted is made again from nothing.
"""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess
import sys
import time
import tomllib
import venv

from alone import Busy, alone

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv"
PYTHON = FOLDER / "bin" / "python"
UNFINISHED = FOLDER / ".unfinished"


def stamp() -> pathlib.Path:
    """The file whose presence says that the environment fits the lock and the declared dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [project["dependencies"], project.get("optional-dependencies", {}), project["requires-python"]]
    content = (ROOT / "requirements.lock").read_bytes() + repr(declared).encode()
    return FOLDER / f".stamp-{hashlib.sha256(content).hexdigest()[:16]}"


def works() -> bool:
    """Whether there is a whole environment of a supported Python to bring up to date."""
    if UNFINISHED.exists() or not PYTHON.exists():
        return False
    check = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    return subprocess.run([PYTHON, "-c", check], capture_output=True).returncode == 0


def pip(*arguments: str) -> None:
    """Run pip inside the environment; it speaks only of errors."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-qq", "install", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdin=subprocess.DEVNULL)


def make() -> None:
    """Create the environment, or bring it up to date."""
    begun = time.monotonic()
    packages = sum("==" in line.split("#")[0] for line in (ROOT / "requirements.lock").read_text().splitlines())
    if works():
        print("The lock has changed: bringing .venv up to date.", flush=True)
    else:
        version = ".".join(map(str, sys.version_info[:3]))
        print(
            f"Making .venv with Python {version} and the {packages} packages of requirements.lock "
            "(once; about 2 minutes and 1.6 GB).",
            flush=True,
        )
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        UNFINISHED.touch()
        venv.create(FOLDER, with_pip=True, symlinks=True)
    UNFINISHED.touch()
    for old in FOLDER.glob(".stamp-*"):
        old.unlink()
    # The lock is whole, so pip has nothing to resolve.
    pip("--no-deps", "--requirement", "requirements.lock")
    pip("--no-deps", "--no-build-isolation", "--editable", ".")
    stamp().touch()
    UNFINISHED.unlink()
    print(f"The environment is ready ({time.monotonic() - begun:.0f} s).", flush=True)


def main() -> int:
    """Make the environment unless it is there; 1 with a sentence where that fails."""
    if stamp().exists() and PYTHON.exists():
        return 0
    try:
        with alone(ROOT):
            if not stamp().exists():
                make()
    except Busy as busy:
        print(busy, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError:
        told = "pip could not install requirements.lock (its reason is above). The first call needs the package index."
        print(f"{told} Call again to retry.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next call makes the environment from the start.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
