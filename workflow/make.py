"""The targets that work on the graph: one at a time, stopped at any moment, continued by calling again.

A process that is interrupted or killed takes everything that it started with it (``leash.py``).  What it leaves behind,
Snakemake's lock and files that it was about to write, is cleared here at the next call, after making sure that nobody
is at work in this checkout.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

import cluster
import psutil
from alone import Busy, alone
from leash import end_family, leash

from selfstab.records import store
from selfstab.records.claims import holds

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENGINE = pathlib.Path(__file__).with_name("engine.py")
PROFILES = (ROOT / "workflow" / "profiles").glob("*/config.yaml")


def others() -> list[str]:
    """Living Snakemake processes in this checkout that no target started (somebody called it directly)."""
    return [
        str(process.pid)
        for process in psutil.process_iter(["cmdline", "cwd"])
        if any(pathlib.PurePath(word).name == "snakemake" for word in (process.info["cmdline"] or [])[:3])
        and process.info["cwd"] == str(ROOT)
    ]


def clear_stale_lock() -> None:
    """Remove what a killed run left of Snakemake's lock.

    Raises:
        Busy: if the lock is that of a living Snakemake.
    """
    if not any((ROOT / ".snakemake" / "locks").glob("*")):
        return
    if alive := others():
        at_work = f"Snakemake is at work in this folder (process {', '.join(alive)})."
        raise Busy(f"{at_work} Wait for it to end; nothing was done here.")
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", ROOT, "--unlock"]
    unlocked = subprocess.run(command, capture_output=True, text=True)
    if unlocked.returncode:
        raise Busy(f"The last run was killed and what it left could not be cleared:\n{unlocked.stderr}")
    print("The last run was interrupted; continuing it.", file=sys.stderr, flush=True)


def work(target: str, scale: str, seed: int, jobs: int, profile: str) -> int:
    """Bring a target of the graph up to date; returns the exit status."""
    with alone(ROOT) as lock:
        cluster.wait(ROOT)
        clear_stale_lock()
        command = [sys.executable, ENGINE, target, scale, str(seed), str(jobs), profile]
        # Its own process group: Ctrl-C comes here alone, and here is decided what it means.  The lock is inherited:
        # it holds until the last process of this run is gone.
        engine = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, process_group=0, pass_fds=[lock])
        try:
            status = engine.wait()
        except KeyboardInterrupt:
            print(f"\nStopped. `make {target} SCALE={scale}` continues from here.", file=sys.stderr)
            if at_work := cluster.jobs(ROOT):
                print(cluster.left(at_work), file=sys.stderr)
            status = 130
        finally:
            end_family(engine.pid)
            engine.wait()
        if status >= 0 and not cluster.jobs(ROOT):
            cluster.end(ROOT, scale)
    if status < 0:
        print(f"The run was killed (signal {-status}). Calling again continues it.", file=sys.stderr)
        return 1
    return status


def summary(target: str, scale: str, seconds: float) -> str:
    """What there is now and where."""
    found = store.load(scale)
    counted = f"{len(found.figures)} figures and {len(found.claims)} claims ({sum(map(holds, found.claims))} hold)"
    lines = [f"{counted} at {scale} scale, in {found.folder}."]
    if target == "book":
        lines.append(f"The book: open {ROOT / 'book' / '_build' / 'html' / 'index.html'} or call `make serve`.")
    return "\n".join([*lines, f"({seconds:.0f} s)"])


def interrupt(signum, frame):
    """A polite end is an interruption like any other."""
    raise KeyboardInterrupt


def home() -> str:
    """A folder for the caches and settings of other programs: the user's own, or one here if that cannot be written."""
    own = os.path.expanduser("~")
    if os.path.isdir(own) and os.access(own, os.W_OK):
        return own
    (place := ROOT / ".cache" / "home").mkdir(parents=True, exist_ok=True)
    return str(place)


def main() -> int:
    """``make.py figures|book --scale SCALE --seed SEED --jobs JOBS --profile PROFILE``."""
    parser = argparse.ArgumentParser(prog="make.py")
    parser.add_argument("target", choices=["figures", "book"])
    parser.add_argument("--scale", default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--profile", choices=sorted(file.parent.name for file in PROFILES), default="default")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    os.environ["PYTHONUTF8"] = "1"  # in every process of the graph, whatever the locale
    leash()
    begun = time.monotonic()
    try:
        os.environ["HOME"] = home()
        status = work(asked.target, asked.scale, asked.seed, asked.jobs, asked.profile)
    except Busy as busy:
        print(busy, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Nothing can be made here: {error.strerror} ({error.filename}).", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if status == 0:
        print(summary(asked.target, asked.scale, time.monotonic() - begun), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
