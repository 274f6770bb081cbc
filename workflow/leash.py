"""Processes that end with their parent: nothing stays behind, however a verb is stopped.

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


def end_family(pid: int, *, itself: bool = True) -> None:
    """Kill a process and everything that it started, children first found, grandchildren too."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        family = process.children(recursive=True) + ([process] if itself else [])
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs([member for member in family if member.pid != os.getpid()], timeout=5)


def leash() -> None:
    """From now on this process and its family end within a moment of its parent's end."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        end_family(os.getpid(), itself=False)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
