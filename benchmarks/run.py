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
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import exact
import jax
import jax.numpy as jnp
import numpy as np
import reference

from eoslib import data, dynamics, experiments, results, settings, tracking
from eoslib.eigen import leading_eigenpair
from eoslib.objective import Objective

HERE = pathlib.Path(__file__).parent
SEED = 0
EIGEN_TOLERANCE = 5e-3  # what the constrained step asks of its eigenvector
EXACT = 3e-4  # residual of the eigenvectors of exact projections, relative to S; float32 allows little less


class Size(NamedTuple):
    """How much is measured."""

    scale: str
    rounds: int  # repetitions of a short measurement, of which the least counts
    chunks: int  # timed chunks of tracking.CHUNK tracked steps
    repeats: int  # of those and of the reference's steps
    constrained_steps: int  # consecutive steps over which the constrained step is averaged
    common_steps: int  # over which the two sides' constrained trajectories are compared
    exact_steps: int  # over which both are compared with exact projections
    samples: tuple[int, ...]
    widths: tuple[int, ...]
    matmul: int  # side of the matrices that measure the machine's peak


PAPER = Size("paper", 5, 2, 2, 10, 50, 2, (500, 1000, 2000, 5000), (50, 100, 200, 400, 800), 4096)
SMALL = Size("test", 3, 2, 2, 4, 10, 5, (50, 100, 200), (8, 16, 32), 512)

_BEGUN = time.perf_counter()


def say(text: str) -> None:
    """A line of progress, on standard error."""
    print(f"[{time.perf_counter() - _BEGUN:5.0f} s] {text}", file=sys.stderr, flush=True)


def seconds(call) -> float:
    """Wall time of a call, its result waited for."""
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


def least(calls: dict, rounds: int) -> dict:
    """Least seconds of each call over so many rounds, forwards and backwards through the calls by turns."""
    for call in calls.values():
        jax.block_until_ready(call())  # compiles
    times = {name: [] for name in calls}
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(calls[name]))
    return {name: min(values) for name, values in times.items()}


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


# The programs that are timed, compiled once each; the objective is an argument, so that its batch is no constant.
gradient = jax.jit(lambda objective, theta: objective.value_and_grad(theta))
hvp = jax.jit(lambda objective, theta, u: objective.hvp(theta, u))
gradient_and_hvp = jax.jit(lambda objective, theta, u: objective.gradient_and_hvp(theta, u))
cubic = jax.jit(lambda objective, theta, u: objective.cubic(theta, u))
cubic_and_hvp = jax.jit(lambda objective, theta, u, v: objective.cubic_and_hvps(theta, u, v[None]))
constrained_step = jax.jit(lambda objective, state, rate: dynamics.constrained_step(objective, state, rate)[:2])


@jax.jit
def eigen_solve(objective: Objective, theta, start):
    return leading_eigenpair(lambda v: objective.hvp(theta, v), start, tolerance=EIGEN_TOLERANCE, max_products=200)


class Edge(NamedTuple):
    """The point where S first reaches 2/η."""

    setting: settings.Setting
    objective: Objective
    theta: jax.Array
    eigenvector: jax.Array
    step: int  # at which gradient descent came there


class Start(NamedTuple):
    """Where everything that is timed begins."""

    setting: settings.Setting
    objective: Objective
    state: tracking.TrackState
    options: tracking.Options


def instability(size: Size) -> Edge:
    """The instability, from its file, or computed and kept for the next call."""
    setting = settings.get("mlp-cifar10", size.scale, learning_rate=0.02)
    objective, theta, *_ = experiments.prepare(setting, SEED)
    file = results.root() / "checkpoints" / f"bench-{setting.scale}-{setting.digest()}-seed{SEED}.npz"
    if not file.exists():
        say("computing the start: gradient descent until S = 2/η (kept for the next call)")
        approach = tracking.find_instability(
            objective, theta, setting.learning_rate, max_steps=setting.edge_steps, progress=sys.stderr.isatty()
        )
        if approach.status != tracking.EdgeStatus.REACHED:
            raise RuntimeError(f"the benchmark needs a start at the edge of stability; {approach.status.message}")
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        with open(temporary, "wb") as handle:
            np.savez(handle, theta=approach.theta, eigenvector=approach.eigenvector, step=approach.step)
        os.replace(temporary, file)
    with np.load(file) as kept:
        return Edge(setting, objective, jnp.asarray(kept["theta"]), jnp.asarray(kept["eigenvector"]), int(kept["step"]))


