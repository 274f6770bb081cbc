"""Run files: schema, digests, reasons to compute again; and the records that notebooks make."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from eoslib import reporting, results, settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("EOSLIB_RESULTS", str(tmp_path))
    return tmp_path


def small(setting, seed):
    data = xr.Dataset({name: ("n", np.arange(3.0)) for name in results.REQUIRED_VARIABLES})
    known = {"setting_digest": setting.digest(), "library_digest": results.library_digest(), "scale": setting.scale}
    return data.assign_attrs(dict.fromkeys(results.REQUIRED_ATTRIBUTES, "?") | known)


def test_a_run_file_serves_until_setting_or_code_changes(home, monkeypatch):
    setting = settings.get("mlp-cats-dogs", "test")
    assert results.stale(setting, 0) == "there is no file yet"
    results.write(small(setting, 0), results.path(setting, 0))
    assert results.stale(setting, 0) is None
    assert results.stale(setting, 1) == "there is no file yet"
    other = settings.get("mlp-cats-dogs", "test", tracked_steps=51)
    assert results.stale(other, 0) == "its setting changed"
    monkeypatch.setattr(results, "library_digest", lambda: "other")
    assert results.stale(setting, 0) == "the numerical code changed"
    assert [file.name for file in (home / "test").iterdir()] == [results.path(setting, 0).name]  # nothing half-written


def test_a_broken_file_is_named(home):
    setting = settings.get("mlp-cats-dogs", "test")
    file = results.path(setting, 0)
    with pytest.raises(FileNotFoundError, match="make figures"):
        results.load(file)
    file.parent.mkdir()
    file.write_bytes(b"nothing")
    with pytest.raises(results.SchemaError, match=rf"{file.name}.* not a readable netCDF file"):
        results.load(file)
    lacking = small(setting, 0)
    del lacking.attrs["device"]
    results.write(lacking, file)
    with pytest.raises(results.SchemaError, match=rf"{file.name} lacks the attribute device"):
        results.load(file)
    results.write(small(setting, 0).drop_vars("check_alpha"), file)
    with pytest.raises(results.SchemaError, match=rf"{file.name} lacks the variable check_alpha"):
        results.load(file)


@pytest.mark.parametrize(
    ("relation", "measured", "expected"),
    [
        ("equals", 1.1, "holds"),
        ("equals", 1.3, "does not hold"),
        ("equals", float("nan"), "does not hold"),
        ("at most", -5.0, "holds"),
        ("at most", 1.3, "does not hold"),
        ("at least", 0.9, "holds"),
        ("at least", 0.7, "does not hold"),
    ],
)
def test_verdict(relation, measured, expected):
    assert reporting.verdict(relation, 1.0, measured, 0.2) == expected


def test_verdict_wants_sense():
    with pytest.raises(ValueError, match="relation must be one of"):
        reporting.verdict("about", 1.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="tolerance must be finite"):
        reporting.verdict("equals", 1.0, 1.0, float("inf"))


def test_a_page_records_what_it_shows(home):
    page = reporting.Page("01_x", scale="test", seed=3)
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    page.figure(
        fig, "line", caption="One line that rises from left to right.", alt="A line that rises from left to right."
    )
    told = dict(quantity="q", predicted=1.0, measured=float("nan"), tolerance=0.1, reason="r")
    page.claim("one", "It rises.", **told)
    with pytest.raises(ValueError, match="claim id 'one' is already used"):
        page.claim("one", "It rises.", **told)
    with pytest.raises(ValueError, match="needs a caption and an alt text"):
        page.figure(plt.figure(), "short", caption="no", alt="x.png")
    page.close()
    claims, figures = reporting.collect("test")
    assert claims[0]["verdict"] == "does not hold"
    assert claims[0]["measured"] is None
    assert (home / "test" / figures[0]["svg"]).exists()
    assert json.loads((home / "test" / "claims.json").read_text()) == claims
    other = reporting.Page("02_x", scale="test")
    other.claim("one", "It rises.", **told)
    other.close()
    with pytest.raises(ValueError, match="ids used by two notebooks: one"):
        reporting.collect("test")
    plt.close("all")


def test_record_schema_is_checked():
    with pytest.raises(ValueError, match=r"01_x: claims 'a' lacks notebook"):
        reporting.check_record({"notebook": "01_x", "claims": [{"id": "a"}], "figures": []})
