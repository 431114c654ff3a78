"""Writes the results of an analysis of a trained model, and reuses them as long as their identity stays the same."""

import contextlib
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
from r2l_jax.runtime.hosts import on_first_process
from r2l_jax.training.run import TrainedFold


class Analysis(NamedTuple):
    """The results of an analysis.

    Attributes:
        content: all results, in a form that JSON can hold.
        table: a summary as text, for people.
        figures: figures and pictures by name, for PNG files.
        tables: rows of values by name, for CSV files.
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
    """Returns the content of an analysis, from an earlier call of the same identity or made by this call.

    Args:
        file: the JSON file for the content, the `table`, and everything needed to reproduce them. Tables, figures and
            TensorBoard events are first written beside it, and replace those of an earlier result.
        fold: the trained model.
        identity: everything that the analysis depends on, including its `flags` and the content of the `data`.
        analyse: makes the analysis. It is called with a file in which it may keep unfinished work, and which is removed
            at the end.
        ignored: flags whose values may differ in the earlier call.

    Returns:
        The content of the file.

    Raises:
        OSError: a file or a folder cannot be written.
    """
    unfinished = file.parent / "unfinished.npz"
    if (content := on_first_process(lambda: store.find(file, identity, ignored))) is not None:
        on_first_process(lambda: _clean_up(unfinished, file))
        return on_first_process(lambda: _named_after(fold, file, content))
    on_first_process(lambda: file.parent.mkdir(parents=True, exist_ok=True))
    analysis = analyse(unfinished)
    content = on_first_process(lambda: _write(file, fold, identity, analysis))
    on_first_process(lambda: unfinished.unlink(missing_ok=True))
    return content


def _named_after(fold: TrainedFold, file: pathlib.Path, content: dict[str, Any]) -> dict[str, Any]:
    """Records the present training in an earlier result: another training has led to the same model."""
    if content.get("training") == fold.training:
        return content
    return store.finish(file, {**content, "training": fold.training}, content["identity"], content["files"])


def _clean_up(unfinished: pathlib.Path, file: pathlib.Path) -> None:
    """Removes unfinished work that a killed program left beside its result. Work that is newer has other settings."""
    with contextlib.suppress(FileNotFoundError):
        if unfinished.stat().st_mtime_ns <= file.stat().st_mtime_ns:
            unfinished.unlink()


def _write(file: pathlib.Path, fold: TrainedFold, identity: store.Identity, analysis: Analysis) -> dict[str, Any]:
    """Writes an analysis in place of an earlier one, and returns the content of its file."""
    planned = [*(f"{name}.csv" for name in analysis.tables), *(f"{name}.png" for name in analysis.figures)]
    # Earlier versions did not list their files; no other program wrote to the folder.
    store.begin(file, planned, unlisted=("*.png", "*.csv"))
    for name, rows in analysis.tables.items():
        write_csv(file.parent / f"{name}.csv", rows)
    events = figures.write(file.parent, analysis.figures)
    content = {
        **analysis.content,
        "table": analysis.table,
        "flags": identity["flags"],
        "training": fold.training,
        "data": identity["data"],
        **environment(),
    }
    return store.finish(file, content, identity, [*planned, *events])
