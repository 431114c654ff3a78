"""Identities that stored results are looked up by, see `results.result`.

An identity is three hashes (of the settings, the data and the model), the hash of the packages' code, and the versions
of JAX and jaxlib.
"""

import ast
import contextlib
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jaxlib.version

from r2l_jax.results.files import cache_dir, replacing

# The packages that every result depends on.
PACKAGES = ("isp", "tasks", "r2l_jax")

# The nodes that may begin with a docstring.
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Identity = dict[str, str]


@functools.cache
def source_hash() -> str:
    """Hashes the code of `PACKAGES` once, because later edits of the files do not change the running code."""
    return hash_sources(pathlib.Path(__file__).parents[2] / name for name in PACKAGES)


def hash_sources(folders: Iterable[pathlib.Path]) -> str:
    """Hashes the names and code of all Python files in packages' folders, without comments, docstrings and layout.

    Parsing takes two seconds, so the user's cache folder keeps the hash for files with the same bytes.
    """
    files = {path.relative_to(folder.parent).as_posix(): path for folder in folders for path in folder.rglob("*.py")}
    sources = {name: files[name].read_bytes() for name in sorted(files)}
    known = cache_dir() / "source" / hash_json([*sys.version_info[:2], repr(sources)])
    with contextlib.suppress(OSError):
        return known.read_text()
    found = hash_json({name: _code(source) for name, source in sources.items()})
    with contextlib.suppress(OSError), replacing(known) as part:
        part.write_text(found)
    return found


def _code(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def hash_json(value: Any) -> str:
    """Hashes a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def identity(settings: Mapping[str, Any], data: Any = None, model: Any = None) -> Identity:
    """Returns the identity of a result: hashes of the settings, the data and the models that it depends on.

    All are JSON values. `data` includes the camera's values, and `model` the pipelines.
    """
    made_by = {"source": source_hash(), "jax": jax.__version__, "jaxlib": jaxlib.version.__version__}
    return {"settings": hash_json(settings), "data": hash_json(data), "model": hash_json(model), **made_by}


def differences(earlier: Any, wanted: Identity) -> list[str]:
    """Lists the parts in which an earlier identity, which may be damaged, differs from the wanted one."""
    earlier = earlier if isinstance(earlier, dict) else {}
    return [f"other {name}" for name in wanted if earlier.get(name) != wanted[name]]
