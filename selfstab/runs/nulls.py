"""Null models of the predicted dynamics: two numbers instead of a vector, and that map broken on purpose.

Each uses less information than the prediction v*, or wrong information, and starts at the same point.  A claim about
the prediction that one of them also passes is no evidence for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr


class Guess(NamedTuple):
    """The output of a model of two numbers at each step; infinite once it has diverged."""

    x: np.ndarray  # (T,) displacement along u
    y: np.ndarray  # (T,) excess sharpness

    def loss(self, run: xr.Dataset) -> np.ndarray:
        """Return the loss that it predicts, L(θ†) + x²/η (T,)."""
        return run.constrained_loss.values + self.x**2 / run.attrs["learning_rate"]

    def sharpness(self, run: xr.Dataset) -> np.ndarray:
        """Return the sharpness that it predicts, 2/η + y + (∇S·u) x (T,)."""
        said = run.attrs["edge"] + self.y + run.sharpness_slope.values * np.where(np.isfinite(self.x), self.x, 0)
        return np.where(np.isfinite(self.x), said, np.inf)


def reduced_map(run: xr.Dataset, *, frozen: bool = False, force: float = 1.0, mean: float = 1.0) -> Guess:
    """Return the reduced map on the steps of a run, started at its first with the run's own x and y.

        x ← −(1 + ηy) x,    y ← y + η (mean·α − force·β x²/2)

    Args:
        run: Steps of a run.
        frozen: Whether α and β keep their values of the first step, instead of being measured at each.
        force: Factor of the cubic force, 1 in the theory.
        mean: Factor of α, and hence of δ², 1 in the theory.
    """
    eta, x, y = run.attrs["learning_rate"], float(run.x[0]), float(run.y[0])
    alpha, beta = run.alpha.values, run.beta.values
    path = np.full((run.sizes["t"], 2), np.inf)
    for t in range(run.sizes["t"]):
        path[t] = x, y
        a, b = (alpha[0], beta[0]) if frozen else (alpha[t], beta[t])
        x, y = -(1 + eta * y) * x, y + eta * (mean * a - force * b * x**2 / 2)
        if not abs(x) < 1e3 * abs(path[0, 0]):
            break
    return Guess(*path.T)


def broken(run: xr.Dataset) -> dict[str, Guess]:
    """Return the null models of a prediction over the steps of a run, by name."""
    nothing = np.zeros(run.sizes["t"])
    return {
        "no deviation (v* = 0)": Guess(nothing, nothing),
        "two frozen numbers": reduced_map(run, frozen=True),
        "force of the wrong sign": reduced_map(run, force=-1.0),
        "δ² 20 % larger": reduced_map(run, mean=1.2),
        "δ² 20 % smaller": reduced_map(run, mean=0.8),
    }


def tracks_without_dynamics(size, y, draws: int = 200, seed: int = 0) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Return tracks of |x|/δ and y (T,), by name, that look like a run's but lack the relation between the two."""
    random, steps = np.random.default_rng(seed), len(size)

    def shuffled(series):
        """Return a series with the same spectrum and random phases."""
        spectrum = np.fft.rfft(series)
        turned = spectrum * np.exp(2j * np.pi * random.random(len(spectrum)))
        turned[0] = spectrum[0]  # the mean stays
        return np.fft.irfft(turned, steps)

    noise = [(np.abs(random.normal(0, np.sqrt((size**2).mean()), steps)), random.normal(0, y.std(), steps))
             for _ in range(draws)]  # fmt: skip
    return {
        "white noise": noise,
        "shuffled phases": [(shuffled(size), shuffled(y)) for _ in range(draws)],
        "time reversed": [(size[::-1], y[::-1])],
    }
