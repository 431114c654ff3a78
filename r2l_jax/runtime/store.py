"""Stores results under an identity, and finds a result again only under the identity that it was stored with.

An identity is a dict of everything that a result depends on: the flags, the model's numbers, the data's content, the
code of the packages, and the versions of JAX and jaxlib. It is stored as a dict rather than as one hash, so
that a program can say which part has changed. There are three kinds of results:

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

import jax
import numpy as np

from r2l_jax.runtime.files import replacing, write_json

# The packages whose code every result depends on.
PACKAGES = ("isp", "tasks", "r2l_jax")

# Change this whenever the same files have another hash.
_CODE_VERSION = b"1"

# The nodes that may begin with a docstring.
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

Identity = dict[str, Any]

# The key under which a finished result lists the files beside it.
_FILES = "files"

# Messages for parts of an identity that have changed, where "the <name> has changed" would be wrong.
WORDS = {
    "source": "the source code has changed",
    "data": "the data has changed",
    "camera": "the camera's calibration values have changed",
    "cameras": "the cameras' calibration values have changed",
    "processing": "the pipeline has changed",
    "drifted_model": "the drift's model has changed",
}


@functools.cache
def source_hash() -> str:
    """Hashes the code of `PACKAGES`, from where this process imports them.

    A commit would not be enough: an installed copy lacks it, and two uncommitted changes of a checkout share it. The
    hash is computed once, because later changes of the files do not change the code that runs.
    """
    return hash_sources(_package_folder(name) for name in PACKAGES)


def _package_folder(name: str) -> pathlib.Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {name} with source files")
    return pathlib.Path(spec.origin).parent


def hash_sources(folders: Iterable[pathlib.Path]) -> str:
    """Hashes the names and the code of all Python files in packages' folders, without comments, docstrings and layout.

    Parsing takes a second, so the user's cache folder keeps the hash of files whose bytes are the same.
    """
    from r2l_jax.runtime.startup import cache_dir  # imports this module

    sources, raw = {}, hashlib.sha256(_CODE_VERSION)
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            name, content = file.relative_to(folder.parent).as_posix(), file.read_bytes()
            # Without the length, text could move from the end of one file to the start of the next unnoticed.
            raw.update(f"{name} {len(content)}\n".encode() + content)
            sources[name] = content
    known = cache_dir() / "source" / raw.hexdigest()
    with contextlib.suppress(OSError):
        return known.read_text()
    code = {name: _code(ast.parse(content)) for name, content in sources.items()}
    found = hashlib.sha256(repr(code).encode()).hexdigest()
    with contextlib.suppress(OSError), replacing(known) as part:
        part.write_text(found)
    return found


def _code(node: Any) -> Any:
    """Returns a syntax tree as tuples and dicts that are the same in all versions of Python."""
    if isinstance(node, list):
        return [*map(_code, node)]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    return type(node).__name__, {name: _code(value) for name, value in fields.items()}


def identity(flags: Mapping[str, Any], **parts: Any) -> Identity:
    """Collects everything that a result depends on, in the form that it has after a round trip through JSON.

    Args:
        flags: the settings, by name.
        **parts: everything else, such as the hash of a model; None for a part that does not apply.
    """
    return json.loads(json.dumps({"flags": flags, **parts, **made_by()}))


def made_by() -> dict[str, str]:
    """Returns the identity of the code in this process: the source hash and the versions of JAX and jaxlib."""
    return {"source": source_hash(), **_versions()}


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}


def differences(earlier: Any, wanted: Identity, ignored: Collection[str] = ()) -> list[str]:
    """Describes how an earlier identity differs from the wanted one; returns an empty list if they are the same.

    Args:
        earlier: an identity read from a file, which may be damaged or written by another version.
        wanted: the identity to compare with.
        ignored: flags that may differ.
    """
    if not isinstance(earlier, dict) or not isinstance(earlier.get("flags"), dict):
        return ["an earlier version made it, or it is damaged"]

    def different(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        names = dict.fromkeys([*new, *old])
        return [name for name in names if name not in old or name not in new or old[name] != new[name]]

    flags = [name for name in different(earlier["flags"], wanted["flags"]) if name not in ignored]
    others = [name for name in different(earlier, wanted) if name != "flags"]
    parts = [WORDS.get(name, f"the {name} has changed") for name in others if name not in _versions()]
    versions = [f"{name} {earlier.get(name)}" for name in others if name in _versions()]
    return [
        *([f"different {', '.join(flags)}"] if flags else []),
        *parts,
        *([f"it was made by {' and '.join(versions)}"] if versions else []),
    ]


def say_anew(what: str, reasons: Sequence[str]) -> None:
    """Prints on stderr that a result is made anew, and why.

    Args:
        what: the result's name.
        reasons: see `differences`.
    """
    print(f"{what}: made anew ({'; '.join(reasons)})", file=sys.stderr)


def find(file: pathlib.Path, wanted: Identity, ignored: Collection[str] = ()) -> dict[str, Any] | None:
    """Returns a finished result, or None if the file holds no result of this identity; then stderr says why.

    Args:
        file: the result's file.
        wanted: the result's identity.
        ignored: flags that may differ.
    """
    content = _read(file)
    if content is None:
        return None
    # A result that was begun but not finished lists its files, and has no identity to compare.
    if "identity" in content or _FILES not in content:
        reasons = differences(content.get("identity"), wanted, ignored)
        if not reasons:
            return content
        say_anew(str(file), reasons)
    return None


def holds(file: pathlib.Path, wanted: Identity) -> bool:
    """Tells whether the file holds a finished result of this identity."""
    content = _read(file)
    return content is not None and "identity" in content and not differences(content["identity"], wanted)


def begin(file: pathlib.Path, files: Collection[str]) -> None:
    """Makes room for a finished result: removes the earlier result and the files that were written beside it.

    Other files in the folder stay. Until `finish`, the result's file lists the files that are being written, so that
    the next call can remove them even if the program is killed.

    Args:
        file: the result's file; its folder is made.
        files: names of the pictures and tables that will be written beside it.

    Raises:
        OSError: a file cannot be removed or written.
    """
    earlier = _read(file)
    old = [] if earlier is None else _beside(file, earlier.get(_FILES))
    # Written before anything is removed: if the program is killed now, the earlier result must not be found without its
    # files.
    write_json(file, {_FILES: sorted({*files, *(path.name for path in old)})})
    for path in old:
        path.unlink(missing_ok=True)


def finish(
    file: pathlib.Path, content: Mapping[str, Any], identity: Identity, files: Collection[str]
) -> dict[str, Any]:
    """Writes a finished result, and returns it in the form in which `find` will.

    Args:
        file: the result's file.
        content: the result.
        identity: the result's identity.
        files: names of the pictures and tables that were written beside it.
    """
    write_json(file, {**content, "identity": identity, _FILES: sorted(files)})
    return json.loads(file.read_text())


def _beside(file: pathlib.Path, listed: Any) -> list[pathlib.Path]:
    """Lists the existing files that were written beside an earlier result."""
    # Only plain names are accepted, since a path in a file from elsewhere could lead out of the folder.
    names = listed if isinstance(listed, list) else []
    names = [name for name in names if isinstance(name, str) and name and pathlib.PurePath(name).name == name]
    return [path for name in names if name != file.name and (path := file.parent / name).is_file()]


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
    """Results by name in one JSON file, each with its own identity.

    Args:
        file: the JSON file. Entries that cannot be read are ignored.
    """

    def __init__(self, file: pathlib.Path):
        self._file = file
        entries = _read(file) or {}
        self._entries = {name: entry for name, entry in entries.items() if _is_entry(entry)}

    def find(self, name: str, wanted: Identity) -> tuple[dict[str, Any] | None, list[str]]:
        """Returns an entry and no reasons, or None and the reasons why the entry does not have this identity.

        If there is no entry of this name, both are empty: None and no reasons.
        """
        entry = self._entries.get(name)
        if entry is None:
            return None, []
        reasons = differences(entry["identity"], wanted)
        return (None if reasons else entry["content"]), reasons

    def add(self, contents: Mapping[str, Mapping[str, Any]], identities: Mapping[str, Identity]) -> None:
        """Adds or replaces entries by name, and writes the file in the first process."""
        for name, content in contents.items():
            self._entries[name] = {"identity": identities[name], "content": content}
        if jax.process_index() == 0:
            write_json(self._file, self._entries)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.keys() == {"identity", "content"} and isinstance(entry["content"], dict)


class Unfinished:
    """Arrays of unfinished work in an .npz file, valid for one identity.

    Args:
        file: the .npz file; None stores nothing.
        identity: the identity of the work.
    """

    def __init__(self, file: pathlib.Path | None, identity: Identity):
        self._file, self._identity = file, identity

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores arrays in place of those stored before."""
        if self._file is not None:
            with replacing(self._file) as part, part.open("wb") as file:
                named = {"identity": np.array(json.dumps(self._identity)), **arrays}
                np.savez_compressed(file, **named)  # pyright: ignore[reportArgumentType]  # one name for `allow_pickle`

    def load(self) -> dict[str, np.ndarray] | None:
        """Returns the stored arrays, or None if nothing is stored for this identity."""
        if self._file is None:
            return None
        try:
            # Opened here, because np.load leaves a damaged file open.
            with self._file.open("rb") as file, np.load(file) as arrays:
                if json.loads(str(arrays["identity"])) != self._identity:
                    return None
                return {name: arrays[name] for name in arrays.files if name != "identity"}
        except Exception:  # The readers raise many kinds of exceptions for a damaged file.
            return None
