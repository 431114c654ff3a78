"""What an analysis of a trained model leaves to be written and shown, and that it is made once."""

import hashlib
import json
import pathlib
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from r2l_jax import report
from r2l_jax.drift import figures
from r2l_jax.files import write_csv, write_json
from r2l_jax.trained import TrainedFold


class Analysis(NamedTuple):
    """The results of an analysis.

    Attributes:
        content: all that programs may want to read, for JSON.
        table: what people want to read first.
        figures: pictures by name.
        tables: rows of numbers by name, for CSV.
    """

    content: dict[str, Any]
    table: str
    figures: Mapping[str, Figure | Image.Image]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = types.MappingProxyType({})


def once(
    file: pathlib.Path,
    fold: TrainedFold,
    flags: Mapping[str, Any],
    analyse: Callable[[pathlib.Path], Analysis],
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The content of an analysis: as an earlier call of the same flags, data and code has left it, or made now.

    Args:
        file: the JSON file of its content, its `table`, and how to reproduce it. Tables, figures and TensorBoard's
            events are written beside it, before it.
        fold: the trained model.
        flags: all that the analysis depends on beside the model and the code.
        analyse: makes it. It may keep what is unfinished in the file that it is called with, which is removed at the
            end.
        ignored: flags that may have been others in the earlier call.

    Returns:
        What the file holds.

    Raises:
        OSError: a file or a folder cannot be made.
    """
    data = fold.dataset.content
    reproduction = {"flags": dict(flags), "training": _training(fold), "data": data, **report.environment()}
    if (content := _earlier(file, reproduction, ignored)) is not None:
        return content
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.parent / "unfinished.npz"
    analysis = analyse(unfinished)
    # What stands there is of other settings, as some of its names may be.
    for old in [file, *file.parent.glob("*.png"), *file.parent.glob("*.csv")]:
        old.unlink(missing_ok=True)
    for name, rows in analysis.tables.items():
        write_csv(file.parent / f"{name}.csv", rows)
    figures.write(file.parent, analysis.figures)
    write_json(file, {**analysis.content, "table": analysis.table, **reproduction})
    unfinished.unlink(missing_ok=True)
    return json.loads(file.read_text())


def _training(fold: TrainedFold) -> str:
    """A hash of what training wrote of itself."""
    return hashlib.sha256(fold.fold.metrics_file.read_bytes()).hexdigest()


def _earlier(file: pathlib.Path, reproduction: dict[str, Any], ignored: Collection[str]) -> dict[str, Any] | None:
    """What the file holds, if that is of the same flags, training, data and code."""
    wanted = json.loads(json.dumps(reproduction))
    try:
        content = json.loads(file.read_text())
        same = all(content[name] == wanted[name] for name in ("training", "data", "git_commit")) and all(
            content["flags"][name] == value for name, value in wanted["flags"].items() if name not in ignored
        )
        return content if same else None
    except (OSError, ValueError, LookupError, TypeError):
        return None  # It is not there, or not ours.
