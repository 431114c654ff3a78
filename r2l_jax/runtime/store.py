"""The one store of results: a result is found again under its identity, and made anew under any other.

An identity is a dict of all that a result depends on: the flags, the model's numbers, the data's content, the source
files of the packages, and the versions of JAX and jaxlib. It is kept as a dict rather than as one hash, so that a
program can say which part has changed. Three kinds of results are kept under one:

- a finished result in a JSON file, with pictures and tables beside it: `find`, `begin` and `finish`;
- many small results in one JSON file, each with its own identity: `Entries`;
- arrays of unfinished work: `Unfinished`.
"""

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

# Every result depends on their code.
PACKAGES = ("isp", "tasks", "r2l_jax")

Identity = dict[str, Any]

# Under this key, a finished result lists the files beside it.
_FILES = "files"

# Messages for parts of an identity that have changed, where "the <name> has changed" would not do.
WORDS = {
    "source": "the source code has changed",
    "data": "the data has changed",
    "camera": "the camera's figures have changed",
    "processing": "the pipeline has changed",
    "drifted_model": "the drift's model has changed",
}


@functools.cache
def source_hash() -> str:
    """Hashes the source files of `PACKAGES`, from where this process imports them.

    A commit would not do: an installed copy has none, and all uncommitted changes of a checkout look alike. It is
    computed once, since later changes of the files do not change the code that runs.
    """
    return hash_sources([pathlib.Path(importlib.util.find_spec(name).origin).parent for name in PACKAGES])


def hash_sources(folders: Iterable[pathlib.Path]) -> str:
    """Hashes the names and contents of all Python files in packages' folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            content = file.read_bytes()
            # The length keeps what one file ends with apart from what the next one begins with.
            digest.update(f"{file.relative_to(folder.parent).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def identity(flags: Mapping[str, Any], **parts: Any) -> Identity:
    """Collects all that a result depends on, as JSON would give it back.

    Args:
        flags: the settings, by name.
        **parts: all else that it depends on, such as the hash of a model, or None for what it has not.
    """
    return json.loads(json.dumps({"flags": flags, **parts, **made_by()}))


def made_by() -> dict[str, str]:
    """Identifies the code that makes results here: source hash, and versions of JAX and jaxlib."""
    return {"source": source_hash(), **_versions()}


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}


def differences(earlier: Any, wanted: Identity, ignored: Collection[str] = ()) -> list[str]:
    """Says in words how an earlier identity differs from the wanted one; empty if they are the same.

    Args:
        earlier: as it was read, possibly of another version or damaged.
        wanted: the identity that is asked for.
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
    """Prints on stderr that something is made anew, and why."""
    print(f"{what}: made anew ({'; '.join(reasons)})", file=sys.stderr)


def find(file: pathlib.Path, wanted: Identity, ignored: Collection[str] = ()) -> dict[str, Any] | None:
    """Finds a finished result; returns None if none has this identity, and says why on stderr.

    Args:
        file: the result's.
        wanted: its identity.
        ignored: flags that may have been others.
    """
    content = _read(file)
    if content is None:
        return None
    # A result that was begun and not finished has no identity.
    if "identity" in content or _FILES not in content:
        reasons = differences(content.get("identity"), wanted, ignored)
        if not reasons:
            return content
        say_anew(str(file), reasons)
    return None


def begin(file: pathlib.Path, files: Collection[str], unlisted: Collection[str] = ()) -> None:
    """Makes room for a finished result: removes the earlier one and all that it has written beside it.

    Whatever else is in the folder stays. Until `finish`, the file lists what is being written, so that even what a
    killed program leaves is removed by the next call.

    Args:
        file: the result's; its folder is made.
        files: names of the pictures and tables that are going to be written beside it.
        unlisted: patterns of such files of results that do not list theirs, as earlier versions left them.

    Raises:
        OSError: a file cannot be removed or written.
    """
    earlier = _read(file)
    old = [] if earlier is None else _beside(file, earlier.get(_FILES), unlisted)
    # The earlier result must not count without them, even if the program is killed now.
    write_json(file, {_FILES: sorted({*files, *(path.name for path in old)})})
    for path in old:
        path.unlink(missing_ok=True)


def finish(
    file: pathlib.Path, content: Mapping[str, Any], identity: Identity, files: Collection[str]
) -> dict[str, Any]:
    """Writes a finished result, and returns it as `find` will.

    Args:
        file: the result's.
        content: all that it holds.
        identity: what it depends on.
        files: names of the pictures and tables that have been written beside it.
    """
    write_json(file, {**content, "identity": identity, _FILES: sorted(files)})
    return json.loads(file.read_text())


def _beside(file: pathlib.Path, listed: Any, unlisted: Collection[str]) -> list[pathlib.Path]:
    """Lists the files that an earlier result has written, and that are still there."""
    if isinstance(listed, list):
        # Only plain names: a file that somebody else wrote must not lead out of its folder.
        names = [name for name in listed if isinstance(name, str) and name and pathlib.PurePath(name).name == name]
        paths = [file.parent / name for name in names if name != file.name]
    else:
        paths = [path for pattern in unlisted for path in file.parent.glob(pattern)]
    return [path for path in paths if path.is_file()]


def _read(file: pathlib.Path) -> dict[str, Any] | None:
    """Reads a JSON file; returns an empty dict if it is damaged, and None if it is not there."""
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
        file: where they are. What cannot be read counts as not there.
    """

    def __init__(self, file: pathlib.Path):
        self._file = file
        entries = _read(file) or {}
        self._entries = {name: entry for name, entry in entries.items() if _is_entry(entry)}

    def find(self, name: str, wanted: Identity) -> tuple[dict[str, Any] | None, list[str]]:
        """Finds an entry; None unless it has this identity, with the reasons, which are empty if there was no entry."""
        entry = self._entries.get(name)
        if entry is None:
            return None, []
        reasons = differences(entry["identity"], wanted)
        return (None if reasons else entry["content"]), reasons

    def add(self, contents: Mapping[str, Mapping[str, Any]], identities: Mapping[str, Identity]) -> None:
        """Adds entries, in place of others of their names; the first process writes the file."""
        for name, content in contents.items():
            self._entries[name] = {"identity": identities[name], "content": content}
        if jax.process_index() == 0:
            write_json(self._file, self._entries)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.keys() == {"identity", "content"} and isinstance(entry["content"], dict)


class Unfinished:
    """Arrays of unfinished work in an .npz file, which count under one identity only.

    Args:
        file: where they are kept; None keeps nothing.
        identity: what they depend on.
    """

    def __init__(self, file: pathlib.Path | None, identity: Identity):
        self._file, self._identity = file, identity

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes arrays in place of those that were kept."""
        if self._file is not None:
            with replacing(self._file) as part, part.open("wb") as file:
                np.savez(file, identity=json.dumps(self._identity), **arrays)

    def load(self) -> dict[str, np.ndarray] | None:
        """Loads the arrays that are kept; returns None if there are none of this identity."""
        if self._file is None:
            return None
        try:
            # Opened here, since a damaged file is not closed by what fails to read it.
            with self._file.open("rb") as file, np.load(file) as arrays:
                if json.loads(str(arrays["identity"])) != self._identity:
                    return None
                return {name: arrays[name] for name in arrays.files if name != "identity"}
        except Exception:  # Readers of a damaged file raise anything.
            return None
