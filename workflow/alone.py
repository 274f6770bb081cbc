"""One target at a time in a checkout, by a lock that the operating system drops when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time

#: A target that was just killed needs a moment to take its processes with it.
PATIENCE_SECONDS = 3.0


class Busy(RuntimeError):
    """Another target is at work in this checkout."""


@contextlib.contextmanager
def alone(root: pathlib.Path):
    """Hold the checkout's lock; yields the file descriptor, which processes that share the work inherit.

    Raises:
        Busy: if another living process holds it, saying which.
    """
    file = root / ".cache" / "target.lock"
    file.parent.mkdir(exist_ok=True)
    with open(file, "a+", encoding="utf-8") as handle:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    handle.seek(0)
                    raise Busy(
                        f"Another make is at work in this folder ({handle.read().strip() or 'process unknown'}). "
                        "Wait for it to end, or stop it with Ctrl-C where it runs; nothing was done here."
                    ) from None
                time.sleep(0.1)
        handle.truncate(0)
        handle.write(f"process {os.getpid()}, since {time.strftime('%H:%M')}")
        handle.flush()
        yield handle.fileno()
