import dataclasses
import json
import shutil

import numpy as np
import pytest
from changes import change_camera, change_pixel
from small_runs import metrics

from r2l_jax.cli.flags import replace
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.training import plan, train
from r2l_jax.training.plan import Plan, splits_of


@pytest.fixture
def copy(one_epoch, tmp_path):
    """A copy of a finished run, to change."""
    config = replace(one_epoch, logdir=str(tmp_path / "runs"))
    shutil.copytree(one_epoch.run_dir, config.run_dir)
    return config


@pytest.mark.shows("train --overwrite")
def test_a_run_of_other_settings_is_refused_and_overwritten_on_demand(copy):
    with pytest.raises(
        InputError, match=r"is a different run \(seed was 1, is 2\): choose another `run_name`, or start"
    ):
        train.run(replace(copy, seed=2))
    shutil.copytree(copy.run_dir / "fold_0", copy.run_dir / "fold_1")
    for name in ("fold_0_backup", "fold_notes", "fold_7"):
        (copy.run_dir / name).mkdir()
    (copy.run_dir / "fold_7" / "thesis.tex").touch()
    train.run(replace(copy, seed=2, test_run=True, log_model=False, overwrite=True))
    assert metrics(copy)["seed"] == 2
    # Folds of the earlier run go, and no other folders, whatever their names.
    folders = {path.name for path in copy.run_dir.iterdir() if path.is_dir()}
    assert folders == {"fold_0", "fold_0_backup", "fold_notes", "fold_7"}
    assert (copy.run_dir / "fold_7" / "thesis.tex").exists()


def test_bad_weights_are_refused_before_an_earlier_run_is_removed(copy):
    config = replace(copy, overwrite=True, classifier_pretrained=True, pretrained_weights=str(copy.run_dir / "nothing"))
    with pytest.raises(InputError, match=r"`pretrained_weights=.*nothing`: No such file"):
        train.run(config)
    assert metrics(copy)["complete"]


@pytest.fixture
def custom_split(base, tmp_path):
    """A run of a user's own split, the names of its samples and the file."""
    names, file = datasets.load("Synthetic", **base.data.source).names, tmp_path / "split.json"
    file.write_text(json.dumps({"train": names[:25], "valid": names[30:35], "test": names[35:]}))
    return replace(base, run_name="custom_split", epochs=1, split=str(file)), names, file


@pytest.mark.shows("train --split")
def test_a_split_of_the_user_s_own(custom_split):
    config, names, file = custom_split
    (fold,) = Plan(config).folds
    assert fold.split.train.tolist() == list(range(25))
    assert (fold.split.valid.tolist(), fold.split.test.tolist()) == ([*range(30, 35)], [*range(35, 40)])
    # All mosaics of a scene are in its part.
    (fold,) = Plan(replace(config, iso=(0.1, 1.0))).folds
    assert fold.split.test.tolist() == list(range(70, 80))
    file.write_text(json.dumps({"train": names[5:6], "test": names[:5]}))
    with pytest.raises(InputError, match=rf"`split={file}`: must name an image of the class \w+ to train on"):
        Plan(config)


def test_a_run_is_not_continued_with_another_split(custom_split, copy):
    config, *_ = custom_split
    plan = Plan(replace(copy, split=config.data.split))
    with pytest.raises(InputError, match=r"one_epoch is a different run \(another split\): choose another"):
        plan.check_folders()


@pytest.mark.shows("train --train_size --test_size")
def test_the_sizes_of_the_parts_are_those_of_the_settings(base):
    (fold,) = Plan(replace(base, train_size=0.5, test_size=8.0)).folds
    assert [len(part) for part in fold.split] == [16, 16, 8]


@pytest.mark.shows("train --dataset --data_dir --download --iso")
def test_data_is_loaded_as_the_settings_say(base, monkeypatch):
    given = {"data_dir": "x", "camera": "drone", "tile_size": 32, "classes": ("a",), "group": "folder"}
    given |= {"annotations": "a.json", "synthetic_images": 7, "synthetic_size": 40, "iso": (0.05, 0.1)}
    asked = []

    def load(name, **settings):
        asked.append((name, settings))
        raise InputError("enough")

    monkeypatch.setattr(plan.datasets, "load", load)
    with pytest.raises(InputError, match="enough"):
        Plan(replace(base, dataset="Drone", download=True, **given))
    assert asked == [("Drone", {"download": True, **given})]


