"""What grows with a model: bytes per parameter of each program, products of a cold eigen-solve, bytes of a checkpoint.

``python benchmarks/scaling.py`` writes ``scaling.json``, which the book's page on scaling reads.  The memory is what
the compiler plans for one device: arguments, results, temporaries, and mostly vectors of length p, as samples are few.
Four virtual devices of a CPU stand for four devices.
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import eoslib
from eoslib.constrained import ConstrainedState
from eoslib.objective import Objective
from eoslib.rules import GradientDescent
from eoslib.sharpness import _solve
from eoslib.trajectories import approach
from eoslib.trajectories import state as tracks
from selfstab import experiment, settings
from selfstab.runs import provenance

DEVICES = 4
#: Networks whose cold eigen-solve is counted.
NETWORKS = ("mlp-cifar10", "cnn-cifar10", "transformer-sst2", "resnet18-cifar10")
SAMPLES, INPUTS, HIDDEN = 8, 1000, 4000
RULE, OPTIONS = GradientDescent(0.01), tracks.Options()


def loss(params, batch):
    """A network of four million parameters on eight samples: its vectors are nearly all that its programs hold."""
    return jnp.mean((jnp.tanh(batch[0] @ params["w"]) @ params["v"] - batch[1]) ** 2)


def programs(objective: Objective, theta) -> dict:
    """Every program, with its arguments; θ and all vectors lie where ``theta`` does."""

    def placed(tree):
        """The shapes of a program's results, with vectors of length p where θ is."""
        where = lambda leaf: theta.sharding if leaf.shape[-1:] == theta.shape and leaf.ndim == 1 else None  # noqa: E731
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where(leaf)), tree)

    at = jax.jit(ConstrainedState.at)
    constrained = placed(jax.eval_shape(at, theta, theta))
    state, _ = placed(jax.eval_shape(lambda *a: tracks.start(*a, options=OPTIONS), objective, RULE, theta, theta[None]))
    return {
        "gradient": (jax.jit(Objective.value_and_grad), (objective, theta)),
        "hvp": (jax.jit(Objective.hvp), (objective, theta, theta)),
        "cubic": (jax.jit(Objective.cubic), (objective, theta, theta)),
        "sharpness": (_solve, (objective, theta, theta, 3e-4, 1000)),
        "approach": (approach._measure, (objective, RULE, (theta, ()), theta[None], 3e-3)),
        "constrained step": (jax.jit(eoslib.constrained_step), (objective, RULE, constrained)),
        "tracked chunk": (tracks._steps, (objective, RULE, state, state.flow, OPTIONS.chunk, OPTIONS)),
    }


def bytes_of(program, arguments) -> int:
    """Bytes that one device holds while a program runs."""
    found = program.lower(*arguments).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return held - found.alias_size_in_bytes


def memory() -> dict:
    """Bytes per parameter and device of each program: on one device; on four; on four with the vectors spread."""
    params = {"w": jnp.zeros((INPUTS, HIDDEN)), "v": jnp.zeros((HIDDEN,))}
    batch = jnp.ones((SAMPLES, INPUTS)), jnp.ones(SAMPLES)
    mesh = jax.make_mesh((DEVICES,), ("batch",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("batch"))
    cases = {"one device": (batch, None), "samples spread": (jax.device_put(batch, spread), None)}
    cases["samples and vectors spread"] = cases["samples spread"][0], spread
    found = {}
    for case, (samples, where) in cases.items():
        objective = Objective.create(loss, params, samples)
        theta = objective.ravel(params)
        theta = theta if where is None else jax.device_put(theta, where)
        found[case] = {}
        for name, (program, arguments) in programs(objective, theta).items():
            try:
                found[case][name] = round(bytes_of(program, arguments) / objective.size, 1)
            except Exception as error:
                found[case][name] = None
                print(f"{case}, {name}: {error}"[:300], file=sys.stderr)
        state, _ = jax.eval_shape(lambda *a: tracks.start(*a, options=OPTIONS), objective, RULE, theta, theta[None])
    # A checkpoint holds the state, and θ and u of the approach.
    leaves = jax.tree.leaves((state, eoslib.position.Position.of(theta), theta))
    checkpoint = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / objective.size
    return {"parameters": objective.size, "bytes": found, "checkpoint_bytes": round(checkpoint, 1)}


def cold() -> dict[str, int]:
    """Hessian-vector products of the sharpness at the start, from a random vector, to a residual of 1e-3."""
    found = {}
    for name in NETWORKS:
        prepared = experiment.prepare(settings.get(name, "test"))
        objective = prepared.objective
        start = jax.random.normal(jax.random.key(0), (objective.size,), objective.dtype)
        found[name] = int(_solve(objective, prepared.theta, start, 1e-3, 1000)[3])
    return found


def rounded_products() -> dict[str, float]:
    """Relative error of S in float32, with products as they are and with their factors rounded to ten bits.

    Rounded like this, as tensor cores do by default, products are emulated: no GPU is needed.  S is that of a small
    network in float64.
    """
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (200, 20), (200, 1), (20, 50), (50, 1)
    with jax.enable_x64(True):
        x, y, w, v = (jax.random.normal(key, shape, "float64") for key, shape in zip(keys, shapes, strict=True))

        def found(dtype, bits=None):
            def product(a, b):
                a, b = (c if bits is None else jax.lax.reduce_precision(c, 8, bits) for c in (a, b))
                return a @ b

            def loss(p, batch):
                return jnp.mean((product(jnp.tanh(product(batch[0], p["w"])), p["v"]) - batch[1]) ** 2)

            given = jax.tree.map(lambda a: a.astype(dtype), ({"w": w / 5, "v": v}, (x, y)))
            return float(eoslib.sharpness(loss, *given, tolerance=1e-3).value)

        exact = found("float64")
        return {name: abs(found("float32", bits) / exact - 1) for name, bits in (("float32", None), ("rounded", 10))}


def main() -> None:
    """Measure, and write the file beside this one."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    machine = provenance.environment()
    found = {
        "devices": DEVICES,
        **memory(),
        "cold_products": cold(),
        "sharpness_error": rounded_products(),
        "date": provenance.now(),
    }
    found |= {name: machine[name] for name in ("device", "versions", "commit")}
    target = pathlib.Path(__file__).with_suffix(".json")
    target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(target.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
