import dataclasses
import itertools
import shutil

import brightness
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from outcomes import of_counts
from scipy import stats

import isp
from r2l_jax.cli.flags import build, replace
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift import statistics, trained_folds
from r2l_jax.drift.adjustment import adjustment, drifts, methods
from r2l_jax.drift.adjustment.config import AdjustmentConfig
from r2l_jax.drift.measure import packed_blocks, unpacked_blocks
from r2l_jax.drift.search.searcher import Found
from r2l_jax.errors import InputError
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.results import result
from r2l_jax.results.result import Result
from r2l_jax.training.run import Run

# At a quarter of the light, all images are dark; two stops more, a gain of four, bring the bright ones back.
INTENSITIES = [0.2, 0.25, 0.7, 0.8] * 10
BRIGHT = np.array(INTENSITIES) > brightness.BRIGHT
DATASET = brightness.images(INTENSITIES, BRIGHT)


@pytest.fixture(scope="module")
def fold():
    return brightness.fold(DATASET, np.arange(8, 40), np.arange(8))


@pytest.fixture(scope="module", autouse=True)
def loaded(fold):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_folds, "load", lambda *_, **__: Run([fold]))
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return build(
        AdjustmentConfig,
        run="run",
        output=str(tmp_path_factory.mktemp("adjustment")),
        exposures=(0.25,),
        unlabeled=0,
        labeled=32,
        steps=2,
        batch_size=8,
        parameters=("white_balance", "gamma_correct"),
    )


@pytest.fixture(scope="module")
def judged():
    """The image, logits and target of each picture that `found` draws."""
    return []


@pytest.fixture(scope="module")
def found(config, judged):
    """The result over all folds, and that of the fold."""
    draw = Classification.judged

    def recorded(self, *given, **how):
        judged.append(given)
        return draw(self, *given, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classification, "judged", recorded)
        over_all = adjustment.run(config)
    of_fold = result.read(config.output_dir / "fold_0/light=0.25")
    assert of_fold is not None
    return over_all, of_fold


def column(table, place=1):
    """A column of a table by the titles of the rows."""
    return {row[0]: row[place] for row in table.rows}


@pytest.mark.shows(
    "adjust --exposures --parameters",
    "adjustment.adjustment adjustment.csv: *, * high, * low, method",
    "adjustment.adjustment methods.csv: *, method",
    "adjustment.methods starts.csv: *, start, {} on held-out labels",
    "adjustment.adjustment parameters.csv: adapted, parameter",
)
def test_a_search_that_held_out_labels_confirm_wins_the_score_back(found):
    over_all, of_fold = found
    starts = of_fold.tables["starts"]
    assert [row[0] for row in starts.rows] == ["no search", "+2 stops *", "half of the search", "search"]
    # Half of the labeled images are bright.
    assert list(column(starts).values()) == pytest.approx([0.5, 1, 1, 1])
    assert list(column(starts, 2).values()) == [0.5, 1, 1, 1]
    scores = column(over_all.tables["adjustment"])
    estimates = {name: interval[0] for name, interval in scores.items()}
    assert estimates == {"clean": 1, "nothing": 0.5, "labels": 1, "recovered": 0.5}
    assert column(of_fold.tables["methods"]) == {"nothing": 0.5, "labels": 1}
    for name, of_samples, least in (("nothing", ~BRIGHT[:8], 0), ("recovered", BRIGHT[:8], -1)):
        low, high = statistics.interval(of_samples[None].astype(float), "model")[1:]
        assert scores[name][1:] == pytest.approx((max(low, least), min(high, 1))), name
    # The search goes on from a gain of four, downhill, and the other parameters stay.
    moved = column(of_fold.tables["parameters"], 2)
    assert list(moved) == ["white_balance", "gamma_correct"]
    assert [float(each) for each in moved["white_balance"].split()] == pytest.approx([4] * 3, rel=0.05)


