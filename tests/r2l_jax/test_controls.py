"""Every control is one call on what a caller has in hand."""

import contextlib
import dataclasses
import gc
import inspect
import io
import json
import pathlib

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

import isp
import r2l_jax
from r2l_jax.apps.export.description import described
from r2l_jax.cli import progress
from r2l_jax.cli.flags import called
from r2l_jax.data.sets import datasets
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.training.run import Run

CAMERA = isp.Camera(
    black_level=(0.1,) * 4, white_balance=(1.0, 1.0, 1.0), color_matrix=((1, 0, 0), (0, 1, 0), (0, 0, 1))
)
QUICK = {
    "epochs": 2,
    "lr": 3e-3,
    "batch_size": 8,
    "augmentation": "none",
    "auto": "none",
    "camera_augmentation": "none",
}


def arrays(count=128, seed=0, light=1.0):
    """Uniform images of a class each, dark and bright, of eight patients."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    levels = (0.2 + 0.5 * labels + random.uniform(-0.05, 0.05, count)) * light
    noise = random.normal(0, 0.002, (count, 16, 16))
    raws = np.clip(0.1 + 0.9 * (levels[:, None, None] + noise), 0, 1).astype(np.float32)
    return raws, labels, [f"patient {number}" for number in np.arange(count) // (count // 8)]


def data_of(*given, **changed):
    raws, labels, groups = arrays(*given, **changed)
    return r2l_jax.data.from_arrays(raws, labels, CAMERA, classes=["dark", "bright"], groups=groups)


@pytest.fixture(scope="module")
def data():
    return data_of()


@pytest.fixture(scope="module")
def run(data, small_heads, tmp_path_factory):
    printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed[0]), contextlib.redirect_stderr(printed[1]):
        made = r2l_jax.train(data, test_size=0.25, logdir=tmp_path_factory.mktemp("runs"), progress=False, **QUICK)
    assert [each.getvalue() for each in printed] == ["", ""]
    return made


def accuracy(model, data):
    raws, labels = data.samples(np.arange(len(data)))
    return float((model.predict(raws).argmax(-1) == labels).mean())


def bright(images):
    """The logits of dark and bright images, told apart at 0.7 after gamma, which is 0.46 of the light."""
    level = images.mean((1, 2, 3))
    return 20 * jnp.stack([0.7 - level, level - 0.7], -1)


@pytest.mark.shows("r2l_jax.train(data)")
def test_training_on_arrays_keeps_patients_together(run, data):
    fold = run.folds[0]
    parts = [set(data.groups_of(indices).tolist()) for indices in fold.split]
    assert [len(part) for part in parts][2] == 2
    assert sum(map(len, parts)) == len(set().union(*parts)) == 8
    assert run.dataset is data
    assert run.classes == ("dark", "bright")


def test_evaluating_measures_the_test_samples_of_the_data_at_hand(run, data):
    found = r2l_jax.evaluate(run, against="exposures", exposures=0.5)
    tested = run.folds[0].split.test
    raws, labels = data.samples(tested)
    clean = (run.predict(raws).argmax(-1) == labels).mean()
    assert found.tables["drops"].numbers("accuracy")["clean"] == pytest.approx(clean)
    assert "32 test samples of 2 groups" in str(found)
    assert (pathlib.Path(run.folds[0].folder).parent / "evaluation" / "result.json").exists()


def test_folder_path_and_object_are_the_same_run(run):
    folder = run.folds[0].folder.parent
    settings = {"against": "exposures", "exposures": 0.5}
    texts = {r2l_jax.evaluate(each, **settings).text() for each in (run, folder, str(folder), r2l_jax.load(folder))}
    assert len(texts) == 1


@pytest.mark.shows("r2l_jax.evaluate(data)")
@pytest.mark.parametrize("given", [{"light": 0.4}, {"count": 16, "seed": 5}])
def test_other_data_is_measured_whole_and_leaves_no_result_behind(run, given):
    other = data_of(**given)
    before = sorted(run.folds[0].folder.parent.rglob("*"))
    found = r2l_jax.evaluate(run, other, against="exposures", exposures=(0.5, 0.25))
    assert found.tables["drops"].numbers("accuracy")["clean"] == pytest.approx(accuracy(run, other))
    assert f"{len(other)} test samples of 8 groups" in str(found)
    assert sorted(run.folds[0].folder.parent.rglob("*")) == before


def test_data_of_another_camera_is_scaled_to_that_of_the_run(run):
    """The black level differs, and with it every raw image, but the light is the same."""
    raws, labels, groups = arrays(seed=7)
    camera = isp.Camera(**{**CAMERA.__dict__, "black_level": (0.25,) * 4})
    shifted = 0.25 + (raws - 0.1) * (0.75 / 0.9)
    pair = [
        r2l_jax.data.from_arrays(np.clip(each, 0, 1).astype(np.float32), labels, of, ["dark", "bright"], groups)
        for each, of in ((raws, CAMERA), (shifted, camera))
    ]
    losses = [r2l_jax.evaluate(run, each, against="exposures", exposures=0.5).tables["drops"] for each in pair]
    assert losses[0].numbers("accuracy") == losses[1].numbers("accuracy")


@pytest.mark.shows("r2l_jax.evaluate(pipeline)")
def test_a_function_of_images_is_measured_without_a_run(data):
    """Half of the light turns bright images, of 0.65 to 0.75, dark."""
    linear = isp.static(CAMERA, "bilinear", "none", "none")
    found = r2l_jax.evaluate(bright, data, pipeline=linear, against="exposures", exposures=0.5)
    scores = found.tables["drops"].numbers("accuracy")
    assert scores["clean"] == 1
    assert scores["light=0.5"] == 0.5
    assert "128" in str(found)
    # At a quarter of the light that the processing passes on, all images are dark.
    dim = linear.inserted(isp.Stage("dim", lambda rgb: rgb / 4), after="demosaic")
    found = r2l_jax.evaluate(bright, data, pipeline=dim, against="exposures", exposures=0.5)
    assert found.tables["drops"].numbers("accuracy")["clean"] == 0.5


@pytest.mark.parametrize(("wrong", "warns"), [(51, False), (52, True)])
def test_a_network_close_to_chance_is_warned_of(capsys, wrong, warns):
    """For two classes, up to 60% are close to chance: 76 of 128 images are, and 77 are not."""
    raws, labels, groups = arrays()
    labels[:wrong] = 1 - labels[:wrong]
    data = r2l_jax.data.from_arrays(raws, labels, CAMERA, ["dark", "bright"], groups)
    linear = isp.static(CAMERA, "bilinear", "none", "none")
    r2l_jax.evaluate(bright, data, pipeline=linear, against="exposures", exposures=0.5)
    said = f"an accuracy of {1 - wrong / 128:.3f} is close to chance"
    assert (said in capsys.readouterr().err) == warns


def test_a_function_of_numpy_arrays_is_measured_but_has_no_gradients(data):
    linear = isp.static(CAMERA, "bilinear", "none", "none")
    seen = []

    def dark(images):
        seen.append(images.shape[1:])
        means = np.asarray(images).mean((1, 2, 3))
        return np.stack([0.7 - means, means - 0.7], 1)

    found = r2l_jax.evaluate(dark, data, pipeline=linear, against="exposures", exposures=0.5)
    scores = found.tables["drops"].numbers("accuracy")
    assert (scores["clean"], scores["light=0.5"]) == (1, 0.5)
    assert set(seen) == {(*data.shape, 3)}
    with pytest.raises(InputError, match=r"got a NumPy function, .*`analyses=tolerances`\) work without them"):
        r2l_jax.forensics(dark, data, analyses="sensitivity")
    assert "(network as given; chance: 50)" in found.metadata["verdict"][0]
    for kind, of in ((np.int64, "int64"), (np.str_, "<U21")):
        message = rf"^`run`: the network must return logits \(B, C\) .*, got {of} of shape \(1,\)"
        with pytest.raises(InputError, match=message):
            r2l_jax.evaluate(lambda images, kind=kind: dark(images).argmax(1).astype(kind), data, pipeline=linear)


def test_a_network_of_probabilities_is_warned_of(data, capsys):
    def probable(images):
        means = np.asarray(images).mean((1, 2, 3))
        return np.stack([1 - means, means], 1)

    for network, count in ((lambda images: np.log(probable(images) + 1e-6), 0), (probable, 1)):
        r2l_jax.evaluate(network, data, against="exposures", exposures=0.5)
        said = "the network seems to return probabilities, not logits: return their logarithms, as predict_log_proba"
        assert capsys.readouterr().err.count(said) == count


def test_a_pytorch_module_is_given_with_its_normalization(data):
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match=r"^`run`: give r2l_jax.from_torch\(Flatten, ...\), with its mean, std and"):
        r2l_jax.evaluate(torch.nn.Flatten(), data)


@pytest.mark.shows("r2l_jax.adapt(data, groups)")
def test_an_array_is_compared_by_its_groups(run, capsys):
    tested = data_of(count=32, seed=11).samples(np.arange(32))[0]
    for groups, counted in ((None, "1 group"), (np.arange(32) // 16, "2 groups"), (list("abcd") * 8, "4 groups")):
        assert r2l_jax.adapt(run, tested, groups=groups) is run
        said = f"in the features of 32 images of {counted}, compared with 32 clean ones of 2 groups (p = "
        warned = capsys.readouterr().err
        assert said in warned
        assert ("give `groups`" in warned) == (groups is None)


@pytest.mark.shows("r2l_jax.adapt(data)")
def test_adapting_to_an_array_returns_a_model_that_every_control_takes(run, data):
    raws = data_of(light=0.6).samples(np.arange(128))[0]
    adapted = r2l_jax.adapt(run, raws, force=True)
    assert adapted.identity != run.identity
    found = r2l_jax.evaluate(adapted, data, against="exposures", exposures=0.5)
    assert found.tables["drops"].numbers("accuracy")["clean"] == pytest.approx(accuracy_of_tested(adapted, data))


def test_without_drift_an_array_changes_no_model(run, data, capsys):
    tested = data.samples(run.folds[0].split.test)[0]
    for method in ("statistics", "processing"):
        assert r2l_jax.adapt(run, tested, method=method) is run
        said = capsys.readouterr().err
        assert (
            "the model stays as it is: no drift is detected in the features of 32 images of 1 group, compared with 32 "
            "clean ones of 2 groups" in said
        )
        assert said.rstrip().endswith("; if the images are of several groups, give `groups`; `force` adapts it")
    # With drift, it goes on to whether the images show all classes.
    dark = data_of(light=0.3, seed=7).samples(np.arange(64))[0]
    with pytest.raises(InputError, match="cannot be adapted: the 64 images are not a mixture of the training classes"):
        r2l_jax.adapt(run, dark)


def test_the_processing_is_tuned_to_an_array_without_labels(run):
    dark = data_of(light=0.25)
    raws, tuning = dark.samples(np.arange(60))[0], {"method": "processing", "force": True}
    gains, every = (r2l_jax.adapt(run, raws, steps=1, parameters=each, **tuning) for each in ("white_balance", ()))
    longer = r2l_jax.adapt(run, raws, steps=20, **tuning)
    recorded = longer.about.adapted["settings"]
    assert [recorded[name] for name in ("method", "unlabeled", "labeled", "steps")] == ["processing", 60, 0, 20]
    # Each model of several is adapted by itself.
    both = r2l_jax.adapt(Run([*run, *longer]), raws, steps=1, **tuning)
    alone = every, r2l_jax.adapt(longer, raws, steps=1, **tuning)
    assert [fold.identity for fold in both] == [each.identity for each in alone]
    kept = r2l_jax.adapt(run, raws, method="statistics", force=True)
    before, *after = (each.pipeline.parameters() for each in (run, gains, every, longer, kept))
    changed = [{name for name in before if (each[name] != before[name]).any()} for each in after]
    assert changed == [{"white_balance"}, {*before} - {"debayer"}, {*before} - {"debayer"}, set()]
    # A search starts at gains of whole stops, and its step changes them by a few percent.
    stops = np.log2(after[0]["white_balance"] / before["white_balance"])
    assert 1 <= np.round(stops[0]) <= 4
    np.testing.assert_allclose(stops, np.round(stops[0]), atol=0.07)
    assert not np.allclose(after[2]["white_balance"], after[1]["white_balance"], rtol=0.05)
    assert [accuracy(each, dark) for each in (run, gains, longer)] == [0.5, 1, 1]
    assert r2l_jax.evaluate(longer, dark, against="exposures", exposures=0.5).tables["drops"]


def accuracy_of_tested(model, data):
    raws, labels = data.samples(model.folds[0].split.test)
    return float((model.predict(raws).argmax(-1) == labels).mean())


def test_adapting_under_simulated_drift_names_the_adapted_run(run):
    found = r2l_jax.adapt(run, exposures=0.5, method="statistics", unlabeled=8, force=True)
    (folder,) = found.metadata["adapted"].values()
    assert r2l_jax.load(folder).about.adapted


@pytest.mark.shows("r2l_jax.monitor(images, groups)", "monitor --group")
def test_monitoring_arrays_tells_new_light_from_old_by_groups(run, capsys):
    assert r2l_jax.monitor(run) is None
    capsys.readouterr()
    calm = r2l_jax.monitor(run, data_of(count=32, seed=11))
    assert not calm.metadata["alarm"]
    assert "window 1: no alarm, p = " in capsys.readouterr().err
    r2l_jax.monitor(run, data_of(count=32, seed=11), progress=False)
    assert "window" not in capsys.readouterr().err
    assert calm.metadata["windows"][0]["groups"] == 8
    assert "on average over references of 8 groups, if" in " ".join(calm.metadata["notes"])
    raws = data_of(count=32, seed=12, light=0.5).samples(np.arange(32))[0]
    drifted = r2l_jax.monitor(run, raws, groups=np.arange(32) // 8)
    assert drifted.metadata["alarm"]
    assert drifted.metadata["windows"][0]["groups"] == 4
    assert not any("count as one group" in note for note in drifted.metadata["notes"])
    together = r2l_jax.monitor(run, raws)
    assert together.metadata["windows"][0]["groups"] == 1
    assert any("the images of each window count as one group" in note for note in together.metadata["notes"])


def test_monitored_arrays_are_stored_in_the_units_of_the_files_that_a_run_divides(run, monkeypatch):
    (fold,), stored = run.folds, []
    of_files = Run([dataclasses.replace(fold, about=msgspec.structs.replace(fold.about, white_level=4095))])
    monkeypatch.setattr("r2l_jax.training.run.load", lambda *_, **__: of_files)
    monkeypatch.setattr(
        "r2l_jax.apps.monitor.run",
        lambda config: stored.extend(map(np.load, sorted(pathlib.Path(*config.input).iterdir()))),
    )
    raws, _ = data_of(count=8).samples(np.arange(8))
    r2l_jax.monitor(run, raws)
    np.testing.assert_allclose(stored, raws * 4095)


@pytest.mark.shows("forensics --analyses", "r2l_jax.forensics(data)")
def test_forensics_returns_results_by_analysis(run):
    found = r2l_jax.forensics(run, analyses="sensitivity")
    assert list(found) == ["sensitivity"]
    assert "parameters" in found["sensitivity"].tables
    other = r2l_jax.forensics(run, data_of(count=16, seed=5), analyses="sensitivity")["sensitivity"]
    assert other.metadata["notes"][-1] == "measured on 16 test samples, best checkpoint"
    assert other.tables["parameters"].rows != found["sensitivity"].tables["parameters"].rows


def test_a_report_shows_itself_in_a_frame(run, tmp_path):
    made = r2l_jax.report(run, output=tmp_path / "page.html")
    assert made.path == tmp_path / "page.html"
    assert made._repr_html_().startswith('<iframe src="data:text/html;base64,')


@pytest.mark.shows("r2l_jax.synthesize(data)")
def test_pictures_of_arrays_are_written(data, tmp_path):
    folder = r2l_jax.synthesize(data, output=tmp_path / "sets", pipelines="parametrized", format="png", exposures=0.5)
    assert len(list(folder.rglob("*.png"))) == 2 * len(data)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda run: r2l_jax.evaluate(run, exposure=0.5),
            TypeError,
            "unexpected argument `exposure`; did you mean `exposures`",
        ),
        (lambda run: r2l_jax.evaluate(run, against="sensors"), InputError, "`against` must be one of .* got 'sens"),
        (lambda run: r2l_jax.evaluate(run, exposures=0.5), InputError, "`exposures` has no effect without `against"),
        (lambda run: r2l_jax.evaluate(run, pipeline="full"), InputError, "`pipeline` is for a network without a run"),
        (lambda run: r2l_jax.evaluate(bright), InputError, "a network without a run needs `data`"),
        (lambda run: r2l_jax.report(bright), InputError, "in evaluate, forensics or export; else use a run$"),
        (lambda run: r2l_jax.evaluate(object(), data_of()), InputError, r"such as lambda images: .*, got object$"),
        (lambda run: r2l_jax.evaluate(run, np.zeros((2, 4, 4))), InputError, "`data` must be a RawDataset, got n"),
        (lambda run: r2l_jax.train(np.zeros((2, 4, 4))), InputError, "`data` must be a RawDataset, got n"),
        (lambda run: r2l_jax.adapt(bright, np.zeros((2, 4, 4))), InputError, "`run` must be a run: a network alone"),
        (lambda run: r2l_jax.adapt(run, np.zeros((8, 16, 16)), steps=3), InputError, "`steps` has no effect on"),
        (
            lambda run: r2l_jax.adapt(run, np.zeros((8, 16, 16)), method="labels"),
            InputError,
            "`method` must be statistics or processing ",
        ),
        (
            lambda run: r2l_jax.adapt(run, np.zeros((8, 16, 16)), method="processing"),
            InputError,
            "cannot be adapted: the 8 images are ",
        ),
        (lambda run: r2l_jax.monitor(run, follow=True), TypeError, "unexpected argument `follow`"),
        (
            lambda run: r2l_jax.monitor(run, np.zeros((8, 16, 16)), groups=[0, 1]),
            InputError,
            "`groups` must have one for each of 8 images, got 2",
        ),
        (
            lambda run: r2l_jax.adapt(run, np.zeros((8, 16, 16)), groups=[0, 1]),
            InputError,
            "`groups` must have one for each of 8 images, got 2",
        ),
        (lambda run: r2l_jax.adapt(run, "nowhere"), InputError, "`data=nowhere` is not a folder"),
        (
            lambda run: r2l_jax.adapt(run),
            InputError,
            "no drift to adapt to: give `intensities`, .*`cameras` or `data`",
        ),
        (
            lambda run: r2l_jax.monitor(lambda images: images, np.zeros((8, 16, 16))),
            InputError,
            "`run` must be a run: a network alone has no test samples to compare with",
        ),
        (
            lambda run: r2l_jax.adapt(run, "x", groups=[0]),
            InputError,
            "`groups` has an effect only on an array of raw images: ",
        ),
        (lambda run: r2l_jax.monitor(run, "x", groups=[0]), InputError, "`groups` are those of an array of raw images"),
        (
            lambda run: r2l_jax.monitor(run, np.zeros((8, 16, 14), "f4")),
            InputError,
            "`images` must have the size of the training, 16x16, got 16x14",
        ),
        (lambda run: r2l_jax.monitor(run, np.zeros((16, 16), "f4")), InputError, r"`images` must be raw images \(N, H"),
        (lambda run: r2l_jax.monitor(run, np.full((8, 16, 16), 9.0)), InputError, r"expected images of floats in \[0"),
        (lambda run: r2l_jax.train(test_size=0.2, split="s.json"), InputError, "`test_size` has no effect with `sp"),
        (
            lambda run: r2l_jax.train(data_of(), test_groups="patient 1", test_size=0.2),
            InputError,
            "`test_size` has no effect with `test_g",
        ),
        (lambda run: r2l_jax.train(data_of(), dataset="Folder"), InputError, "`dataset` has no effect with `data`"),
    ],
)
def test_arguments_without_effect_are_refused_before_any_work(run, call, error, message):
    with pytest.raises(error, match=message):
        call(run)


def test_data_must_fit_the_model(run):
    raws, labels, _ = arrays()
    with pytest.raises(InputError, match="`data` must have the classes dark, bright in this order, got bright, dark"):
        r2l_jax.evaluate(run, r2l_jax.data.from_arrays(raws, labels, CAMERA, ["bright", "dark"]))
    with pytest.raises(InputError, match="`data` must have targets for classification, as in training, got seg"):
        r2l_jax.evaluate(run, r2l_jax.data.from_arrays(raws, (raws > 0.5).astype(np.uint8), CAMERA))


def test_data_in_memory_is_asked_for_once_it_is_gone():
    name = datasets.given(data_of(seed=99))
    with pytest.raises(InputError, match="trained on arrays that are not in memory: make them again with"):
        datasets.load(name)


def test_a_run_finds_equal_arrays_again_and_stores_its_results(run, data):
    folder, again = run.folds[0].folder.parent, data_of()
    assert datasets.given(again) == run.folds[0].about.flags["dataset"]
    raws, labels, _ = arrays()
    names = [datasets.given(each) for each in (data_of(seed=1), dataclasses.replace(data_of(), groups=None))]
    names.append(datasets.given(r2l_jax.data.from_arrays(raws, 1 - labels, CAMERA, classes=["dark", "bright"])))
    assert len({*names, run.folds[0].about.flags["dataset"]}) == 4
    found = r2l_jax.evaluate(folder, again, against="exposures", exposures=0.7)
    stored = [result.read(place) for place in (folder / "evaluation", *(folder / "evaluation").glob("[0-9]*"))]
    assert found.text() in [each and each.text() for each in stored]


def test_a_run_is_measured_at_the_checkpoint_that_was_loaded(run):
    folder = run.folds[0].folder.parent
    last = r2l_jax.load(folder, checkpoint="last")
    assert "last checkpoint" in str(r2l_jax.evaluate(last, against="exposures", exposures=0.5))
    with pytest.raises(InputError, match="all runs must be at the same checkpoint, got best and last: give `checkp"):
        r2l_jax.evaluate([folder, last], against="exposures", exposures=0.5)


def test_some_folds_of_a_run_are_measured_without_the_others(data, small_heads, tmp_path):
    """Folds are validated on random samples: a sample of two folds counts once, with the mean of both."""
    made = r2l_jax.train(data, n_splits=3, logdir=tmp_path, progress=False, **QUICK | {"epochs": 1})
    folder = made.folds[0].folder.parent
    for chosen in (1, (0, 2), None):
        loaded = r2l_jax.load(folder, chosen)
        found = r2l_jax.evaluate(loaded, against="exposures", exposures=0.5)
        each = dict[int, list[bool]]()
        for fold in loaded:
            raws, labels = data.samples(fold.split.valid)
            right = Run([fold]).predict(raws).argmax(-1) == labels
            for sample, is_right in zip(fold.split.valid.tolist(), right, strict=True):
                each.setdefault(sample, []).append(is_right)
        assert f"{len(each)} validation samples of " in str(found)
        expected = np.mean([np.mean(rights) for rights in each.values()])
        assert found.tables["drops"].numbers("accuracy")["clean"] == pytest.approx(expected)


def test_a_trained_run_holds_its_arrays(small_heads, tmp_path):
    made = r2l_jax.train(data_of(seed=31), test_size=0.25, logdir=tmp_path, progress=False, **QUICK)
    gc.collect()
    name = made.folds[0].about.flags["dataset"]
    assert datasets.load(name) is made.dataset
    del made
    gc.collect()
    with pytest.raises(InputError, match="not in memory"):
        datasets.load(name)


def test_an_export_has_the_test_score_of_its_own_models_alone(run):
    folder = run.folds[0].folder.parent
    tested = json.loads((folder / "test.json").read_text())
    about = described(run, {})
    assert about["score"]["samples"] == "validation"
    assert (about["test"]["samples"], about["test"]["groups"]) == (32, 2)
    assert about["test"] == tested
    assert tested["value"] == pytest.approx(accuracy_of_tested(run, run.dataset))
    assert "test" not in described(r2l_jax.load(folder, checkpoint="last"), {})
    (folder / "fold_1").mkdir()
    try:
        assert "test" not in described(run, {})
    finally:
        (folder / "fold_1").rmdir()


@pytest.mark.shows("r2l_jax.export(data)")
def test_an_export_is_checked_on_the_data_that_is_given(run, tmp_path):
    other = data_of(count=16, seed=5)
    assert r2l_jax.export(run, tmp_path / "out", other, parts="isp", formats="stablehlo") == tmp_path / "out"
    checked_on, (raws, _) = np.load(tmp_path / "out/samples.npz")["raw"], other.samples(np.arange(16))
    assert np.abs(checked_on[:, None] - raws).max((2, 3)).min(1).max() < 1e-6


def test_runs_in_memory_are_compared_by_name_and_written_by_name(run, tmp_path):
    adapted = r2l_jax.adapt(run, data_of(light=0.6).samples(np.arange(128))[0], force=True)
    said = str(r2l_jax.evaluate([run, adapted, adapted], data_of(seed=21), against="exposures", exposures=0.5))
    assert "run_adapted2" in said
    assert "r2l_jax_" not in said
    adapted.write(str(tmp_path / "adapted"))
    assert r2l_jax.load(tmp_path / "adapted").identity == adapted.identity
    with pytest.raises(InputError, match="give `output`: a model in memory has no folder for its report"):
        r2l_jax.report(adapted)


@pytest.mark.parametrize(
    "given", [{"exposure": -1}, [{"exposure": -1}], isp.CameraState(exposure=-1.0), "exposure=-1", ["exposure=-1"]]
)
def test_a_camera_state_may_be_a_dict_an_object_or_text(given):
    config = called(EvaluationConfig, {"run": "x", "against": "sensor", "sensor": given})
    assert [case.name for case in config.cases] == ["clean", "exposure=-1"]


@pytest.mark.parametrize("given", [0.5, np.float64(0.5), np.array([0.5]), "0.5", (0.5,)])
def test_numbers_may_be_of_numpy_or_text(given):
    assert called(EvaluationConfig, {"run": "x", "against": "exposures", "exposures": given}).exposures == (0.5,)


def test_text_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="`exposures` must be numbers, separated by commas, got half"):
        called(EvaluationConfig, {"run": "x", "against": "exposures", "exposures": "half"})


def test_objects_say_what_they_are(run, data):
    assert repr(data) == "RawDataset Arrays: 128 samples of 8 groups, classification of dark, bright"
    found = run.tested
    named = f"Run of {run.folds[0].folder}: classification of dark, bright; validation accuracy {run.score:.4g}, "
    interval = f"{found.low:.4g} to {found.high:.4g}; 32 images of 2 groups"
    assert repr(run) == f"{named}test accuracy {found.value:.4g} ({interval}), best checkpoint"
    html = run._repr_html_()
    assert "<caption>Trained model</caption>" in html
    assert f"<th>run</th><th>{run.folds[0].folder}</th>" in html
    rows = ("task", "classification of dark, bright"), ("test accuracy", f"{found.value:.4g} ({interval})")
    assert all(f"<tr><td>{name}</td><td>{value}</td></tr>" in html for name, value in rows)
    assert found.value == pytest.approx(accuracy_of_tested(run, data))
    assert run.adapted(data.samples(np.arange(32))[0], force=True).tested is None
    folder = run.folds[0].folder.parent
    assert r2l_jax.load(folder).tested == found
    assert r2l_jax.load(folder, checkpoint="last").tested is None


def test_signatures_have_the_settings_of_the_programs():
    parameters = inspect.signature(r2l_jax.evaluate).parameters
    assert list(parameters)[:3] == ["run", "data", "pipeline"]
    assert parameters["against"].default == ("pipelines", "corruptions")
    assert "    against: kinds of drift to test against, " in r2l_jax.evaluate.__doc__
    assert "--" not in r2l_jax.train.__doc__


def test_every_public_name_is_offered():
    assert set(dir(r2l_jax)) == set(r2l_jax.__all__)
    assert all(
        callable(getattr(r2l_jax, name)) for name in r2l_jax.__all__ if name not in ("__version__", "data", "maite")
    )


@pytest.mark.shows("r2l_jax.evaluate(progress)")
def test_no_progress_is_shown_if_it_is_not_wanted(run, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_APART", 0)
    folder = run.folds[0].folder.parent
    r2l_jax.evaluate(folder, against="exposures", exposures=0.125)
    assert "batch" in capsys.readouterr().err
    r2l_jax.evaluate(folder, against="exposures", exposures=0.0625, progress=False)
    printed = capsys.readouterr()
    assert not printed.out
    assert "batch" not in printed.err
