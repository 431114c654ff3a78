import csv

import pytest

from r2l_jax.drift import cases
from r2l_jax.drift.results import Compared, Differences, Drops, Estimate, Statistic
from r2l_jax.drift.synthesis import summary
from r2l_jax.drift.synthesis.summary import RunResults
from r2l_jax.names import PUBLISHED_PIPELINES
from r2l_jax.runtime.files import write_csv

FIRST, SECOND = PUBLISHED_PIPELINES[:2]
CASES = [
    cases.OWN,
    *cases.pipelines([FIRST, SECOND]),
    *cases.exposures([0.5]),
    *cases.corruptions(["identity", "contrast"], [1, 5]),
]


def numbers(accuracy):
    classes = {"a": accuracy, "b": accuracy / 2}
    return {"loss": 1 - accuracy, "accuracy": accuracy, "precision": classes, "recall": classes, "f1": classes}


def fold(own, second, exposed, *corrupted, first=None):
    scores = (own, own if first is None else first, second, exposed, own, own, *corrupted)
    return {case.name: numbers(score) for case, score in zip(CASES, scores, strict=True)}


# Trained with the first pipeline: two folds, with drops of 0.1 and 0 by the second one, of 0.2 by corruptions.
STATIC_FOLDS = {0: fold(0.9, 0.8, 0.4, 0.8, 0.6), 1: fold(0.7, 0.7, 0.4, 0.6, 0.4)}
STATIC = RunResults("runs/static", "static", FIRST, (FIRST,), STATIC_FOLDS, {0: "first", 1: "second"})
OTHER = STATIC._replace(own=(SECOND,))
# Learnt its processing, to which both pipelines are others: drops of 0.1 and 0.3, by corruptions of 0.5 and 0.7.
LEARNT = RunResults(
    "runs/learnt", "parametrized", "parametrized", (), {0: fold(0.8, 0.5, 0.8, 0.3, 0.1, first=0.7)}, {0: "third"}
)


def approx(mean, std):
    return Statistic(pytest.approx(mean), pytest.approx(std))


def summarized(**runs):
    return summary.summarize(runs, CASES, "accuracy")


def test_headline_is_the_mean_of_drops_of_the_same_fold_without_own_and_identity():
    result = summarized(static=STATIC, learnt=LEARNT)
    assert result.runs["static"].headline == pytest.approx(
        {
            "own": 0.8,
            "processing_drop": 0.05,
            "acquisition_drop": 0.4,
            "sensor_drop": None,
            "corruption_drop": 0.2,
        }
    )
    assert result.runs["learnt"].headline == pytest.approx(
        {
            "own": 0.8,
            "processing_drop": 0.2,
            "acquisition_drop": 0.0,
            "sensor_drop": None,
            "corruption_drop": 0.6,
        }
    )
    assert result.headline == pytest.approx(
        {
            "own": 0.8,
            "processing_drop": 0.125,
            "acquisition_drop": 0.2,
            "sensor_drop": None,
            "corruption_drop": 0.4,
        }
    )


def test_means_and_deviations_are_over_the_folds():
    tests = summarized(static=STATIC).runs["static"].tests
    assert tests[SECOND]["accuracy"] == approx(0.75, 0.05)
    assert tests[SECOND]["drop"] == approx(0.05, 0.05)
    assert tests[SECOND]["f1"]["b"] == approx(0.375, 0.025)
    assert tests[SECOND]["group"] == "pipelines"


def test_the_matrix_has_runs_in_the_order_of_what_they_were_trained_with():
    matrix = summarized(other=OTHER, static=STATIC).matrices["pipelines"]
    assert (matrix["rows"], matrix["columns"], matrix["own"]) == (["static", "other"], [FIRST, SECOND], [FIRST, SECOND])
    assert matrix["mean"][0] == pytest.approx([0.8, 0.75])
    assert matrix["std"][0] == pytest.approx([0.1, 0.05])


def test_a_run_without_a_pipeline_of_its_own_has_its_images_in_a_column():
    matrices = summarized(static=STATIC, learnt=LEARNT).matrices
    assert matrices["pipelines"]["columns"] == ["own", FIRST, SECOND]
    assert matrices["pipelines"]["rows"] == ["learnt", "static"]
    assert matrices["pipelines"]["mean"][0] == pytest.approx([0.8, 0.7, 0.5])
    assert matrices["exposures"]["columns"] == ["own", "exposure=0.5"]
    assert (matrices["corruptions"]["rows"], matrices["corruptions"]["columns"]) == (["identity", "contrast"], [1, 5])
    assert matrices["corruptions"]["mean"][1] == pytest.approx([0.5, 0.3])
    assert "intensities" not in matrices


