"""The graph: run → notebook → figures and claims → book.

`make` calls it; it also stands alone, with a profile of workflow/profiles or your own (any Snakemake executor):

    .venv/bin/snakemake figures --workflow-profile workflow/profiles/slurm --config scale=paper seed=0

What a job depends on is told by digests of content (workflow/digests.py), kept by Snakemake as the job's parameters.
"""

import os
import pathlib
import re
import shlex
import sys

ROOT = pathlib.Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "workflow"))

import digests
from selfstab import chapters, settings, source
from selfstab.records.paths import recorded_root, results_root

SCALE, SEED = config.get("scale", "quick"), int(config.get("seed", 0))
settings.check_known("scale", SCALE, settings.SCALES)
RESULTS = pathlib.Path(os.path.relpath(results_root(), ROOT)) / SCALE
RECORDED = pathlib.Path(os.path.relpath(recorded_root(), ROOT))
LOGS = pathlib.Path(".cache") / "logs" / SCALE
# Shell text, and a format of Snakemake's: a path may hold blanks, quotes and braces.
JOB = shlex.join(["exec", sys.executable, str(ROOT / "workflow" / "job.py")]).replace("{", "{{").replace("}", "}}")
NOTEBOOKS = {file.stem: file.relative_to(ROOT) for file in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# The runs of all notebooks, each once.
RUNS = {
    run.key(SCALE, SEED): (run.setting(SCALE), SEED + run.seed_offset)
    for notebook in NOTEBOOKS
    for run in chapters.runs(notebook, SCALE)
}
#: What a job may use of a cluster's node, by scale: memory in MB and minutes. A job that failed is given more.
MEMORY, MINUTES = {"test": 2000, "quick": 3000, "paper": 8000}, {"test": 30, "quick": 60, "paper": 720}
GENERATED = {"_build", "chapters", "_generated", "vendor", "__pycache__"}


def behind(notebook):
    """Modules that a notebook's code executes; runs come to it as files."""
    return digests.modules_behind(digests.code(ROOT / NOTEBOOKS[notebook]))


def runs_of(notebook):
    """Run files that a notebook draws on; one that shows recorded runs depends on those too."""
    keys = [run.key(SCALE, SEED) for run in chapters.runs(notebook, SCALE)]
    files = [RESULTS / f"{key}.nc" for key in dict.fromkeys(keys)]
    if SCALE != "paper" and re.search(r"\brecord(ed|ings)\(", digests.code(ROOT / NOTEBOOKS[notebook])):
        files += sorted((RECORDED / "paper").glob("*.nc"))
    return files


def prose():
    """The book's own sources."""
    files = (file for file in (ROOT / "book").rglob("*") if file.is_file())
    return [file for file in files if not GENERATED & set(file.relative_to(ROOT).parts)]


def growing(by_scale):
    """A resource of a scale, times the number of the attempt."""
    return lambda wildcards, attempt: by_scale[SCALE] * attempt


localrules: figures, collect, book


wildcard_constraints:
    key="|".join(RUNS) or "none",
    notebook="|".join(NOTEBOOKS) or "none",


# Everything is named, so that whatever is missing is made again.  (The names of figures are in the records of the
# notebooks that draw them: workflow/engine.py looks for those.)
rule figures:
    input:
        RESULTS / "claims.json",
        RESULTS / "figures.json",
        expand(RESULTS / "{key}.nc", key=RUNS),
        expand(RESULTS / "notebooks" / "{notebook}.ipynb", notebook=NOTEBOOKS),
    default_target: True


rule run:
    output:
        RESULTS / "{key}.nc",
    params:
        setting=lambda w: f"setting {RUNS[w.key][0].digest()}",
        code=f"numerical code {source.numerical_digest()}",
        versions=f"version of a package {digests.versions(ROOT)}",
        name=lambda w: RUNS[w.key][0].name,
        eta=lambda w: repr(RUNS[w.key][0].learning_rate),
        seed=lambda w: RUNS[w.key][1],
    resources:
        mem_mb=growing(MEMORY),
        runtime=growing(MINUTES),
    log:
        LOGS / "run-{key}.log",
    message:
        "run {wildcards.key}"
    shell:
        JOB + " run --name {params.name} --scale " + SCALE + " --seed {params.seed} --learning-rate {params.eta}"
        " >{log:q} 2>&1"


rule notebook:
    input:
        source=lambda w: ancient(NOTEBOOKS[w.notebook]),
        runs=lambda w: runs_of(w.notebook),
    output:
        executed=RESULTS / "notebooks" / "{notebook}.ipynb",
        record=RESULTS / "records" / "{notebook}.json",
    params:
        cells=lambda w: f"notebook {digests.notebook(ROOT / NOTEBOOKS[w.notebook])}",
        code=lambda w: f"library code {source.digest(*behind(w.notebook))}",
        versions=f"version of a package {digests.versions(ROOT, 'theory', besides=digests.NOTEBOOK_PACKAGES)}",
        seed=f"seed {SEED}",
    resources:
        mem_mb=growing(MEMORY),
        runtime=growing(MINUTES),
    log:
        LOGS / "notebook-{notebook}.log",
    message:
        "notebook {wildcards.notebook}"
    shell:
        JOB + f" notebook {{input.source:q}} {{output.executed:q}} --scale {SCALE} --seed {SEED}"
        " >{log:q} 2>&1"


rule collect:
    input:
        expand(RESULTS / "records" / "{notebook}.json", notebook=NOTEBOOKS),
    output:
        RESULTS / "claims.json",
        RESULTS / "figures.json",
    params:
        code=f"library code {source.digest(*source.behind('selfstab.records.store'))}",
        notebooks=" ".join(NOTEBOOKS),
    log:
        LOGS / "collect.log",
    message:
        "claims and figures"
    shell:
        JOB + f" collect {{params.notebooks}} --scale {SCALE}"
        " >{log:q} 2>&1"


rule book:
    input:
        rules.figures.input,
        # The explorer shows recorded runs; the claims table sets another recorded scale beside the one shown; mutants have a page.
        sorted((RECORDED / "paper").glob("*.nc")),
        [file for file in (RECORDED / name for name in ("paper/claims.json", "paper/figures.json", "mutants.json")) if file.exists()],
    output:
        # The old book stays readable until the new one stands.
        update("book/_build/html/intro.html"),
    params:
        scale=f"scale {SCALE}",
        prose=f"text of the book {digests.of_files(ROOT, prose())}",
        library=f"library reference {digests.of_files(ROOT, [*(ROOT / 'eoslib').rglob('*.py'), *(ROOT / 'selfstab').rglob('*.py')])}",
        tools=f"book tools {digests.of_files(ROOT, [ROOT / 'workflow' / 'chapters.py', ROOT / 'requirements.lock', *(ROOT / 'benchmarks').glob('*.json')])}",
    log:
        LOGS / "book.log",
    message:
        "book"
    shell:
        JOB + f" book --scale {SCALE}"
        " >{log:q} 2>&1"