@pytest.mark.shows("adjustment.adjustment figures: pictures")
def test_pictures_are_those_of_the_predictions_before_and_after(found, judged):
    limit = brightness.BRIGHT ** (1 / brightness.GAMMA)
    seen, said, true = np.array(
        [[image[1:-1, 1:-1].mean() > limit, logits.argmax(), target] for image, logits, target in judged]
    ).T.reshape(3, 3, -1)
    np.testing.assert_array_equal(said, seen)
    before, after, clean = said == true
    # At a quarter of the light, all seem dark.
    np.testing.assert_array_equal(before, true[0] == 0)
    assert after.all()
    assert clean.all()
    assert set(true[0]) == {0, 1}


@pytest.mark.shows(
    "adjustment.adjustment keys: about, flags, measured, members, notes",
    "adjustment.adjustment keys: score, scores, title, training, unused, verdict",
    "adjustment.adjustment parameters.csv: default",
)
def test_results_are_found_again_and_printed(config, found, capsys, monkeypatch):
    over_all, of_fold = found
    monkeypatch.setattr(adjustment, "adapt", None)
    assert adjustment.run(config).tables == over_all.tables
    printed = capsys.readouterr().out
    assert "fold_0: light=0.25\n" in printed
    assert "\n95% confidence intervals about the model (8 validation samples)\n" in printed
    assert over_all.metadata["verdict"] == ["Adjustment to an exposure of 0.25 recovers 12 to 88 points."]
    assert over_all.metadata["scores"] == {"light=0.25": {"before": [0.5], "after": [1.0]}}
    about = over_all.metadata
    assert (about["title"], about["about"], about["members"], about["score"]) == ("Adjustment", "model", [], "accuracy")
    assert about["notes"] == ["95% confidence intervals about the model (8 validation samples)"]
    assert (about["training"], about["flags"]["exposures"]) == (of_fold.metadata["training"], (0.25,))
    about = of_fold.metadata
    assert (about["title"], about["measured"]) == ("Adjustment to light=0.25, fold 0", "validation")
    assert (about["flags"]["labeled"], about["notes"], about["unused"]) == (32, ["best checkpoint"], [])
    assert column(of_fold.tables["parameters"])["white_balance"] == "1 1 1"
    assert {name: each.file.exists() for name, each in of_fold.figures.items()} == {"curves": True, "pictures": True}
    own, drifted = unpacked_blocks(of_fold.outcomes)
    for outcomes, row, right in ((own, "clean", np.ones(8)), (drifted, "nothing", ~BRIGHT[:8])):
        np.testing.assert_array_equal(outcomes.samples, np.arange(8))
        outcome = outcomes.at(row)
        np.testing.assert_array_equal(outcome["predicted"] == outcome["target"], right)


def test_a_result_of_other_settings_is_removed_before_its_model_is_replaced(config, found, tmp_path, monkeypatch):
    folder = shutil.copytree(config.output_dir, tmp_path / "adjustment")

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(adjustment, "adapt", killed)
    with pytest.raises(KeyboardInterrupt):
        adjustment.run(replace(config, output=str(folder), steps=3))
    assert not (folder / "fold_0/light=0.25/result.json").exists()
    assert (folder / "light=0.25/fold_0/metrics.json").exists()