def test_drifts_of_the_sensor_have_a_drop_matrices_and_figures_of_their_own():
    tested = [cases.OWN, *cases.sensor(["defocus", "bits"], [1, 5]), *cases.corruptions(["contrast"], [3])]

    def run(*scores):
        by_case = dict(zip((case.name for case in tested), map(numbers, scores), strict=True))
        return LEARNT._replace(folds={0: by_case})

    runs = {"first": run(0.8, 0.8, 0.6, 0.4, 0.2, 0.0), "second": run(0.6, 0.6, 0.4, 0.2, 0.0, 0.6)}
    result = summary.summarize(runs, tested, "accuracy")
    assert result.headline["sensor_drop"] == pytest.approx(0.3)
    assert result.headline["corruption_drop"] == pytest.approx(0.4)
    matrix, of_runs = result.matrices["sensor"], result.matrices["sensor_of_runs"]
    assert (matrix["rows"], matrix["columns"]) == (["defocus", "bits"], [1, 5])
    assert matrix["mean"] == [pytest.approx([0.7, 0.5]), pytest.approx([0.3, 0.1])]
    assert (of_runs["columns"], of_runs["severities"]) == (["own", "defocus", "bits"], [1, 5])
    assert of_runs["mean"] == [pytest.approx([0.8, 0.7, 0.3]), pytest.approx([0.6, 0.5, 0.1])]
    figures = summary.make_figures(result)
    assert set(figures) == {"sensor", "sensor_of_runs", "corruptions", "corruptions_of_runs"}
    title = "drift of the sensor by severity; own images 0.700; mean of 2 runs"
    assert figures["sensor"].axes[0].get_title() == title
    result.drops = {name: drops(name) for name in runs}
    columns = [line for line in summary.make_table(result).splitlines() if "own accuracy" in line][-1]
    assert columns.split() == ["run", "own", "accuracy", "sensor", "drop", "corruption", "drop"]


def test_what_was_not_asked_for_has_no_drop():
    result = summary.summarize({"learnt": LEARNT}, CASES[:1] + CASES[4:], "accuracy")
    assert result.headline["processing_drop"] is None
    assert result.headline["corruption_drop"] == pytest.approx(0.6)


def estimates(shift=0.0, **drops):
    return {name.replace("_", " "): Estimate(drop + shift, drop - 0.02, drop + 0.03) for name, drop in drops.items()}


def drops(*members, shift=0.0, **options):
    """Drops with intervals as an evaluation of the cases has them."""
    groups = estimates(shift, pipelines=0.123, exposures=0.4, corruptions=0.6) | {
        "tone and color": Estimate(0.6, 0.0, 1.0)
    }
    groups["contrast"] = Estimate(0.6, 0.55, 0.66)
    names = [case.name for case in CASES[1:]]
    return Drops(
        members=list(members),
        about="recipe" if len(members) > 1 else "model",
        samples=480,
        measured="test samples",
        score=Estimate(0.95, 0.93, 1.0),
        groups=groups,
        cases={name: Estimate(0.05, 0.04, 0.06) for name in names},
        shares=None,
        members_needed={},
        **options,
    )


def lines(**content):
    result = summarized(learnt=LEARNT, **({"static": STATIC} if "static" in content["drops"] else {}))
    for name, value in content.items():
        setattr(result, name, value)
    return [line.strip() for line in summary.make_table(result).splitlines()]


def test_the_table_of_one_run_has_drops_with_intervals_and_scores():
    table = lines(drops={"learnt": drops("learnt")})
    assert table[0].split() == ["test", "drop,", "points", "accuracy"]
    assert [line.split("  ")[0] for line in table[2:11]] == [
        "own",
        "pipelines",
        "exposures",
        "corruptions",
        "tone and color",
        FIRST,
        SECOND,
        "exposure=0.5",
        "contrast (mean of 2 severities)",
    ]
    assert table[2].endswith("-  95.0 (93.0 to 100)")
    assert table[3].split() == ["pipelines", "12.3", "(10.3", "to", "15.3)", "82.7"]
    assert table[10].split()[-5:] == ["60.0", "(55.0", "to", "66.0)", "35.0"]
    assert table[-1] == "Intervals: 95%, about the model (480 test samples)"


def test_the_tables_of_two_begin_with_their_difference():
    compared = {"pipelines": Compared(0.05, 0.01, 0.09, 0.987)}
    table = lines(
        drops={"learnt": drops("learnt"), "static": drops("static", shift=0.1)},
        differences=[Differences("learnt", "static", "model", compared, {})],
    )
    assert table[0].endswith("learnt - static (model)")
    assert table[2].split("  ")[0] == "pipelines"
    assert table[2].endswith("5.0 (1.0 to 9.0); 99%")
    assert table[4].split() == ["drop,", "points", "learnt", "static"]
    assert table[6].split("  ")[0] == "(own accuracy)"
    assert table[7].endswith("12.3 (10.3 to 15.3)  22.3 (10.3 to 15.3)")
    scores = [line.split() for line in table[-7:-2]]
    assert scores[0] == ["run", "own", "accuracy", "processing", "drop", "acquisition", "drop", "corruption", "drop"]
    assert scores[2] == ["learnt", "80.0", "20.0", "0.0", "60.0"]
    assert scores[4] == ["mean", "of", "the", "runs", "80.0", "12.5", "20.0", "40.0"]