@pytest.mark.parametrize(
    ("changes", "count", "others"),
    [({"split": None}, 40, 40), ({"split": None, "test_size": 10.0}, 10, 30), ({}, 5, 30)],
)
def test_all_samples_test_an_untrained_network_unless_some_are_kept_apart(custom_split, changes, count, others):
    dataset = datasets.load("Synthetic", **custom_split[0].data.source)
    (fold,) = splits_of(replace(custom_split[0], **changes).data, 1, dataset, trains=False)
    assert (len(fold.test), len(fold.train)) == (count, others)
    assert fold.valid.tolist() == fold.test.tolist()
    assert set(fold.train.tolist()).isdisjoint(fold.test.tolist()) == (count < 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dataset": "SyntheticSegmentation", "processing_mode": "none"},
            r"height and width must be multiples of 64 for a U-Net\+\+ after `processing_mode=none`, got 32x32",
        ),
        ({"classifier_uri": "{data_dir}"}, "must be a run folder with a fold_0: found no fold_.* folder"),
        ({"classifier_uri": "{one_epoch}", "classifier_network": "ResNet34"}, "does not fit this run: head.bn1.bias"),
        ({"state_dict_uri": "{one_epoch}", "n_splits": 2}, "must be a run folder with a fold_1: found fold_0"),
        ({"dataset": "SyntheticSegmentation", "label_smoothing": 0.2}, "`label_smoothing=0.2` has no effect on seg"),
        ({"dataset": "SyntheticSegmentation", "classifier_network": "ResNet34"}, "`classifier_network=ResNet34` has"),
        ({"smp_encoder": "resnet18"}, "`smp_encoder=resnet18` has no effect on classification: omit it"),
    ],
)
def test_refuses(base, one_epoch, change, message):
    places = {"data_dir": base.data.data_dir, "one_epoch": one_epoch.run_dir}
    change = {name: v.format(**places) if isinstance(v, str) else v for name, v in change.items()}
    with pytest.raises(InputError, match=message):
        train.run(replace(base, run_name="refused", **change))


@pytest.mark.shows("train --test_run --n_splits --batch_size")
def test_a_test_run_has_a_batch_of_each_side_of_the_split(base):
    for fold in Plan(replace(base, n_splits=2, batch_size=5, test_run=True)).folds:
        assert (len(fold.split.train), len(fold.split.valid)) == (5, 5)


@pytest.mark.parametrize(("samples", "is_told"), [(7, True), (8, False)])
def test_too_few_samples_for_statistics_of_clean_images_are_told_before_training(base, capsys, samples, is_told):
    config = replace(base, run_name="few", batch_size=samples, test_run=True, camera_augmentation=("light",))
    Plan(config).check_folders()
    told = (
        "warning: 7 training samples are too few for statistics of clean images, which need 8: after training with "
        "`camera_augmentation`, the model cannot be adapted to new images\n"
    )
    assert capsys.readouterr().err == told * is_told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: change_pixel(min((root / "images/raw_scale100").iterdir())), "different data"),
        (lambda root: change_camera(root / "camera.json"), "a different camera"),
    ],
)
def test_a_run_does_not_go_on_with_changed_data(copy, tmp_path, change, reason):
    shutil.copytree(copy.data.data_dir, tmp_path / "data")
    config, before = replace(copy, data_dir=str(tmp_path / "data")), metrics(copy)
    (root,) = (tmp_path / "data").glob("synthetic_40x32_*")
    change(root)
    refusal = rf"is a different run \({reason}\): choose another `run_name`, or start over with `overwrite`"
    with pytest.raises(InputError, match=refusal):
        train.run(config)
    assert metrics(config) == before


def test_overwrite_spares_its_source_however_their_folders_are_written(copy, monkeypatch):
    monkeypatch.chdir(copy.run_dir.parent)
    with pytest.raises(InputError, match=r"`classifier_uri=.*` is inside the run that `overwrite` would remove"):
        train.run(replace(copy, overwrite=True, classifier_uri="one_epoch/fold_0"))
    assert metrics(copy)["complete"]


def test_a_head_that_was_trained_on_samples_to_score_is_warned_of(one_epoch, tmp_path, capsys):
    def warnings(**changes):
        plan = Plan(replace(one_epoch, logdir=str(tmp_path), classifier_uri=str(one_epoch.run_dir), **changes))
        plan.check_folders()
        return capsys.readouterr().err, plan.folds[0].split

    earlier = set(metrics(one_epoch)["train_indices"])
    said, split = warnings(test_size=0.25, seed=one_epoch.optimization.seed + 1)
    seen = [len(earlier & set(indices.tolist())) for indices in (split.valid, split.test)]
    assert min(seen) > 0
    parts = f"{seen[0]} of {len(split.valid)} validation samples and {seen[1]} of {len(split.test)} test samples"
    assert f"was trained on {parts} of this run" in said
    assert warnings(state_dict_uri=str(one_epoch.run_dir))[0] == ""


@pytest.fixture
def two_groups(base, monkeypatch):
    """The data of `base` in two groups, of 10 and of 30 samples; returns the settings."""
    dataset = datasets.load(base.data.dataset, **base.data.source)
    grouped = dataclasses.replace(dataset, groups=np.arange(40) < 10)
    monkeypatch.setattr(plan.datasets, "load", lambda *_, **__: grouped)
    return replace(base, run_name="grouped", n_splits="groups")


def test_the_smallest_fold_of_groups_fills_a_batch(two_groups):
    made = Plan(replace(two_groups, batch_size=16))
    assert [len(fold.split.train) for fold in made.folds] == [30, 10]
    assert made.batches == (10, 3)


def test_groups_are_left_out_only_in_training(two_groups):
    settings = replace(two_groups.data, n_splits="groups")
    with pytest.raises(InputError, match=r"^`n_splits=groups` needs training, got `epochs=0`$"):
        splits_of(settings, 1, plan.datasets.load(), trains=False)


def test_an_earlier_split_must_not_divide_a_group(two_groups, one_epoch):
    uri = str(one_epoch.run_dir)
    with pytest.raises(InputError, match=f"^`state_dict_uri={uri}`: .* are of one group, .* must be in one part"):
        Plan(replace(two_groups, n_splits=1, state_dict_uri=uri))
