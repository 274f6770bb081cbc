"""The figures of the chapter on several unstable directions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from selfstab.page.draw import AFTER, SHADE, color_key, two_step_means, write
from selfstab.page.style import COLORS
from selfstab.runs import quantities

#: The eigenvalues of a block, from the first on.
SHADES = ("#D55E00", "#E69F00", "#8C4A00", "#F0B27A", "#A04060", "#C98BA0", "#B8B8B8", "#DDDDDD")


def edge(*runs):
    """Draw the eigenvalues of the block at θ†, gradient descent's sharpness, and both losses; one row a run."""
    fig, panels = plt.subplots(len(runs), 2, figsize=(8.4, 3.5 * len(runs)), width_ratios=(1.4, 1), squeeze=False)
    for (values, loss), run in zip(panels, runs):
        top, t = run.attrs["edge"], run.t.values
        values.plot(
            t[1:] - 0.5, two_step_means(run.gd_sharpness.values) / top, color=COLORS["gd"], linewidth=0.8, alpha=0.7
        )
        block = run.block_eigenvalues.values / top
        for i in np.flatnonzero(np.isfinite(block).any(axis=0)):
            values.plot(t, block[:, i], color=SHADES[i], linewidth=1.8, zorder=5 - i)
            begin = int(np.isfinite(block[:, i]).argmax()) if i else len(t) // 2
            name = rf"$\lambda_{i + 1}$" if i else r"$\lambda_1(\theta^\dagger)$"
            write(values, t[begin] + 0.015 * t[-1], block[begin, i] - 0.004, name, SHADES[i], va="top")
        write(values, 0.02, 0.94, "gradient descent", "gd", frame="axes")
        values.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8, zorder=6)
        values.set_ylim(np.nanmin(block) - 0.03, None)
        which = rf", $\eta={run.attrs['learning_rate']:g}$" if len(runs) > 1 else ""
        values.set(ylabel=r"curvature $/\,(2/\eta)$", title=f"One after the other{which}")
        loss.plot(t, run.gd_loss, color=COLORS["gd"], linewidth=0.8, alpha=0.7)
        loss.plot(t, run.constrained_loss, color=COLORS["constrained"])
        color_key(loss, [(r"$L(\theta)$", "gd"), (r"$L(\theta^\dagger)$", "constrained")], fontsize=9.5)
        loss.set(ylabel="loss", title=f"Loss{which}")
    for ax in panels[-1]:
        ax.set_xlabel(AFTER)
    return fig


def _tangent(matrices):
    """Return (Z11 − Z22)/tr Z and 2 Z12/tr Z of 2×2 matrices (..., 2, 2), in the unit disk where Z ⪰ 0."""
    trace = np.trace(matrices, axis1=-2, axis2=-1)
    return (matrices[..., 0, 0] - matrices[..., 1, 1]) / trace, 2 * matrices[..., 0, 1] / trace


def cone(x, sigma, forces):
    """Draw the cone Z ⪰ 0 of two directions, its section, and the forces left over.

    Args:
        x: Displacements (T, 2) in one basis.
        sigma: Σ (T, 2, 2) of the same steps.
        forces: Eigenvalues (2,) of A − ½𝒢Z by a name of Z.
    """
    unit, squares = np.trace(sigma.mean(0)), x[:, :, None] * x[:, None, :]
    mean, sigma, squares = squares.mean(0) / unit, sigma / unit, squares / unit
    fig = plt.figure(figsize=(9.4, 3.4), layout="constrained")
    fig.get_layout_engine().set(wspace=0.1)
    solid, disk, bars = fig.add_subplot(131, projection="3d"), fig.add_subplot(132), fig.add_subplot(133)
    height, angle = np.meshgrid([0, 1.1 * np.trace(squares, axis1=1, axis2=2).max()], np.linspace(0, 2 * np.pi, 60))
    solid.plot_surface(height * np.cos(angle), height * np.sin(angle), height, color=SHADE, alpha=0.4, linewidth=0)
    at = lambda z: (z[..., 0, 0] - z[..., 1, 1], 2 * z[..., 0, 1], z[..., 0, 0] + z[..., 1, 1])  # noqa: E731
    solid.plot(*at(squares), color=COLORS["gd"], linewidth=0.7, alpha=0.7)
    solid.plot(*([value] for value in at(mean)), "X", color=COLORS["gd"], markersize=7)
    solid.plot(*([value] for value in at(sigma.mean(0))), "o", color=COLORS["constrained"], markersize=7)
    solid.set(xlabel="$Z_{11}-Z_{22}$", ylabel="$2Z_{12}$", title=r"$Z\succeq0$, height $\mathrm{tr}\,Z$")
    solid.view_init(16, -60)
    solid.tick_params(labelsize=6.5, pad=-2)
    round_ = np.linspace(0, 2 * np.pi, 200)
    disk.fill(np.cos(round_), np.sin(round_), color=SHADE, zorder=0)
    disk.scatter(
        *_tangent(squares), s=12 * np.trace(squares, axis1=1, axis2=2), color=COLORS["gd"], alpha=0.5, linewidth=0
    )
    disk.plot(*_tangent(mean), "X", color=COLORS["gd"], markersize=9)
    disk.plot(*_tangent(sigma.mean(0)), "o", color=COLORS["constrained"], markersize=8)
    write(disk, 0, -0.55, "rank one on the circle,\nrank two inside", "#555555", ha="center", fontsize=8.5)
    disk.set(xlabel=r"$(Z_{11}-Z_{22})/\mathrm{tr}\,Z$", title=r"Its section: $2Z_{12}/\mathrm{tr}\,Z$")
    disk.set_aspect("equal")
    color_key(disk, [(r"$\langle xx^\top\rangle$", "gd"), (r"$\Sigma$", "constrained")], x=0.6, y=0.8, fontsize=10)
    for place, values in enumerate(forces.values()):
        bars.plot([place] * len(values), values, color="#999999", linewidth=1)
        shade = COLORS["constrained" if place == len(forces) - 1 else "edge"]
        bars.plot([place] * len(values), values, "o", color=shade)
    bars.axhline(0, color=COLORS["edge"], linewidth=0.8, linestyle="--")
    bars.set_xticks(range(len(forces)), forces, fontsize=8.5)
    bars.set(xlim=(-0.5, len(forces) - 0.5), xlabel="$Z$", title=r"What $Z$ leaves of $A$")
    return fig


