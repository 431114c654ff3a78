"""The trained folds of a run or of a group of seeds: each is analyzed alone, and then their tables are combined."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from r2l_jax.cli import progress, stop
from r2l_jax.config import FinishedRun
from r2l_jax.results.locks import writing_to_all
from r2l_jax.results.result import Cell, Result, Table
from r2l_jax.training.model_io import Trained
from r2l_jax.training.record import members
from r2l_jax.training.run import load

Made = TypeVar("Made")


class TrainedFold(NamedTuple):
    """A trained fold of a run, such as "fold_0", or of a run in a group of seeds, such as "seed_1/fold_0".

    `output` is the folder of the run's results: the control's folder in the run or in --output.
    """

    name: str
    fold: Trained
    output: pathlib.Path


def member_of(name: str) -> str:
    """Returns the name of a group's member from the name of its fold; empty for a run alone."""
    return name.rpartition("/")[0]


def ids_of(folds: Iterable[TrainedFold]) -> dict[str, str]:
    """Returns the ids of trained folds by their names, as results record them."""
    return {trained.name: trained.fold.training for trained in folds}


def folds_of(config: FinishedRun) -> list[TrainedFold]:
    """Opens the folds of a run, or of all members of a group, with their data.

    Raises:
        InputError: a folder that is not a finished run, members of other training recipes, or missing data.
    """
    found = []
    for folder in members(config.run):
        of_member = config.of_member(folder)
        run = load(folder, None, config.checkpoint, config.code, config.data_dir, with_data=True)
        prefix = "" if of_member is config else f"{folder.name}/"
        found += [TrainedFold(f"{prefix}fold_{fold.number}", fold, of_member.output_dir) for fold in run]
    return found


def for_each_fold(folds: Sequence[TrainedFold], work: Callable[[TrainedFold], Made]) -> dict[str, Made]:
    """Calls a function for each fold, with their output folders locked, and returns the results by name.

    A request to stop takes effect when the function checks for it.
    """
    with writing_to_all(trained.output for trained in folds), stop.after_step():
        found = {}
        for number, trained in enumerate(folds, 1):
            with progress.part(trained.name, number, len(folds)):
                found[trained.name] = work(trained)
        return found


def over_models(results: Mapping[str, Result]) -> dict[str, Table]:
    """Combines the tables of several models: the median of each number, with the least and the greatest.

    Rows are matched by their titles, and cells by the names of their columns. Models that lack a number are left
    out, and a number that is the same in all models has no range. Texts that differ are listed, and truth values
    are counted, such as "2 of 3".
    """
    first = next(iter(results.values()))
    if len(results) == 1:
        return dict(first.tables)
    note = f"median (lowest to highest) of {len(results)} models"
    return {
        name: _over(table, [result.tables[name] for result in results.values() if name in result.tables], note)
        for name, table in first.tables.items()
    }


def _over(table: Table, each: Sequence[Table], note: str) -> Table:
    # Models may lack columns, such as those of classes that they were not measured on.
    columns = {column.name: column for of_model in each for column in of_model.columns}
    rows: dict[Cell, list[dict[str, Cell]]] = {}
    for of_model in each:
        names = [column.name for column in of_model.columns]
        for row in of_model.rows:
            rows.setdefault(row[0], []).append(dict(zip(names, row, strict=True)))
    whole = [
        [title, *(_cell([row[name] for row in present if name in row]) for name in list(columns)[1:])]
        for title, present in rows.items()
    ]
    return table._replace(columns=[*columns.values()], rows=whole, note=". ".join(filter(None, [table.note, note])))


def _cell(cells: Sequence[Cell]) -> Cell:
    known = [cell[0] if isinstance(cell, tuple) else cell for cell in cells if cell is not None]
    if not known or all(cell == known[0] for cell in known):
        return known[0] if known else None
    if all(isinstance(cell, bool) for cell in known):
        return f"{sum(map(bool, known))} of {len(known)}"
    numbers = np.array([cell for cell in known if not isinstance(cell, str)], float)
    if not len(numbers):
        return ", ".join(dict.fromkeys(map(str, known)))
    return float(np.median(numbers)), float(numbers.min()), float(numbers.max())
