"""Batches spread over devices: wherever the parameters are, the numbers are those of one device, and the work is split.

Devices are forced when JAX starts, so everything is computed by this file run as a program, once.
"""

import contextlib
import functools
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

DEVICES, SAMPLES, RATE, STEPS = 4, 40, 0.16, 4
KINDS, PLACES = ("auto", "explicit"), ("uncommitted", "one device", "replicated")
CALLS = (
    "sharpness", "sharpness_start", "local_geometry", "project", "hvp", "constrained_step", "find_instability", "track",
)  # fmt: skip
MORE = ("optax", "descent", "restored")
#: Parameters on another device than an uncommitted batch, or both on one each.
SINGLE = {"params": ("sharpness", "find_instability", "track"), "batch": ("sharpness", "find_instability")}
#: Axes of the mesh, where the parameters are, micro-batch (of the ten samples of a device three are in a piece of 13,
#: and one is left over), and what is computed.
CASES = [(kind, place, None, CALLS + MORE * (kind == "auto")) for kind in KINDS for place in PLACES]
CASES += [(kind, "one device", 13, ("sharpness", "project", "hvp")) for kind in KINDS]
#: float32's eps is 1.2e-7: sums over 40 samples in another order, which the steps of gradient descent amplify.
ROUNDING = 2e-5


