import dataclasses
import os
import pathlib
import signal

import brightness
import folds_by_hand
import msgspec
import numpy as np
import pytest
from oracles import scores

from r2l_jax.cli.flags import build, replace
from r2l_jax.cli.stop import Interrupted
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift import acquisition, measure, trained_folds
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.training.run import Run

TRAINED = "bilinear.none.none"
OTHER = "bilinear.unsharp_masking.median_denoising"
INTENSITIES = np.linspace(0.3, 0.7, 16)
DATASET = brightness.images(INTENSITIES, INTENSITIES > brightness.BRIGHT)
STATIC = build(TrainConfig, processing_mode="static", sp_debayer="bilinear", sp_sharpening="none", sp_denoising="none")
# Two folds of a run whose processing was frozen, of unequal samples, and a fold of one that has learned its processing.
FOLDS = [
    brightness.fold(DATASET, range(10, 16), range(10), config=STATIC),
    brightness.fold(DATASET, range(10), range(10, 16), config=STATIC, number=1),
]
LEARNED = brightness.fold(DATASET, range(8), range(8, 16))
BRIGHTENED = {"against": ("corruptions",), "corruptions": ("brightness",), "severities": (5,)}
NOISY = ("corruptions", "gaussian_noise.5")


@pytest.fixture(autouse=True)
def runs(monkeypatch):
    """The folds of runs by their names."""
    known = {"static": FOLDS, "learned": [LEARNED]}
    monkeypatch.setattr(trained_folds, "load", lambda uri, *_, **__: Run(known[pathlib.Path(uri).name]))
    return known


@pytest.fixture
def measured(monkeypatch):
    """The names of the models and cases that are measured from here on."""
    names, found = [], measure.measure

    def spy(models, cases, samples, **options):
        names.append(([*models], [case.name for case in cases]))
        return found(models, cases, samples, **options)

    monkeypatch.setattr(measure, "measure", spy)
    return names


@pytest.fixture
def settings(tmp_path):
    """An evaluation against two pipelines, of which one is the run's own, and two strengths of a corruption."""
    return EvaluationConfig(
        run=("runs/static",),
        pipelines=(OTHER, TRAINED),
        corruptions=("gaussian_noise",),
        severities=(1, 5),
        output=str(tmp_path / "evaluation"),
    )


def found(settings, group):
    """The rows of the table of a group of cases by training and case."""
    table = result.read(settings.output_dir / group).tables["models"]
    names = [column.name for column in table.columns[2:]]
    return {(training, case): dict(zip(names, row, strict=True)) for training, case, *row in table.rows}


GROUPS = ("clean", "corruptions")


def rows(table):
    return {row[0]: row[1:] for row in table.rows}


