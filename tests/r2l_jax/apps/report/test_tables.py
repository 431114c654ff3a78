import math

from r2l_jax.apps.report.tables import Cell, cells
from r2l_jax.runtime.result import DROP, SCORE, Column, Table

COLUMNS = [Column("case"), Column("score", "", SCORE), Column("other", "", SCORE), Column("drop", "", DROP)]


def test_cells_have_numbers_to_sort_by_and_intervals_below():
    columns = [Column("a.long_name"), Column("score", "", SCORE), Column("size")]
    rows = [["b.c_d", (-0.123, -0.5, 0.25), 1234567], ["x", None, True], ["y", math.nan, "text-y"]]
    (first, second, third) = cells(Table("", columns, rows))
    assert first[0].text == "b.\N{ZERO WIDTH SPACE}c_\N{ZERO WIDTH SPACE}d"
    minus = "\N{MINUS SIGN}"
    assert first[1][:3] == (f"{minus}12.3", f"{minus}50.0 to 25.0", -0.123)
    assert first[2] == Cell("1234567", "", 1234567.0)
    assert second[1:] == [Cell("\N{EN DASH}"), Cell("yes")]
    assert third[1:] == [Cell("\N{EN DASH}"), Cell("text-y")]


def test_scores_are_shaded_from_the_least_of_a_table_and_drops_by_the_greatest():
    rows = [["a", 0.5, 0.7, -0.1], ["b", 0.9, None, 0.4], ["c", (0.6, 0.0, 1.0), 0.9, 0.0]]
    found = cells(Table("", COLUMNS, rows))
    shades = [[round(cell.shade, 6) for cell in row[1:]] for row in found]
    assert shades == [[0, 0.5, 0.25], [1, 0, 1], [0.25, 1, 0]]
    assert [row[3].tone for row in found] == ["gain", "loss", "gain"]
    assert {row[1].tone for row in found} == {"level"}
    assert [cell.shade for row in cells(Table("", COLUMNS, [["a", 0.5, 0.5, 0.0]])) for cell in row] == [0] * 4
