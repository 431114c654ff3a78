"""Writes the results of an analysis of a trained model, and reuses them as long as their identity stays the same."""

import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from r2l_jax.drift import figures, outcomes
from r2l_jax.drift.outcomes import Outcomes
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.model.normalized_heads import has_gradient
from r2l_jax.runtime import store
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_csv
from r2l_jax.training.artifact import Artifact


class Analysis(NamedTuple):
    """The results of an analysis.

    Attributes:
        content: all results, in a form that JSON can hold.
        table: a summary as text, for people.
        figures: figures and pictures by name, for PNG files.
        tables: rows of values by name, for CSV files.
        outcomes: the outcomes of samples, for a file, see `outcomes.write`.
    """

    content: dict[str, Any]
    table: str
    figures: Mapping[str, Figure | Image.Image]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = types.MappingProxyType({})
    outcomes: Mapping[str, Mapping[int, Outcomes]] = types.MappingProxyType({})


class FoldAnalysis:
    """An analysis of a trained model on its data, with the settings that it uses.

    Attributes:
        name: the name of its folder and file.
        needs_gradient: whether it needs the gradient of the head.
    """

    name: str
    needs_gradient = False

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that its results depend on."""
        return {}

    def check_fold(self, fold: Artifact) -> None:
        """Raises an InputError unless the fold can be analyzed."""
        Frozen(fold.model, fold.task)
        if self.needs_gradient and not has_gradient(fold.model.head):
            raise InputError(
                f"--analyses={self.name} needs the gradient of the head, and a head of ONNX has none; "
                "--analyses=tolerances works without it"
            )

    def work(self, fold: Artifact) -> str:
        """Says what there is to do for a fold, in a few words."""
        return self.name.replace("_", " ")

    def drawn(self, fold: Artifact) -> Sequence[int] | np.ndarray:
        """Returns the training samples that it draws from."""
        return ()

    def analyze(self, fold: Artifact, done: Mapping[str, Any]) -> Analysis:
        """Analyzes a fold.

        Args:
            fold: the trained model.
            done: the contents of the fold's earlier analyses by name.

        Raises:
            Interrupted: a signal has asked to stop.
        """
        raise NotImplementedError

    def identity(self, fold: Artifact) -> store.Identity:
        """Collects all that the results depend on; not the camera, since the model has its own numbers and pattern."""
        samples = [*self.drawn(fold), *fold.measured_indices]
        data = fold.dataset.content_of(samples)
        return store.identity(self.flags, data, fold.identity)


def once(
    file: pathlib.Path,
    title: str,
    fold: Artifact,
    flags: Mapping[str, Any],
    identity: store.Identity,
    analyze: Callable[[], Analysis],
) -> dict[str, Any]:
    """Returns the content of an analysis, from an earlier call of the same identity or made now, and prints its table.

    Args:
        file: the JSON file for the content, the `table`, and everything needed to reproduce them. Tables, figures and
            TensorBoard events are first written beside it, and replace an earlier result's.
        title: the name of the analysis above the table.
        fold: the trained model.
        flags: the settings that the analysis depends on.
        identity: everything that it depends on.
        analyze: makes the analysis.
    """
    content = store.find(file, identity)
    if content is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        content = _write(file, fold, flags, identity, analyze())
    elif content.get("training") != fold.training:
        # Another training has led to the same model.
        renamed = {**content, "training": fold.training}
        content = store.finish(file, renamed, renamed["identity"], renamed["files"])
    print(f"fold {fold.number}: {title}\n{content['table']}\nresults in {file.parent}\n")
    return content


def _write(
    file: pathlib.Path, fold: Artifact, flags: Mapping[str, Any], identity: store.Identity, analysis: Analysis
) -> dict[str, Any]:
    """Writes an analysis in place of an earlier one, and returns the content of its file."""
    store.clear(file)
    if analysis.outcomes:
        outcomes.write(file.parent / outcomes.FILE, analysis.outcomes)
    for name, rows in analysis.tables.items():
        write_csv(file.parent / f"{name}.csv", rows)
    files = [*(f"{name}.csv" for name in analysis.tables), *figures.write(file.parent, analysis.figures)]
    files += [outcomes.FILE] if analysis.outcomes else []
    content = {
        **analysis.content,
        "table": analysis.table,
        "flags": flags,
        "training": fold.training,
        **environment(),
    }
    return store.finish(file, content, identity, files)