def compute() -> dict:
    """Every call of the library's on every placement; what fails is recorded as its error."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import eoslib
    from eoslib.constrained import ConstrainedState
    from eoslib.objective import Objective
    from eoslib.trajectories.descent import follow

    generator = np.random.default_rng(0)

    def data(samples, inputs, hidden):
        shapes = (samples, inputs), (samples, 3), (inputs, hidden), (hidden, 3)
        x, y, w, v = (generator.normal(size=shape).astype(np.float32) for shape in shapes)
        return (x, y), {"w": w * 2 / inputs**0.5, "v": v * 2 / hidden**0.5}

    def loss(params, batch):
        return 3 * jnp.mean((jnp.tanh(batch[0] @ params["w"]) @ params["v"] - batch[1]) ** 2)

    def mesh(kind):
        return jax.make_mesh((DEVICES,), ("batch",), axis_types=(getattr(AxisType, kind.capitalize()),))

    def spread(batch, kind):
        return jax.device_put(batch, NamedSharding(mesh(kind), PartitionSpec("batch")))

    def placed(tree, place, kind):
        where = {"one device": jax.devices()[0], "replicated": NamedSharding(mesh(kind), PartitionSpec())}
        return jax.device_put(tree, where[place]) if place in where else jax.tree.map(jnp.asarray, tree)

    def attempt(call):
        try:
            return call()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def calls(batch, params, *, m=None, kind="none", put=jnp.asarray, names=CALLS + MORE):
        objective = Objective.create(loss, params, batch, micro_batch=m)
        options = eoslib.Options(chunk=2, kick=0.1, strided=2 * (kind != "explicit"))
        theta, ones = objective.ravel(params), put(np.ones(objective.size, np.float32))

        def sharpness(**more):
            return float(eoslib.sharpness(loss, params, batch, micro_batch=m, tolerance=1e-4, **more).value)

        def hvp():  # not jitted
            with jax.set_mesh(mesh(kind)) if kind == "explicit" else contextlib.nullcontext():
                return float(jnp.linalg.norm(objective.hvp(theta, ones)))

        def constrained_step():
            state = ConstrainedState.at(put(np.asarray(theta)), ones)
            following, record = eoslib.constrained_step(objective, RATE, state)
            return [float(record.geometry.sharpness), float(jnp.linalg.norm(following.theta - theta))]

        def optax():
            transform = eoslib.constrained_gradient_descent(RATE)
            updates, state = transform.update(params, transform.init(params), params, loss_fn=loss, batch=batch)
            return [float(jnp.linalg.norm(updates["w"])), float(state.sharpness)]

        def descent():
            return np.asarray(follow(objective, put(np.asarray(theta)), ones, np.full(2, RATE)).sharpness).tolist()

        def approach():
            return eoslib.find_instability(objective, theta, RATE, max_steps=300, progress=False)

        def summary(track):
            names = "gd_loss", "constrained_loss", "constrained_sharpness", "flow_loss", "gd_sharpness"
            return [float(track[name][-1]) for name in names]

        def track():
            tracked = {"edge_steps": 300, "micro_batch": m, "steps": STEPS, "options": options, "progress": False}
            return summary(eoslib.track(loss, params, batch, learning_rate=RATE, **tracked))

        def restored():
            """From the first checkpoint, whose arrays come back on one device, as those of the approach do."""
            found, kept = approach(), []
            where = jax.device_put((found.theta, found.eigenvector), jax.devices()[0])
            if kind == "none":
                where = found.theta, found.eigenvector
            tracked = {"steps": STEPS, "options": options, "progress": False}
            eoslib.track_from(objective, *where, RATE, save=lambda *last: kept.append(pickle.dumps(last)), **tracked)
            state, records = pickle.loads(kept[0])
            state = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), state)
            track = eoslib.track_from(objective, *where, RATE, restore=lambda _: (state, records), **tracked)
            return [*summary(track), float(track["eigenvalues"][-1, 0])]

        table = {
            "sharpness": sharpness, "sharpness_start": lambda: sharpness(start=params),
            "local_geometry": lambda: float(eoslib.local_geometry(objective, put(np.asarray(theta)), ones).sharpness),
            "project": lambda: float(eoslib.project(objective, put(np.asarray(theta)), ones, 0.2).geometry.loss),
            "hvp": hvp, "constrained_step": constrained_step, "optax": optax, "descent": descent,
            "find_instability": lambda: approach().step, "track": track, "restored": restored,
        }  # fmt: skip
        return {name: attempt(table[name]) for name in names}

    batch, params = data(SAMPLES, 6, 16)
    jax.config.update("jax_disable_most_optimizations", True)  # what takes the time is to compile
    found = {"plain": calls(batch, params)}
    for kind, place, m, names in CASES:
        arguments = spread(batch, kind), placed(params, place, kind)
        options = {"m": m, "kind": kind, "put": functools.partial(placed, place=place, kind=kind), "names": names}
        found[f"{kind} {place} {m}"] = attempt(lambda a=arguments, o=options: calls(*a, **o))
    # Parameters and batch on one device each, of which only what is committed says where.
    first, second = jax.devices()[1:3]
    found["params"] = calls(batch, jax.device_put(params, first), names=SINGLE["params"])
    found["batch"] = calls(jax.device_put(batch, second), jax.device_put(params, first), names=SINGLE["batch"])
    jax.config.update("jax_disable_most_optimizations", False)

    large, parameters = data(2000, 100, 100)

    def work(kind, m):
        """The work of one device and what its devices exchange, from the compiled program."""
        objective = Objective.create(loss, parameters, large if kind == "none" else spread(large, kind), micro_batch=m)
        theta = objective.ravel(parameters)
        program = jax.jit(Objective.cubic).lower(objective, theta, theta).compile()
        moved = [name for name in ("all-gather", "all-to-all", "collective-permute") if name in program.as_text()]
        return program.cost_analysis()["flops"], moved

    works = {f"{kind} {m}": attempt(functools.partial(work, kind, m)) for kind in ("none", *KINDS) for m in (None, 500)}

    def transposed(params, batch):
        return jnp.sum((batch[0].T @ (batch[0] @ params["w"])) ** 2) / len(batch[0]) ** 2

    refused = attempt(lambda: eoslib.sharpness(transposed, params, spread(batch, "explicit")).value)
    broken = attempt(lambda: eoslib.sharpness(lambda p, b: p["absent"], params, spread(batch, "auto")).value)
    return {"found": found, "work": works, "refused": refused, "broken": broken}


@pytest.fixture(scope="module")
def computed(compiled):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    told = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1])


WANTED = [(f"{kind} {place} {m}", call) for kind, place, m, names in CASES for call in names]
WANTED += [(case, call) for case, names in SINGLE.items() for call in names]


@pytest.mark.parametrize(("case", "call"), WANTED)
def test_results_are_those_of_one_device(computed, case, call):
    found = computed["found"][case]
    assert not isinstance(found, str), found
    assert not isinstance(found[call], str), found[call]
    np.testing.assert_allclose(found[call], computed["found"]["plain"][call], rtol=ROUNDING)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [None, 500])
def test_micro_batches_split_the_work_and_move_no_sample(computed, kind, m):
    (alone, _), found = computed["work"][f"none {m}"], computed["work"][f"{kind} {m}"]
    assert not isinstance(found, str), found
    each, moved = found
    assert not moved
    # Beside the samples' share there are vectors of length p to add up: 3 % of the work at 50 samples a device.
    assert 1 / DEVICES <= each / alone < 1.05 / DEVICES


def test_a_loss_that_explicit_axes_do_not_suit_is_told_of_auto_axes(computed):
    assert computed["refused"].startswith("ValueError: loss_fn must suit a batch over explicit mesh axes: axes of ")
    assert "AxisType.Auto" in computed["refused"]
    assert "Contracting dimensions are sharded" in computed["refused"]


def test_other_errors_of_a_loss_stay_as_they_are(computed):
    assert computed["broken"] == "KeyError: 'absent'"


if __name__ == "__main__":
    print(json.dumps(compute()))
