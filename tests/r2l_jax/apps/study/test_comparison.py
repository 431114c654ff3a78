"""`tests/oracles` computes what study.py prints, writes and draws from the files of its runs."""

import importlib.resources
import json

import made_up_study
import numpy as np
import pytest
import sketches
from oracles import study as expected
from oracles import tables
from programs import call

from r2l_jax.apps.study import study
from r2l_jax.apps.study.plan import PIPELINES, runs_of
from r2l_jax.cli.flags import arguments, flat, replace
from r2l_jax.names import CORRUPTIONS_OF_THE_STUDY, PUBLISHED_PIPELINES
from r2l_jax.results.result import read

PUBLISHED = json.loads(importlib.resources.files("r2l_jax.apps.study").joinpath("published_scores.json").read_text())
WORST = "malvar2004.sharpening_filter.median_denoising"
KINDS, SEVERITIES = ("contrast", "gaussian_noise"), (2, 3)
ENDS = ("", " low", " high")


def near(values):
    return pytest.approx(values, abs=1e-9)


def cells(row, name):
    return [row[f"{name}{end}"] for end in ENDS]


class Compared:
    """A study of a data set: its settings, and what the program printed and drew."""

    def __init__(self, config, task, folder, patch):
        self.config, self.task = replace(config, output=str(folder)), task
        made_up_study.finish(self.config, task, patch)
        self.drawn, self.folder = sketches.recorded(patch), folder
        done = call("study.py", *arguments(type(config), flat(self.config)))
        assert done.returncode == 0, done.stderr
        self.output = done.stdout


@pytest.fixture(scope="module", params=[("classification", "Microscopy"), ("segmentation", "DroneSegmentation")])
def compared(request, config, tmp_path_factory):
    task, dataset = request.param
    with pytest.MonkeyPatch.context() as patch:
        return Compared(replace(config, dataset=dataset), task, tmp_path_factory.mktemp("compared"), patch)


def scores_of(config):
    """The scores of each model under each pipeline and, as a mean over the severities, under each corruption."""
    processing, corruption = [], []
    for trained, run in runs_of(config, "synthesis").items():
        found = {}
        for group in ("clean", "pipelines", "corruptions"):
            found |= expected.by_group(run.run_dir / "evaluation" / group)
        cases = ["clean" if each == trained else PIPELINES[each] for each in PUBLISHED_PIPELINES]
        processing.append([found[case] for case in cases])
        corruption.append([np.mean([found[f"{kind}.{n}"] for n in SEVERITIES], 0) for kind in KINDS])
    return np.array(processing), np.array(corruption)


def published(task):
    """The published scores under pipelines and corruptions, without the identity, each mean as one group."""
    of_task = PUBLISHED[{"classification": "microscopy", "segmentation": "drone_segmentation"}[task]]
    processing, corruption = np.array(of_task["processing_drift"]), np.array(of_task["corruption"])
    return processing[..., None], corruption[:, 1:, None]


