"""Make ``.venv`` from ``requirements.lock`` with nothing but Python's own ``venv`` and ``pip``; say so; do it once.

Pip fetches uv, which installs the rest and checks every file against the lock's hashes; where uv cannot, pip does both.
A stamp in ``.venv`` names the lock and the declared dependencies that it was made from.  Where it fits, this program
says nothing and ends at once.  An environment whose making was interrupted is made again from nothing.

What a GPU needs, five gigabytes, has a lock of its own and is installed where asked for: ``environment.py cuda12``.
Later calls that ask for nothing keep that; ``environment.py none`` ends it.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
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
#: The folders of the two distributions: the library and its companion.
PROJECTS = ("./eoslib", ".")
#: Each has a lock of its own, of what it needs besides.
ACCELERATORS = ("cuda12",)


def accelerator(asked: str | None) -> str:
    """The accelerator that the environment is for: the one asked for, or the one it has; empty if none."""
    kept = FOLDER / ".accelerator"
    asked = asked or (kept.read_text(encoding="utf-8") if kept.exists() else "")
    return asked.removeprefix("none")


def locks(accelerator: str) -> list[str]:
    """The lock, and that of an accelerator."""
    return ["requirements.lock", *(f"requirements-{name}.lock" for name in [accelerator] if name)]


def pins(accelerator: str) -> str:
    """What the locks hold."""
    return "".join((ROOT / lock).read_text(encoding="utf-8") for lock in locks(accelerator))


def stamp(accelerator: str) -> pathlib.Path:
    """The file whose presence says that the environment fits the lock and the declared dependencies."""
    content = pins(accelerator)
    for folder in PROJECTS:
        asked = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        content += repr([asked["dependencies"], asked.get("optional-dependencies"), asked["requires-python"]])
    return FOLDER / f".stamp-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def works() -> bool:
    """Whether there is a whole environment of a supported Python to bring up to date."""
    if UNFINISHED.exists() or not PYTHON.exists():
        return False
    check = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    return subprocess.run([PYTHON, "-c", check], capture_output=True).returncode == 0


class Foreign(RuntimeError):
    """What lies at ``.venv`` is not this checkout's to change."""


def elsewhere() -> str | None:
    """Where the environment's packages come from, if that is not this checkout: it was moved, or copied, or linked."""
    places = "*(str(pathlib.Path(find_spec(name).origin).parents[1]) for name in ('eoslib', 'selfstab'))"
    ask = f"import pathlib; from importlib.util import find_spec; print({places}, sep='\\n')"
    told = subprocess.run([PYTHON, "-P", "-X", "utf8", "-c", ask], capture_output=True, encoding="utf-8")
    places = told.stdout.splitlines() or ["nowhere"]
    return next((place for place in places if pathlib.Path(place).resolve() != ROOT), None)


def empty() -> None:
    """Leave nothing in the environment's folder; it may be a link or a mount, which stays.

    Raises:
        Foreign: if it is a link to what this program did not begin.
    """
    if FOLDER.is_symlink() and FOLDER.is_dir() and any(FOLDER.iterdir()) and not UNFINISHED.exists():
        raise Foreign(
            f"{FOLDER} is a link to {FOLDER.resolve()}, which is no environment of this checkout. "
            "Remove the link, or let it lead to an empty folder; nothing was done."
        )
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


def run(*command: str | pathlib.Path, **options) -> None:
    """Run an installer, which speaks only of errors."""
    subprocess.run(command, cwd=ROOT, check=True, **({"stdin": subprocess.DEVNULL} | options))


def install(accelerator: str) -> None:
    """Install the lock, then the two distributions, by uv, which pip fetches where it is missing, or by pip alone.

    The lock is whole, so that there is nothing to resolve, and it holds what builds the two.
    """
    pip = (PYTHON, "-m", "pip", "--disable-pip-version-check", "-qq", "install", "--no-deps")
    editable = ("--no-build-isolation", *(word for folder in PROJECTS for word in ("--editable", folder)))
    kept = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        uv = shutil.which("uv") or shutil.which("uv", path=FOLDER / "bin")
        if not uv:
            pin = re.search(r"^uv==(.*\\\n)+.*\n", pins(""), re.MULTILINE).group()
            run(*pip, "--only-binary", ":all:", "--require-hashes", "-r", "/dev/stdin", **kept, stdin=None, input=pin)
            uv = FOLDER / "bin" / "uv"
        # Compiled now, as pip does: where PYTHONDONTWRITEBYTECODE is set every later process would compile again.
        run(
            uv,
            "pip",
            "sync",
            "-q",
            "--python",
            PYTHON,
            "--compile-bytecode",
            "--require-hashes",
            *locks(accelerator),
            **kept,
        )
        run(uv, "pip", "install", "-q", "--python", PYTHON, "--no-deps", *editable, **kept)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "output", "") or str(error)).strip().splitlines()[-1]
        print(f"uv could not install the lock ({reason}); pip tries, which takes longer.", file=sys.stderr, flush=True)
        run(*pip, "--require-hashes", *(word for lock in locks(accelerator) for word in ("-r", lock)))
        run(*pip, *editable)


def make(accelerator: str) -> None:
    """Create the environment, or bring it up to date."""
    begun = time.monotonic()
    packages = sum("==" in line.split("#")[0] for line in pins(accelerator).splitlines())
    if works() and not (place := elsewhere()):
        extra = f" (with what {accelerator} needs: five gigabytes)" if accelerator else ""
        print(f"The lock has changed, or what is asked for: bringing .venv up to date{extra}.", flush=True)
    else:
        if works():
            print(f"The eoslib of .venv comes from {place}, not from this folder: making it again.", flush=True)
        made_of = f"Python {'.'.join(map(str, sys.version_info[:3]))} and the {packages} packages of requirements.lock"
        print(f"Making .venv with {made_of} (once; about half a minute and 2 GB).", flush=True)
        empty()
        UNFINISHED.touch()
        venv.create(FOLDER, with_pip=True, symlinks=True)
    UNFINISHED.touch()
    for old in FOLDER.glob(".stamp-*"):
        old.unlink()
    install(accelerator)
    (FOLDER / ".accelerator").write_text(accelerator, encoding="utf-8")
    stamp(accelerator).touch()
    UNFINISHED.unlink()
    print(f"The environment is ready ({time.monotonic() - begun:.0f} s).", flush=True)


def main(asked: str | None = None) -> int:
    """Make the environment unless it is there; 1 with a sentence where that fails."""
    if asked not in (None, "", "none", *ACCELERATORS):
        print(f"ACCELERATOR must be {', '.join(ACCELERATORS)} or none, got {asked!r}.", file=sys.stderr)
        return 1
    wanted = accelerator(asked)
    fits = lambda: stamp(wanted).exists() and PYTHON.exists() and not elsewhere()  # noqa: E731
    if fits():
        return 0
    try:
        with alone(ROOT):
            if not fits():
                make(wanted)
    except (Busy, Foreign) as reason:
        print(reason, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The environment cannot be made: {error.strerror} ({error.filename}).", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError:
        reason = "pip could not install the packages (its reason is above). The first call needs the package index."
        print(f"{reason} Call again to retry.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next call makes the environment from the start.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