@pytest.mark.shows(
    "evaluate --run --pipelines --corruptions --severities",
    "synthesis.evaluation keys: cases, classes, dataset, flags, measured, notes, score, title, training",
    "synthesis.evaluation models.csv: *, case, drop, loss, model",
    "synthesis.summary keys: about, samples, measured, training, title, score, cases, flags",
)
def test_each_group_of_cases_has_its_result_and_all_have_a_summary(settings, measured, capsys):
    summary = evaluation.run(settings).summaries["static"]
    output = settings.output_dir
    results = {path.parent.name for path in output.rglob("result.json")}
    assert results == {"corruptions", "evaluation", "clean", "pipelines"}
    for name in ("dots.svg", "corruptions/scores.png", "pipelines/scores.svg"):
        assert (output / name).exists()
    names = [["clean"], [OTHER], ["gaussian_noise.1", "gaussian_noise.5"]]
    assert measured == [([f"fold_{number}"], of_group) for of_group in names for number in (0, 1)]
    pipelines = found(settings, "pipelines")
    assert pipelines["fold_0", TRAINED] == found(settings, "clean")["fold_0", "clean"]
    assert pipelines["fold_0", TRAINED] | {"loss": 0} == {"accuracy": 1, "loss": 0, "drop": 0}
    noise = found(settings, "corruptions")
    drop, score = rows(summary.tables["drops"])["gaussian_noise (mean of 2 severities)"]
    # Folds of other samples count by their samples.
    each = [[noise[f"fold_{number}", f"gaussian_noise.{severity}"]["drop"] for severity in (1, 5)] for number in (0, 1)]
    assert drop[0] == pytest.approx(np.average(np.mean(each, 1), weights=[10, 6]))
    assert score == pytest.approx(1 - drop[0])
    metadata = summary.metadata
    assert (metadata["about"], metadata["samples"], metadata["measured"]) == ("model", 16, "validation samples")
    assert metadata["training"] == {f"fold_{number}": fold.training for number, fold in enumerate(FOLDS)}
    assert "95% confidence intervals about the model (16 validation samples)" in capsys.readouterr().out
    assert (metadata["title"], metadata["score"]) == ("Drops under drift", "accuracy")
    assert metadata["cases"] == ["clean", OTHER, TRAINED, "gaussian_noise.1", "gaussian_noise.5"]
    assert metadata["flags"]["severities"] == (1, 5)
    about = result.read(output / "corruptions").metadata
    assert about.pop("flags")["severities"] == [1, 5]
    assert about == {
        "title": "Common corruptions",
        "notes": ["measured on 16 validation samples, best checkpoint"],
        "score": "accuracy",
        "measured": "validation samples",
        "cases": ["gaussian_noise.1", "gaussian_noise.5"],
        "dataset": "brightness",
        "classes": ["dark", "bright"],
        "training": metadata["training"],
    }
    # The logits are plus and minus the distance from the threshold.
    margins = np.abs(INTENSITIES ** (1 / brightness.GAMMA) - brightness.BRIGHT ** (1 / brightness.GAMMA))
    losses = [found(settings, "clean")[f"fold_{number}", "clean"]["loss"] for number in (0, 1)]
    assert losses == pytest.approx([np.log1p(np.exp(-2 * each)).mean() for each in (margins[:10], margins[10:])])
    block = measure.unpacked_blocks(result.read(output / "corruptions").outcomes)[1]
    np.testing.assert_array_equal(block.samples, range(10, 16))
    assert block.score("fold_1", "gaussian_noise.5") == noise["fold_1", "gaussian_noise.5"]["accuracy"]
    # What is there is found again.
    again = evaluation.run(settings).summaries["static"]
    assert (again.tables, len(measured)) == (summary.tables, 6)


def test_a_group_of_cases_that_change_nothing_is_not_measured_and_the_next_one_is(settings, measured):
    only = dataclasses.replace(settings, run=("runs/static",), pipelines=(TRAINED,), severities=(5,))
    drops = rows(evaluation.run(only).summaries["static"].tables["drops"])
    assert [names for _, names in measured] == [["clean"], ["clean"], ["gaussian_noise.5"], ["gaussian_noise.5"]]
    lost = [found(only, "corruptions")[f"fold_{number}", "gaussian_noise.5"]["drop"] for number in (0, 1)]
    assert drops["gaussian_noise.5"][0][0] == pytest.approx(np.average(lost, weights=[10, 6]))


@pytest.mark.shows("synthesis.evaluation figures: scores")
def test_scores_are_drawn_by_severity_or_by_model(settings, monkeypatch):
    drawn, draw = [], evaluation.heat_map
    monkeypatch.setattr(
        evaluation, "heat_map", lambda *given, **how: drawn.append((*given, how)) or draw(*given, **how)
    )
    evaluation.run(settings)
    (scores, models, cases, how), (of_kinds, kinds, severities, _) = drawn
    rows = found(settings, "pipelines")
    assert scores == [[rows[model, case]["accuracy"] for case in cases] for model in models]
    assert (models, cases, how["framed"]) == (["fold_0", "fold_1"], [OTHER, TRAINED], [(0, 1), (1, 1)])
    rows = found(settings, "corruptions")
    each = [
        [rows[f"fold_{number}", f"gaussian_noise.{severity}"]["accuracy"] for severity in (1, 5)] for number in (0, 1)
    ]
    np.testing.assert_allclose(of_kinds, [np.average(each, 0, weights=[10, 6])])
    assert (kinds, severities) == (["gaussian_noise"], ["1", "5"])


