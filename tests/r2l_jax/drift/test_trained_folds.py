from r2l_jax.drift.trained_folds import over_models
from r2l_jax.results.result import Column, Result, Table


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
