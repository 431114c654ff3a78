"""Stores results under an identity, and finds a result again only under the identity that it was stored with.

An identity is three hashes (of the settings, the data and the model), the hash of the packages' code, and the versions
of JAX and jaxlib. There are three kinds of results:

- a finished result in a JSON file, with pictures and tables beside it: `find`, `begin` and `finish`;
- many small results in one JSON file, each with its own identity: `Entries`;
- arrays of unfinished work: `Unfinished`.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from r2l_jax.runtime.files import replacing, write_json

# The packages whose code every result depends on.
PACKAGES = ("isp", "tasks", "r2l_jax")

# The nodes that may begin with a docstring.
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Identity = dict[str, str]

# The key under which a finished result lists the files beside it.
_FILES = "files"


@functools.cache
def source_hash() -> str:
    """Hashes the code of `PACKAGES`, once: later changes of the files do not change the code that runs."""
    origins = [getattr(importlib.util.find_spec(name), "origin", None) for name in PACKAGES]
    return hash_sources(pathlib.Path(str(origin)).parent for origin in origins)


def hash_sources(folders: Iterable[pathlib.Path]) -> str:
    """Hashes the names and the code of all Python files in packages' folders, without comments, docstrings and layout.

    Parsing takes two seconds, so the user's cache folder keeps the hash of files whose bytes are the same.
    """
    from r2l_jax.runtime.startup import cache_dir  # imports this module

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
    """Hashes a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def identity(settings: Mapping[str, Any], data: Any = None, model: Any = None) -> Identity:
    """Returns the identity of a result: hashes of the settings, the data and the models that it depends on.

    All are in a form that JSON can hold. `data` includes the camera's values, and `model` the pipelines.
    """
    return {"settings": hash_json(settings), "data": hash_json(data), "model": hash_json(model), **made_by()}


def made_by() -> dict[str, str]:
    """Returns the identity of the code in this process: the source hash and the versions of JAX and jaxlib."""
    return {"source": source_hash(), **_versions()}


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}


def differences(earlier: Any, wanted: Identity) -> list[str]:
    """Says in which parts an earlier identity, which may be damaged, differs from the wanted one."""
    earlier = earlier if isinstance(earlier, dict) else {}
    return [f"other {name}" for name in wanted if earlier.get(name) != wanted[name]]


def say_anew(what: str, reasons: Sequence[str]) -> None:
    """Prints on stderr that a result is made anew, and why."""
    print(f"{what}: made anew ({'; '.join(reasons)})", file=sys.stderr)


def find(file: pathlib.Path, wanted: Identity, says: bool = True) -> dict[str, Any] | None:
    """Returns a finished result, or None if the file holds no result of this identity; `says` why on stderr."""
    content = _read(file)
    # A result that was begun but not finished lists its files, and has no identity to compare.
    if content is None or ("identity" not in content and _FILES in content):
        return None
    reasons = differences(content.get("identity"), wanted)
    if reasons and says:
        say_anew(str(file), reasons)
    return None if reasons else content


def begin(file: pathlib.Path, files: Collection[str]) -> None:
    """Makes room for a finished result: makes its folder, and removes the earlier result and the files beside it.

    Other files in the folder stay. Until `finish`, the result's file lists `files`, the names of the pictures and
    tables that are being written, so that the next call can remove them even if the program is killed.
    """
    listed = (_read(file) or {}).get(_FILES)
    # Only plain names are accepted, since a path in a file from elsewhere could lead out of the folder.
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    old = [name for name in names if pathlib.PurePath(name).name == name != file.name]
    # Written before anything is removed: if the program is killed now, the earlier result must not be found without its
    # files.
    write_json(file, {_FILES: sorted({*files, *old})})
    for name in old:
        if (file.parent / name).is_file():
            (file.parent / name).unlink(missing_ok=True)


def finish(
    file: pathlib.Path, content: Mapping[str, Any], identity: Identity, files: Collection[str]
) -> dict[str, Any]:
    """Writes a finished result, and the names of the `files` beside it; returns it in the form in which `find` will."""
    write_json(file, {**content, "identity": identity, _FILES: sorted(files)})
    return json.loads(file.read_text())


def _read(file: pathlib.Path) -> dict[str, Any] | None:
    """Reads a JSON file; returns an empty dict if the file is damaged, and None if it does not exist."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class Entries:
    """Results by name in one JSON file, each with its own identity. Entries that cannot be read are ignored."""

    def __init__(self, file: pathlib.Path):
        self._file = file
        entries = {name: entry for name, entry in (_read(file) or {}).items() if isinstance(entry, dict)}
        self._entries = {name: entry for name, entry in entries.items() if isinstance(entry.get("content"), dict)}

    def find(self, name: str, wanted: Identity) -> tuple[dict[str, Any] | None, list[str]]:
        """Returns an entry and no reasons, or None and why its identity differs: no reasons if there is no entry."""
        if (entry := self._entries.get(name)) is None:
            return None, []
        reasons = differences(entry.get("identity"), wanted)
        return (None if reasons else entry["content"]), reasons

    def add(self, contents: Mapping[str, Mapping[str, Any]], identities: Mapping[str, Identity]) -> None:
        """Adds or replaces entries by name, and writes the file."""
        for name, content in contents.items():
            self._entries[name] = {"identity": identities[name], "content": content}
        write_json(self._file, self._entries)


class Unfinished:
    """Arrays of unfinished work in an .npz file, valid for one identity; without a file, nothing is stored."""

    def __init__(self, file: pathlib.Path | None, identity: Identity):
        self._file, self._identity = file, json.dumps(identity)

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores arrays in place of those stored before."""
        if self._file is not None:
            with replacing(self._file) as part, part.open("wb") as file:
                named = {"identity": np.array(self._identity), **arrays}
                np.savez_compressed(file, **named)  # pyright: ignore[reportArgumentType]  # one name for `allow_pickle`

    def load(self) -> dict[str, np.ndarray] | None:
        """Returns the stored arrays, or None if nothing is stored for this identity."""
        if self._file is None:
            return None
        try:
            # Opened here, because np.load leaves a damaged file open.
            with self._file.open("rb") as file, np.load(file) as arrays:
                found = {name: arrays[name] for name in arrays.files}
                return found if str(found.pop("identity")) == self._identity else None
        except Exception:  # The readers raise many kinds of exceptions for a damaged file.
            return None
