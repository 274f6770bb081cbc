"""Time and memory of the derivatives and of a tracked step, against the published procedure (``make bench``).

Everything is measured in one run from one point, where S first reaches 2/η: a two-hidden-layer network of width 200 on
the first 5,000 images of CIFAR-10, ten classes, squared error, η = 0.02 (``--small`` for a tiny one that tries the
script itself).  Measurements that are compared are interleaved and repeated, so that a machine's drift cancels; costs
are given in seconds and in gradients.  The table goes to the terminal and, with everything behind it, to
``benchmarks/results.json``.

    .venv/bin/python benchmarks/run.py [--small] [--output FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import sys
import tempfile
import time

import jax
from agreement import agreement
from compiling import SECONDS, compiling, convolution, every_network
from memory import memory
from several import several
from starts import BEGUN, PAPER, SEED, SMALL, Size, instability, library_start, say
from timing import (
    constrained_steps,
    evaluations,
    gradient_operations,
    growth_with_samples,
    growth_with_width,
    matmul_peak,
    profile,
    tracked_steps,
)

from selfstab import data, source
from selfstab.runs.provenance import environment

HERE = pathlib.Path(__file__).parent


def targets(found: dict) -> list[dict]:
    """What was aimed at, what was measured, and whether it was met."""
    rows = (
        ("tracked_step_gradients", "at most", 7.0),
        ("tracked_step_ratio", "at least", 8.0),
        ("constrained_step_gradients", "at most", 3.5),
        ("constrained_step_ratio", "at least", 8.0),
        ("peak_rss_ratio", "at most", 1.0),
        ("max_constraint_violation", "at most", 1e-4),
        ("several_step_gradients", "at most", 12.0),
        ("several_violation", "at most", 1e-4),
        ("several_memory_ratio", "at most", 1.3),
        ("constrained_loss_difference", "at most", 1e-5),
        ("constrained_distance_delta", "at most", 1e-3),
        ("samples_exponent", "at most", 1.05),
        ("compiling_ratio", "at most", float(SECONDS)),
    )
    return [
        {
            "key": key,
            "measured": found[key],
            "relation": relation,
            "target": target,
            "met": bool(found[key] <= target if relation == "at most" else found[key] >= target),
        }
        for key, relation, target in rows
    ]


def measure(size: Size) -> dict:
    """Everything, in one run."""
    say("data and start")
    edge = instability(size)
    say(f"{edge.objective.size:,} parameters, {edge.setting.n:,} samples, at the edge after {edge.step:,} steps")
    start = library_start(edge)
    say("derivatives and eigen-solves")
    evaluated = evaluations(start, size)
    say("constrained steps")
    constrained = constrained_steps(start, size)
    say("whole tracked steps (the first of each side compiles)")
    tracked = tracked_steps(start, size)
    more = several(edge, size)
    say(f"the two constrained trajectories over {size.common_steps} steps")
    common = agreement(start, size)
    say("the machine's peak, growth with the number of samples and with the width")
    peak = matmul_peak(size.matmul, size.rounds)
    operations = gradient_operations(start.objective, start.state.constrained.theta)
    samples = growth_with_samples(start, size)
    widths = growth_with_width(start, size)
    used = memory(size is SMALL)
    say("compiling, which keeps to its own precision")
    with jax.enable_x64(False):
        compiled_in = {"1-D convolution": compiling(convolution())} if size is SMALL else every_network()
    unit = evaluated["gradient"]
    machine = environment()
    compiled = {side: each["peak_once_compiled"] for side, each in used.items()}
    found = {
        "gradient_s": unit,
        "hvp_gradients": evaluated["hvp"] / unit,
        "cubic_gradients": evaluated["cubic"] / unit,
        "constrained_step_gradients": constrained["eoslib"] / constrained["gradient"],
        "tracked_step_gradients": tracked["eoslib_gradients"],
        "constrained_step_ratio": constrained["reference"] / constrained["eoslib"],
        "tracked_step_ratio": tracked["reference_s"] / tracked["eoslib_s"],
        "tracked_step_float64_ratio": tracked["reference_float64_s"] / tracked["eoslib_float64_s"],
        "peak_rss_ratio": used["eoslib"]["peak"] / used["reference"]["peak"],
        "peak_rss_once_compiled_ratio": compiled["eoslib"] / compiled["reference"] if compiled["reference"] else None,
        "matmul_share": operations / unit / peak,
        "max_constraint_violation": tracked["max_violation"],
        "constrained_loss_difference": common["loss_difference"],
        "constrained_distance_delta": common["distance_delta"],
        "several_step_gradients": more["several"]["gradients"],
        "several_violation": more["several"]["violation"],
        "several_memory_ratio": used["several"]["peak"] / used["eoslib"]["peak"],
        "several_memory_once_compiled_ratio": compiled["several"] / compiled["eoslib"] if compiled["eoslib"] else None,
        "several_temporary_ratio": more["several"]["temporary_bytes"] / more["one"]["temporary_bytes"],
        "samples_exponent": max(samples["gradient_exponent"], samples["cubic_exponent"]),
        "compiling_ratio": compiled_in["1-D convolution"]["ratio"],
    }
    return found | {
        "targets": targets(found),
        "evaluations_s": evaluated,
        "constrained_step_s": constrained,
        "tracked_step": tracked,
        "agreement": common,
        "several": more,
        "tracked_step_profile_gradients": profile(evaluated, tracked),
        "peak_rss_bytes": used,
        "matmul_operations_per_second": peak,
        "gradient_operations": operations,
        "growth_with_samples": samples,
        "growth_with_width": widths,
        "compiling": compiled_in,
        "setting": dataclasses.asdict(start.setting),
        "seed": SEED,
        "parameters": start.objective.size,
        "instability_step": edge.step,
        "machine": machine | {"versions": json.loads(machine["versions"])},
        "library_digest": source.numerical_digest(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": time.perf_counter() - BEGUN,
    }


def table(found: dict) -> str:
    """What the terminal shows."""
    unit, tracked, constrained = found["gradient_s"], found["tracked_step"], found["constrained_step_s"]
    lines = [f"{'':42s}{'seconds':>10s}{'gradients':>11s}"]

    def row(name, value, gradients):
        lines.append(f"{name:42s}{value:10.4f}{gradients:11.2f}")

    for name, value in found["evaluations_s"].items():
        row(name, value, value / unit)
    row("constrained step", constrained["eoslib"], constrained["eoslib"] / constrained["gradient"])
    row("reference: constrained step", constrained["reference"], constrained["reference"] / constrained["gradient"])
    row("whole tracked step", tracked["eoslib_s"], tracked["eoslib_gradients"])
    row("reference: whole tracked step", tracked["reference_s"], tracked["reference_gradients"])
    for side, words in (("eoslib", "whole tracked step"), ("reference", "reference: the same")):
        row(f"{words}, gradients in float64", tracked[f"{side}_float64_s"], tracked[f"{side}_float64_s"] / unit)
    for name in ("several", "several_without_flow", "one"):
        side = found["several"][name]
        row(f"three eigenvalues at the edge: {name}", side["gradients"] * unit, side["gradients"])
    lines += ["", "a tracked step's gradients, from counts and costs above"]
    lines += [f"  {name:58s}{value:6.2f}" for name, value in found["tracked_step_profile_gradients"].items()]
    lines.append("")
    for side, used in found["peak_rss_bytes"].items():
        parts = ", ".join(f"{name.replace('_', ' ')} {value / 1e6:.0f}" for name, value in used.items() if value)
        lines.append(f"memory of {side}, MB: {parts}")
    lines.append(f"gradient's share of the matmul peak       {found['matmul_share']:10.2f}")
    for name, growing in (("samples", found["growth_with_samples"]), ("width", found["growth_with_width"])):
        lines += ["", f"{name:>10s}{'gradient s':>12s}{'cubic s':>12s}"]
        rows = zip(growing["at"], growing["gradient_s"], growing["cubic_s"], strict=True)
        lines += [f"{at:10d}{first:12.4f}{second:12.4f}" for at, first, second in rows]
        lines.append(f"{'exponent':>10s}{growing['gradient_exponent']:12.2f}{growing['cubic_exponent']:12.2f}")
    lines += ["", f"{'compiling, CPU s':20s}{'gradient':>12s}{'measure':>12s}{'ratio':>8s}"]
    for name, each in found["compiling"].items():
        lines.append(f"{name:20s}{each['gradient_cpu_s']:12.2f}{each['measure_cpu_s']:12.2f}{each['ratio']:8.1f}")
    common = found["agreement"]
    lines += [
        "",
        f"trajectories after {common['steps']} steps, in δ: apart {common['distance_delta']:.2g}, "
        f"{common['distance_with_quotients_delta']:.2g} with Rayleigh quotients for the reference's eigenvalues,",
        f"which are off by {common['reference_value_off']:.2g}; from exact projections after {common['exact_steps']}: "
        f"eoslib {common['eoslib_from_exact_delta']:.2g}, reference {common['reference_from_exact_delta']:.2g}, "
        f"with quotients {common['reference_with_quotients_from_exact_delta']:.2g}",
    ]
    lines += ["", f"{'target':32s}{'measured':>12s}{'aimed at':>18s}"]
    for each in found["targets"]:
        aim = f"{each['relation']} {each['target']:g}"
        lines.append(f"{each['key']:32s}{each['measured']:12.4g}{aim:>18s}   {'met' if each['met'] else 'MISSED'}")
    return "\n".join(lines)


def write(values: dict, target: pathlib.Path) -> None:
    """JSON in one stroke: a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time and memory of the derivatives and of a tracked step.")
    parser.add_argument("--small", action="store_true", help="a tiny network: tries the script, times nothing of worth")
    parser.add_argument("--output", type=pathlib.Path, help="default: benchmarks/results.json; with --small none")
    parser.add_argument("--agreement", action="store_true", help="print the agreement of the trajectories alone")
    given = parser.parse_args(arguments)
    size = SMALL if given.small else PAPER
    if size is PAPER and not os.environ.get("EOSLIB_DATA"):
        print(
            "The benchmark runs on the first 5,000 images of CIFAR-10: set EOSLIB_DATA to the folder that holds "
            "cifar-10-batches-bin/ (the binary version of CIFAR-10), and call it again.",
            file=sys.stderr,
        )
        return 1
    jax.config.update("jax_enable_x64", True)  # for the reference, whose positions are float64
    try:
        if given.agreement:
            print(json.dumps(agreement(library_start(instability(size)), size), indent=2))
            return 0
        found = measure(size)
    except (data.DataError, RuntimeError) as error:
        print(f"The benchmark could not run: {error}", file=sys.stderr)
        return 1
    print(table(found))
    output = given.output or (None if given.small else HERE / "results.json")
    if output:
        write(found, output)
        print(f"\nwritten to {os.path.relpath(output)} after {found['seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
