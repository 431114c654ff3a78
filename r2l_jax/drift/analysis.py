"""What an analysis of a trained model leaves to be written and shown, and that it is made once."""

import hashlib
import pathlib
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from r2l_jax.drift import figures
from r2l_jax.runtime import store
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.files import write_csv
from r2l_jax.training.trained import TrainedFold


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
    identity: store.Identity,
    analyse: Callable[[pathlib.Path], Analysis],
    ignored: Collection[str] = (),
) -> dict[str, Any]:
    """The content of an analysis: as an earlier call has left it under the same identity, or made now.

    Args:
        file: the JSON file of its content, its `table`, and how to reproduce it. Tables, figures and TensorBoard's
            events are written beside it, before it; those of an earlier result are removed.
        fold: the trained model.
        identity: all that the analysis depends on, with its `flags`, and the content of the `data`.
        analyse: makes it. It may keep what is unfinished in the file that it is called with, which is removed at the
            end.
        ignored: flags that may have been others in the earlier call.

    Returns:
        What the file holds.

    Raises:
        OSError: a file or a folder cannot be made.
    """
    if (content := store.find(file, identity, ignored)) is not None:
        return content
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.parent / "unfinished.npz"
    analysis = analyse(unfinished)
    planned = [*(f"{name}.csv" for name in analysis.tables), *(f"{name}.png" for name in analysis.figures)]
    # Earlier versions did not list their files, and had the folder to themselves.
    store.begin(file, planned, unlisted=("*.png", "*.csv"))
    for name, rows in analysis.tables.items():
        write_csv(file.parent / f"{name}.csv", rows)
    events = figures.write(file.parent, analysis.figures)
    content = {
        **analysis.content,
        "table": analysis.table,
        "flags": identity["flags"],
        "training": hashlib.sha256(fold.fold.metrics_file.read_bytes()).hexdigest(),
        "data": identity["data"],
        **environment(),
    }
    content = store.finish(file, content, identity, [*planned, *events])
    unfinished.unlink(missing_ok=True)
    return content
