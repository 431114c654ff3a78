"""The Sphinx builder `coverage_check`, which fails on a public name that the site does not describe.

The builder of `sphinx.ext.coverage` passes over compiled functions, which `inspect.isfunction` does not recognize.
"""

import importlib
import inspect
import pkgutil
import types
from collections.abc import Iterable, Iterator, Set
from typing import Any

from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.util import logging

logger = logging.getLogger(__name__)


def modules_of(package: str) -> list[str]:
    """Lists a package and its modules, except those whose name begins with an underscore."""
    paths = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.walk_packages(paths, f"{package}.")]
    return [package, *(name for name in names if "._" not in name)]


def public_names(module: types.ModuleType) -> Iterator[str]:
    """Yields the canonical name of everything public in a module, and of the public members of its classes.

    Public are the names in `__all__`. Without `__all__`, public are the functions and classes that the module itself
    defines, except those whose name begins with an underscore.
    """
    for name in getattr(module, "__all__", None) or _defined_in(module):
        member = getattr(module, name)
        if inspect.ismodule(member):
            continue
        yield canonical(module, name)
        if inspect.isclass(member):
            yield from (canonical(member, attribute) for attribute in _members_of(member))


def canonical(owner: type | types.ModuleType, name: str) -> str:
    """Returns an object's name in the module that defines it, which is the same for all modules that export it."""
    value = getattr(owner, name)
    if inspect.isclass(owner):
        return f"{owner.__module__}.{owner.__qualname__}.{name}"
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    return f"{owner.__name__}.{name}"


def undocumented(modules: Iterable[str], documented: Iterable[str]) -> list[str]:
    """Lists the public names of modules for which the site has no entry.

    Args:
        modules: full names of the modules.
        documented: full names of the site's entries, by whichever of its names an object is described.
    """
    described = {canonical(owner, name) for owner, name in map(_find, documented) if hasattr(owner, name)}
    public = {name for module in modules for name in public_names(importlib.import_module(module))}
    return sorted(public - described)


def _defined_in(module: types.ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def _members_of(cls: type) -> list[str]:
    kinds = property | classmethod | staticmethod
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, kinds))
    ]


def _find(entry: str) -> tuple[Any, str]:
    """Finds the module or class that an entry's object belongs to, and returns it with the object's name in it."""
    owner, _, name = entry.rpartition(".")
    if not owner:
        return None, name
    try:
        return importlib.import_module(owner), name
    except ImportError:
        outer, inner = _find(owner)
        return getattr(outer, inner, None), name


class CoverageCheck(Builder):
    """Fails unless every public name of the packages `coverage_packages`, and of all modules on the site, has an entry.

    `automodule` gives an object without a docstring no entry, so missing docstrings are found as well.
    """

    name = "coverage_check"

    def get_outdated_docs(self) -> str:
        """Describes the work, for the progress report."""
        return "public names"

    def write_documents(self, docnames: Set[str]) -> None:
        """Writes no pages."""

    def finish(self) -> None:
        """Warns of each public name without an entry, and makes sphinx-build fail if there is one."""
        packages = (modules_of(package) for package in self.config.coverage_packages)
        modules = {*self.env.domaindata["py"]["modules"], *(module for names in packages for module in names)}
        entries = self.env.domaindata["py"]["objects"].items()
        missing = undocumented(modules, [name for name, entry in entries if entry.objtype != "module"])
        for name in missing:
            logger.warning("public name without an entry in the API reference: %s", name)
        if missing:
            self.app.statuscode = 1


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the builder and its setting."""
    app.add_builder(CoverageCheck)
    app.add_config_value("coverage_packages", [], "env")
    return {"parallel_read_safe": True}