@pytest.mark.parametrize("helps", [True, False])
def test_images_that_a_search_left_out_choose_and_never_the_measured_ones(config, fold, monkeypatch, helps):
    """The score of the measured images moves the other way than that of the labeled ones."""
    config = replace(config, labeled=19, parameters=("gamma_correct",))
    under, searched, judged = drifts.drifted(config, fold, *config.drifts), [], {}

    def search(self, frozen, searches, raws, targets, steps):
        np.testing.assert_array_equal(raws, under.dataset.samples(under.labeled)[0])
        searched[:] = [under.labeled[list(each.left_out)].tolist() for each in searches]
        gammas = [np.float32(2.2 + (steps > 0) * (1 + number)) for number in range(len(searches))]
        return [Found(frozen.default | {"gamma_correct": gamma}, np.ones(1), np.zeros(1)) for gamma in gammas]

    def measure(models, cases, samples):
        indices, gammas = samples.indices.tolist(), [float(model.values["gamma_correct"]) for model in models.values()]
        judged[tuple(indices)] = gammas
        sign = 1 if helps == set(indices).issubset(under.labeled) else -1
        scores = np.tile(sign * np.array(gammas)[:, None, None], (1, 1, len(indices)))
        return of_counts(models, ["clean"], samples.indices, scores)

    monkeypatch.setattr(methods, "measure", measure)
    monkeypatch.setattr(methods.Searcher, "run", search)
    found = methods.try_all(config.searches, fold, under)
    assert [row[0] for row in found.searched.table.rows if "*" in row[0]] == ["search *" if helps else "no search *"]
    gamma = found.models["labels"].processor.parameters()["gamma_correct"]
    assert float(gamma) == pytest.approx(2.2 + 9 if helps else 2.2)
    # Eight folds, and the search with all labels, which the measured images judge.
    *folds, whole = searched
    assert (sorted(itertools.chain(*folds)), whole, len(folds)) == (sorted(under.labeled), [], 8)
    for number, indices in enumerate([*folds, under.samples]):
        assert judged[tuple(indices)][-1] == pytest.approx(2.2 + 1 + number)
    assert not set(under.labeled).intersection(under.samples)


def test_labels_that_say_nothing_leave_the_model_as_it_is(config, tmp_path, monkeypatch):
    """Each brightness has as many labels of either class, so what lowers the loss of some raises that of others."""
    dataset = brightness.images(np.repeat([0.3, 0.7], 20), np.random.default_rng(3).permutation(40) % 2)
    fold = brightness.fold(dataset, np.arange(8, 40), np.arange(8))
    config = replace(config, labeled=8, steps=20)
    under = drifts.drifted(config, fold, *config.drifts)
    found = methods.try_all(config.searches, fold, under)
    assert found.searched.table.rows[0][0] == "no search *"
    values = (model.processor.parameters() for model in (under.model, found.models["labels"]))
    for before, after in zip(*map(dict.values, values), strict=True):
        np.testing.assert_array_equal(before, after)
    why = "The labels were not used: 8 are too few to tell whether a search helps."
    assert found.searched.note == why
    monkeypatch.setattr(trained_folds, "load", lambda *_, **__: Run([fold]))
    pair = replace(config, output=str(tmp_path), exposures=(0.25, 0.5))
    adapted = adjustment.adapt

    def of_one(settings, fold, under, clean):
        made, model = adapted(settings, fold, under, clean)
        return dataclasses.replace(made, metadata={**made.metadata, "unused": next(unused)}), model

    unused = iter([[], [why]])
    monkeypatch.setattr(adjustment, "adapt", of_one)
    first, second = adjustment.run(pair).metadata["verdict"]
    assert first.endswith("too few samples to tell).")
    assert second.startswith("Adjustment to an exposure of 0.5 shows no gain (")
    assert second.endswith(f"too few samples to tell). {why}")


@pytest.mark.parametrize(
    ("scores", "sizes", "chosen"),
    [
        # All folds gain; the last end gains most, or as much as the one before.
        ([[0.2, 0.4, 0.6], [0.3, 0.6, 0.7], [0.0, 0.3, 0.4]], [3, 3, 2], 2),
        ([[0.2, 0.5, 0.5], [0.3, 0.6, 0.6], [0.0, 0.4, 0.4]], [3, 3, 2], 1),
        # The mean of the last end is highest, but only because of one fold.
        ([[0.3, 0.4, 0.2], [0.3, 0.5, 0.2], [0.0, 0.1, 1.0]], [3, 3, 2], 1),
        ([[0.3, 0.2, 0.2], [0.3, 0.2, 0.2], [0.0, 0.0, 1.0]], [3, 3, 2], 0),
        ([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1], [0.2, 0.1, 0.0]], [3, 3, 2], 0),
        # A search that leaves out the only label has none.
        ([[0.0, 1.0, 1.0]], [1], 0),
    ],
)
def test_an_end_is_chosen_by_a_paired_test_against_no_search(scores, sizes, chosen):
    assert methods.confirmed(np.array(scores), np.array(sizes)) == chosen