def library_start(edge: Edge) -> Start:
    """The library's state at the instability: gradient descent moved along u by the setting's kick, θ† projected."""
    options = tracking.Options(kick=edge.setting.kick)
    state, _ = tracking._start(edge.objective, edge.theta, edge.eigenvector, edge.setting.learning_rate, options.kick)
    return Start(edge.setting, edge.objective, state, options)


def reference_start(start: Start) -> reference.State:
    """The published procedure's state at the same positions."""
    state = start.state
    return reference.start(
        start.objective,
        state.descent.theta,
        state.constrained.eigenvector,
        start.setting.learning_rate,
        constrained=state.constrained.theta,
        flow=state.flow.theta,
    )


def peak_rss() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux hands the parent's peak on to a child's ru_maxrss, but not to its VmHWM
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_of(side: str, size: Size) -> dict[str, int | None]:
    """In a process of its own: peak memory of tracked steps of one side, and what it was before any derivative."""
    edge = instability(size)
    before, rate = peak_rss(), edge.setting.learning_rate
    if side == "eoslib":
        start = library_start(edge)

        def step():
            return tracking._advance(start.objective, start.state, rate, 2, start.options)
    else:
        state = reference.start(edge.objective, edge.theta, edge.eigenvector, rate)

        def step():
            return reference.tracked_step(edge.objective, state, rate)

    jax.block_until_ready(step())
    peak, running = peak_rss(), None
    with contextlib.suppress(OSError):
        # Linux: hand back the heap that compiling left behind, forget the peak, and step once more.
        tracking._release_heap()
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        jax.block_until_ready(step())
        running = peak_rss()
    return {"before": before, "peak": peak, "peak_once_compiled": running}


def memory(small: bool) -> dict[str, dict[str, int | None]]:
    """Peak memory of both sides, each in its own process."""
    found = {}
    for side in ("eoslib", "reference"):
        say(f"memory of {side}, in its own process")
        command = [sys.executable, __file__, "--memory", side, *(["--small"] if small else [])]
        found[side] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return found


def evaluations(start: Start, size: Size) -> dict[str, float]:
    """Seconds of each derivative and of a warm eigen-solve on both sides, interleaved."""
    objective, rate = start.objective, start.setting.learning_rate
    theta, u = start.state.constrained.theta, start.state.constrained.eigenvector
    v = start.state.predicted.carried
    following, _ = constrained_step(objective, start.state.constrained, rate)
    blocks = jnp.stack([u, v / jnp.linalg.norm(v)], axis=1)
    blocks = reference.leading_eigenpairs(objective, theta, blocks)[1]  # warm for the next point
    return least(
        {
            "gradient": lambda: gradient(objective, theta),
            "hvp": lambda: hvp(objective, theta, u),
            "gradient_and_hvp": lambda: gradient_and_hvp(objective, theta, u),
            "cubic": lambda: cubic(objective, theta, u),
            "cubic_and_hvps(k=1)": lambda: cubic_and_hvp(objective, theta, u, v),
            "warm eigen-solve": lambda: eigen_solve(objective, following.theta, u),
            "reference: warm eigen-solve": lambda: reference.leading_eigenpair(objective, following.theta, u),
            "reference: the same, two pairs": lambda: reference.leading_eigenpairs(objective, following.theta, blocks),
        },
        size.rounds,
    )


def constrained_steps(start: Start, size: Size) -> dict[str, float]:
    """Seconds of a constrained step on both sides: each of several consecutive steps at its least, then their mean."""
    objective, rate = start.objective, start.setting.learning_rate
    ours = [start.state.constrained]
    for _ in range(size.constrained_steps - 1):
        ours.append(constrained_step(objective, ours[-1], rate)[0])
    theirs = reference_start(start)
    calls = {i: (lambda s=s: constrained_step(objective, s, rate)) for i, s in enumerate(ours)}
    calls["reference"] = lambda: reference.constrained_step(objective, theirs.constrained, theirs.here, rate)
    calls["gradient"] = lambda: gradient(objective, theirs.constrained)
    times = least(calls, 2)
    return {
        "eoslib": float(np.mean([times[i] for i in range(len(ours))])),
        "reference": times["reference"],
        "gradient": times["gradient"],
    }


