"""The API reference: every module of the two rings in the order of the data flow, from its docstrings.

The three-line interface comes first.  Fields of a named tuple or dataclass are documented where the code documents
them, in the comment that trails the field.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import re

from generated import Generated
from sphinx.application import Sphinx

INTERFACE = ("sharpness", "track", "constrained_gradient_descent")
#: Each ring in the order of the data flow; a module of the library that is not listed follows by its name.
RINGS = {
    "eoslib": "objective eigen geometry sharpness rules optimizers stable_set constrained loops status",
    "eoslib.trajectories": "descent flow prediction approach assumptions variables state track programs",
    "selfstab": "settings chapters networks criteria data experiment theory.reduced theory.matrix "
    "theory.families theory.coupling theory.orders theory.sampling theory.small_maps theory.tuners theory.ascent "
    "runs.files runs.compute runs.quantities page.page page.draw source",
    "selfstab.figures": "",
}


def modules(package: str) -> list[str]:
    """Return the names of a package's modules: those listed, then the others, but of the companion itself."""
    names = RINGS[package].split()
    found = pkgutil.iter_modules(importlib.import_module(package).__path__ if package != "selfstab" else [])
    return names + [module.name for module in found if module.name not in names and not module.ispkg]


class ApiReference(Generated):
    """Sections of the API page: the public names, then the modules of the two rings."""

    def context(self) -> dict:
        library = importlib.import_module("eoslib")
        public = {name: getattr(library, name) for name in library.__all__}
        rest = sorted(public.keys() - {*INTERFACE}, key=str.lower)
        entries = [[self.entry(name, public[name]) for name in names] for names in (INTERFACE, rest)]
        return {"entries": entries, "rings": {package: modules(package) for package in RINGS}}

    def entry(self, name: str, thing) -> tuple[str, str, str]:
        """Return a public name, where its entry is, and its first sentence as plain text."""
        sentence = (inspect.getdoc(thing) or "").partition("\n\n")[0]
        return (
            f"eoslib.{name}",
            f"{thing.__module__}.{thing.__qualname__}",
            re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", r"\1\2", sentence),
        )


def fields_of(thing: type) -> dict[str, str]:
    """Fields of a named tuple or dataclass, each with its annotation and the comment that trails it in the source."""
    names = getattr(thing, "_fields", None) or getattr(thing, "__dataclass_fields__", None) or ()
    try:
        source = inspect.getsource(thing)
    except (OSError, TypeError):
        return {}
    found = re.findall(r"^    (\w+): ([^#\n]+?)(?:\s*#\s*(.*))?$", source, flags=re.MULTILINE)
    found = {name: (annotation.partition(" = ")[0].strip(), comment) for name, annotation, comment in found}
    return {name: found[name] for name in names if name in found}


def describe_fields(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Append the fields of a record class to its docstring, unless the docstring describes them itself."""
    if what != "class" or any(line.startswith((".. attribute::", ":ivar")) for line in lines):
        return
    fields = fields_of(thing)
    if fields:
        lines.extend(["", *(f":ivar {field}: ``{shape}`` {comment}" for field, (shape, comment) in fields.items()), ""])


def keep_sentences(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """Begin a property with an empty comment: napoleon takes "words: words" at its start for "type: description"."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def shorten_signature(app: Sphinx, what: str, name: str, thing, options, signature, returns):
    """A record's fields are listed in its entry, not a second time in its signature; arrays go by their public name."""
    if what == "class" and fields_of(thing):
        return "", None
    return tuple(text and text.replace("jaxlib._jax.Array", "Array") for text in (signature, returns))


def escape_bars(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """|x| in a docstring is an absolute value, not a reStructuredText substitution."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            lines[number] = "".join(part if part.startswith("``") else part.replace("|", "\\|") for part in parts)


def skip_fields(app: Sphinx, what: str, name: str, thing, skip: bool, options) -> bool | None:
    """Leave out what Python says by itself: "alias for field number 0" and members without a docstring of their own."""
    if (inspect.getdoc(thing) or "").startswith("Alias for field number"):
        return True
    # A plain default value of a dataclass field, or the number of a status, is found by the class.
    if what in ("class", "exception") and not callable(thing) and not isinstance(thing, (property, enum.Enum)):
        return True
    # autodoc would list an undocumented method; here it is an error of the library, found by its own lint.
    return None


def setup(app: Sphinx) -> None:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("api-reference", ApiReference)
    app.connect("autodoc-process-docstring", keep_sentences, priority=100)  # napoleon's own is 500
    app.connect("autodoc-process-docstring", describe_fields, priority=900)
    app.connect("autodoc-process-docstring", escape_bars, priority=950)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_fields)