def excess(cases, tolerances, windows):
    """Draw the mean excess loss over tr Σ/η, by windows of two lengths, and over δ²/η of one direction.

    Args:
        cases: Pairs of some runs and one of one direction (or None), all at one η; one row each.
        tolerances: By length of a window, what a mean may differ from one by.
        windows: (run, length) ↦ the windows of a run, slices.
    """
    size = {"figsize": (8.2, 3.4 * len(cases)), "width_ratios": (1.5, 1), "sharey": "row", "squeeze": False}
    fig, panels = plt.subplots(len(cases), 2, **size)
    for row, (runs, single) in zip(panels, cases):
        which = rf", $\eta={runs[0].attrs['learning_rate']:g}$" if len(cases) > 1 else ""
        for ax, (length, tolerance) in zip(row, tolerances.items()):
            alone = [] if single is None else [(single, "single", True)]
            for each, color, one in [*((run, "constrained", False) for run in runs), *alone]:
                parts = windows(each, length)
                for part, value in zip(parts, quantities.excess(each, parts, one_direction=one)):
                    ax.plot([part.start, part.stop], [value] * 2, color=COLORS[color], linewidth=2, alpha=0.7)
            ax.axhspan(1 - tolerance, 1 + tolerance, color=SHADE, zorder=0)
            ax.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
            part = windows(runs[0], length)[0]
            ax.set(title=f"Windows of {part.stop - part.start} steps{which}")
        row[0].set(ylabel="mean excess loss", ylim=(0, 1.05 * row[0].get_ylim()[1]))
    names = [(r"over $\delta^2/\eta$, one direction", "single"), (r"over $\mathrm{tr}\,\Sigma/\eta$", "constrained")]
    color_key(panels[0, 0], names, y=0.2, fontsize=9.5)
    for ax in panels[-1]:
        ax.set_xlabel(AFTER)
    return fig