def tracked_steps(start: Start, size: Size) -> dict:
    """Whole tracked steps of both sides by turns: the same steps several times, each at its least, then their mean."""
    objective, rate, length = start.objective, start.setting.learning_rate, start.options.chunk

    def advance(state):
        return tracking._advance(objective, state, rate, length, start.options)

    def timed(call):
        begun = time.perf_counter()
        result = jax.block_until_ready(call())
        return result, time.perf_counter() - begun

    state, *records = advance(start.state)  # compiles
    records, ours = [records[0] | records[1]], [state]
    state, values = reference.tracked_step(objective, reference_start(start), rate)
    losses, theirs = [float(values["constrained_loss"])], [state]
    per_chunk = 2  # steps of the reference between two chunks
    ours_s = [[] for _ in range(size.chunks)]  # a step
    theirs_s = [[] for _ in range(size.chunks * per_chunk)]
    gradient_s = []
    for turn in range(size.repeats):
        for chunk in range(size.chunks):
            gradient_s += [
                seconds(lambda: gradient(objective, start.state.constrained.theta)) for _ in range(size.rounds)
            ]
            (state, series, strided), taken = timed(lambda i=chunk: advance(ours[i]))
            ours_s[chunk].append(taken / length)
            if turn == 0:
                ours.append(state)
                records.append(series | strided)
            for step in range(chunk * per_chunk, (chunk + 1) * per_chunk):
                (state, values), taken = timed(lambda i=step: reference.tracked_step(objective, theirs[i], rate))
                theirs_s[step].append(taken)
                if turn == 0:
                    theirs.append(state)
                    losses.append(float(values["constrained_loss"]))
            say(f"a tracked step: {ours_s[chunk][-1]:.3g} s; of the reference: {theirs_s[step][-1]:.3g} s")
    unit, ours_least, theirs_least = min(gradient_s), np.mean([*map(min, ours_s)]), np.mean([*map(min, theirs_s)])
    series = {name: np.concatenate([np.atleast_1d(record[name]) for record in records]) for name in records[0]}
    off = np.abs(series["constrained_sharpness"] * rate / 2 - 1)
    active = series["active"] > 0
    known = series["constrained_loss"][: len(losses)]
    return {
        "eoslib_s": float(ours_least),
        "eoslib_gradients": float(ours_least / unit),
        "reference_s": float(theirs_least),
        "reference_gradients": float(theirs_least / unit),
        "every_eoslib_s": ours_s,  # (chunk, repetition)
        "every_reference_s": theirs_s,  # (step, repetition)
        "gradient_s": unit,
        "max_violation": float(off[active].max(initial=0)),
        "steps": int(off.size),
        "active_steps": int(active.sum()),
        "reference_steps": len(losses),
        "loss_difference": float(np.max(np.abs(known / np.asarray(losses) - 1))),
        "gd_products": float(series["gd_products"][length:].mean()),
        "constrained_products": float(series["products"][length:].mean()),
        "constrained_expansions": float((1 + (series["products"][length:] > 1) + series["rounds"][length:]).mean()),
        "flow_gradients": float(series["flow_gradients"][1:].mean() / length),
    }


def with_quotient(objective: Objective, theta, start):
    """The published eigen-solve, with the Rayleigh quotient of its vector for its value.

    ``lobpcg_standard`` sums long products one term after another where XLA compiles its loop for a CPU: the value that
    it tells in float32 is off by far more than its vector.
    """
    _, u = reference.leading_eigenpair(objective, theta, start)
    return jnp.vdot(u, hvp(objective, theta, u)), u


