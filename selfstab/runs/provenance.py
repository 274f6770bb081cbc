"""Where a run or a figure comes from: versions, machine and commit."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

import jax

from selfstab.records.paths import ROOT

VERSIONED = ("jax", "jaxlib", "flax", "optax", "numpy", "xarray", "matplotlib")


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        # Unpacked inside another repository, this code is not of that one's commit.
        within = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
        return subprocess.run(command, cwd=ROOT, env=within, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def now() -> str:
    """Return the time to the minute, as runs and figures record it."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def environment() -> dict[str, str | int]:
    """Return versions, device, threads and commit, the part of the provenance that depends on the machine."""
    device = jax.devices()[0]
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {name: importlib.metadata.version(name) for name in VERSIONED} | {"python": platform.python_version()}
    return {
        "versions": json.dumps(versions),
        "device": cpu if device.platform == "cpu" else device.device_kind,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "commit": _commit(),
    }
