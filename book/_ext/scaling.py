"""The directive of the page on scaling: measured costs, and what they come to for larger models on assumed machines."""

from __future__ import annotations

import json
from typing import NamedTuple

from generated import Generated
from sphinx.application import Sphinx

from selfstab.records.paths import ROOT
from selfstab.records.words import duration

BENCHMARKS = ROOT / "benchmarks"


class Case(NamedTuple):
    """A model and its data; the operations of a gradient are counted, the rest is measured or assumed."""

    name: str
    data: str
    parameters: float
    operations: float  # of one gradient, forward and reverse pass: three forward passes


#: Multiplications and additions of a forward pass: 8.2e9 for an image of 224×224, 2p for a token.
CASES = (
    Case("ResNet-50", "50,000 images of ImageNet", 25.6e6, 3 * 8.2e9 * 50_000),
    Case("ResNet-50", "all 1.28 million images", 25.6e6, 3 * 8.2e9 * 1.28e6),
    Case("GPT-2 small", "4,096 sequences of 1,024 tokens", 124e6, 3 * 2 * 124e6 * 4096 * 1024),
    Case("GPT-2 medium", "4,096 sequences of 1,024 tokens", 355e6, 3 * 2 * 355e6 * 4096 * 1024),
)


class Machine(NamedTuple):
    """What is assumed of a machine. None of it was measured here."""

    devices: int = 8
    operations: float = 40e12  # a second and device, sustained in float32
    memory: float = 80e9  # bytes a device
    disk: float = 100e6  # bytes a second into a checkpoint


MACHINE = Machine()
#: Steps of the approach and of the track in the examples.
STEPS = 1000


def significant(value: float) -> float:
    """Return a value to two significant digits: the assumptions are no better."""
    return float(f"{value:.2g}")


def size(count: float) -> str:
    """Return bytes in words."""
    return f"{significant(count / 1e9):g} GB"


def on_gpu(device: str) -> bool:
    """Return whether a device, in the words of a run file, is a GPU, and no other computed a part."""
    return device.startswith(("NVIDIA", "AMD Instinct")) and ", then " not in device


class ScalingReport(Generated):
    """Tables of measured costs and of what they come to."""

    def context(self) -> dict:
        from selfstab.runs import files  # here alone: they take seconds to import
        from selfstab.runs.checkpoints import FRACTION

        measured = json.loads((BENCHMARKS / "scaling.json").read_text(encoding="utf-8"))
        costs = json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))
        held, products = measured["bytes"], sorted(measured["cold_products"].values())
        per = held["samples spread"]["tracked chunk"]
        gradients = {
            "Hessian-vector product": costs["hvp_gradients"],
            "cubic expansion": costs["cubic_gradients"],
            "constrained step": costs["constrained_step_gradients"],
            "step of all trajectories": costs["tracked_step_gradients"],
        }
        return {
            "measured": measured,
            "programs": list(held["one device"]),
            "gradients": gradients,
            "costs_machine": costs["machine"] | {"date": costs["date"], "parameters": costs["parameters"]},
            "machine": MACHINE,
            "steps": STEPS,
            "examples": [self.example(case, costs, measured, FRACTION) for case in CASES],
            "largest": significant(MACHINE.memory / per / 1e6),
            "per": per,
            "products": products,
            "saving": FRACTION,
            "accelerated": [
                self.accelerated(run) for run in files.recordings(seed=None) if on_gpu(run.attrs["device"])
            ],
        }

    def accelerated(self, run) -> list[str]:
        """Return a row of the table of runs recorded on a GPU."""
        steps = f"{run.attrs['instability_step']:,} + {run.sizes['t']:,}"
        setting = json.loads(run.attrs["setting"])
        size = f"{run.attrs['parameters']:,}", f"{setting['n']:,}", setting.get("gradient_dtype", "float32")
        which = f", η = {setting['learning_rate']:g}" + (f", seed {run.attrs['seed']}" if run.attrs["seed"] else "")
        return [f"`{setting['name']}`{which}", *size, steps, duration(float(run.attrs["seconds"])), run.attrs["device"]]

    def example(self, case: Case, costs: dict, measured: dict, saving: float) -> list[str]:
        """Return a row of the table of examples."""
        gradient = case.operations / (MACHINE.devices * MACHINE.operations)
        times = [gradient * costs["hvp_gradients"] * n for n in sorted(measured["cold_products"].values())]
        cold = " to ".join(duration(significant(seconds)) for seconds in (times[0], times[-1]))
        tracked = gradient * costs["tracked_step_gradients"]
        held = measured["bytes"]["samples spread"]["tracked chunk"] * case.parameters
        checkpoint = measured["checkpoint_bytes"] * case.parameters
        return [
            case.name,
            case.data,
            f"{size(held)}{'' if held < MACHINE.memory else ' (too much)'}",
            duration(significant(gradient)),
            cold,
            duration(significant(STEPS * gradient)),
            duration(significant(STEPS * tracked)),
            f"{size(checkpoint)}, every {duration(significant(checkpoint / MACHINE.disk / saving))}",
        ]


def setup(app: Sphinx) -> dict:
    """Register the directive."""
    app.add_directive("scaling-report", ScalingReport)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
