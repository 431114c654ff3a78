import pytest

from r2l_jax.drift.verdict import change


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (-0.012, 0.03, "Shows no loss under drift (\N{MINUS SIGN}1 to 3 points)"),
        (-0.05, -0.02, "Gains 2 to 5 points under drift"),
        (0.004, 0.006, "Loses 0 to 1 points under drift"),
        (0.009, 0.011, "Loses 1 point under drift"),
    ],
)
def test_a_loss_is_said_only_where_it_is_shown(low, high, sentence):
    assert change(((low + high) / 2, low, high), ("Loses", "Gains", "Shows no loss"), " under drift") == sentence
