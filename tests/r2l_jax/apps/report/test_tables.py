import math

import pytest

from r2l_jax.apps.report.tables import dropped, leveled, loss, number, score, share, value


def test_levels_are_colored_from_the_least_to_the_greatest():
    rows = leveled([[score(0.5), score(None)], [score(0.75), score(1.0), score(math.nan)]])
    assert [[cell.shade for cell in row] for row in rows] == [[0, 0], [0.5, 1, 0]]
    (row,) = leveled([[number(each) for each in (1.0, 10.0, 0.0, 100.0)]], logarithmic=True)
    assert [cell.shade for cell in row] == pytest.approx([0, 0.5, 0, 1])
    assert leveled([[score(0.5), score(0.5)]])[0][0].shade == 0


def test_drops_and_gains_have_colors_of_their_own():
    (row,) = dropped([[score(0.1), score(-0.2), score(None), score(0.0, framed=True)]])
    assert [cell.shade for cell in row] == [0.5, 1, 0, 0]
    assert [cell.tone for cell in row[:2]] == ["loss", "gain"]
    assert row[3].framed


def test_numbers_are_short_in_text_and_whole_behind_it():
    for make, text in ((score, "12.3"), (loss, "0.123"), (share, "12%")):
        assert (make(-0.123456).text, make(-0.123456).value) == (f"\N{MINUS SIGN}{text}", -0.123456)
    assert [number(each).text for each in (1080, 1234567.5, 1234.5, 0.98765)] == ["1080", "1.23e+06", "1230", "0.988"]
    assert [loss(each).text for each in (0.5, 0.9996, 12.34, 123.4)] == ["0.500", "1.00", "12.3", "123"]
    assert [score(each).text for each in (0.5, 0.9996, 1.0)] == ["50.0", "100", "100"]
    assert [loss(-0.0).text, score(-0.0).text] == ["0.000", "0.0"]
    assert value(1e-12).text == "0"
    assert score(None).text == "\N{EN DASH}"