def test_a_smaller_evaluation_goes_beside_a_larger_one(group, runs, capsys):
    whole = EvaluationConfig(
        run=(str(group),), against=("corruptions",), corruptions=("brightness", "contrast"), severities=(3,)
    )
    large, place = evaluation.run(whole).shown, group / "evaluation"
    smaller = dataclasses.replace(whole, corruptions=("brightness",))
    others = dataclasses.replace(whole, against=("exposures",), exposures=(0.5,))
    for settings, number in ((smaller, "2"), (others, "3"), (smaller, "2")):
        capsys.readouterr()
        shown = evaluation.run(settings).shown
        assert f"results in {place / number}\n" in capsys.readouterr().out
        assert result.read(place / number).tables == shown.tables
    assert result.read(place).tables == large.tables
    # One that has all cases of the first takes its place, and so does any evaluation of models trained since.
    evaluation.run(dataclasses.replace(whole, severities=(3, 5)))
    assert "brightness.5" in result.read(place).metadata["cases"]
    (fold,) = runs["seed_3"]
    later = fold.about.history[0] | {"epoch": 1}
    runs["seed_3"] = [dataclasses.replace(fold, about=msgspec.structs.replace(fold.about, history=[later]))]
    evaluation.run(smaller)
    assert result.read(place).metadata["cases"] == ["clean", "brightness.3"]


@pytest.mark.shows(
    "evaluate --against --intensities --exposures --by",
    "synthesis.summary *.csv: *, clean {}, in, largest drop, mean drop, samples",
    "synthesis.summary keys: clean, groups",
)
def test_a_run_of_several_intensities_is_told_apart_by_them(monkeypatch, runs, settings, capsys):
    """At half the light, all images are dark, and bright ones are mistaken."""
    labels = INTENSITIES > brightness.BRIGHT
    at = {iso: brightness.images(INTENSITIES * iso, labels) for iso in (0.5, 1.0)}
    monkeypatch.setattr(acquisition.datasets, "load", lambda name, iso, **source: at[iso])
    pool, config = datasets.pooled(at), replace(STATIC, iso=(0.5, 1.0))
    # Each fold has two dark and two bright scenes.
    parts = [[*range(start, start + 4), *range(start + 8, start + 12)] for start in (8, 12)]
    runs["several"] = [
        brightness.fold(pool, range(8), part, config=config, number=number) for number, part in enumerate(parts)
    ]
    drifts = {"intensities": (0.5, 1.0), "exposures": (0.01,)}
    settings = EvaluationConfig(run=("several",), against=(*drifts,), **drifts, by=("iso",), output=settings.output)
    summary = evaluation.run(settings).summaries["several"]
    assert summary.metadata["clean"] == ["iso=0.5", "iso=1"]
    dark = 1 - labels[4:12].mean()
    assert dark == 0.5
    scores = {case: row["accuracy"] for (_, case), row in found(settings, "intensities").items()}
    assert scores == pytest.approx({"iso=0.5": dark, "iso=1": 1})
    assert found(settings, "clean")["fold_0", "clean"]["accuracy"] == pytest.approx((1 + dark) / 2)
    assert found(settings, "exposures")["fold_0", "light=0.01"]["accuracy"] == pytest.approx(dark)
    by = rows(summary.tables["by_iso"])
    assert by["0.5"] == [8, dark, 0, 0, None]
    assert by["1"] == [8, 1, 1 - dark, 1 - dark, "light=0.01"]
    # Only another intensity would be a drift. Each of eight scenes counts once in intervals, with its two samples.
    assert (summary.metadata["groups"], [*rows(summary.tables["drops"])]) == (8, ["clean", "exposures", "light=0.01"])
    assert "cases" not in summary.tables
    stated = "95% confidence intervals about the model (16 validation samples of 8 groups, so few that intervals are "
    assert stated in capsys.readouterr().out