def test_an_end_is_confirmed_where_a_paired_test_of_five_percent_finds_a_gain():
    random = np.random.default_rng(0)
    confirmed, p_values = [], []
    for folds in np.repeat(np.arange(2, 9), 30):
        before = random.normal(size=folds)
        after = before + random.normal(0.8, size=folds)
        confirmed.append(methods.confirmed(np.stack([before, after], 1), np.full(folds, 4)))
        p_values.append(stats.ttest_rel(after, before, alternative="greater").pvalue)
    np.testing.assert_array_equal(confirmed, np.array(p_values) < 0.05)
    assert 0.2 < np.mean(confirmed) < 0.8


def block(rows, samples):
    """Outcomes of rows on samples."""
    return of_counts(rows, ["clean"], samples, np.array([*rows.values()])[:, None])


@pytest.mark.shows(
    "adjust --run --output",
    "adjustment.adjustment adjustment.csv: *, * high, * low",
    "adjustment.adjustment keys: about",
)
def test_members_of_a_group_are_adapted_one_by_one_and_compared_in_pairs(fold, config, tmp_path, monkeypatch, capsys):
    """The first fold of each member validates three samples, the second one five others."""
    each = [
        ([1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]),
        ([1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]),
        ([0, 0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 1, 0]),
    ]
    parts = iter([(part, pair) for pair in each for part in (slice(3), slice(3, 8))] * 3)

    def adapt(settings, fold, under, clean):
        part, (before, after) = next(parts)
        samples = np.arange(8)[part]
        rows = {"nothing": before[part], "labels": after[part]}
        blocks = [block({"clean": np.ones(len(samples))}, samples), block(rows, samples)]
        return Result({"measured": "validation", "unused": []}, outcomes=packed_blocks(blocks)), fold.model

    folds = [dataclasses.replace(fold, about=fold.about) for _ in range(2)]
    monkeypatch.setattr(type(fold), "number", property(lambda self: int(self is folds[1])))
    monkeypatch.setattr(trained_folds, "load", lambda *_, **__: Run(folds))
    monkeypatch.setattr(adjustment, "adapt", adapt)
    for seed in (1, 2, 10):
        (tmp_path / f"six/seed_{seed}").mkdir(parents=True)
    config = replace(config, run=str(tmp_path / "six"), output=None)
    found = adjustment.run(config)
    before, after = np.moveaxis(np.array(each, float), 1, 0)
    scores = column(found.tables["adjustment"])
    for name, paired, least in (("labels", after, 0.0), ("recovered", after - before, -1.0)):
        assert scores[name] == pytest.approx(statistics.bounded(paired, "recipe", (least, 1.0))), name
    members = ["seed_1", "seed_2", "seed_10"]
    assert found.metadata["members"] == members
    assert list(found.metadata["training"]) == [f"{member}/fold_{number}" for member in members for number in (0, 1)]
    assert found.metadata["scores"]["light=0.25"]["before"] == [2 / 8, 1 / 8, 1 / 8]
    assert "about the training recipe (3 seeds, 8 validation samples)" in capsys.readouterr().out
    link = tmp_path / "six/adjustment/light=0.25/seed_10"
    assert link.resolve() == tmp_path / "six/seed_10/adjustment/light=0.25"
    assert (link / "fold_1/metrics.json").exists()
    # The folds of one member are no other seeds.
    alone = adjustment.run(replace(config, run=str(tmp_path / "six/seed_1"), output=str(tmp_path / "alone")))
    assert [each.metadata["about"] for each in (found, alone)] == ["recipe", "model"]
    # --output holds a folder for each member.
    parts = iter([(part, pair) for pair in each for part in (slice(3), slice(3, 8))])
    adjustment.run(replace(config, output=str(tmp_path / "output")))
    assert (tmp_path / "output/seed_2/fold_0/light=0.25/outcomes.safetensors").exists()


