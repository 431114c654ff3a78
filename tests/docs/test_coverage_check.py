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

    def _hidden(self): ...
"""


def test_public_names_without_an_entry_are_found(monkeypatch):
    modules = {name: types.ModuleType(name) for name in ("shapes", "geometry")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(SOURCE, modules["shapes"].__dict__)
    exec("from shapes import *; __all__ = ['compiled', 'Shape', 'LIMIT']", modules["geometry"].__dict__)
    entries = ["shapes.Shape", "shapes.Shape.name", "shapes.compiled"]
    assert undocumented(["shapes"], []) == entries
    assert undocumented(["shapes"], entries) == []
    # An entry may use another name of the object. A constant needs an entry if it is exported.
    assert undocumented(["geometry"], [*entries[:2], "geometry.compiled"]) == ["geometry.LIMIT"]


def test_modules_are_found_without_the_private_ones():
    modules = modules_of("isp")
    assert {"isp", "isp.demosaic"} <= set(modules)
    assert not any("._" in module for module in modules)
