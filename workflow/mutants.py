"""The library broken on purpose: which claims of the book notice.  ``make mutants``; the mutants are ``mutants.toml``.

A mutant is a copy of the checkout with some text of its source replaced.  The chapters behind which that source stands
are executed there, with the runs that it makes them compute; the claims that hold in an unbroken copy and not there
have noticed.  Copies are kept under ``.cache/mutants``: calling again continues.  What is recorded of a mutant that is
not asked for, with ``--only``, stays, and tells by which code it was found.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import digests
from leash import leash

from selfstab import chapters, source
from selfstab.records import store
from selfstab.records.claims import FAILS, holds
from selfstab.records.paths import results_root
from selfstab.records.store import write_json

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = pathlib.Path(__file__).with_suffix(".toml")
#: What a copy holds, and the chapters that are executed on each copy whose mutant names no others.
PARTS = ("eoslib", "selfstab", "notebooks", "workflow")
CHAPTERS = ["02", "04", "05"]
#: What every copy is before it is broken.
UNBROKEN = "unbroken"
NOTHING: dict = {"edits": []}


def mutants(table: pathlib.Path = TABLE) -> dict[str, dict]:
    """What each mutant breaks, in words, and its edits (file, text, text in its place); first what all copies are."""
    return tomllib.loads(table.read_text(encoding="utf-8"))


def edited(root: pathlib.Path, mutant: dict) -> dict[str, str]:
    """The files that a mutant changes, with their new text.

    Raises:
        ValueError: where a text to be replaced does not occur exactly once.
    """
    texts: dict[str, str] = {}
    for file, old, new in mutant["edits"]:
        text = texts.get(file) or (root / file).read_text(encoding="utf-8")
        if (count := text.count(old)) != 1:
            raise ValueError(f"{file} holds {old!r} {count} times; a mutant replaces a text that occurs exactly once")
        texts[file] = text.replace(old, new)
    return texts


@functools.cache
def behind(root: pathlib.Path, notebook: str, scale: str) -> frozenset[str]:
    """Modules on which a chapter's verdicts depend: those behind its code, and those behind its runs."""
    drawn = source.numerical() if chapters.runs(notebook, scale) else ()
    return frozenset(digests.modules_behind(digests.code(root / "notebooks" / f"{notebook}.ipynb"))) | {*drawn}


def concerned(root: pathlib.Path, mutant: dict, notebooks: list[str], scale: str) -> list[str]:
    """Of the chapters that a mutant asks for, those that it can change; all of them where it changes nothing."""
    changed = {file.removesuffix(".py").replace("/", ".") for file, *_ in mutant["edits"]}
    asked = tuple(mutant.get("chapters", CHAPTERS)) if changed else ("",)
    return [
        name for name in notebooks if name.startswith(asked) and (not changed or changed & behind(root, name, scale))
    ]


def red(reference: list[dict], found: list[dict]) -> list[str]:
    """Ids of the claims that hold in the reference and do not here, or are no longer made; untested is not red."""
    verdicts = {claim["id"]: claim["verdict"] for claim in found}
    return [claim["id"] for claim in reference if holds(claim) and verdicts.get(claim["id"], FAILS) == FAILS]