@pytest.mark.shows(
    "study.comparison *.csv: *, trained with",
    "study.comparison {}_drops.csv: *, trained with",
    "study.comparison {}_differences.csv: *, trained with",
    "study.comparison headline.csv: models, clean images, clean images low, clean images high",
    "study.comparison headline.csv: other pipelines, other pipelines low, other pipelines high",
    "study.comparison headline.csv: corruptions, corruptions low, corruptions high, drop under {}",
    "study.comparison log_ratio.csv: models, log ratio, log ratio low, log ratio high, worst pipeline",
    "study.comparison log_ratio.csv: without the worst pipeline, without the worst pipeline low",
    "study.comparison log_ratio.csv: without the worst pipeline high, its share of all drops under pipelines",
    "study.comparison keys: title, score, flags, verdict, notes",
    "study.comparison figures: *",
)
def test_synthesis_has_the_numbers_of_the_outcomes(compared):
    config, output = compared.config, compared.output
    folder = compared.folder / "synthesis"
    found = tables.stored(folder, output)
    numbers = {"ours": scores_of(config), "published": published(compared.task)}
    names = ("clean images", "other pipelines", "corruptions", "drop under other pipelines", "drop under corruptions")
    rows = {row["models"]: [cells(row, name) for name in names] for row in found["headline"]}
    heads = {whose: np.array(expected.headline(*each)) for whose, each in numbers.items()}
    heads["ours minus published"] = heads["ours"] - heads["published"][:, :1]
    assert {whose: near(each) for whose, each in heads.items()} == rows
    said = {}
    for row, (whose, each) in zip(found["log_ratio"], numbers.items(), strict=True):
        worst, share = expected.worst_pipeline(each[0])
        assert (row["models"], row["worst pipeline"]) == (whose, PUBLISHED_PIPELINES[worst])
        assert row["its share of all drops under pipelines"] == near(share)
        of_all, without = expected.log_ratio(*each), expected.log_ratio(*each, worst)
        assert cells(row, "log ratio") == near(of_all)
        assert cells(row, "without the worst pipeline") == near(without)
        said[whose] = "{:.2f} ({:.2f} to {:.2f})".format(*of_all)
    about = json.loads((folder / "result.json").read_text())["metadata"]
    ratio = "The log ratio of the drops under corruptions and other pipelines is {ours}; published: {published}."
    assert about["verdict"] == [ratio.format(**said)]
    assert about["verdict"][0] in output
    assert (about["title"], about["flags"]["dataset"]) == ("Drift synthesis", config.data.dataset)
    assert about["score"] == {"classification": "accuracy", "segmentation": "tile_iou"}[compared.task]
    assert about["notes"][-1].startswith(f"The published numbers are for {config.data.dataset}. Source: ")
    for kind, columns, of_ours, of_theirs in (
        ("processing", PUBLISHED_PIPELINES, *(each[0].mean(-1) for each in numbers.values())),
        ("corruption", KINDS, *(each[1].mean(-1) for each in numbers.values())),
    ):
        every = PUBLISHED_PIPELINES if kind == "processing" else PUBLISHED["corruptions"][1:]
        clean = numbers["ours"][0].mean(-1).diagonal()
        matrices = {"ours": of_ours, "published": of_theirs, "drops": clean[:, None] - of_ours}
        matrices["differences"] = of_ours - of_theirs[:, [every.index(name) for name in columns]]
        assert {f"{kind}_{name}" for name in matrices} == {name for name in found if name.startswith(kind)}
        for name, matrix in matrices.items():
            shown = every if name == "published" else columns
            rows = found[f"{kind}_{name}"]
            assert [row["trained with"] for row in rows] == [*PUBLISHED_PIPELINES]
            np.testing.assert_allclose([[row[each] for each in shown] for row in rows], matrix, atol=1e-9)
        for whose, matrix in [*matrices.items()][:2]:
            axes = compared.drawn[f"Score under {kind}, {whose}"]
            np.testing.assert_allclose(axes.images[0].get_array(), matrix)
            # Each model's own pipeline has a frame of four sides.
            sides = np.reshape(axes.collections[0].get_segments(), (-1, 8, 2))
            own = [] if kind == "corruption" else [[place, place] for place in range(len(matrix))]
            assert sides.mean(1).tolist() == own


@pytest.mark.parametrize(
    ("task", "ratio", "without", "worst", "share"),
    # docs/study.md states these ratios.
    [
        ("classification", 10.3, 24.5, WORST, 0.62),
        ("segmentation", 3.9, 4.4, "bilinear.unsharp_masking.median_denoising", 0.19),
    ],
)
def test_the_published_drops_have_the_stated_ratio(task, ratio, without, worst, share):
    assert (tuple(PUBLISHED["pipelines"]), tuple(PUBLISHED["corruptions"])) == (
        PUBLISHED_PIPELINES,
        CORRUPTIONS_OF_THE_STUDY,
    )
    scores = published(task)
    of_task = PUBLISHED[{"classification": "microscopy", "segmentation": "drone_segmentation"}[task]]
    # The identity is the run's clean images, read off another figure to two digits.
    clean = np.array(of_task["corruption"])[:, 0]
    np.testing.assert_allclose(clean, np.diag(of_task["processing_drift"]), atol=0.0101)
    place, of_worst = expected.worst_pipeline(scores[0])
    found = [np.exp(expected.log_ratio(*scores, left_out)[0]) for left_out in (None, place)]
    assert found == pytest.approx([ratio, without], abs=0.1)
    assert (PUBLISHED_PIPELINES[place], of_worst) == (worst, pytest.approx(share, abs=0.01))


