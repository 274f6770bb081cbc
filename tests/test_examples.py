"""The examples in docstrings hold, in every module of both packages."""

import doctest
import importlib
import pathlib

import jax
import pytest

from selfstab import source

MODULES = sorted(
    str(file.relative_to(source.ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for package in source.PACKAGES
    for file in (source.ROOT / package).rglob("*.py")
    if file.name != "__main__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_hold(name):
    """As a user runs them: in JAX's own precision and without the tests' strictness."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    tests = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(tests) > 15
    assert pathlib.Path(tests[0].filename).is_relative_to(source.ROOT)