def copy(original: pathlib.Path, target: pathlib.Path, mutant: dict, scale: str) -> None:
    """Make a copy of the source anew, edited; its run files stay, and those here serve where the code agrees."""
    for part in PARTS:
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(original / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file, text in edited(original, mutant).items():
        (target / file).write_text(text, encoding="utf-8")
    runs = target / "results" / scale
    for folder in (runs, target / "results" / "paper"):  # of recorded runs, which no mutant changes, none
        folder.mkdir(parents=True, exist_ok=True)
    for file in (results_root() / scale).glob("*.nc"):
        if not (runs / file.name).exists():
            (runs / file.name).symlink_to(file.resolve())


def execute(folder: pathlib.Path, notebook: str, key: str, scale: str, seed: int) -> dict:
    """A chapter's claims in a copy, or in which words it failed; kept beside the copy under a key."""
    kept = folder / "done" / f"{notebook}.json"
    if kept.is_file() and (found := json.loads(kept.read_text(encoding="utf-8")))["key"] == key:
        return found
    record, shown = (
        folder / "results" / scale / name for name in (f"records/{notebook}.json", f"notebooks/{notebook}.ipynb")
    )
    record.unlink(missing_ok=True)
    failed = shown.with_name(f"{notebook}.failed.ipynb")
    failed.unlink(missing_ok=True)
    command = [sys.executable, folder / "workflow" / "job.py", "notebook", folder / "notebooks" / shown.name, shown]
    command += ["--scale", scale, "--seed", str(seed)]
    # Programs that a mutant leaves as they are are compiled once.
    surroundings = os.environ | {"PYTHONPATH": str(folder), "EOSLIB_RESULTS": str(folder / "results")}
    surroundings |= {"JAX_COMPILATION_CACHE_DIR": str(folder.parents[1] / "compiled")}
    surroundings |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    surroundings["PYTHONOPTIMIZE"] = "1"  # the page's asserts would stop it before its claims are judged
    with open(folder / f"{notebook}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=folder, env=surroundings, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    found = {"key": key, "claims": [], "failed": None, "seconds": round(usage.ru_utime + usage.ru_stime, 1)}
    if process.returncode == 0 and record.is_file():
        fields = ("id", "notebook", "sentence", "verdict", "measured")
        claims = json.loads(record.read_text(encoding="utf-8"))["claims"]
        found["claims"] = [{field: claim[field] for field in fields} for claim in claims]
    else:
        found["failed"] = last_words(failed) or f"the notebook's process ended with status {process.returncode}"
    write_json(kept, found)
    return found


def last_words(notebook: pathlib.Path) -> str:
    """The error at which an executed notebook stopped, one line of it; nothing where it shows none."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.is_file() else []
    outputs = [output for cell in cells for output in cell.get("outputs", ()) if output["output_type"] == "error"]
    return f"{outputs[-1]['ename']}: {outputs[-1]['evalue']}".splitlines()[0] if outputs else ""


def examine(
    original: pathlib.Path, name: str, mutant: dict, unbroken: dict, notebooks: list[str], scale: str, seed: int
) -> dict[str, dict]:
    """What the chapters concerned by a mutant say of it, by chapter."""
    folder = original.with_name(name)
    asked = concerned(original, mutant, notebooks, scale)
    copy(original, folder, mutant, scale)
    found = {}
    for notebook in asked:
        drawn = [run.setting(scale).digest() + run.key(scale, seed) for run in chapters.runs(notebook, scale)]
        code = source.digest(*sorted(behind(original, notebook, scale)), root=original)
        cells = digests.notebook(original / "notebooks" / f"{notebook}.ipynb")
        key = digests.short(cells, code, json.dumps([drawn, unbroken["edits"], mutant["edits"], scale, seed]))
        found[notebook] = execute(folder, notebook, key, scale, seed)
    return found


def summary(name: str, mutant: dict, reference: dict[str, dict], found: dict[str, dict]) -> dict:
    """What is recorded of a mutant: the claims that turn red, and the chapters that failed in words instead."""
    failed = {notebook: each["failed"] for notebook, each in found.items() if each["failed"]}
    pairs = [(reference[notebook]["claims"], each["claims"]) for notebook, each in found.items() if not each["failed"]]
    return {
        "name": name, "breaks": mutant["breaks"], "files": sorted({file for file, *_ in mutant["edits"]}),
        "chapters": sorted(found), "red": [id for pair in pairs for id in red(*pair)], "failed": failed,
        "seconds": round(sum(each["seconds"] for each in found.values()), 1),
    }  # fmt: skip


def told(entry: dict, judged: int) -> str:
    """A mutant's fate in a line."""
    noticed = f"{len(entry['red'])} of {judged} claims turn red: {', '.join(entry['red'])}" if entry["red"] else ""
    words = "; ".join(f"{chapter} fails: {said}" for chapter, said in entry["failed"].items())
    return f"{entry['name']} ({entry['seconds']:.0f} s): {'; '.join(filter(None, (noticed, words))) or 'SURVIVES'}"


def main() -> int:
    """``mutants.py [--scale SCALE] [--seed SEED] [--only NAME …] [--jobs JOBS]``."""
    every = mutants()
    unbroken = every.pop(UNBROKEN)
    parser = argparse.ArgumentParser(prog="mutants.py")
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=every, default=list(every), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    leash()
    # Copies are made of one state of the source, whatever is edited meanwhile.
    original = ROOT / ".cache" / "mutants" / asked.scale / "source"
    copy(ROOT, original, unbroken, asked.scale)
    wanted = tuple(chapter for name in asked.only for chapter in every[name].get("chapters", CHAPTERS))
    notebooks = sorted(file.stem for file in (original / "notebooks").glob("*.ipynb") if file.stem.startswith(wanted))
    for name in asked.only:
        try:
            edited(original, every[name])
        except ValueError as wrong:
            print(f"{name}: {wrong}", file=sys.stderr)
            return 1
    common = {"unbroken": unbroken, "notebooks": notebooks, "scale": asked.scale, "seed": asked.seed}
    look = functools.partial(examine, original, **common)
    reference = look(UNBROKEN, NOTHING)
    if stopped := {notebook: found["failed"] for notebook, found in reference.items() if found["failed"]}:
        print("The unbroken code fails:", *stopped.items(), file=sys.stderr)
        return 1
    claims = [claim for found in reference.values() for claim in found["claims"]]
    print(f"unbroken: {sum(map(holds, claims))} of {len(claims)} claims hold at {asked.scale} scale", flush=True)
    count = {notebook: sum(map(holds, found["claims"])) for notebook, found in reference.items()}
    entries = []
    with concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
        for name, found in zip(asked.only, pool.map(lambda name: look(name, every[name]), asked.only), strict=True):
            entries.append(summary(name, every[name], reference, found))
            print(told(entries[-1], sum(count[notebook] for notebook in found)), flush=True)
    survivors = [entry["name"] for entry in entries if not entry["red"]]
    print(f"{len(entries) - len(survivors)} of {len(entries)} mutants are noticed by a claim.", *survivors)
    if asked.scale == "quick":
        former = store.mutants(results_root()) or {"claims": [], "mutants": []}
        write_json(results_root() / "mutants.json", record(asked, every, unbroken, claims, entries, former))
    return 1 if survivors else 0


def record(asked: argparse.Namespace, every: dict, unbroken: dict, claims: list, entries: list, former: dict) -> dict:
    """What is kept of an examination, with where it comes from, beside what the former record has of other mutants."""
    from selfstab.runs.provenance import environment, now

    origin = {"scale": asked.scale, "seed": asked.seed, "unbroken": unbroken["breaks"], "date": now()} | environment()
    origin |= {"library_digest": source.numerical_digest()}
    whence = ("library_digest", "date")
    kept = {each["name"]: {field: former[field] for field in whence} | each for each in former["mutants"]}
    kept = {name: each for name, each in kept.items() if every.get(name, {}).get("breaks") == each["breaks"]}
    kept |= {each["name"]: each | {field: origin[field] for field in whence} for each in entries}
    mutants = [kept[name] for name in every if name in kept]
    looked_at = {claim["notebook"] for claim in claims}
    claims = [*(claim for claim in former["claims"] if claim["notebook"] not in looked_at), *claims]
    claims.sort(key=lambda claim: claim["notebook"])
    return origin | {"seconds": sum(each["seconds"] for each in mutants), "claims": claims, "mutants": mutants}


if __name__ == "__main__":
    sys.exit(main())