def test_many_runs_are_rows_with_groups_of_cases():
    names = ["learnt", "static", "third", "fourth"]
    table = lines(drops={name: drops("learnt") for name in names})
    assert table[0].split("  ")[0] == "drop, points"
    assert [line.split()[0] for line in table[2:6]] == names
    assert "contrast" not in table[0]


def test_what_is_known_of_a_group_is_said_below():
    group = drops(
        "a", "b", log_ratio=Estimate(1.41, 0.92, 1.9), ensemble=summary.summarize_run(LEARNT, CASES, "accuracy")
    )
    group.shares = {"member": 0.4, "case": 0.3, "sample": 0.2, "rest": 0.1}
    group.members_needed = {"pipelines": 9, "corruptions": None}
    group.members = ["learnt", "static"]
    table = lines(drops={"static": group})
    assert any(line.split()[:2] == ["static", "(ensemble)"] for line in table)
    assert table[-3:] == [
        "static: shares of the variance of drops: member 40%, case 30%, sample 20%, rest 10%; members for ±2 points: "
        "9 for pipelines, more samples for corruptions",
        "static: logarithm of the drop under corruptions over that under pipelines: 1.41 (0.92 to 1.90)",
        "Intervals: 95%, about the recipe (2 trainings, 480 test samples)",
    ]


def test_runs_by_corruptions_are_means_over_the_severities_of_each_fold():
    matrix = summarized(static=STATIC).matrices["corruptions_of_runs"]
    assert (matrix["rows"], matrix["columns"]) == (["static"], ["own", "identity", "contrast"])
    assert matrix["severities"] == [1, 5]
    # Of the folds, (0.8 + 0.6) / 2 and (0.6 + 0.4) / 2.
    assert matrix["mean"][0] == pytest.approx([0.8, 0.8, 0.6])
    assert matrix["std"][0] == pytest.approx([0.1, 0.1, 0.1])


def test_further_metrics_are_summarized_and_have_a_column():
    with_tiles = {case: {**each, "tile_iou": each["accuracy"] / 2} for case, each in LEARNT.folds[0].items()}
    result = summarized(learnt=LEARNT._replace(folds={0: with_tiles}))
    assert result.runs["learnt"].tests[SECOND]["tile_iou"] == approx(0.25, 0.0)
    assert summary.csv_rows(result)[0]["tile_iou"] == pytest.approx(0.4)


def test_csv_has_a_line_for_each_run_fold_and_test_case(tmp_path):
    write_csv(tmp_path / "all.csv", summary.csv_rows(summarized(static=STATIC, learnt=LEARNT)))
    with (tmp_path / "all.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * len(CASES)
    line = next(line for line in lines if (line["run"], line["fold"], line["test"]) == ("static", "0", SECOND))
    assert (float(line["accuracy"]), float(line["drop"])) == pytest.approx((0.8, 0.1))
    assert float(line["recall b"]) == pytest.approx(0.4)
    assert {line["test"] for line in lines if line["own"] == "1"} == {"own", FIRST}


def test_figures_are_as_large_as_their_matrices():
    figures = summary.make_figures(summarized(static=STATIC, learnt=LEARNT))
    assert list(figures) == ["pipelines", "exposures", "corruptions", "corruptions_of_runs"]
    assert figures["corruptions_of_runs"].axes[0].get_title() == "corruptions at severities 1, 5: trained (rows)"
    axes, _ = figures["pipelines"].axes
    assert axes.images[0].get_array().shape == (2, 3)
    assert [text.get_text() for text in axes.texts][:3] == ["0.800\n±0.000", "0.700\n±0.000", "0.500\n±0.000"]


def test_the_own_images_of_each_run_are_framed():
    for runs, cells in (
        ({"other": OTHER}, [(0, 1)]),
        ({"other": OTHER, "static": STATIC}, [(0, 0), (1, 1)]),
        ({"other": OTHER, "learnt": LEARNT}, [(0, 0), (1, 2)]),
    ):
        figure = summary.make_figures(summarized(**runs))["pipelines"]
        corners = [frame.get_xy() for frame in figure.axes[0].patches]
        assert corners == [(column - 0.5, row - 0.5) for row, column in cells]
