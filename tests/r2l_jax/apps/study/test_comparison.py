import matplotlib.figure
import numpy as np
import pytest

from r2l_jax import jobs
from r2l_jax.apps.study import comparison, study
from r2l_jax.apps.study.plan import runs_of
from r2l_jax.apps.study.published import published
from r2l_jax.cli.flags import replace
from r2l_jax.drift import statistics
from r2l_jax.names import CORRUPTIONS_OF_THE_STUDY, PUBLISHED_PIPELINES
from r2l_jax.results.result import read

WORST = "malvar2004.sharpening_filter.median_denoising"
MINUS = "ours minus published"
# How many more samples than most models the first one has right, and how many fewer the last one.
MORE = np.array([2, *[0] * 10, -2])


def tables_of(config, control, task="classification"):
    result = getattr(comparison, control)(config, published(task), runs_of(config, control))
    return {name: {row[0]: row[1:] for row in table.rows} for name, table in result.tables.items()}


@pytest.mark.shows("study.comparison *.csv: *, trained with", "study.comparison {}_drops.csv: *, trained with")
def test_matrices_have_the_means_of_all_folds(finished):
    tables = tables_of(finished, "synthesis")
    assert tuple(tables["processing_ours"]) == PUBLISHED_PIPELINES
    np.testing.assert_allclose([*tables["processing_ours"].values()], 0.81 + MORE[:, None] / 50 + 0.1 * np.eye(12))
    np.testing.assert_allclose([*tables["corruption_ours"].values()], MORE[:, None] / 50 + [0.47, 0.55])
    np.testing.assert_allclose([*tables["processing_drops"].values()], 0.1 - 0.1 * np.eye(12), atol=1e-12)
    np.testing.assert_allclose([*tables["corruption_drops"].values()], np.tile([0.44, 0.36], (12, 1)))
    assert "processing_differences" not in tables


@pytest.mark.shows(
    "study.comparison headline.csv: clean images, corruptions, drop under {}, models, other pipelines",
    "study.comparison log_ratio.csv: log ratio, without the worst pipeline, models",
)
def test_the_headline_and_the_log_ratio_have_intervals(finished):
    tables = tables_of(finished, "synthesis")
    ours = tables["headline"]["ours"]
    np.testing.assert_allclose([cell[0] for cell in ours], [0.91, 0.81, 0.51, 0.1, 0.4])
    # The samples of both folds are joined.
    lost = [[np.isin(np.arange(50), np.arange(40, 45) + fold + more) for fold in range(2)] for more in MORE]
    np.testing.assert_allclose(ours[3], statistics.interval(1.0 * np.reshape(lost, (12, 100))))
    ratio, without, *_ = tables["log_ratio"]["ours"]
    assert ratio[0] == without[0] == pytest.approx(np.log(4))
    assert ratio[1] < ratio[0] < ratio[2]
    assert MINUS not in tables["headline"]


@pytest.mark.shows("study.comparison {}_differences.csv: *, trained with")
def test_differences_to_the_published_numbers_of_the_same_data(finished):
    tables = tables_of(replace(finished, dataset="Microscopy"), "synthesis")
    theirs = published("classification")
    np.testing.assert_allclose(
        [*tables["processing_differences"].values()],
        np.array([*tables["processing_ours"].values()]) - theirs.processing,
    )
    places = [theirs.corruptions.index(name) for name in ("contrast", "gaussian_noise")]
    np.testing.assert_allclose(
        [*tables["corruption_differences"].values()],
        np.array([*tables["corruption_ours"].values()]) - theirs.corruption[:, places],
    )
    clean, published_own, difference = (tables["headline"][whose][0] for whose in ("ours", "published", MINUS))
    np.testing.assert_allclose(difference, np.array(clean) - published_own[0])