@pytest.mark.shows("evaluate --sensor --cameras")
def test_states_and_other_cameras_are_cases_beside_severities(settings, tmp_path):
    """A darker image is lost if its intensity falls below the threshold, whatever makes it darker."""
    darker = dataclasses.replace(brightness.CAMERA, black_level=(0.06,) * 4)
    (tmp_path / "new.json").write_text(darker.to_json())
    settings = dataclasses.replace(
        settings,
        against=("exposures", "sensor", "cameras"),
        exposures=(0.5,),
        sensor=("underexposure", "exposure=-0.22,pattern_shift=50", "underexposure=1"),
        severities=(2,),
        cameras=(str(tmp_path / "new.json"),),
    )
    summary = evaluation.run(settings).summaries["static"]
    bright = INTENSITIES[INTENSITIES > brightness.BRIGHT]
    lost = {
        **dict.fromkeys(("light=0.5", "underexposure.2", "exposure=-1"), 8),
        "exposure=-0.22,pattern_shift=50": (bright * 2**-0.22 < brightness.BRIGHT).sum(),
        # Without its noise, a black level takes the same from all; 164 of 4095 are 0.04 of white.
        "camera=new": (bright - 0.04 / 0.9 < brightness.BRIGHT).sum(),
    }
    drops = {name: row[0][0] for name, row in rows(summary.tables["drops"]).items() if name in lost}
    assert drops == pytest.approx({name: count / 16 for name, count in lost.items()})
    assert set(lost.values()) == {8, 3, 2}
    assert [case.name for case in settings.cases if case.group == "sensor"][1] == "exposure=-0.22,pattern_shift=50"
    assert "of 3 cases, " in " ".join(summary.metadata["verdict"])
    assert {path.parent.name for path in settings.output_dir.rglob("scores.png")} == {"exposures", "sensor", "cameras"}


def test_interrupted_it_resumes_with_the_group_of_cases(settings, measured, monkeypatch):
    with monkeypatch.context() as patch:
        spied = measure.measure

        def interrupted(models, cases, samples, **options):
            if cases[0].name == OTHER:
                os.kill(os.getpid(), signal.SIGINT)
            return spied(models, cases, samples, **options)

        patch.setattr(measure, "measure", interrupted)
        with pytest.raises(Interrupted, match="stopped in static, pipelines, which the same call begins"):
            evaluation.run(settings)
    assert [path.parent.name for path in settings.output_dir.rglob("result.json")] == ["clean"]
    measured.clear()
    evaluation.run(settings)
    assert [cases[0] for _, cases in measured] == [OTHER, OTHER, "gaussian_noise.1", "gaussian_noise.1"]


@pytest.mark.shows(
    "synthesis.comparison keys: title, score, training, flags, notes, cases",
    "synthesis.comparison drops.csv: *, * high, * low, drop,points",
)
def test_several_runs_are_rows_of_the_matrix(settings, runs, tmp_path, capsys):
    uris = (str(tmp_path / "runs/learned"), str(tmp_path / "runs/static"))
    both = dataclasses.replace(settings, run=uris, against=("pipelines",), output=None)
    assert both.output_dir == tmp_path / "runs/evaluation"
    evaluation.run(both)
    compared = result.read(both.output_dir)
    assert [*rows(compared.tables["pipelines"])] == ["learned", "static"]
    assert all((pathlib.Path(uri) / "evaluation/pipelines/result.json").exists() for uri in uris)
    # The runs were not measured on the same samples.
    assert "differences" not in compared.tables
    assert capsys.readouterr().out.splitlines()[1].split() == ["drop,", "points", "learned", "static"]
    assert (compared.metadata["title"], compared.metadata["score"]) == ("Runs under drift", "accuracy")
    assert compared.metadata["training"] == {
        "learned/fold_0": LEARNED.training, **{f"static/fold_{number}": FOLDS[number].training for number in (0, 1)}
    }  # fmt: skip
    assert compared.metadata["flags"]["pipelines"] == [OTHER, TRAINED]
    alone = [result.read(pathlib.Path(uri) / "evaluation") for uri in uris]
    assert compared.metadata["notes"] == [each.metadata["notes"][-1] for each in alone]
    for name, *drops in compared.tables["drops"].rows[1:]:
        assert drops == [rows(each.tables["drops"]).get(name, [None])[0] for each in alone]
    assert compared.tables["drops"].rows[0][1:] == [
        result.Column("", format=result.SCORE).text(rows(each.tables["drops"])["clean"][1]) for each in alone
    ]
    # A comparison in other cases goes beside this one, as long as both runs are the same.
    smaller = dataclasses.replace(both, **BRIGHTENED)
    evaluation.run(smaller)
    assert result.read(both.output_dir / "2").metadata["cases"] == ["clean", "brightness.5"]
    later = LEARNED.about.history[0] | {"epoch": 1}
    runs["learned"] = [dataclasses.replace(LEARNED, about=msgspec.structs.replace(LEARNED.about, history=[later]))]
    evaluation.run(smaller)
    assert result.read(both.output_dir).metadata["cases"] == ["clean", "brightness.5"]
    evaluation.run(dataclasses.replace(both, output=settings.output))
    assert sorted(path.parent.name for path in settings.output_dir.glob("*/result.json")) == ["learned", "static"]


