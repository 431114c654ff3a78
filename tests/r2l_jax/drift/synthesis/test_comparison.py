import numpy as np
import pytest

from r2l_jax.drift import cases
from r2l_jax.drift.outcomes import Outcomes
from r2l_jax.drift.results import plain
from r2l_jax.drift.synthesis.comparison import Trainings, differences, drops, groups_of
from r2l_jax.runtime.errors import InputError

PIPELINE = "bilinear.none.none"
CASES = [
    cases.OWN,
    *cases.pipelines([PIPELINE, "malvar2004.none.none"]),
    *cases.corruptions(["identity", "contrast", "gaussian_noise"], [1, 5]),
]
# The share of the samples that are right in each case. The own pipeline changes nothing.
RIGHT = [0.9, 0.9, 0.8, 0.9, 0.9, 0.8, 0.6, 0.7, 0.3]


def member(seed, right=RIGHT, first=0):
    """The outcomes of two folds, in which the same samples are hard in all cases."""
    random, hard = np.random.default_rng(seed), np.random.default_rng(0).permutation(np.linspace(0, 1, 400))
    folds = {}
    for number in range(2):
        part = hard[200 * number : 200 * number + 200] + 0.02 * random.normal(size=200)
        by_case = {case.name: np.stack([part < each, np.ones(200)]) for case, each in zip(CASES, right, strict=True)}
        folds[number] = Outcomes(first + np.arange(200) + 200 * number, by_case)
    return folds


def group(name="group", count=3, of=CASES, **options):
    return Trainings({f"{name}/{seed}": member(seed, **options) for seed in range(count)}, [PIPELINE], of)


def test_cases_are_of_kinds_of_drift_and_groups_of_corruptions():
    changed = [case for case in CASES[1:] if case.name != PIPELINE]
    assert groups_of(changed) == {
        "pipelines": ["malvar2004.none.none"],
        "corruptions": ["contrast.1", "contrast.5", "gaussian_noise.1", "gaussian_noise.5"],
        "tone and color": ["contrast.1", "contrast.5"],
        "noise": ["gaussian_noise.1", "gaussian_noise.5"],
        "contrast": ["contrast.1", "contrast.5"],
        "gaussian_noise": ["gaussian_noise.1", "gaussian_noise.5"],
    }


def test_drifts_of_the_sensor_are_of_groups_and_kinds():
    assert groups_of(cases.sensor(["underexposure", "defocus", "motion"], [1, 5])) == {
        "sensor": [f"{kind}.{severity}" for kind in ("underexposure", "defocus", "motion") for severity in (1, 5)],
        "light": ["underexposure.1", "underexposure.5"],
        "lens": ["defocus.1", "defocus.5", "motion.1", "motion.5"],
        **{kind: [f"{kind}.1", f"{kind}.5"] for kind in ("underexposure", "defocus", "motion")},
    }


def test_a_paired_drop_has_a_narrower_interval_than_its_scores():
    found = drops(group(), "test", None)
    assert (found.about, found.samples) == ("recipe", 400)
    assert PIPELINE not in found.cases
    drop = found.cases["malvar2004.none.none"]
    assert drop.low < 0.1 < drop.high
    assert drop.high - drop.low < 0.9 * np.sqrt(2) * (found.score.high - found.score.low)
    assert found.groups["tone and color"].estimate == pytest.approx(0.2, abs=0.03)
    assert found.groups["corruptions"].estimate == pytest.approx(0.3, abs=0.03)
    # Members differ little.
    assert found.shares is not None
    assert found.shares["member"] < 0.05 < found.shares["case"]
    # What changes nothing is no case that drops differ in.
    changing = [case for case in CASES if not case.name.startswith("identity.")]
    assert found.shares == drops(group(of=changing), "test", None).shares
    assert found.members_needed.keys() == {"pipelines", "corruptions"}


def test_a_run_alone_tells_about_itself():
    alone = group(count=1)
    found = drops(alone, "validation", None)
    assert (found.about, found.shares, found.members_needed) == ("model", None, {})
    with pytest.raises(InputError, match="one training cannot tell about its recipe"):
        drops(alone, "validation", "recipe")


def test_the_log_ratio_is_there_if_asked_for_and_known():
    assert drops(group(), "test", None).log_ratio is None
    found = drops(group(), "test", None, as_published=True).log_ratio
    assert found is not None
    assert found.low < np.log(0.3 / 0.1) < found.high
    right = [*RIGHT[:2], 0.9, *RIGHT[3:]]
    assert drops(group(right=right), "test", None, as_published=True).log_ratio is None


def test_the_first_group_is_compared_with_each_other_one_of_the_same_samples():
    worse = [*RIGHT[:2], 0.7, *RIGHT[3:]]
    groups = {
        "worse": group("worse", right=worse),
        "group": group(),
        "alone": group("alone", count=1),
        "elsewhere": group("elsewhere", first=1000),
    }
    found = differences(groups, None)
    assert [(each.first, each.second, each.about) for each in found] == [
        ("worse", "group", "recipe"),
        ("worse", "alone", "model"),
    ]
    costs = found[0].groups["pipelines"]
    assert costs.estimate == pytest.approx(0.1, abs=0.02)
    assert costs.probability > 0.99
    # The same corruptions cost both the same.
    assert found[0].cases["contrast.5"].low < 0 < found[0].cases["contrast.5"].high
    unpaired = [drops(groups[name], "test", None).groups["pipelines"] for name in ("worse", "group")]
    assert costs.high - costs.low < np.hypot(*(each.high - each.low for each in unpaired))
    assert plain(costs).keys() == {"estimate", "low", "high", "probability"}
