"""Runs on several devices and in several processes: the file of one device to rounding; one process alone writes."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import xarray as xr
from jax.extend.core import jaxprs_in_params

import eoslib
from eoslib.rules import GradientDescent
from selfstab import experiment, settings
from selfstab.runs import compute, files

#: Few samples and a large step: the edge within 30 steps, so that the time goes into compiling.
ASKED = {"n": 40, "learning_rate": 0.06, "tracked_steps": 4}
#: float32's eps is 1.2e-7; sums over samples in another order, amplified by the steps to the edge.
ROUNDING = 1e-4


def started(results: pathlib.Path, *options: str, devices: int = 1) -> subprocess.Popen:
    """``python -m selfstab.runs`` with so many virtual devices."""
    words = [word for field, value in ASKED.items() for word in (f"--{field.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "selfstab.runs", "--name", "mlp-cats-dogs", "--scale", "test", *words, *options]
    flags = f"--xla_cpu_use_fusion_emitters=false --xla_force_host_platform_device_count={devices}"
    known = {"EOSLIB_RESULTS": str(results), "XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    known |= {"JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    return subprocess.Popen(command, env=os.environ | known, stderr=subprocess.PIPE, text=True)


def finished(*processes: subprocess.Popen) -> list[str]:
    said = [process.communicate(timeout=600)[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(said)
    return said


def the_file(results: pathlib.Path) -> xr.Dataset:
    (file,) = results.glob("*/*.nc")
    assert not list(results.glob("checkpoints/*/*.npz"))
    return files.load(file)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, compiled):
    results = tmp_path_factory.mktemp("alone")
    finished(started(results))
    return the_file(results)


def same(run: xr.Dataset, other: xr.Dataset) -> None:
    assert run.attrs["status"] == other.attrs["status"]
    assert run.attrs["instability_step"] == other.attrs["instability_step"]
    assert set(run.variables) == set(other.variables)
    for name in ("approach_loss", "gd_loss", "gd_sharpness", "constrained_loss", "constrained_sharpness", "flow_loss"):
        np.testing.assert_allclose(run[name], other[name], rtol=ROUNDING, err_msg=name)


def test_four_devices_write_the_run_of_one(alone, tmp_path):
    finished(started(tmp_path, "--devices", "4", devices=4))
    run = the_file(tmp_path)
    same(run, alone)
    assert (alone.attrs["devices"], run.attrs["devices"], run.attrs["processes"]) == (1, 4, 1)


def test_two_processes_write_the_run_of_one_once(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [started(tmp_path, "--distributed", address, "2", str(k), devices=2) for k in range(2)]
    said = finished(*pair)
    run = the_file(tmp_path)
    same(run, alone)
    assert (run.attrs["devices"], run.attrs["processes"]) == (4, 2)
    assert all("reached" in each for each in said)


@pytest.mark.parametrize(
    ("devices", "words"),
    [(0, "must lie in 1..1"), (2, "must lie in 1..1"), (None, None), (1, None)],
)
def test_devices_are_those_that_there_are(devices, words):
    batch = np.zeros((6, 2)), np.zeros(6)
    if words:
        with pytest.raises(ValueError, match=f"{words}.* got {devices}"):
            experiment.spread(batch, devices)
    else:
        assert experiment.spread(batch, devices) is batch


def test_devices_must_divide_the_samples(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="devices must divide the n=6 samples, got 4"):
        experiment.spread((np.zeros((6, 2)),), 4)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="devices must be all 4 of the 2 processes, got 3"):
        experiment.spread((np.zeros((6, 2)),))


# --- precision of matrix products -------------------------------------------------------------------------------------


def products(jaxpr) -> list:
    """The precision of each matrix product and convolution in a program, and in those inside it."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found.append(equation.params["precision"])
        for inner in jaxprs_in_params(equation.params):
            found += products(inner)
    return found


def test_every_product_of_a_run_is_in_full_precision(tmp_path, monkeypatch):
    """What a GPU would round to ten bits: found in the programs, since a CPU computes the same either way."""
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    seen = []

    def approach(setting, seed, prepared, **_):
        for call in (eoslib.Objective.hvp, eoslib.Objective.cubic):
            seen.extend(products(jax.make_jaxpr(call)(prepared.objective, prepared.theta, prepared.theta).jaxpr))
        step = eoslib.constrained_step
        state = eoslib.constrained.ConstrainedState.at(prepared.theta, prepared.theta)
        seen.extend(
            products(jax.make_jaxpr(lambda o, s: step(o, GradientDescent(0.1), s))(prepared.objective, state).jaxpr)
        )
        raise InterruptedError

    monkeypatch.setattr(experiment, "approach", approach)
    with pytest.raises(InterruptedError):
        compute.compute(settings.get("cnn-cifar10", "test"), progress=False)
    assert len(seen) > 20
    assert {str(precision) for precision in seen} == {"(Precision.HIGHEST, Precision.HIGHEST)"}


def test_sharpness_to_one_part_in_1e5_needs_it():
    """Products whose factors have ten bits, as the tensor cores of GPUs round them by default, miss that."""
    batch, params = oracles.mlp_batch(), oracles.mlp_params()

    def product(a, b, bits):
        round_to = lambda c: c if bits is None else jax.lax.reduce_precision(c, 8, bits)  # noqa: E731
        return round_to(a) @ round_to(b)

    def sharpness(dtype, bits=None):
        (x, y), weights = jax.tree.map(lambda a: a.astype(dtype), (batch, params))

        def loss(p):
            hidden = jnp.tanh(product(x, p["hidden"]["kernel"], bits) + p["hidden"]["bias"][None])
            return jnp.mean((product(hidden, p["out"]["kernel"], bits)[:, 0] + p["out"]["bias"] - y) ** 2)

        return float(eoslib.sharpness(loss, weights, tolerance=1e-3).value)  # S is then right to its square

    exact = sharpness(jnp.float64)
    np.testing.assert_allclose(exact, float(eoslib.sharpness(oracles.mlp_loss, params, batch).value), rtol=1e-5)
    assert abs(sharpness(jnp.float32) / exact - 1) < 1e-5
    assert 2e-5 < abs(sharpness(jnp.float32, bits=10) / exact - 1) < 1e-2
