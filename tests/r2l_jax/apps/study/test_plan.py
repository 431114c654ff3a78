import pickle

import pytest
from programs import call

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import FROZEN, LEARNED, PIPELINES, make_jobs, runs_of
from r2l_jax.cli.flags import build, flat, leaves, replace
from r2l_jax.data.settings import DataSettings
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.errors import InputError
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.training.settings import PUBLISHED_OPTIMIZATION, OptimizationSettings


def test_jobs_come_after_those_that_they_need_and_can_be_sent_to_other_processes(config):
    jobs = make_jobs(config)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 2 * 12 + 2 + 2
    for job in jobs:
        assert all(names.index(name) < names.index(job.name) for name in job.after)
        pickle.loads(pickle.dumps(job.work))


@pytest.mark.shows("study --corruptions --severities --adv_parameters --adv_aux_weight --steps")
def test_runs_are_tested_at_the_last_epoch(config, monkeypatch):
    called = []
    monkeypatch.setattr(evaluation, "run", called.append)
    monkeypatch.setattr(forensics, "run", called.append)
    jobs = {job.name: job for job in make_jobs(replace(config, steps=7))}
    jobs["evaluate synthesis/bilinear.sharpening_filter.median_denoising"].work()
    jobs["search forensics/model"].work()
    evaluated, searched = called
    assert evaluated.checkpoint == searched.checkpoint == "last"
    assert evaluated.pipelines == tuple(PIPELINES.values())
    assert (evaluated.corruptions, evaluated.severities) == (("contrast", "gaussian_noise"), (2, 3))
    worst = searched.worst_case
    assert (worst.adv_aux_loss, worst.starts, worst.adv_parameters) == ("l2_sum", 1, ("all", "black_level"))
    assert (worst.adv_aux_weight, worst.steps) == ((1e-4, 1e-2), 7)


@pytest.mark.shows("study --n_splits --output --low_intensity")
def test_runs_share_their_settings_but_for_the_processing(config):
    config = replace(config, low_intensity=0.05)
    for control in ("synthesis", "forensics", "adjustment"):
        for run in runs_of(config, control).values():
            assert (run.data.n_splits, run.optimization.epochs) == (2, 3)
            assert run.run_dir.is_relative_to(f"{config.choice.output}/{control}")
            assert run.data.iso == ((0.05,) if control == "adjustment" else (1.0,))
    for name, run in runs_of(config, "synthesis").items():
        assert run.processing.is_frozen
        assert run.processing.named_pipeline.title == PIPELINES[name]
    assert runs_of(config, "adjustment")[FROZEN].processing.freeze_processor
    assert not runs_of(config, "adjustment")[LEARNED].processing.freeze_processor


def test_runs_are_as_published_by_default():
    config = build(StudyConfig, epochs=7).training_of("forensics", "model")
    optimization = {name: getattr(config.optimization, name) for name in PUBLISHED_OPTIMIZATION}
    assert optimization == {**PUBLISHED_OPTIMIZATION, "epochs": 7}
    assert config.processing.auto == ()


@pytest.mark.shows("study --train_size", "study DataSettings", "study NetworkSettings", "study OptimizationSettings")
def test_every_setting_of_a_run_reaches_the_runs():
    data = {"dataset": "Folder", "data_dir": "x", "camera": "drone", "tile_size": 32, "classes": ("a", "b")}
    data |= {"group": "folder", "annotations": "a.json", "synthetic_images": 7, "synthetic_size": 40, "download": True}
    network = {"classifier_network": "ResNet34", "smp_encoder": "resnet50", "precision": "bfloat16"}
    network |= {"classifier_pretrained": True, "pretrained_weights": "w", "task": "t.py:make", "class_outputs": "a:1"}
    network |= {"score": "macro_f1"}
    training = {"lr": 0.5, "epochs": 9, "optimizer": "adamw", "weight_decay": 0.3, "schedule": "cosine", "ema": 0.5}
    training |= {"warmup_epochs": 2.0, "label_smoothing": 0.2, "class_weights": "balanced", "batch_size": 5, "seed": 3}
    training |= {"augmentation": "strong", "camera_augmentation": ("light",), "check_val_every_n_epoch": 2}
    training |= {"split_seed": 4}
    settings = {DataSettings: data, NetworkSettings: network, OptimizationSettings: training}
    for each, given in settings.items():
        assert {leaf.name for leaf in leaves(each)} == {*given}
    given = {**data, **network, **training, "train_size": 0.7}
    config = build(StudyConfig, {**given, "controls": ("synthesis", "forensics")})
    for control in ("synthesis", "forensics"):
        for run in runs_of(config, control).values():
            assert flat(run).items() >= given.items()


@pytest.mark.shows("study --dry_run --controls")
def test_the_jobs_of_the_chosen_controls_can_be_listed(tmp_path):
    done = call("study.py", "--dry_run", "--controls=adjustment,forensics", f"--output={tmp_path}/study")
    first = "train adjustment/learned\ntrain adjustment/frozen\n"
    assert (done.returncode, done.stdout) == (0, f"{first}train forensics/model\nsearch forensics/model\n"), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset": "Folder"}, "`controls=adjustment` needs a low intensity, and `dataset=Folder` has only one"),
        ({"controls": []}, "`controls` is empty"),
    ],
)
def test_settings_that_no_job_would_take_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        build(StudyConfig, flags)
