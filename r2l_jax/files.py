"""Files that are either whole or not there."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, moved to `target` once written; its folder is made, and nothing stays behind on an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def write_json(target: pathlib.Path, content: Mapping) -> None:
    """Writes a JSON file."""
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")
