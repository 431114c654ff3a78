import shutil

import pytest

from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.trainings import for_each_training, over_trainings, trainings_of
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.result import Column, Result, Table


def result(*rows):
    return Result({}, {"a": Table("title", [Column("row"), Column("x"), Column("y")], rows, "a note")})


def test_the_tables_of_trainings_become_medians_with_ranges():
    one = result(["first", 1.0, "text"], ["second", (5.0, 4.0, 6.0), True], ["all", 7.0, None])
    two = result(["second", (2.0, 1.0, 3.0), False], ["first", 3.0, "text"], ["all", 7.0, None])
    three = result(["first", 8.0, "other"], ["second", None, True], ["third", 4.0, 0.5], ["all", 7.0, None])
    table = over_trainings({"1": one, "2": two, "3": three})["a"]
    # Rows belong together by their titles. Of intervals the estimates count, and numbers that some trainings lack are
    # those of the others.
    assert table.rows == [
        ["first", (3.0, 1.0, 8.0), "text, other"],
        ["second", (3.5, 2.0, 5.0), "2 of 3"],
        ["all", 7.0, None],
        ["third", 4.0, 0.5],
    ]
    assert table.note == "a note. median (least to greatest) of 3 trainings"
    assert over_trainings({"1": one}) == one.tables


def test_a_column_that_a_training_lacks_is_that_of_the_others():
    columns = [Column("row"), Column("worst"), Column("worst, C"), Column("worst, D")]
    one = Result({}, {"a": Table("title", columns[:3], [["first", 1.0, 3.0]])})
    two = Result({}, {"a": Table("title", [*columns[:2], columns[3]], [["first", 2.0, 90.0]])})
    table = over_trainings({"1": one, "2": two})["a"]
    assert [column.name for column in table.columns] == [column.name for column in columns]
    assert table.rows == [["first", (1.5, 1.0, 2.0), 3.0, 90.0]]


def test_members_of_a_group_have_names_and_folders_of_their_own(one_epoch, tmp_path):
    for seed in (1, 2):
        shutil.copytree(one_epoch.run_dir, tmp_path / "group" / f"seed_{seed}")
    of_group = trainings_of(ForensicsConfig(run=str(tmp_path / "group")))
    assert [training.name for training in of_group] == ["seed_1/fold_0", "seed_2/fold_0"]
    assert [training.output for training in of_group] == [tmp_path / f"group/seed_{seed}/forensics" for seed in (1, 2)]
    elsewhere = trainings_of(ForensicsConfig(run=str(tmp_path / "group"), output=str(tmp_path / "out")))
    assert [training.output for training in elsewhere] == [tmp_path / f"out/seed_{seed}" for seed in (1, 2)]
    (alone,) = trainings_of(ForensicsConfig(run=str(tmp_path / "group/seed_1")))
    assert (alone.name, alone.output) == ("fold_0", of_group[0].output)
    assert for_each_training(of_group, lambda training: training.name) == {each.name: each.name for each in of_group}
    # Another program that writes to one of the folders keeps all of them from being written to.
    with writing_to(of_group[1].output), pytest.raises(InputError, match="seed_2"):
        for_each_training(of_group, lambda training: pytest.fail("not reached"))
