"""Scripts and fonts of third parties: taken out of pinned packages, by checksum where nobody keeps the package."""

import importlib
from pathlib import Path

import pytest
from sphinx.errors import ExtensionError


@pytest.fixture
def vendored(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "book" / "_ext"))
    return importlib.import_module("vendored")


def test_scripts_are_taken_and_uplot_only_by_its_checksum(vendored, tmp_path, monkeypatch):
    vendored.take_scripts(tmp_path)
    taken = {str(path.relative_to(tmp_path / "vendor")) for path in (tmp_path / "vendor").rglob("*.*")}
    uplot = {"uplot/uplot.iife.min.js", "uplot/uplot.min.css"}
    assert taken == uplot | {"mathjax/tex-svg.js", "vis-network/vis-network.min.js"}
    monkeypatch.setitem(vendored.UPLOT, "uplot.min.css", "0" * 64)
    with pytest.raises(ExtensionError, match="checksum"):
        vendored.take_scripts(tmp_path)


def test_an_absent_package_is_named(vendored):
    with pytest.raises(ExtensionError, match=r"the package no-such-package with its x\.js is not installed"):
        vendored.packaged("no-such-package", "x.js")
