"""What the book takes from third parties, out of pinned packages when it is built; none of it is committed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import shutil
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from fontTools.varLib import instancer
from sphinx.errors import ExtensionError

#: File in the vendored folder, package, file in it. Text, its italic, and what surrounds the text; see book.css.
FONTS = (
    ("literata.woff", "fontpkg-literata", "Literata[opsz,wght].ttf"),
    ("literata-italic.woff", "fontpkg-literata", "Literata-Italic[opsz,wght].ttf"),
    ("inter.woff", "fontpkg-inter", "Inter[opsz,wght].ttf"),
)
#: Latin, Greek, super- and subscripts, punctuation, arrows and mathematical signs; other signs are the reader's fonts'.
SIGNS = ((0x20, 0x17F), (0x370, 0x3FF), (0x1D62, 0x1D6A), (0x2010, 0x214F), (0x2190, 0x22FF), (0x2713, 0x2717))
AXES = {"opsz": 14, "wght": (400, 700)}
FEATURES = ["ccmp", "kern", "liga", "locl", "lnum", "mark", "mkmk", "tnum"]
#: Files of uPlot 1.6.31 as its author publishes them, with their SHA-256: any package that carries these bytes will do.
UPLOT = {
    "uplot.iife.min.js": "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2",
    "uplot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def packaged(package: str, name: str) -> Path:
    """Return a file that an installed package carries, of several with that name the one in the last folder.

    Raises:
        ExtensionError: where the package or the file is absent.
    """
    found = []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found = [file for file in importlib.metadata.files(package) or [] if file.name == name]
    if not found:
        raise ExtensionError(f"the package {package} with its {name} is not installed; `make book` installs it")
    return Path(str(max(found, key=lambda file: file.parent.name).locate()))


def take(assets: Path, place: str, package: str, name: str, digest: str = "") -> None:
    """Copy a file of a package to a place under ``vendor``.

    Raises:
        ExtensionError: where it is absent, or its SHA-256 is not the digest given.
    """
    content, target = packaged(package, name).read_bytes(), assets / "vendor" / place / name
    if digest and hashlib.sha256(content).hexdigest() != digest:
        raise ExtensionError(f"the {name} of the installed {package} is not the one of this checksum: {digest}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def take_scripts(assets: Path) -> None:
    """Copy MathJax's one file, vis-network and uPlot."""
    take(assets, "mathjax", "sphinx-mathjax-offline", "tex-svg.js")
    take(assets, "vis-network", "pyvis", "vis-network.min.js")  # folders are named vis-9.0.4, vis-9.1.2
    for name, digest in UPLOT.items():
        take(assets, "uplot", "youplot", name, digest)


def take_fonts(assets: Path) -> None:
    """Cut the fonts down to the signs and weights of a book, a tenth of their size, into ``_assets/vendor/fonts``."""
    folder = assets / "vendor" / "fonts"
    versions = [(package, importlib.metadata.version(package)) for package in ("fonttools", *(row[1] for row in FONTS))]
    recipe, made_by = repr((FONTS, SIGNS, AXES, FEATURES, versions)), folder / "recipe.txt"
    if made_by.is_file() and made_by.read_text(encoding="utf-8") == recipe:
        return
    folder.mkdir(parents=True, exist_ok=True)
    options = subset.Options(hinting=False, notdef_outline=True)
    options.layout_features = FEATURES
    for target, package, name in FONTS:
        font = TTFont(packaged(package, name), recalcTimestamp=False)
        cut = subset.Subsetter(options)
        cut.populate(unicodes=[sign for first, last in SIGNS for sign in range(first, last + 1)])
        cut.subset(font)
        font = instancer.instantiateVariableFont(font, AXES, inplace=True)
        font.flavor = "woff"
        font.save(folder / target)
        shutil.copyfile(packaged(package, "LICENSE"), folder / f"{package}-LICENSE.txt")
    made_by.write_text(recipe, encoding="utf-8")
