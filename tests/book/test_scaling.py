"""The page on scaling: its numbers come from the measurements and the assumptions that it names, and follow both."""

from __future__ import annotations

import json
import shutil

import pytest

from selfstab.runs import files

EXTENSIONS = "book/_ext"


@pytest.fixture
def report(monkeypatch, tmp_path):
    """The directive on a copy of the measurements: (module, folder of the copy, its context as a function)."""
    import importlib
    import pathlib

    root = pathlib.Path(__file__).resolve().parents[2]
    monkeypatch.syspath_prepend(str(root / EXTENSIONS))
    scaling = importlib.import_module("scaling")
    for name in ("scaling.json", "results.json"):
        shutil.copy(root / "benchmarks" / name, tmp_path / name)
    monkeypatch.setattr(scaling, "BENCHMARKS", tmp_path)
    return scaling, tmp_path, lambda: scaling.ScalingReport.context(object.__new__(scaling.ScalingReport))


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_examples_follow_from_what_was_measured_and_what_is_assumed(report, monkeypatch):
    scaling, folder, context = report
    change(
        folder / "scaling.json",
        bytes={"one device": {"tracked chunk": 300.0}, "samples spread": {"tracked chunk": 200.0}},
        cold_products={"a": 30, "b": 10},
        checkpoint_bytes=100.0,
    )
    change(folder / "results.json", hvp_gradients=2.0, tracked_step_gradients=5.0)
    monkeypatch.setattr(scaling, "MACHINE", scaling.Machine(devices=10, operations=1e12, memory=40e9, disk=1e9))
    monkeypatch.setattr(scaling, "CASES", (scaling.Case("a model", "data", 2e8, 4e13),))
    found = context()
    # 4e13 operations on 10 × 1e12 a second: 4 s; 10 and 30 products of 2 gradients; 1,000 steps of 1 and 5 gradients.
    words = [scaling.duration(seconds) for seconds in (4, 80, 240, 4000, 20_000)]
    assert found["examples"] == [
        ["a model", "data", "40 GB (too much)", words[0], f"{words[1]} to {words[2]}", *words[3:],
         f"20 GB, every {scaling.duration(20 / found['saving'])}"]
    ]  # fmt: skip
    assert found["largest"] == 200


def test_the_page_shows_the_measurements_in_the_repository(report):
    scaling, folder, context = report
    measured, costs = (json.loads((folder / f"{name}.json").read_text()) for name in ("scaling", "results"))
    text = scaling.Generated.run.__globals__["TEMPLATES"].get_template("scaling-report.md.j2").render(context())
    for program, value in measured["bytes"]["samples spread"].items():
        assert f"* - {program}\n" in text
        assert f"{value:g}\n" in text
    assert f"{costs['tracked_step_gradients']:.2g}" in text
    assert "None" not in text
    assert text.count("ResNet-50") == 2


def test_runs_of_a_gpu_are_listed(report):
    scaling, _, context = report
    told = {"NVIDIA A100": True, "AMD EPYC": False, "AMD Instinct MI300": True, "NVIDIA A100, then AMD EPYC": False}
    assert {name: scaling.on_gpu(name) for name in told} == told
    recorded = {run.attrs["device"] for run in files.recordings(seed=None) if scaling.on_gpu(run.attrs["device"])}
    assert {row[-1] for row in context()["accelerated"]} == recorded
    assert recorded
