"""The page against the published code: it shows the last benchmark, and what it says of that is so."""

from __future__ import annotations

import importlib
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def published(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    return importlib.import_module("published")


def test_the_page_shows_the_benchmark_in_the_repository(published):
    found = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))
    context = published.PublishedReport.context(object.__new__(published.PublishedReport))
    text = published.Generated.run.__globals__["TEMPLATES"].get_template("published-report.md.j2").render(context)
    common, tracked = found["agreement"], found["tracked_step"]
    shown = [common["distance_delta"], common["distance_with_quotients_delta"], *common["differences"].values()]
    for value in shown:
        assert f"{value:.1e}\n" in text
    assert f"{tracked['reference_s'] / tracked['eoslib_s']:.3g}\n" in text
    assert found["date"] in text


def test_what_the_page_says_of_the_numbers_is_so():
    """The eigenvalue is what is off, not the vector; after a few steps ours is nearer to exact projections."""
    common = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))["agreement"]
    assert common["distance_with_quotients_delta"] < common["distance_delta"] / 3
    assert common["eoslib_from_exact_delta"] < common["reference_from_exact_delta"] / 3
    assert common["differences"]["sharpness"] == pytest.approx(common["reference_value_off"], rel=0.5)
    assert common["differences_with_quotients"]["sharpness"] < common["differences"]["sharpness"] / 3
