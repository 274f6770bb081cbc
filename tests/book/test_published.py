"""The page against the published code: it shows the last benchmark, and what it says of that is so."""

from __future__ import annotations

import importlib
import json
import pathlib

import pytest

from selfstab.runs import files

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def rendered(monkeypatch, tmp_path):
    """The report that a benchmark's results make."""
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    published = importlib.import_module("published")
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results.json")

    def render(results):
        published.RESULTS.write_text(json.dumps(results))
        context = published.PublishedReport.context(object.__new__(published.PublishedReport))
        template = published.Generated.run.__globals__["TEMPLATES"].get_template("published-report.md.j2")
        return template.render(context)

    return render


def test_the_page_shows_a_benchmark(rendered):
    told, better, later = (dict(zip(("loss", "sharpness", "alpha", "beta", "delta"), row, strict=True)) for row in (
        (1.1e-5, 1.2e-3, 1.3e-2, 1.4e-2, 1.5e-3), (2.1e-7, 2.2e-6, 2.3e-4, 2.4e-4, 2.5e-5),
        (3.1e-5, 3.2e-3, 3.3e-3, 3.4e-3, 3.5e-3),
    ))  # fmt: skip
    common = RESULTS["agreement"] | {"differences": told, "differences_with_quotients": better}
    common |= {"differences_settled": later, "settled_after": 7}
    tracked = RESULTS["tracked_step"] | {"reference_s": 4.0, "eoslib_s": 0.4, "gradient_s": 0.05}
    tracked |= {"reference_float64_s": 6.0, "eoslib_float64_s": 0.8}
    text = rendered(RESULTS | {"agreement": common, "tracked_step": tracked})
    cells = [line.strip() for line in text.splitlines()]
    listed = *told.values(), *better.values(), *later.values(), common["distance_delta"]
    for value in (*listed, common["eoslib_from_exact_delta"]):
        assert f"{value:.1e}" in cells
    assert {"10", "7.5"} <= {*cells}  # the ratios
    assert "The same, after 7 steps" in text
    assert RESULTS["date"] in text


def test_runs_as_published_stand_beside_ours(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    published = importlib.import_module("published")
    context = published.PublishedRuns.context(object.__new__(published.PublishedRuns))
    runs = [run for run in files.recordings() if "-published" in run.attrs["key"]]
    assert len(context["pairs"]) == len(runs) > 0
    for run, (name, rate, titles, rows) in zip(runs, context["pairs"], strict=True):
        assert run.attrs["key"].startswith(f"{name}--eta{rate:g}--")
        told = {cells[0][0]: dict(zip(titles, (value for _, value in cells), strict=True)) for cells in rows}
        assert told["Steps followed from there"]["As published"] == f"{run.sizes['t']:,}"
        assert told["Generalized prediction within $\\delta$ of gradient descent"]["As published"] != "not made"
    template = published.Generated.run.__globals__["TEMPLATES"].get_template("published-runs.md.j2")
    assert f"`{name}`" in template.render(context)
    assert "None of these" in template.render(pairs=[])


def test_a_benchmark_of_before_has_no_numbers_to_show(rendered):
    common = {name: value for name, value in RESULTS["agreement"].items() if not name.startswith("differences")}
    text = rendered(RESULTS | {"agreement": common})
    assert "`make bench` does it" in text
    assert "e-0" not in text


def test_what_the_page_says_of_the_numbers_is_so():
    """The eigenvalue is what is off, not the vector; after a few steps ours is nearer to exact projections."""
    common = RESULTS["agreement"]
    assert common["distance_with_quotients_delta"] < common["distance_delta"] / 3
    assert common["eoslib_from_exact_delta"] < common["reference_from_exact_delta"] / 3
    told, later = common["differences"], common["differences_settled"]
    assert told["sharpness"] == pytest.approx(common["reference_value_off"], rel=0.5)
    assert later["alpha"] < told["alpha"] / 3  # what is left then comes from the eigenvalue
    assert common["differences_with_quotients"]["sharpness"] < told["sharpness"] / 3