@pytest.mark.shows(
    "study.comparison worst_cases.csv: group and weight of the distance, ours, ours high",
    "study.comparison worst_cases.csv: ours low, published, ours minus published",
    "study.comparison ends.csv: ours, ours high, ours low, processing, published, ours minus published",
    "study.comparison figures: curves, worst_cases",
)
def test_worst_cases_and_learning_curves_are_those_of_the_folds(compared):
    config, task = compared.config, compared.task
    (run,) = runs_of(config, "forensics").values()
    folds = [run.run_dir / f"forensics/fold_{fold}/worst_case" for fold in range(2)]
    rows = [{row["worst case"]: row["accuracy"] for row in tables.read(fold / "worst_case.csv")} for fold in folds]
    worst = {"default": [json.loads((fold / "result.json").read_text())["metadata"]["score"] for fold in folds]}
    theirs = {"default": PUBLISHED["forensics"]["default_accuracy"]}
    for group in ("all", "black_level"):
        known = {float(key): value for key, value in PUBLISHED["forensics"]["accuracy_at_lambda"][group].items()}
        for weight in (0.01, 0.0001):
            title = f"{group} at {weight:g}"
            worst[title] = [row[f"{group}, weight {weight:g}"] for row in rows]
            theirs[title] = known[weight]
    ends, published_ends = {}, PUBLISHED["learning"]["microscopy" if task == "classification" else "drone_segmentation"]
    scored = "accuracy" if task == "classification" else "tile_iou"
    curves = {}
    for name, run in runs_of(config, "adjustment").items():
        histories = [json.loads((run.run_dir / f"fold_{n}/metrics.json").read_text())["history"] for n in range(2)]
        curves[name] = np.array(
            [[row[f"val_{scored}"] for row in each if f"val_{scored}" in row] for each in histories]
        )
        ends[name] = curves[name][:, -1]
    for control, of_folds, known, is_same in (
        # The published searches are of Microscopy alone.
        ("forensics", worst, theirs, task == "classification"),
        ("adjustment", ends, published_ends, True),
    ):
        (found,) = tables.stored(compared.folder / control, compared.output).values()
        assert [next(iter(row.values())) for row in found] == [*of_folds]
        for (name, each), row in zip(of_folds.items(), found, strict=True):
            assert cells(row, "ours") == near([np.mean(each), min(each), max(each)])
            assert row["published"] == known[name]
            assert row["ours minus published"] == (near(np.mean(each) - known[name]) if is_same else None)

    def lines(caption):
        (axes,) = (each for title, each in compared.drawn.items() if title.startswith(caption))
        return [np.array(line.get_data()) for line in axes.get_lines()]

    shown = lines("Worst cases: ")
    for number, group in enumerate(("default", "all", "black_level")):
        of_weights = np.array([worst[group if group == "default" else f"{group} at {n:g}"] for n in (0.01, 0.0001)])
        mean, *of_folds = shown[3 * number : 3 * number + 3]
        np.testing.assert_allclose(mean, [[0.01, 0.0001], of_weights.mean(1)])
        np.testing.assert_allclose([each[1] for each in of_folds], of_weights.T)
    of_all, *_ = shown[9:]
    assert dict(of_all.T) == {
        float(key): each for key, each in PUBLISHED["forensics"]["accuracy_at_lambda"]["all"].items()
    }
    shown = lines("Learned and frozen processing at intensity 0.01")
    for number, name in enumerate(("learned", "frozen")):
        mean, *of_folds, dashed = [*shown[3 * number : 3 * number + 3], shown[6 + number]]
        # 83 samples in whole batches of 8; the second epoch was not validated.
        np.testing.assert_allclose(mean, [[10, 30], curves[name].mean(0)])
        np.testing.assert_allclose([each[1] for each in of_folds], curves[name])
        np.testing.assert_allclose(dashed, [[10, 30], [published_ends[name]] * 2])


@pytest.mark.shows("study --scheduler")
def test_controls_are_shown_without_the_jobs_that_failed(config, monkeypatch, capsys):
    lost = {f"evaluate synthesis/{PUBLISHED_PIPELINES[0]}", "search forensics/model", "train adjustment/frozen"}
    made_up_study.finish(config, "classification", monkeypatch)

    def run(planned, scheduler, logs):
        assert scheduler == "local:3"
        return [study.jobs.Ended(job.name, error="lost" if job.name in lost else None) for job in planned]

    monkeypatch.setattr(study.jobs, "run", run)
    assert not study.run(replace(config, scheduler="local:3"))
    assert "failed: train adjustment/frozen: lost" in capsys.readouterr().out
    found = read(config.output_dir / "synthesis")
    # The published numbers are of other data.
    assert "are for Microscopy, which is different data: they are only a rough guide. " in found.metadata["notes"][-1]
    assert [row[0] for row in found.tables["headline"].rows] == ["ours", "published"]
    assert not [name for name in found.tables if "differences" in name]
    processing = found.tables["processing_ours"]
    left = [*PUBLISHED_PIPELINES[1:]]
    assert [column.name for column in processing.columns[1:]] == [row[0] for row in processing.rows] == left
    ((name, *_, difference),) = read(config.output_dir / "adjustment").tables["ends"].rows
    assert (name, difference) == ("learned", None)
    assert read(config.output_dir / "forensics") is None
    page = (config.output_dir / "study.html").read_text()
    assert "Drift synthesis" in page
    assert "Drift forensics" not in page
