"""Peak memory of tracked steps, of each side in a process of its own."""

from __future__ import annotations

import contextlib
import json
import pathlib
import resource
import subprocess
import sys

import jax
import reference
from several import DIRECTIONS
from starts import PAPER, SMALL, Size, instability, library_start, say

from eoslib.rules import GradientDescent
from eoslib.trajectories import programs
from eoslib.trajectories import state as tracks


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux hands the parent's peak on to a child's ru_maxrss, but not to its VmHWM
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_of(side: str, size: Size) -> dict[str, int | None]:
    """In a process of its own: peak memory of tracked steps of one side, and what it was before any derivative."""
    edge = instability(size)
    before, rate = peak_rss(), edge.setting.learning_rate
    if side != "reference":
        start = library_start(edge, directions=1 if side == "eoslib" else DIRECTIONS)

        def step():
            return tracks.advance(start.objective, GradientDescent(rate), start.state, 2, start.options)
    else:
        state = reference.start(edge.objective, edge.theta, edge.eigenvector, rate)

        def step():
            return reference.tracked_step(edge.objective, state, rate)

    jax.block_until_ready(step())
    peak, running = peak_rss(), None
    with contextlib.suppress(OSError):
        # Linux: hand back the heap that compiling left behind, forget the peak, and step once more.
        programs.release_heap()
        pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        jax.block_until_ready(step())
        running = peak_rss()
    return {"before": before, "peak": peak, "peak_once_compiled": running}


def memory(small: bool) -> dict[str, dict[str, int | None]]:
    """Peak memory of both sides, and of the library with several directions, each in its own process."""
    found = {}
    for side in ("eoslib", "reference", "several"):
        say(f"memory of {side}, in its own process")
        command = [sys.executable, __file__, side, *(["--small"] if small else [])]
        found[side] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return found


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # as in run.py
    print(json.dumps(memory_of(sys.argv[1], SMALL if "--small" in sys.argv else PAPER)))
