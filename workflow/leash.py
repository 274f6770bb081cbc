"""Processes that end with their parent: nothing stays behind, however a target is stopped.

Ctrl-C reaches every process of a terminal, ``kill -9`` only one.  So each process of the graph watches its parent and,
once that is gone, ends itself and all that it started.  Being cut off is harmless: files are written in one stroke and
long runs keep checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import psutil

POLL_SECONDS = 0.2


def family(pid: int) -> list[psutil.Process]:
    """A process and everything that it started, itself first: dead, it starts nothing more."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(members: list[psutil.Process]) -> None:
    """Kill what still lives of some processes."""
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def end_family(pid: int) -> None:
    """Kill a process and everything that it started, and wait until all are gone."""
    members = family(pid)
    kill(members)
    psutil.wait_procs(members, timeout=5)


def leash() -> None:
    """From now on this process and its family end within a moment of its parent's end."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        kill(family(os.getpid())[1:])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
