"""One job of the graph: a run, a notebook, the collection of records, or the book.

Each is a process of its own on a leash; what it prints is its log.  A job writes beside its target and renames at the
end.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

from leash import leash

ROOT = pathlib.Path(__file__).resolve().parent.parent


def notebook(asked: argparse.Namespace) -> int:
    """Execute a notebook by papermill; where a cell fails, keep what there is beside the target, and say which."""
    import papermill

    source, target = map(pathlib.Path, asked.names)
    partial, failed = (
        target.with_name(f"{name}.ipynb") for name in (f".{target.stem}.partial", f"{target.stem}.failed")
    )
    partial.parent.mkdir(parents=True, exist_ok=True)
    parameters = {"scale": asked.scale, "seed": asked.seed}
    # Chapters compute on the same networks: what one has compiled serves the others, and the runs.
    from selfstab.records.paths import results_root

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(results_root().resolve() / "checkpoints" / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    try:
        # To papermill a path is a format.
        places = [str(place).replace("{", "{{").replace("}", "}}") for place in (source, partial)]
        started(papermill.execute_notebook, *places, parameters, progress_bar=False, log_output=True)
    except papermill.PapermillExecutionError as error:
        partial.replace(failed)
        print(f"{error}\n{source} stopped at its cell {error.cell_index + 1}; {failed} shows how far it came.")
        return 1
    failed.unlink(missing_ok=True)
    partial.replace(target)
    return 0


def started(execute, *arguments, tries: int = 3, **options):
    """``execute``, again where its kernel died before it said a word: another process took a port chosen for it."""
    for left in reversed(range(tries)):
        try:
            return execute(*arguments, **options)
        except RuntimeError as error:
            # Later deaths are nbclient's DeadKernelError, in other words: what has run a cell does not run it twice.
            if not left or "before replying" not in str(error):
                raise
            print(f"{error}: started again")


def collect(asked: argparse.Namespace) -> int:
    """Merge the records of the notebooks that exist; those of a notebook that is gone are removed."""
    from selfstab.records import paths, store

    for record in (paths.results_root() / asked.scale / "records").glob("*.json"):
        if record.stem not in asked.names:
            print(f"{record.name} is of a notebook that is no longer there: removed")
            record.unlink()
    claims, figures = store.collect(asked.scale)
    print(f"{len(claims)} claims, {len(figures)} figures")
    return 0


def book(asked: argparse.Namespace) -> int:
    """Copy the executed notebooks into the book and build it beside the old one, which it then replaces."""
    import chapters

    from selfstab.records.paths import results_root

    try:
        chapters.write_all(results_root(), asked.scale, ROOT / "book" / "chapters")
    except chapters.ChapterError as error:
        print(error)
        return 1
    outside = ROOT / ".cache" / "book"
    shutil.rmtree(outside, ignore_errors=True)
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", "--all", "-W", "-n", "--keep-going"]
    command += ["--path-output", outside, ROOT / "book"]
    surroundings = os.environ | {"EOSLIB_BOOK_SCALE": asked.scale, "NO_COLOR": "1"}
    log = ROOT / ".cache" / "logs" / asked.scale / "sphinx.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as handle:
        status = subprocess.run(command, env=surroundings, stdout=handle, stderr=subprocess.STDOUT).returncode
    built, shown, previous = outside / "_build" / "html", ROOT / "book" / "_build" / "html", outside / "previous"
    if status or not (built / "intro.html").is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        wrong = [line for line in lines if re.search(r"WARNING|ERROR|Error", line)] or lines[-20:]
        print(f"The book was not built (everything: {log.relative_to(ROOT)}):", *dict.fromkeys(wrong), sep="\n")
        return 1
    shown.parent.mkdir(parents=True, exist_ok=True)
    if shown.exists():
        shown.rename(previous)
    built.rename(shown)
    shutil.rmtree(outside, ignore_errors=True)
    return 0


def main() -> int:
    """``job.py run …``, or ``job.py notebook|collect|book NAMES… --scale SCALE --seed SEED``."""
    leash()
    os.environ |= {"MPLBACKEND": os.environ.get("MPLBACKEND", "agg"), "JUPYTER_PREFER_ENV_PATH": "1"}
    if sys.argv[1:2] == ["run"]:  # the other words are those of `python -m selfstab.runs`
        from selfstab.runs import compute

        return compute.main(sys.argv[2:])
    jobs = {"notebook": notebook, "collect": collect, "book": book}
    parser = argparse.ArgumentParser(prog="job.py")
    parser.add_argument("job", choices=jobs)
    parser.add_argument("names", nargs="*", help="the notebook and its target, or the notebooks that exist")
    parser.add_argument("--scale", required=True)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    return jobs[asked.job](asked)


if __name__ == "__main__":
    sys.exit(main())