def agreement(start: Start, size: Size) -> dict[str, float]:
    """How far the two sides' constrained trajectories are apart after so many steps, and why.

    The published procedure is followed twice: with the eigenvalues that ``lobpcg_standard`` tells, and with Rayleigh
    quotients of the same vectors.  The first steps are compared with exact projections.
    """
    objective, rate, ours = start.objective, start.setting.learning_rate, start.state.constrained
    begun = reference_start(start)
    u, theta = begun.here.eigenvector, begun.constrained
    quotient = with_quotient(objective, theta, u)[0]
    told, better = (theta, begun.here), (theta, reference.measure(objective, theta, u, with_quotient))
    paths, losses = [(ours.theta, theta, theta)], []
    for _ in range(size.common_steps):
        ours, record = constrained_step(objective, ours, rate)
        losses.append([float(record.geometry.loss), float(told[1].loss), float(better[1].loss)])
        told = reference.constrained_step(objective, *told, rate)
        better = reference.constrained_step(objective, *better, rate, with_quotient)
        paths = [*paths, (ours.theta, told[0], better[0])] if len(paths) <= size.exact_steps else paths
    delta = float(jnp.sqrt(record.geometry.delta_squared))
    apart = np.max(np.abs(np.asarray(losses) / np.asarray(losses)[:, :1] - 1), axis=0)
    nearest = exact.path(objective, theta, u, rate, size.exact_steps, tolerance=EXACT, linear_tolerance=1e-2)[-1]

    def distance(a, b):
        return float(jnp.linalg.norm(a - b)) / delta

    return {
        "steps": size.common_steps,
        "loss_difference": apart[1],  # largest, relative
        "loss_difference_with_quotients": apart[2],
        "distance_delta": distance(ours.theta, told[0]),  # at the end
        "distance_with_quotients_delta": distance(ours.theta, better[0]),
        "travelled_delta": distance(told[0], theta),
        "reference_value_off": abs(float(begun.here.sharpness / quotient) - 1),
        "exact_steps": size.exact_steps,
        **{
            f"{side}_from_exact_delta": distance(point, nearest)
            for side, point in zip(("eoslib", "reference", "reference_with_quotients"), paths[-1], strict=True)
        },
    }


def profile(evaluated: dict[str, float], tracked: dict) -> dict[str, float]:
    """Where a tracked step's gradients go: counts of the timed chunks times the cost of each evaluation."""
    cost = {name: value / evaluated["gradient"] for name, value in evaluated.items()}
    more_products = max(tracked["constrained_products"] - tracked["constrained_expansions"], 0)
    parts = {
        "constrained: expansions with the prediction's product": (
            tracked["constrained_expansions"] * cost["cubic_and_hvps(k=1)"]
        ),
        "constrained: further products on its eigenvector": more_products * cost["hvp"],
        "gradient descent: gradient and first product": cost["gradient_and_hvp"],
        "gradient descent: further products": (tracked["gd_products"] - 1) * cost["hvp"],
        "gradient flow": tracked["flow_gradients"],
    }
    return parts | {"vectors, records and the rest": tracked["eoslib_gradients"] - sum(parts.values())}


def matmul_peak(side: int, rounds: int) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    a = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
    product = jax.jit(lambda a, b: a @ b)
    return 2 * side**3 / least({"matmul": lambda: product(a, a)}, rounds)["matmul"]


def gradient_operations(objective: Objective, theta) -> int:
    """Multiplications and additions in the matrix products of a gradient: forwards, back to weights and to inputs."""
    n = objective.batch[0].shape[0]
    features = int(np.prod(objective.batch[0].shape[1:]))
    kernels = [
        leaf.shape for leaf in jax.tree.leaves(objective.unravel(theta.astype(objective.dtype))) if leaf.ndim == 2
    ]
    every = sum(rows * columns for rows, columns in kernels)
    first = sum(rows * columns for rows, columns in kernels if rows == features)
    return 2 * n * (3 * every - first)  # the images need no derivative


def growth(objectives: dict, rounds: int) -> dict[str, list]:
    """Seconds of gradient and cubic for each (objective, θ, u), interleaved, and their exponents in the key."""
    calls = {}
    for key, (objective, theta, u) in objectives.items():
        calls["gradient", key] = lambda o=objective, t=theta: gradient(o, t)
        calls["cubic", key] = lambda o=objective, t=theta, d=u: cubic(o, t, d)
    times = least(calls, rounds)
    at = list(objectives)
    found = {"at": at}
    for name in ("gradient", "cubic"):
        series = [times[name, key] for key in at]
        found |= {f"{name}_s": series, f"{name}_exponent": float(np.polyfit(np.log(at), np.log(series), 1)[0])}
    return found


def growth_with_samples(start: Start, size: Size) -> dict[str, list]:
    objective, constrained = start.objective, start.state.constrained
    pieces = {
        n: dataclasses.replace(objective, batch=jax.tree.map(lambda a, n=n: a[:n], objective.batch))
        for n in size.samples
    }
    return growth({n: (o, constrained.theta, constrained.eigenvector) for n, o in pieces.items()}, size.rounds)