@pytest.mark.shows("study.comparison log_ratio.csv: worst pipeline")
@pytest.mark.parametrize(
    ("task", "means", "ratio", "without", "worst"),
    [
        ("classification", (0.828, 0.805, 0.585), 10.3, 24.5, WORST),
        ("segmentation", (0.701, 0.655, 0.520), 3.9, 4.4, "bilinear.unsharp_masking.median_denoising"),
    ],
)
def test_the_headline_of_the_published_tables(finished, task, means, ratio, without, worst):
    tables = tables_of(finished, "synthesis", task)
    assert [cell[0] for cell in tables["headline"]["published"][:3]] == pytest.approx(means, abs=1e-3)
    assert tuple(published(task).corruptions) == CORRUPTIONS_OF_THE_STUDY
    found, left_out, name, share = tables["log_ratio"]["published"]
    assert np.exp([found[0], left_out[0]]) == pytest.approx([ratio, without], abs=0.1)
    assert 0 < found[1] < found[0] < found[2]
    assert name == worst
    # One column makes most of the drop of Microscopy.
    assert (share > 0.5) == (task == "classification")


@pytest.mark.shows(
    "study.comparison worst_cases.csv: group and weight of the distance, ours, ours high",
    "study.comparison worst_cases.csv: ours low, published, ours minus published",
)
def test_worst_cases_go_from_the_largest_weight_to_the_smallest(finished):
    rows = tables_of(replace(finished, dataset="Microscopy"), "forensics")["worst_cases"]
    assert [*rows][:3] == ["default", "all at 0.01", "all at 0.0001"]
    ours, theirs, difference = rows["black_level at 0.0001"]
    assert ours == pytest.approx((0.35, 0.3, 0.4))
    assert (theirs, difference) == (0.57, pytest.approx(0.35 - 0.57))
    # The published searches are of another data set.
    drone = replace(finished, dataset="DroneSegmentation")
    assert tables_of(drone, "forensics", "segmentation")["worst_cases"]["all at 0.01"][2] is None


@pytest.mark.shows(
    "study.comparison ends.csv: ours, ours high, ours low, processing, published, ours minus published",
    "study.comparison figures: curves",
    "study.comparison keys: title, flags",
)
def test_learning_curves_are_over_steps(finished):
    result = comparison.adjustment(finished, published("classification"), runs_of(finished, "adjustment"))
    name, ours, theirs, difference = result.tables["ends"].rows[0]
    assert (name, ours) == ("learned", pytest.approx((0.7, 0.6, 0.8)))
    assert (theirs, difference) == (published("classification").ends["learned"], None)
    *_, difference = tables_of(replace(finished, dataset="Microscopy"), "adjustment")["ends"]["learned"]
    assert difference == pytest.approx(0.7 - theirs)
    assert (result.metadata["title"], result.metadata["flags"]["epochs"]) == ("Drift adjustment", 3)
    axes = matplotlib.figure.Figure().subplots()
    result.figures["curves"].draw(axes)
    mean, *folds = [line for line in axes.get_lines() if line.get_color() == "C0"][:3]
    # 80 samples in batches of 8.
    np.testing.assert_allclose(mean.get_xdata(), [10, 20, 30])
    np.testing.assert_allclose(mean.get_ydata(), [0.3, 0.5, 0.7])
    np.testing.assert_allclose([line.get_ydata() for line in folds], [[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]])


@pytest.mark.shows("study --scheduler", "study.comparison keys: title", "study.comparison ends.csv: processing")
def test_controls_are_shown_without_the_jobs_that_failed(finished, monkeypatch, capsys):
    lost = {f"evaluate synthesis/{PUBLISHED_PIPELINES[0]}", "search forensics/model", "train adjustment/frozen"}

    def run(planned, scheduler, logs):
        assert scheduler == "local:3"
        return [jobs.Ended(job.name, error="lost" if job.name in lost else None) for job in planned]

    monkeypatch.setattr(study.jobs, "run", run)
    monkeypatch.setattr(study.datasets, "load", lambda *_, **__: type("Data", (), {"task": "classification"}))
    monkeypatch.setattr(study.jobs, "prepare", lambda scheduler: None)
    assert not study.run(replace(finished, scheduler="local:3"))
    assert "failed: train adjustment/frozen: lost" in capsys.readouterr().out
    processing = read(finished.output_dir / "synthesis").tables["processing_ours"]
    left = [*PUBLISHED_PIPELINES[1:]]
    assert [column.name for column in processing.columns[1:]] == [row[0] for row in processing.rows] == left
    assert [row[0] for row in read(finished.output_dir / "adjustment").tables["ends"].rows] == ["learned"]
    assert read(finished.output_dir / "forensics") is None
    page = (finished.output_dir / "study.html").read_text()
    assert "Drift synthesis" in page
    assert "Drift forensics" not in page
