import pytest

from r2l_jax.drift.verdict import change, in_words, level, significant, single


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (-0.012, 0.03, "Shows no loss under drift (\N{MINUS SIGN}1 to 3 points)"),
        (-0.1, 0.09, "Shows no loss under drift (\N{MINUS SIGN}10 to 9 points)"),
        (-0.1, 0.11, "Shows no loss under drift (\N{MINUS SIGN}10 to 11 points; too few samples to tell)"),
        (
            -0.9,
            1.0,
            "Loses 5 points under drift, perhaps by chance (\N{MINUS SIGN}90 to 100 points; too few samples to tell)",
        ),
        (
            -0.4,
            0.1,
            "Gains 15 points under drift, perhaps by chance (\N{MINUS SIGN}40 to 10 points; too few samples to tell)",
        ),
        (-0.05, -0.02, "Gains 2 to 5 points under drift"),
        (0.004, 0.006, "Loses 0 to 1 points under drift"),
        (0.009, 0.011, "Loses 1 point under drift"),
    ],
)
def test_a_loss_is_said_only_where_it_is_shown(low, high, sentence):
    assert change(((low + high) / 2, low, high), ("Loses", "Gains", "Shows no loss"), " under drift") == sentence


def test_losses_are_significant_among_all_that_were_looked_at():
    losses = {"motion": (0.05, 0.01, 0.09), "defocus": (0.143, 0.046, 0.24), "bits": (0.03, 0.0015, 0.0585)}
    gains = {"flicker": (-0.2, -0.3, -0.1), "row_noise": (-0.01, -0.05, 0.03), "dead_sites": (0.0, -0.02, 0.02)}
    p_values = {"motion": 0.02, "defocus": 0.004, "bits": 0.04, "flicker": 1e-4, "row_noise": 0.6, "dead_sites": 1}
    # A sixth of 5% is 0.8%, a fifth 1%, and for two losses alone, the second needs less than 5%.
    assert significant(losses | gains, p_values) == ["defocus"]
    assert significant({name: losses[name] for name in ("motion", "defocus")}, p_values) == ["defocus", "motion"]
    assert single(losses | gains, p_values) == "of 6 cases, 1 loses significantly (Holm): defocus (5 to 24 points)"
    assert single(gains, p_values) == "of 3 cases, none alone loses significantly (Holm)"
    many = {
        f"defocus.{severity}": (severity / 10, severity / 10 - 0.01, severity / 10 + 0.01) for severity in range(1, 6)
    }
    # Two further cases lose, but not significantly.
    others = {"bits": (0.03, -0.01, 0.07), "motion": (0.02, -0.03, 0.07)}
    said = single(many | others, dict.fromkeys(many, 1e-6) | dict.fromkeys(others, 0.3))
    assert said.startswith("of 7 cases, 5 lose significantly (Holm): defocus of severity 5 (49 to 51 points), ")
    assert said.endswith(", defocus of severity 3 (29 to 31 points), and 2 others")


def test_a_score_is_its_interval_unless_that_is_too_wide_to_tell():
    assert level((0.97, 0.9, 1.0)) == "90 to 100 points"
    assert level((1.0, 0.0, 1.0)) == "100 points (0 to 100 points; too few samples to tell)"


def test_cases_are_named_in_words():
    assert in_words("exposure=-1,defocus=0.5") == "exposure -1 with defocus 0.5"
    assert in_words("light=0.05") == "an exposure of 0.05"
    assert in_words("camera=new") == "camera new"
    assert in_words("hot_sites.3") == "hot sites of severity 3"
