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

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

INTERFACE = ("sharpness", "track", "constrained_gradient_descent")
RINGS = {  # each in the order of the data flow; a module that is not listed follows under its own name
    "eoslib": {
        "objective": "A loss as a function of one flat vector, and its derivatives",
        "eigen": "Leading eigenpairs of a symmetric operator",
        "geometry": "The local geometry at a point",
        "sharpness": "The sharpness of any loss",
        "rules": "Update rules and their edges",
        "stable_set": "The stable set",
        "constrained": "The constrained trajectory",
        "loops": "A loop that JAX lacks",
    },
    "eoslib.trajectories": {
        "descent": "Gradient descent with its sharpness",
        "flow": "Gradient flow",
        "prediction": "The predicted dynamics",
        "approach": "The approach to the edge",
        "assumptions": "Checks of the assumptions",
        "variables": "Recorded variables",
        "state": "All trajectories at one step",
        "track": "Whole tracks",
        "programs": "Compiled programs",
    },
    "selfstab": {
        "settings": "Named experiments",
        "chapters": "Runs of the chapters",
        "networks": "Networks",
        "criteria": "Losses per sample",
        "data": "Data sets",
        "experiment": "Experiments made concrete",
        "theory.reduced": "The reduced dynamics of two coordinates",
        "theory.families": "Random losses",
        "theory.coupling": "The coupling theorem's error",
        "runs.files": "Run files",
        "runs.compute": "Runs computed",
        "runs.quantities": "What is read off a run",
        "page.page": "What a chapter shows and records",
        "source": "The code behind something",
    },
}


class ApiReference(SphinxDirective):
    """Sections of the API page: the public names, then one section per module of the two rings."""

    def run(self) -> list[nodes.Node]:
        present = [
            (f"{package}.{module}", title)
            for package, modules in RINGS.items()
            for module, title in (modules | self.unlisted(package, modules)).items()
        ]
        return [self.interface(), *(self.module(name, title) for name, title in present)]

    def unlisted(self, package: str, modules: dict) -> dict[str, str]:
        """Modules of the library that the table does not name."""
        if package.startswith("selfstab"):
            return {}
        found = pkgutil.iter_modules(importlib.import_module(package).__path__)
        return {module.name: module.name for module in found if module.name not in modules and not module.ispkg}

    def section(self, title: str, identifier: str, *content: nodes.Node) -> nodes.section:
        section = nodes.section("", nodes.title("", title), *content, ids=[nodes.make_id(identifier)])
        self.state.document.note_explicit_target(section, section)
        return section

    def parsed(self, text: str) -> list[nodes.Node]:
        holder = nodes.Element()
        self.state.nested_parse(
            StringList(text.splitlines(), source=self.get_source_info()[0]), self.content_offset, holder
        )
        return holder.children

    def interface(self) -> nodes.section:
        """What a user outside the book imports, each with its first sentence and a link to its entry below."""
        library = importlib.import_module("eoslib")
        public = {name: getattr(library, name) for name in getattr(library, "__all__", ())}
        first = [name for name in INTERFACE if name in public]
        lists = []
        for names in (first, sorted(set(public) - set(first), key=str.lower)):
            entries = nodes.definition_list(classes=["interface"])
            entries += [self.entry(name, public[name]) for name in names if not inspect.ismodule(public[name])]
            lists += [entries] if len(entries) else []
        return self.section("Public names", "public-names", *lists)

    def entry(self, name: str, thing) -> nodes.definition_list_item:
        target = f"{thing.__module__}.{thing.__qualname__}"
        attributes = {"refdomain": "py", "reftype": "obj", "reftarget": target, "refwarn": True}
        link = addnodes.pending_xref("", nodes.literal("", f"eoslib.{name}"), refdoc=self.env.docname, **attributes)
        sentence = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
        found = re.sub(r":\w+:`~?([^`]+)`|``([^`]+)``", r"\1\2", sentence)
        return nodes.definition_list_item(
            "", nodes.term("", "", link), nodes.definition("", nodes.paragraph("", found))
        )

    def module(self, name: str, title: str) -> nodes.section:
        code = f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :no-value:\n```"
        return self.section(title, f"api-{name}", *self.parsed(code))


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


class PlainAttributes:
    """napoleon reads "words: words" of a property or constant as "type: description"; here they stay a sentence."""

    def __init__(self):
        self.kept: dict[str, list[str]] = {}

    def keep(self, app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
        if what in ("attribute", "data", "property"):
            self.kept[name] = list(lines)

    def restore(self, app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
        if name in self.kept:
            lines[:] = self.kept.pop(name)


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
    plain = PlainAttributes()
    app.connect("autodoc-process-docstring", plain.keep, priority=100)  # napoleon's own is 500
    app.connect("autodoc-process-docstring", plain.restore, priority=600)
    app.connect("autodoc-process-docstring", describe_fields, priority=900)
    app.connect("autodoc-process-docstring", escape_bars, priority=950)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_fields)
