"""The table of variables: a track records exactly it, files carry it, and every number has one home in the code."""

import importlib
import json
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import xarray as xr

from eoslib.trajectories import variables
from eoslib.trajectories.approach import Approach, EdgeStatus
from eoslib.trajectories.state import Options
from eoslib.trajectories.track import run
from eoslib.trajectories.variables import VARIABLES
from selfstab.runs import files

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole(network, edge, tracked):
    """A track that records everything, its approach too: the shared one, resumed at its end."""
    data, states = tracked
    records = {
        name: [series.values] if series.dims == ("t",) else [*map(np.asarray, series.values)]
        for name, series in data.data_vars.items()
    }
    checks = {name: np.ones(1) for name in ("step", "sharpness", "alpha", "gradient_norm")}
    return run(
        network[0], edge[0], oracles.RATE, steps=oracles.STEPS, edge_steps=1, options=Options(**oracles.OPTIONS),
        progress=False, approach=Approach(*edge, 0, EdgeStatus.AT_START, np.ones(1), checks),
        restore=lambda start: ((states[-1], start[1]), records),
    )  # fmt: skip


@pytest.fixture(scope="module")
def read(whole, tmp_path_factory):
    """The same from a file."""
    file = tmp_path_factory.mktemp("run") / "run.nc"
    files.write(whole, file)
    with xr.open_dataset(file, engine="h5netcdf") as data:
        return data.load()


#: What several directions add, which a track of one does not have.
SEVERAL = {
    row.name
    for row in VARIABLES
    if row.place.removeprefix("norm of ").startswith(("block.", "central.")) or "direction" in row.dims
}


def test_a_track_records_exactly_the_table(whole, tracked):
    assert list(dict.fromkeys(row.name for row in VARIABLES)) == [row.name for row in VARIABLES]  # no name twice
    assert set(whole.data_vars) == {row.name for row in VARIABLES} - SEVERAL
    before = {row.name for row in VARIABLES if row.dims in (("approach_step",), ("check",))}
    xr.testing.assert_equal(whole[list(tracked[0].data_vars)], tracked[0])
    assert set(tracked[0].data_vars) == {row.name for row in VARIABLES} - SEVERAL - before
    assert set(whole.coords) == {"approach_step", "t", "interval", "stride"}


def test_dimensions_and_descriptions_survive_the_file(read):
    for row in VARIABLES:
        if row.name in SEVERAL:
            continue
        attributes = read[row.name].attrs
        assert read[row.name].dims == row.dims, row
        assert (attributes["long_name"], attributes["units"]) == (row.long_name, row.units), row
        assert attributes["long_name"], row
        assert attributes["units"], row
        assert attributes.get("symbol", "") == row.symbol
        assert attributes["source"] == row.source
        assert np.isfinite(read[row.name]).all(), row


def test_every_source_is_in_the_library():
    """A function, a class's member or a property, by its path below eoslib."""
    for row in VARIABLES:
        parts, place = row.source.split("."), "eoslib"
        while (ROOT / place.replace(".", "/") / parts[0]).is_dir():
            place = f"{place}.{parts.pop(0)}"
        found = importlib.import_module(f"{place}.{parts.pop(0)}")
        assert parts, row
        for part in parts:
            found = getattr(found, part)
        assert callable(found) or hasattr(found, "__get__"), row


def test_a_description_is_found_by_its_name():
    assert [variables.get(row.name) for row in VARIABLES] == list(VARIABLES)


def test_an_unknown_name_is_answered_with_the_known():
    with pytest.raises(ValueError, match=r"unknown variable 'sharpnes'; known: .*gd_sharpness") as error:
        variables.get("sharpnes")
    assert all(row.name in str(error.value) for row in VARIABLES)


def test_what_is_not_in_the_table_is_left_alone():
    data = variables.describe(xr.Dataset({"mine": ("t", np.ones(3)), "x": ("t", np.ones(3))}))
    assert data.mine.attrs == {}
    assert data.x.attrs["units"] == "length"


def test_values_come_in_the_precision_of_the_positions(tracked):
    data, states = tracked
    assert states[0].descent.theta.dtype == jnp.float64
    assert {data[row.name].dtype for row in VARIABLES if row.name in data} == {np.dtype("float64")}


# --- one home for each number -----------------------------------------------------------------------------------------


def code_of(folder):
    """(file, code) of a folder's modules, or of its notebooks."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        yield file.relative_to(ROOT).as_posix(), file.read_text()
    for file in sorted((ROOT / folder).glob("*.ipynb")):
        cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
        yield file.relative_to(ROOT).as_posix(), "\n".join("".join(cell["source"]) for cell in cells)


RATE = r"(?:\w+\.)*(?:learning_rate|eta|rate)\b"
ALPHA, BETA = r"(?:\w+\.)*alpha\b", r"(?:\w+\.)*beta\b"


@pytest.mark.parametrize(
    ("pattern", "home", "example", "other"),
    [
        (rf"(?<![\w.*])(?<!\*\* )(?:2|2\.0|1\.9) / {RATE}", "eoslib/rules.py", "2 / rule.learning_rate", "x**2 / eta"),
        (rf"(?<![\w.*])2 \* {ALPHA} / {BETA}", "eoslib/geometry.py", "jnp.sqrt(2 * g.alpha / g.beta)", "alpha / beta"),
        (
            rf"{RATE} \* (?:\w+\.)*sqrt\({ALPHA}\)|{RATE} \* (?:\w+\.)*root\({ALPHA}\)|{RATE} \* {ALPHA} ?\*\* ?0?\.5",
            "eoslib/geometry.py",
            "eta * np.sqrt(part.alpha)",
            "part.y / np.sqrt(part.alpha)",
        ),
    ],
    ids=["the edge", "the radius", "epsilon"],
)
def test_one_definition(pattern, home, example, other):
    """2/η, δ² = 2α/β and ε = η√α are written once; everything else asks there."""
    assert re.search(pattern, example)
    assert not re.search(pattern, other)
    folders = ("eoslib", "selfstab", "book/_ext", "workflow", "notebooks")
    found = [
        (file, match) for folder in folders for file, code in code_of(folder) for match in re.findall(pattern, code)
    ]
    assert [file for file, _ in found] == [home], found