def tracking(run, single, part, ages):
    """Draw one stretch of the prediction, its error by age, and the steps that it lasted.

    ``part`` is the stretch; ``ages`` holds, by color, a name and the errors (n, T) of n stretches by age.
    """
    fig, (loss, error, lasts) = plt.subplots(1, 3, figsize=(9.2, 3.4), width_ratios=(1.25, 1, 1))
    seen = run.isel(t=part)
    floor = seen.constrained_loss
    loss.plot(seen.t, seen.gd_loss - floor, color=COLORS["gd"], linewidth=2.2, alpha=0.55)
    loss.plot(seen.t, seen.predicted_true_loss - floor, color=COLORS["predicted"], linewidth=1)
    loss.plot(seen.t, seen.covariance_trace / run.attrs["learning_rate"], color=COLORS["constrained"], linewidth=1)
    top = 1.3 * float((seen.gd_loss - floor).max())
    names = [("gradient descent", "gd"), ("predicted", "predicted"), (r"$\mathrm{tr}\,\Sigma/\eta$", "constrained")]
    color_key(loss, names, y=0.94, gap=0.07)
    loss.set(xlabel=AFTER, ylabel=r"loss above $L(\theta^\dagger)$", title="After one restart")
    loss.set_ylim(min(0.0, float((seen.gd_loss - floor).min())), top)
    cycle = float(quantities.cycle_length(run).median())
    for color, (_, errors) in ages.items():
        low, middle, high = np.quantile(errors, [0.25, 0.5, 0.75], axis=0) if len(errors) else np.full((3, 1), np.nan)
        age = np.arange(len(middle)) / cycle
        error.semilogy(age[1:], middle[1:], color=COLORS[color])
        error.fill_between(age[1:], low[1:], high[1:], color=COLORS[color], alpha=0.2, linewidth=0)
    color_key(error, [(name, color) for color, (name, _) in ages.items()], y=0.3, gap=0.07)
    error.axhline(0.5, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    error.set(xlabel="age of the prediction in cycles", title="Error by age")
    error.set_ylabel(r"error $/$ rms $\|\theta-\theta^\dagger\|$")
    for which, color in ((single, "single"), (run, "predicted")):
        parts = [part for part in quantities.restarts(which) if part.start >= cycle]
        lasted = [horizon(values) for values in quantities.tracking_error(which, parts)]
        lasts.plot([part.start for part in parts], lasted, "o", color=COLORS[color], markersize=4.5)
    lasts.set(xlabel="step of the restart", ylabel="steps until the error exceeds half", title="How long it lasts")
    lasts.set_ylim(0, None)
    return fig


def horizon(errors) -> int:
    """Return the steps until errors (T,) exceed one half; T where they never do."""
    return int(np.argmax([*(errors > 0.5), True]))


def matrix(tracks, dampings, exponents):
    """Draw (z₁, z₂) of named tracks of the reduced dynamics, and Lyapunov exponents per cycle (draws, dampings)."""
    fig, axes = plt.subplots(1, len(tracks) + 1, figsize=(9.2, 3.3))
    for ax, (name, z) in zip(axes, tracks.items()):
        ax.plot(*np.asarray(z).T, color=COLORS["gd"], linewidth=0.6, alpha=0.8)
        ax.plot(*np.asarray(z)[-1], "o", color=COLORS["edge"], markersize=5)
        limit = 1.05 * max(float(np.abs(each).max()) for each in tracks.values())
        ax.set(xlabel=r"$z_1/\sqrt{\mathrm{tr}\,\Sigma}$", title=name, xlim=(-limit, limit), ylim=(-limit, limit))
        ax.set_aspect("equal")
    axes[0].set_ylabel(r"$z_2/\sqrt{\mathrm{tr}\,\Sigma}$")
    axes[-1].plot(range(len(dampings)), np.asarray(exponents).T, "o", color=COLORS["gd"], alpha=0.6, markersize=4)
    axes[-1].axhline(0, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    axes[-1].set_xticks(range(len(dampings)), [f"{damping:g}" for damping in dampings])
    axes[-1].set(xlabel=r"damping per step in units of $\varepsilon$", ylabel="exponent per cycle")
    axes[-1].set_title("Lyapunov exponent")
    return fig


def sharpness(runs, length):
    """Draw the mean sharpness of gradient descent by window, with the values that follow from the block."""
    fig, ax = plt.subplots(figsize=(6.4, 3.3))
    kinds = {
        "gd_sharpness": ("gd", "s", 7, "gradient descent"),
        "sharpness_linear": ("predicted", "o", 4, r"$\lambda_{\max}(\Lambda+\mathcal{T}[v])$"),
        "sharpness_linear_perpendicular": ("generalized", "^", 4, r"$\lambda_{\max}(\Lambda+Y)$"),
        "constrained_sharpness": ("constrained", "_", 8, r"$\theta^\dagger$"),
    }
    for run in runs:
        for part in quantities.windows(run, length):
            for name, (color, sign, size, _) in kinds.items():
                place, mean = (part.start + part.stop) / 2, run[name].values[part].mean() / run.attrs["edge"]
                ax.plot(place, mean, sign, color=COLORS[color], markersize=size, alpha=0.7)
    ax.axhline(1, color=COLORS["edge"], linestyle="--", linewidth=0.8)
    color_key(ax, [(word, color) for color, *_, word in kinds.values()], x=0.3, y=0.94, fontsize=9)
    ax.set(xlabel=AFTER, ylabel=r"mean sharpness $/\,(2/\eta)$", title=f"Above the edge (means of {length} steps)")
    return fig


def distances(run, single):
    """Draw distances from θ† in units of √tr Σ: both flows, gradient descent, and the latter for one direction."""
    fig, ax = plt.subplots(figsize=(6.8, 3.5))
    unit = np.sqrt(run.covariance_trace.where(run.covariance_trace > 0))
    for name, color in (("flow_distance", "flow"), ("distance", "gd"), ("central_distance", "central")):
        if name in run:
            ax.semilogy(run.t, run[name].where(run[name] > 0) / unit, color=COLORS[color], linewidth=1.2)
    common = min(run.sizes["t"], single.sizes["t"])
    away = single.distance[:common].values / unit[:common].values
    ax.semilogy(single.t[:common], away, color=COLORS["single"], linewidth=0.8, alpha=0.8)
    names = [("gradient flow", "flow"), ("gradient descent", "gd"), ("central flow", "central")]
    names.insert(2, (r"gradient descent from $\theta^\dagger$ of one direction", "single"))
    color_key(ax, names, y=0.55, gap=0.075, fontsize=9)
    unit_name = r"distance from $\theta^\dagger$ in $\sqrt{\mathrm{tr}\,\Sigma}$"
    ax.set(xlabel=AFTER, ylabel=unit_name, title="Who takes the same path")
    return fig
