import pickle

import pytest

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import FROZEN, LEARNED, PIPELINES, make_jobs, runs_of
from r2l_jax.cli.flags import build
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.errors import InputError
from r2l_jax.training.settings import PUBLISHED_OPTIMIZATION


def test_jobs_come_after_those_that_they_need_and_can_be_sent_to_other_processes(config):
    jobs = make_jobs(config)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 2 * 12 + 2 + 2
    for job in jobs:
        assert all(names.index(name) < names.index(job.name) for name in job.after)
        pickle.loads(pickle.dumps(job.work))


def test_runs_are_tested_at_the_last_epoch(config, monkeypatch):
    called = []
    monkeypatch.setattr(evaluation, "run", called.append)
    monkeypatch.setattr(forensics, "run", called.append)
    jobs = {job.name: job for job in make_jobs(config)}
    jobs["evaluate synthesis/bilinear.sharpening_filter.median_denoising"].work()
    jobs["search forensics/model"].work()
    evaluated, searched = called
    assert evaluated.checkpoint == searched.checkpoint == "last"
    assert evaluated.pipelines == tuple(PIPELINES.values())
    assert (evaluated.corruptions, evaluated.severities) == (("contrast", "gaussian_noise"), (2, 3))
    worst = searched.worst_case
    assert (worst.adv_aux_loss, worst.starts, worst.adv_parameters) == ("l2_sum", 1, ("all", "black_level"))


def test_runs_share_their_settings_but_for_the_processing(config):
    for control in ("synthesis", "forensics", "adjustment"):
        for run in runs_of(config, control).values():
            assert (run.data.n_splits, run.optimization.epochs) == (2, 3)
            assert run.run_dir.is_relative_to(config.output_dir / control)
            assert run.data.iso == ((0.01,) if control == "adjustment" else (1.0,))
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
