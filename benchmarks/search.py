"""Where does a network meet the edge with a small ε?  Sizes and learning rates, tried one after another.

``python benchmarks/search.py --name resnet18-cifar10 --samples 200 500 --rates 0.01 0.005`` trains the network of a
setting at paper scale, on the first n images, until S reaches 2/η, and writes there ε = η√α and the second eigenvalue
into ``search.json``, which the book's status page shows.  What the file has of other sizes and rates stays.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
import time

import jax
import jax.numpy as jnp

from eoslib.trajectories.approach import Approach, EdgeStatus
from eoslib.trajectories.track import leading
from selfstab import experiment, settings
from selfstab.runs import provenance

RESULTS = pathlib.Path(__file__).with_name("search.json")


def measure(setting: settings.Setting, seed: int = 0) -> dict:
    """Descend to the edge; return what was met there: ε (NaN where α < 0) and λ₂ over 2/η, absent if it was not."""
    begun = time.perf_counter()
    with jax.default_matmul_precision("highest"):
        prepared = experiment.prepare(setting, seed, devices=1)
        found: Approach = experiment.approach(setting, seed, prepared, progress=False)
        row = {
            "name": setting.name,
            "n": setting.n,
            "learning_rate": setting.learning_rate,
            "status": found.status.name,
        }
        row |= {"step": found.step, "loss": float(found.loss[-1])}
        if found.status == EdgeStatus.REACHED:
            alpha = float(found.checks["alpha"][-1])
            noise = jax.random.normal(jax.random.key(seed + 1), found.eigenvector.shape)
            pairs = leading(prepared.objective, found.theta, jnp.stack([found.eigenvector, noise]))
            row["epsilon"] = setting.learning_rate * math.sqrt(alpha) if alpha >= 0 else math.nan
            row["second"] = float(pairs.values[1]) * setting.learning_rate / 2
    told = provenance.environment()
    row |= {"device": told["device"], "commit": told["commit"], "date": provenance.now()}
    return row | {"seconds": round(time.perf_counter() - begun, 1)}


def merged(old: list[dict], row: dict) -> list[dict]:
    """Return the rows with one added, in place of an older one of the same network, size and rate, in order."""

    def place(entry: dict) -> tuple:
        return entry["name"], entry["n"], -entry["learning_rate"]

    return sorted([entry for entry in old if place(entry) != place(row)] + [row], key=place)


def main(arguments: list[str] | None = None) -> int:
    """Try every size with every rate; ``--help`` lists the options."""
    parser = argparse.ArgumentParser(description="Where a network meets the edge with a small ε.")
    parser.add_argument("--name", required=True, help="a setting, at paper scale unless --scale says otherwise")
    parser.add_argument("--scale", default="paper", choices=settings.SCALES)
    parser.add_argument("--samples", type=int, nargs="+", required=True)
    parser.add_argument("--rates", type=float, nargs="+", required=True)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    for n in chosen.samples:
        for rate in chosen.rates:
            row = measure(settings.get(chosen.name, chosen.scale, n=n, learning_rate=rate, micro_batch=min(n, 100)))
            old = json.loads(chosen.output.read_text(encoding="utf-8")) if chosen.output.exists() else []
            chosen.output.write_text(json.dumps(merged(old, row), indent=1) + "\n", encoding="utf-8")
            print(json.dumps(row), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