@pytest.mark.shows("adjust --intensities --seed")
def test_labeled_images_are_of_different_scenes_that_are_not_measured(config, tmp_path, monkeypatch):
    """A run of two intensities has each scene twice."""
    pool = datasets.pooled({0.5: DATASET, 1.0: DATASET})
    fold = brightness.fold(pool, range(16, 80), range(16), config=build(TrainConfig, iso=(0.5, 1.0)))
    config = replace(config, exposures=(), pipelines=(), intensities=(0.05,), labeled=20)
    taken = {0.05: brightness.images(np.array(INTENSITIES) / 20, BRIGHT)}
    monkeypatch.setattr(drifts.datasets, "load", lambda name, iso, **settings: taken[iso])
    under = drifts.drifted(config, fold, *config.drifts)
    np.testing.assert_allclose(under.dataset[5][0], 0.1 + INTENSITIES[2] / 20, rtol=1e-6)
    assert len(set(under.labeled // 2)) == 20
    again = drifts.drifted(replace(config, seed=1), fold, *config.drifts)
    assert set(again.labeled // 2) != set(under.labeled // 2)
    assert list(under.samples) == list(range(16))
    others = dataclasses.replace(pool, names=tuple(f"other {name}" for name in pool.names))
    monkeypatch.setattr(drifts.folder, "load", lambda *given, **_: others)
    config = replace(config, intensities=(), drifted_data_dir=str(tmp_path))
    under = drifts.drifted(config, fold, *config.drifts)
    assert len(set(under.labeled // 2)) == 20
    assert set(under.samples // 2) == set(range(40)) - set(under.labeled // 2)
    assert len(under.samples) == 40
    under = drifts.drifted(replace(config, unlabeled=30), fold, *config.drifts)
    assert set(under.samples // 2) == set(range(40)) - set(under.labeled // 2) - set(under.unlabeled // 2)
    assert len(set(under.unlabeled // 2)) == 20


def test_other_data_must_be_for_the_task_of_the_run(config, fold, tmp_path, monkeypatch):
    masks = dataclasses.replace(DATASET, task="segmentation")
    monkeypatch.setattr(drifts.folder, "load", lambda *given, **_: masks)
    config = replace(config, exposures=(), pipelines=(), drifted_data_dir=str(tmp_path))
    said = "is for segmentation, and the run for classification: it must have a sub-folder of raw files for each class"
    with pytest.raises(InputError, match=said):
        drifts.drifted(config, fold, *config.drifts)


def test_other_data_is_split_into_labeled_and_measured(config, fold, tmp_path, monkeypatch):
    others = dataclasses.replace(DATASET, names=tuple(f"other {name}" for name in DATASET.names))
    monkeypatch.setattr(drifts.folder, "load", lambda *given, **_: others)
    config = replace(config, exposures=(), pipelines=(), drifted_data_dir=str(tmp_path), labeled=8)
    under = drifts.drifted(config, fold, *config.drifts)
    assert len(under.labeled) == 8
    assert sorted([*under.labeled, *under.samples]) == list(range(40))
    # Neither are images measured that a search sees without labels: at most half of them.
    for unlabeled, count in ((12, 12), (100, 20)):
        more = drifts.drifted(replace(config, unlabeled=unlabeled), fold, *config.drifts)
        assert (len(more.unlabeled), set(more.labeled) < set(more.unlabeled)) == (count, True)
        assert sorted([*more.unlabeled, *more.samples]) == list(range(40))
    # The same scenes, taken again, are split as in training.
    others = DATASET
    under = drifts.drifted(config, fold, *config.drifts)
    assert set(under.labeled) < set(range(8, 40))
    assert list(under.samples) == list(range(8))


@pytest.mark.shows("adjust --pipelines")
def test_another_pipeline_is_a_drift(config, fold):
    config = replace(config, exposures=(), pipelines=("parametrized",))
    under = drifts.drifted(config, fold, *config.drifts)
    names = isp.parametrized(brightness.CAMERA).stage_names
    assert under.pipeline.stage_names == names != fold.model.processor.stage_names
    np.testing.assert_allclose(under.pipeline.black_level[...], brightness.CAMERA.black_level)


@pytest.mark.shows("adjust --drifted_data_dir --drifted_camera")
def test_a_folder_of_classes_is_other_data_of_an_embedded_set(config, tmp_path, capsys):
    """Files of 12x12 are cropped to their middle, 8x8 as in training, and read by the camera of the training."""
    levels = np.linspace(0.1, 0.85, 12)
    for number, level in enumerate(levels):
        (tmp_path / "mine" / DATASET.classes[int(level > 0.5)]).mkdir(parents=True, exist_ok=True)
        raw = np.zeros((12, 12), np.uint16)
        raw[2:10, 2:10] = round(65535 * (0.1 + level))
        tifffile.imwrite(tmp_path / "mine" / DATASET.classes[int(level > 0.5)] / f"scene_{number:02d}.tif", raw)
    # The classes of a folder are in alphabetical order.
    scenes = dataclasses.replace(DATASET, classes=("bright", "dark"))
    before, fold = {*tmp_path.rglob("*")}, brightness.fold(scenes, np.arange(8, 40), np.arange(8))
    fold.about.shape[:] = 8, 8
    config = replace(config, exposures=(), drifted_data_dir=str(tmp_path / "mine"), labeled=4)
    under = drifts.drifted(config, fold, *config.drifts)
    assert {*tmp_path.rglob("*")} == before
    assert (under.measured, len(under.labeled), len(under.samples)) == ("other", 4, 8)
    raws, targets = under.dataset.samples(np.arange(12))
    bright_first = np.roll(levels, 6)[:, None, None]
    np.testing.assert_allclose(raws, np.broadcast_to(0.1 + bright_first, (12, 8, 8)), atol=1e-4)
    np.testing.assert_array_equal(targets, [0] * 6 + [1] * 6)
    assert under.dataset.camera == brightness.CAMERA
    # The gains of another camera are brought to the run's; its matrix cannot be.
    gains, matrix = np.array(brightness.CAMERA.white_balance) * (1.5, 1, 0.5), 2 * np.eye(3)
    other = dataclasses.replace(brightness.CAMERA, white_balance=gains, color_matrix=matrix)
    (tmp_path / "other.json").write_text(other.to_json())
    under = drifts.drifted(replace(config, drifted_camera=str(tmp_path / "other.json")), fold, *config.drifts)
    scaled, black = under.dataset.samples(np.arange(12))[0], brightness.CAMERA.black_level[0]
    tile = np.tile([[1.5, 1], [1, 0.5]], (4, 4))
    np.testing.assert_allclose(scaled, (black + (raws - black) * tile).clip(0, 1), atol=1e-6)
    said = "warning: `drifted_camera`: the stated color_matrix cannot be converted; the run's values are used\n"
    assert capsys.readouterr().err == said
    (tmp_path / "mine/bright").rename(tmp_path / "mine/brilliant")
    with pytest.raises(InputError, match="must have the classes bright, dark, got brilliant, dark"):
        drifts.drifted(config, fold, *config.drifts)


@pytest.mark.shows("adjust --sensor --cameras")
def test_a_model_is_adapted_to_several_drifts_at_once(config, tmp_path):
    slope = 0.05 * np.linspace(0, 1, DATASET.shape[1], dtype=np.float32)
    sloped = dataclasses.replace(DATASET, read=lambda index: (DATASET.read(index)[0] + slope, DATASET.read(index)[1]))
    fold = brightness.fold(sloped, np.arange(8, 40), np.arange(8))
    camera = dataclasses.replace(brightness.CAMERA, black_level=(0.12,) * 4)
    (tmp_path / "new.json").write_text(camera.to_json())
    state = ("black_level=41,pattern_shift=100", "underexposure")
    config = replace(config, exposures=(), sensor=state, cameras=(str(tmp_path / "new.json"),))
    drifted = {drift.name: drifts.drifted(config, fold, drift).dataset for drift in config.drifts}
    assert list(drifted) == ["black_level=41,pattern_shift=100", "underexposure.3", "camera=new"]
    raw = sloped[9][0]
    shifted = raw[:, [*range(1, raw.shape[1]), -2]]
    np.testing.assert_allclose(drifted["black_level=41,pattern_shift=100"][9][0], shifted + 41 / 4095, atol=1e-6)
    np.testing.assert_allclose(drifted["camera=new"][9][0], raw + 82 / 4095, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposures": (), "pipelines": ()}, "no drift to adapt to: give `intensities`"),
        ({"parameters": ("hue",)}, "`parameters` must be one of all, black_level, .* got 'hue'"),
        ({"labeled": 33}, "`labeled=33` is too many for light=0.25: it has 32 images to adapt to and 8 others"),
        ({"cameras": ("auto",)}, "`cameras` must be drone, microscopy or a JSON file, got auto"),
    ],
)
def test_refuses(config, change, message):
    with pytest.raises(InputError, match=message):
        adjustment.run(replace(config, **change))


@pytest.mark.shows("adjust --severities")
def test_masks_move_with_the_shifted_rows_that_a_model_is_adapted_to(config):
    """The last 10 of 16 rows move one site to the left, and the object in the right half with them."""
    dataset = brightness.half_images(0.3, 0.8, 6)
    fold = brightness.fold(dataset, range(4), range(4, 6))
    config = replace(config, exposures=(), sensor=("pattern_shift",), severities=(4,), labeled=3)
    under = drifts.drifted(config, fold, *config.drifts)
    for of_sample, own in zip(under.dataset.samples(under.labeled), dataset.samples(under.labeled), strict=True):
        expected = own.copy()
        expected[:, 6:, :-1] = own[:, 6:, 1:]
        np.testing.assert_array_equal(of_sample, expected)
        assert (expected != own).sum() == 3 * 10


@pytest.mark.shows("adjust --steps --batch_size", "adjustment.methods starts.csv: start")
def test_searches_by_features_start_at_the_models_own_values_times_the_exposures_nearest_to_training(
    fold, config, monkeypatch
):
    """A quarter of the light is four times too dark for a model of clean images."""
    seen, run = [], methods.Searcher.run

    def watched(self, frozen, searches, raws, targets, steps):
        found = run(self, frozen, searches, raws, targets, min(steps, 1))
        seen.append((frozen.default, searches, found, (steps, self.batch_size)))
        return found

    monkeypatch.setattr(methods.Searcher, "run", watched)
    own = brightness.model(DATASET, gamma=1.8)
    images = np.asarray(own.processor(DATASET.samples(np.arange(40))[0]))
    mean, std = images.mean((0, 1, 2)), images.std((0, 1, 2))
    normalizer = Standardize(*map(jnp.asarray, (mean, std)))
    config = replace(config, unlabeled=32, labeled=0, method="processing", force=True, batch_size=32)
    under = drifts.drifted(config, fold, *config.drifts)
    under = under._replace(model=RawToLogit(own.processor, normalizer, own.head))
    starts = methods.try_all(config.searches, fold, under).searched.table
    (default, tried, _, _), (again, searches, found, steps) = seen
    raws, distances = under.dataset.samples(under.unlabeled)[0], []
    for search in tried:
        gained = own.processor.with_values(default | {"white_balance": np.full(3, search.exposure, np.float32)})
        of_images = np.asarray(gained(raws), np.float64)
        ratio = (of_images.var((0, 1, 2)) + 1e-5) / (std**2 + 1e-5)
        away = (of_images.mean((0, 1, 2)) - mean) / std
        distances.append((ratio + away**2 - 1 - np.log(ratio)).mean() / 2)
    nearest = sorted(np.argsort(distances)[:3])
    assert tried[np.argmin(distances)].exposure == 4
    assert [search.exposure for search in tried] == [1, 2, 4, 8, 16, 32, 64, 0.5, 0.25]
    assert [search.exposure for search in searches] == [tried[place].exposure for place in nearest]
    named = [f"{np.log2(search.exposure):+.0f} stops" for search in searches]
    assert [row[0].removesuffix(" *") for row in starts.rows] == ["no search", *named]
    assert (steps, {(search.spread, search.turned) for search in [*tried, *searches]}) == ((2, 32), {(0.0, None)})
    assert default["gamma_correct"] == again["gamma_correct"] == pytest.approx(1.8)
    for one, place in zip(found, nearest, strict=True):
        assert one.task_loss[0] == pytest.approx(distances[place], rel=0.05)
