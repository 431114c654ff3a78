import shutil

import optax

from r2l_jax.cli.flags import replace
from r2l_jax.config import FinishedRun
from r2l_jax.drift.trained_folds import folds_of, over_models
from r2l_jax.results.result import Column, Result, Table
from r2l_jax.training import train
from r2l_jax.training.steps import GradientDescent


def result(*rows):
    return Result({}, {"a": Table("title", [Column("row"), Column("x"), Column("y")], rows, "a note")})


def test_the_tables_of_models_become_medians_with_ranges():
    one = result(["first", 1.0, "text"], ["second", (5.0, 4.0, 6.0), True], ["all", 7.0, None])
    two = result(["second", (2.0, 1.0, 3.0), False], ["first", 3.0, "text"], ["all", 7.0, None])
    three = result(["first", 8.0, "other"], ["second", None, True], ["third", 4.0, 0.5], ["all", 7.0, None])
    table = over_models({"1": one, "2": two, "3": three})["a"]
    # Rows belong together by their titles. Of intervals the estimates count, and numbers that some models lack are
    # those of the others.
    assert table.rows == [
        ["first", (3.0, 1.0, 8.0), "text, other"],
        ["second", (3.5, 2.0, 5.0), "2 of 3"],
        ["all", 7.0, None],
        ["third", 4.0, 0.5],
    ]
    assert table.note == "a note. median (lowest to highest) of 3 models"


def test_a_column_that_a_training_lacks_is_that_of_the_others():
    columns = [Column("row"), Column("worst"), Column("worst, C"), Column("worst, D")]
    one = Result({}, {"a": Table("title", columns[:3], [["first", 1.0, 3.0]])})
    two = Result({}, {"a": Table("title", [*columns[:2], columns[3]], [["first", 2.0, 90.0]])})
    table = over_models({"1": one, "2": two})["a"]
    assert [column.name for column in table.columns] == [column.name for column in columns]
    assert table.rows == [["first", (1.5, 1.0, 2.0), 3.0, 90.0]]


class Ascent(GradientDescent):
    """Trains uphill, so that an early epoch is the best."""

    def __init__(self, settings, model):
        super().__init__(settings, model)
        self._optimizer = optax.adam(-settings.optimizer.rate.peak)


def test_folds_are_opened_at_the_checkpoint_and_with_the_data_of_the_settings(base, data_dir, tmp_path):
    config = replace(base, run_name="worsening", lr=1e-2, augmentation="none")
    train.run(config, Ascent)
    group = tmp_path / "group"
    for seed in (1, 2):
        shutil.copytree(config.run_dir, group / f"seed_{seed}")
    shutil.copytree(data_dir, tmp_path / "moved")
    for checkpoint, epoch in (("best", 0), ("last", 1)):
        folds = folds_of(FinishedRun(run=str(group), checkpoint=checkpoint, data_dir=str(tmp_path / "moved")))
        assert [trained.name for trained in folds] == ["seed_1/fold_0", "seed_2/fold_0"]
        for trained in folds:
            assert (trained.fold.about.checkpoint, trained.fold.about.epoch) == (checkpoint, epoch)
            assert trained.fold.config.data.data_dir == str(tmp_path / "moved")
