"""The builder that fails on a public name without an entry on the documentation site."""

import pathlib
import shutil
import subprocess
import sys
import types

import pytest

pytest.importorskip("sphinx", reason="the extra docs is not installed")

from coverage_check import modules_of, undocumented

DOCS = pathlib.Path(__file__).parents[2] / "docs"

SOURCE = """
import functools
import jax
from pathlib import Path

LIMIT = 1

def plain(): ...

def _private(): ...

@functools.partial(jax.jit, static_argnames="size")
def compiled(x, size): ...

class Shape:
    side: int = 1

    def area(self): ...

    @property
    def name(self): ...

    @classmethod
    def make(cls): ...

    def _hidden(self): ...
"""

ALL = ["plain", "compiled", "Shape", "Shape.area", "Shape.name", "Shape.make"]


@pytest.fixture
def shapes(monkeypatch):
    """The module `shapes`, whose names `geometry` exports."""
    modules = {name: types.ModuleType(name) for name in ("shapes", "geometry")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    exec(SOURCE, modules["shapes"].__dict__)
    exec("from shapes import *; __all__ = ['plain', 'Shape', 'LIMIT']", modules["geometry"].__dict__)
    return modules["shapes"]


ENTRIES = [f"shapes.{name}" for name in ALL]


@pytest.mark.parametrize(
    ("module", "entries", "missing"),
    [
        ("shapes", [], sorted(ENTRIES)),
        *(("shapes", [entry for entry in ENTRIES if entry != missing], [missing]) for missing in ENTRIES),
        # An entry may use another name of the object, or name an object that is gone.
        ("shapes", ["geometry.plain", "shapes.compiled", *(f"geometry.{name}" for name in ALL if "Shape" in name)], []),
        ("shapes", ["shapes.gone", "gone.function", "gone", *ENTRIES], []),
        # A constant needs an entry if it is exported.
        ("geometry", ENTRIES, ["geometry.LIMIT"]),
        ("geometry", [*ENTRIES, "geometry.LIMIT"], []),
    ],
)
def test_public_names_without_an_entry_are_found(shapes, module, entries, missing):
    assert undocumented([module], entries) == missing


def test_modules_are_found_without_the_private_ones():
    modules = modules_of("isp")
    assert {"isp", "isp.demosaic", "isp.sensor"} <= set(modules)
    assert not any("._" in module for module in modules)


@pytest.mark.slow
def test_sphinx_fails_if_an_entry_is_removed(tmp_path):
    shutil.copy(DOCS / "conf.py", tmp_path)
    shutil.copytree(DOCS / "ext", tmp_path / "ext")
    (tmp_path / "_static").mkdir()
    page, entry = (DOCS / "api/tasks.md").read_text(), ".. autofunction:: tasks.resnet\n"
    assert entry in page

    def build(text):
        (tmp_path / "index.md").write_text(text)
        command = [sys.executable, "-m", "sphinx", "-N", "-q", "-b", "coverage_check", "-D", "coverage_packages=tasks"]
        return subprocess.run([*command, str(tmp_path), str(tmp_path / "built")], capture_output=True, text=True)

    complete = build(page)
    assert (complete.returncode, complete.stderr) == (0, "")
    removed = build(page.replace(entry, ""))
    assert removed.returncode == 1
    assert removed.stderr == "WARNING: public name without an entry in the API reference: tasks.resnet.resnet\n"
