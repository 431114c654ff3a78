"""The builder that fails on a public name without an entry on the documentation site."""

import sys
import types

import pytest

pytest.importorskip("sphinx", reason="the extra docs is not installed")

from coverage_check import modules_of, undocumented

SOURCE = """
import functools
import jax
from pathlib import Path

LIMIT = 1

def _private(): ...

@functools.partial(jax.jit, static_argnames="size")
def compiled(x, size): ...

class Shape:
    @property
    def name(self): ...

    @classmethod
    def make(cls): ...

    def _hidden(self): ...
"""

ENTRIES = [f"shapes.{name}" for name in ("Shape", "Shape.make", "Shape.name", "compiled")]


@pytest.fixture
def shapes(monkeypatch):
    """The module `shapes`, whose names `geometry` exports."""
    modules = {name: types.ModuleType(name) for name in ("shapes", "geometry")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(SOURCE, modules["shapes"].__dict__)
    exec("from shapes import *; __all__ = ['compiled', 'Shape', 'LIMIT']", modules["geometry"].__dict__)


def test_public_names_without_an_entry_are_found(shapes):
    assert undocumented(["shapes"], []) == ENTRIES
    for entry in ENTRIES:
        assert undocumented(["shapes"], [each for each in ENTRIES if each != entry]) == [entry]
    # An entry may use another name of the object. A constant needs an entry if it is exported.
    assert undocumented(["geometry"], [*ENTRIES[:3], "geometry.compiled"]) == ["geometry.LIMIT"]


def test_modules_are_found_without_the_private_ones():
    modules = modules_of("isp")
    assert {"isp", "isp.demosaic"} <= set(modules)
    assert not any("._" in module for module in modules)
