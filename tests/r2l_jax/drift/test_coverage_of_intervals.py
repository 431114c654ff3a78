import coverage_of_intervals
import pytest


@pytest.mark.parametrize("clean", [None, 0.99])
@pytest.mark.parametrize(("accuracy", "samples", "members"), [(0.9, 60, 1), (0.98, 30, 1), (0.99, 120, 2), (1, 30, 3)])
def test_intervals_of_accuracies_near_1_hold_the_truth(accuracy, samples, members, clean):
    share, width = coverage_of_intervals.coverage(accuracy, samples, members, clean, 1000)
    assert share >= 0.93
    assert 0 < width < 0.25
