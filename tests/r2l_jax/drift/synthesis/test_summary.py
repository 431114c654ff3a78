import csv

import pytest

from r2l_jax.drift import cases
from r2l_jax.drift.results import Statistic
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
    assert result.runs["static"].headline == pytest.approx({
        "own": 0.8, "processing_drop": 0.05, "acquisition_drop": 0.4, "corruption_drop": 0.2,
        "processing_drop_error": 0.05, "corruption_over_processing": None,
    })  # fmt: skip
    assert result.runs["learnt"].headline == pytest.approx({
        "own": 0.8, "processing_drop": 0.2, "acquisition_drop": 0.0, "corruption_drop": 0.6,
        "processing_drop_error": 0.1, "corruption_over_processing": 3.0,
    })  # fmt: skip
    assert result.headline == pytest.approx({
        "own": 0.8, "processing_drop": 0.125, "acquisition_drop": 0.2, "corruption_drop": 0.4,
        "processing_drop_error": 0.075, "corruption_over_processing": 3.2,
    })  # fmt: skip


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


@pytest.mark.parametrize("processing", [0.0, -0.1, 1e-4])
def test_there_is_no_ratio_to_a_drop_of_nothing(processing):
    run = STATIC._replace(folds={0: fold(0.9, 0.9 - processing, 0.4, 0.8, 0.6)})
    result = summarized(static=run)
    assert result.headline["corruption_over_processing"] is None
    assert summary.make_table(result).splitlines()[-1].split()[-1] == "-"


def test_what_was_not_asked_for_has_no_drop():
    result = summary.summarize({"learnt": LEARNT}, CASES[:1] + CASES[4:], "accuracy")
    assert result.headline["processing_drop"] is None
    assert result.headline["corruption_drop"] == pytest.approx(0.6)


def test_tables_of_one_run_and_of_several():
    table = summary.make_table(summarized(learnt=LEARNT)).splitlines()
    assert table[0].split() == ["test", "accuracy", "deviation", "drop"]
    assert [line.split()[0] for line in table[2:8]] == ["own", FIRST, SECOND, "exposure=0.5", "identity", "contrast"]
    assert table[7].split() == ["contrast", "(mean", "of", "2", "severities)", "0.2000", "-", "0.6000"]
    table = summary.make_table(summarized(learnt=LEARNT, static=STATIC)).splitlines()
    assert table[0].split() == ["accuracy", "at", "severities", "1,", "5", "own", "identity", "contrast"]
    assert table[2].split() == ["learnt", "0.800±0.000", "0.800±0.000", "0.200±0.000"]
    assert table[3].split() == ["static", "0.800±0.100", "0.800±0.100", "0.600±0.100"]
    assert table[-1].split() == ["mean", "0.8000", "0.1250±0.0750", "0.2000", "0.4000", "3.2"]
    assert len(table) == 5 + 5


def test_a_drop_within_its_standard_error_is_no_denominator():
    # Drops of 0.1 and 0 in two folds: 0.05 on average, with a standard error of 0.05.
    line = summary.make_table(summarized(static=STATIC)).splitlines()[-1]
    assert line.split()[2] == "0.0500±0.0500"
    assert line.endswith("  drop within its error")
    surer = STATIC._replace(folds={0: STATIC.folds[0], 1: fold(0.7, 0.62, 0.4, 0.6, 0.4)})
    headline = summarized(static=surer).headline
    assert headline["processing_drop_error"] == pytest.approx(0.01)
    assert headline["corruption_over_processing"] == pytest.approx(0.2 / 0.09)


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
