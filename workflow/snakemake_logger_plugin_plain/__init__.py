"""Snakemake's log in plain words: one line when a job starts, which says why it runs, and one when it is done.

Snakemake finds this package by its name, and :mod:`engine` asks for it.
"""

from __future__ import annotations

import logging
import pathlib
import re
import sys
import time

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

#: Why the engine forces a job, by the file that it makes: the file's own attributes told.
FORCED: dict[str, str] = {}
LINES_OF_A_FAILED_JOB = 40
#: Rules that make nothing themselves.
TARGETS = {"figures"}
#: Warnings that mean nothing to a reader: a cluster without accounting needs no account.
UNSAID = ("Using workflow specific", "No SLURM account given", "No account was given", "Unable to guess SLURM account")


def in_words(reason: str, outputs: list[str]) -> str:
    """A job's reason, from Snakemake's sentence.

    >>> in_words("Params have changed since last execution: … before: 'setting 01ab' now: 'setting 23cd'", [])
    'setting changed'
    >>> in_words("Missing output files: results/quick/a.nc; Input files updated by another job: b.nc", ["a.nc"])
    'not there yet'
    """
    told = []
    for part in reason.split("; "):
        head, _, rest = part.partition(": ")
        files = [pathlib.PurePath(re.sub(r"\s*\(.*?\)", "", name)) for name in rest.split(", ") if rest]
        runs, names = [f for f in files if f.suffix == ".nc"], [f.stem for f in files if f.suffix != ".nc"]
        names = ([f"run {runs[0].stem}"] if len(runs) == 1 else [f"{len(runs)} runs"] if runs else []) + names
        several = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        before, _, now = part.partition("now:")
        parameters = dict.fromkeys(re.findall(r"'?([A-Za-z][A-Za-z ]*) [0-9a-z]+'?", now or before))
        words = {
            "Forced": next((FORCED[output] for output in outputs if output in FORCED), "asked for"),
            "Missing output": "not there yet",
            "Incomplete output": "interrupted last time",
            "Updated input": f"{several} changed",
            "Input files updated": f"new {several}",
            "Set of input": "other inputs than last time",
            "Params": f"{', '.join(parameters) or 'a parameter'} changed",
        }
        told += [said for start, said in words.items() if head.startswith(start)] or [part] * bool(part)
    return told[0] if told[:1] == ["not there yet"] else ", ".join(dict.fromkeys(told))


class LogHandler(LogHandlerBase):
    """Writes to standard error; warnings and errors of Snakemake itself pass unchanged."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self):
        self.jobs: dict[int, tuple[str, float]] = {}
        self.failed: set[int] = set()
        self.deaths: list[str] = []  # sentences of Snakemake's, each with a job's command and the signal that ended it
        self.total = self.done = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Say what an event means to a reader, if anything."""
        event = getattr(record, "event", None)
        if event == LogEvent.ERROR and "died with <Signals." in record.getMessage():
            self.deaths.append(record.getMessage())
        if event == LogEvent.RUN_INFO:
            self.total = record.stats["total"] - sum(record.stats.get(target, 0) for target in TARGETS)
        elif event == LogEvent.JOB_INFO and record.rule_name not in TARGETS:
            name = record.rule_msg or record.rule_name
            self.jobs[record.jobid] = (name, time.monotonic())
            self.say(f"{name}: {in_words(record.reason, record.output)}")
        elif event == LogEvent.JOB_FINISHED and record.job_id in self.jobs:
            name, begun = self.jobs[record.job_id]
            self.done += 1
            self.say(f"{name}: done in {time.monotonic() - begun:.0f} s ({self.done} of {self.total})")
        elif event == LogEvent.JOB_ERROR and record.jobid not in self.failed:
            self.failed.add(record.jobid)
            self.job_failed(record)
        elif event in (None, LogEvent.ERROR) and record.levelno >= logging.WARNING and not self.failed:
            message = record.getMessage()
            # Of a failed job only its own log tells anything.
            if "CalledProcessError" not in message and not message.startswith(UNSAID):
                self.say(message)

    def job_failed(self, record: logging.LogRecord) -> None:
        """The end of a failed job's own log, and where the whole is."""
        name, _ = self.jobs.get(record.jobid, (record.rule_name, 0.0))
        for file in [pathlib.Path(name.split(" (check")[0]) for name in record.log or []]:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
            for line in lines[-LINES_OF_A_FAILED_JOB:]:
                self.say(f"  | {line}")
            for death in (death for death in self.deaths if str(file) in death):
                signal = re.search(r"died with <Signals\.(\w+)", death).group(1)
                self.say(f"  | its process was killed ({signal}): by somebody, or for want of memory")
            self.say(f"{name}: FAILED; its whole log is {file}")
        if not record.log:
            self.say(f"{name}: FAILED")

    def say(self, line: str) -> None:
        """One line, at once."""
        print(line, file=sys.stderr, flush=True)