def growth_with_width(start: Start, size: Size) -> dict[str, list]:
    objectives = {}
    for width in size.widths:
        experiment = experiments.prepare(dataclasses.replace(start.setting, width=width), SEED)
        batch = start.objective.batch  # one copy of the images for all widths
        objective = dataclasses.replace(experiment.objective, batch=batch)
        u = jnp.ones(objective.size, objective.dtype) / np.sqrt(objective.size).astype(objective.dtype)
        objectives[width] = (objective, experiment.theta, u)
    found = growth(objectives, max(2, size.rounds // 2))
    return found | {"parameters": [objective.size for objective, *_ in objectives.values()]}


def targets(found: dict) -> list[dict]:
    """What was aimed at, what was measured, and whether it was met."""
    rows = (
        ("tracked_step_gradients", "at most", 7.0),
        ("tracked_step_ratio", "at least", 8.0),
        ("constrained_step_gradients", "at most", 3.5),
        ("constrained_step_ratio", "at least", 8.0),
        ("peak_rss_ratio", "at most", 1.0),
        ("max_constraint_violation", "at most", 1e-4),
        ("constrained_loss_difference", "at most", 1e-5),
        ("constrained_distance_delta", "at most", 1e-3),
        ("samples_exponent", "at most", 1.05),
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
    say(f"the two constrained trajectories over {size.common_steps} steps")
    common = agreement(start, size)
    say("the machine's peak, growth with the number of samples and with the width")
    peak = matmul_peak(size.matmul, size.rounds)
    operations = gradient_operations(start.objective, start.state.constrained.theta)
    samples = growth_with_samples(start, size)
    widths = growth_with_width(start, size)
    used = memory(size is SMALL)
    unit = evaluated["gradient"]
    machine = results.environment()
    compiled = [used[side]["peak_once_compiled"] for side in ("eoslib", "reference")]
    found = {
        "gradient_s": unit,
        "hvp_gradients": evaluated["hvp"] / unit,
        "cubic_gradients": evaluated["cubic"] / unit,
        "constrained_step_gradients": constrained["eoslib"] / constrained["gradient"],
        "tracked_step_gradients": tracked["eoslib_gradients"],
        "constrained_step_ratio": constrained["reference"] / constrained["eoslib"],
        "tracked_step_ratio": tracked["reference_s"] / tracked["eoslib_s"],
        "peak_rss_ratio": used["eoslib"]["peak"] / used["reference"]["peak"],
        "peak_rss_once_compiled_ratio": compiled[0] / compiled[1] if all(compiled) else None,
        "matmul_share": operations / unit / peak,
        "max_constraint_violation": tracked["max_violation"],
        "constrained_loss_difference": common["loss_difference"],
        "constrained_distance_delta": common["distance_delta"],
        "samples_exponent": max(samples["gradient_exponent"], samples["cubic_exponent"]),
    }
    return found | {
        "targets": targets(found),
        "evaluations_s": evaluated,
        "constrained_step_s": constrained,
        "tracked_step": tracked,
        "agreement": common,
        "tracked_step_profile_gradients": profile(evaluated, tracked),
        "peak_rss_bytes": used,
        "matmul_operations_per_second": peak,
        "gradient_operations": operations,
        "growth_with_samples": samples,
        "growth_with_width": widths,
        "setting": dataclasses.asdict(start.setting),
        "seed": SEED,
        "parameters": start.objective.size,
        "instability_step": edge.step,
        "machine": machine | {"versions": json.loads(machine["versions"])},
        "library_digest": results.library_digest(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": time.perf_counter() - _BEGUN,
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Time and memory of the derivatives and of a tracked step.")
    parser.add_argument("--small", action="store_true", help="a tiny network: tries the script, times nothing of worth")
    parser.add_argument("--output", type=pathlib.Path, help="default: benchmarks/results.json; with --small none")
    parser.add_argument("--agreement", action="store_true", help="print the agreement of the trajectories alone")
    parser.add_argument("--memory", choices=("eoslib", "reference"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    size = SMALL if given.small else PAPER
    if size is PAPER and not os.environ.get("EOSLIB_DATA"):
        print(
            "The benchmark runs on the first 5,000 images of CIFAR-10: set EOSLIB_DATA to the folder that holds "
            "cifar-10-batches-bin/ (the binary version of CIFAR-10), and call it again.",
            file=sys.stderr,
        )
        return 1
    jax.config.update("jax_enable_x64", True)  # positions are float64; derivatives stay float32
    try:
        if given.memory:
            print(json.dumps(memory_of(given.memory, size)))
            return 0
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