@pytest.fixture
def group(runs, tmp_path):
    """The folder of a group of three seeds, which differ in what they take for bright."""
    for seed, gamma in enumerate((1.8, 2.2, 2.6), 1):
        (tmp_path / f"group/seed_{seed}/fold_0").mkdir(parents=True)
        model = brightness.model(DATASET, gamma=gamma)
        runs[f"seed_{seed}"] = [folds_by_hand.fold_of(DATASET, (), range(16), model=model)]
    return tmp_path / "group"


def test_members_of_other_samples_have_no_ensemble(group, runs, measured):
    settings = EvaluationConfig(run=(str(group),), against=("corruptions",), corruptions=("brightness",))
    runs["seed_3"] = [folds_by_hand.fold_of(DATASET, (), range(15, -1, -1), model=brightness.model(DATASET))]
    apart = evaluation.run(settings).summaries["group"]
    names = [f"seed_{seed}/fold_0" for seed in (1, 2, 3)]
    assert [models for models, _ in measured] == [names[:2], names[2:], names[:2], names[2:]]
    assert [*rows(apart.tables["members"])] == apart.metadata["members"] == [f"group/seed_{each}" for each in (1, 2, 3)]


def test_segmentation_is_scored_by_the_intersection_over_union(runs, settings):
    """Brightened, all pixels are taken for the object, which covers half of them in all images but one."""
    halves = brightness.half_images(0.3, 0.8, 4)
    empty = (np.full((16, 16), 0.4, np.float32), np.zeros((16, 16), np.uint8))
    masks = dataclasses.replace(halves, read=lambda index: empty if index == 3 else halves.read(index))
    runs["masks"] = [brightness.fold(masks, [0], [1, 2, 3])]
    settings = dataclasses.replace(settings, run=("masks",), **BRIGHTENED)
    summary = evaluation.run(settings).summaries["masks"]
    assert (summary.metadata["score"], "by_class" in summary.tables) == ("iou", False)
    clean, bright = (
        found(settings, "clean")["fold_0", "clean"],
        found(settings, "corruptions")["fold_0", "brightness.5"],
    )
    assert clean["iou"] > 0.8
    # Of an image without the object, nothing is found.
    assert clean["tile_iou"] == pytest.approx((2 * clean["iou"] + 1) / 3)
    assert (bright["iou"], bright["tile_iou"]) == pytest.approx((1 / 3, 1 / 3), abs=0.01)


@pytest.mark.shows("synthesis.summary by_class.csv: clean IoU, mean drop, mean drop low, mean drop high")
def test_several_classes_of_pixels_are_scored_by_their_mean_iou_and_each(runs, settings):
    """Brightened, all pixels are taken for the bright half. The last columns, without a label, are left out."""
    halves, unlabeled = brightness.half_images(0.3, 0.8, 6), np.array([0, 7, 4, 2, 1, 3])
    masks = [np.repeat(np.uint8([0, 1, 255]), (8, 8 - n, n)) * np.ones((16, 1), np.uint8) for n in unlabeled]
    classes = {
        "classes": ("dark", "bright", "absent"),
        "read": lambda index: (halves.read(index)[0], masks[index]),
    }
    runs["masks"] = [brightness.fold(dataclasses.replace(halves, **classes), [0], range(1, 6))]
    settings = dataclasses.replace(settings, run=("masks",), **BRIGHTENED)
    summary = evaluation.run(settings).summaries["masks"]
    assert summary.metadata["score"] == "mean_iou"
    assert summary.tables["drops"].rows[0][2][0] == 1
    bright = 8 - unlabeled[1:]

    def drop(kept):
        return 1 - bright[kept].sum() / (8 + bright[kept]).sum()

    mean_iou = (1 - drop(np.ones(5, bool))) / 2
    assert found(settings, "corruptions")["fold_0", "brightness.5"]["mean_iou"] == pytest.approx(mean_iou, abs=0.01)
    drops = {"dark": np.ones(5), "bright": scores.of_groups(drop, np.arange(5)), "absent": np.zeros(5)}
    for name, row in rows(summary.tables["by_class"]).items():
        assert row[0][0] == (name != "absent")
        assert row[1] == pytest.approx(scores.interval(drops[name], bounds=(-1, 1)), abs=0.02), name
        assert row[2:] == [
            pytest.approx(drops[name].mean(), abs=0.02),
            None if name == "absent" else "brightness.5",
        ]


