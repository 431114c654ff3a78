"""Manifests: the settings that everything in an output folder was made with."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from r2l_jax.runtime.errors import InputError

NAME = "manifest.json"


def read(
    output: pathlib.Path, fixed: Mapping[str, Any], content: str, file: pathlib.Path | None = None
) -> dict[str, Any] | None:
    """Reads the manifest that earlier calls have left in an output folder.

    Args:
        output: the folder, or a file.
        fixed: the entries that all calls must share, in the form in which JSON returns them.
        content: a word for what the folder holds, such as "sets".
        file: the manifest; None is the one in the folder.

    Returns:
        The manifest; None without one.

    Raises:
        InputError: the manifest is damaged, or it is that of other settings.
    """
    file = file or output / NAME
    if not file.exists():
        return None
    try:
        earlier = json.loads(file.read_text())
        changed = {name: earlier[name] for name in fixed if earlier[name] != fixed[name]}
    except (OSError, ValueError, LookupError, TypeError):
        raise damaged(output, file.name) from None
    if changed:
        kind = "folder" if file.parent == output else "file"
        differences = [
            f"other {name}" if dict in (type(value), type(fixed[name])) else f"{name}={value}, not {fixed[name]}"
            for name, value in changed.items()
        ]
        raise InputError(f"--output={output} holds {content} of {' and '.join(differences)}: choose another {kind}")
    return earlier


def damaged(output: pathlib.Path, name: str = NAME) -> InputError:
    """Returns the error of a manifest that this program has not written."""
    return InputError(
        f"--output={output}: its {name} is damaged: choose another {'folder' if name == NAME else 'file'}"
    )