@pytest.mark.shows("evaluate --seed --batch_size")
def test_the_seed_draws_the_noise_and_the_batch_size_nothing(settings, monkeypatch):
    sizes, batches = set(), measure.loader.eval_batches
    monkeypatch.setattr(
        measure.loader, "eval_batches", lambda *given, **named: sizes.add(given[2]) or batches(*given, **named)
    )
    settings, losses = dataclasses.replace(settings, run=("learned",)), []
    for change in ({}, {"seed": 1}, {"batch_size": 3}):
        sizes.clear()
        changed = dataclasses.replace(settings, output=f"{settings.output}{len(losses)}", **change)
        evaluation.run(changed)
        losses.append({row: found(changed, row)["fold_0", case]["loss"] for row, case in (("clean", "clean"), NOISY)})
        assert sizes == {change.get("batch_size", 8)}
    drawn, other, few = losses
    assert other["clean"] == drawn["clean"]
    assert other["corruptions"] != drawn["corruptions"]
    assert few == pytest.approx(drawn, rel=1e-5)


@pytest.mark.shows("synthesis.summary by_class.csv: class, clean {}, in, largest drop, mean drop, samples")
@pytest.mark.parametrize("score", ["accuracy", "macro_f1"])
def test_scores_by_class_are_its_recall(runs, settings, score):
    """Whatever the score: that of samples of one class would count the others as 0. Folds count by their samples."""
    labels, config = (INTENSITIES > brightness.BRIGHT).astype(np.int32), build(TrainConfig, score=score)
    # The only dark one of its fold, and mistaken.
    labels[-1] = 0
    dataset = dataclasses.replace(brightness.images(INTENSITIES, labels), labels=labels)
    parts = [range(4, 9), range(9, 16)]
    runs["learned"] = [
        brightness.fold(dataset, (), part, config=config, number=number) for number, part in enumerate(parts)
    ]
    settings = dataclasses.replace(settings, run=("learned",), **BRIGHTENED)
    by = rows(evaluation.run(settings).summaries["learned"].tables["by_class"])
    assert by == {"dark": [5, 0.8, 0.8, 0.8, "brightness.5"], "bright": [7, 1, 0, 0, None]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"against": ("weather",)}, "`against` must be one of pipelines, "),
        ({"against": ("sensor",), "severities": ()}, "`severities` is empty"),
        ({"against": ("cameras",)}, "`cameras` is empty"),
        ({"cameras": ("drone",)}, "`cameras` has no effect without `against=cameras` or `envelope`"),
    ],
)
def test_settings_that_are_wrong_are_named(change, message):
    with pytest.raises(InputError, match=message):
        EvaluationConfig(run=("somewhere",), **change)


def test_runs_that_do_not_go_together_are_named(settings, runs):
    with pytest.raises(InputError, match=r"`run=first/` is given twice"):
        evaluation.run(dataclasses.replace(settings, run=("first", "first/")))
    others = dataclasses.replace(DATASET, names=DATASET.names[::-1])
    runs["second"] = [brightness.fold(others, range(8), range(8, 16))]
    with pytest.raises(InputError, match=r"`run=second` was trained on brightness, not on .* of `run=static`: "):
        evaluation.run(dataclasses.replace(settings, run=("static", "second")))
