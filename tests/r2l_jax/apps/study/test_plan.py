import pickle

import pytest

import isp
from r2l_jax.apps.study.config import FROZEN, StudyConfig
from r2l_jax.apps.study.plan import make_jobs, trainings_of
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build


def test_jobs_come_after_those_that_they_need_and_can_be_sent_to_other_processes(config):
    jobs = make_jobs(config)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for job in jobs:
        assert all(names.index(name) < names.index(job.name) for name in job.after)
        pickle.loads(pickle.dumps(job.work))
    assert [sum(job.kind == kind for job in jobs) for kind in ("training", "evaluation", "search")] == [15, 12, 2]


def test_six_pipelines_are_computed_as_the_program_of_the_study_did(config):
    assert [name for name, computed in config.pipelines.items() if name != computed] == [
        ".".join(names) for names in isp.PUBLISHED_STATIC if "unsharp_masking" in names
    ]
    as_named = build(StudyConfig, as_published=False)
    assert all(name == computed for name, computed in as_named.pipelines.items())


def test_runs_share_their_settings_but_for_the_processing(config):
    for part in ("synthesis", "forensics", "adjustment"):
        for training in trainings_of(config, part).values():
            assert (training.data.n_splits, training.optimization.epochs) == (2, 3)
            assert training.run_dir.is_relative_to(config.output_dir)
            assert training.data.iso == ((0.01,) if part == "adjustment" else (1.0,))
    assert trainings_of(config, "adjustment")[FROZEN].processing.freeze_processor


def test_the_twelve_pipelines_are_not_trained(config):
    for name, training in trainings_of(config, "synthesis").items():
        assert training.processing.is_fixed
        assert training.processing.named_pipeline.title == config.pipelines[name]


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_trainings_are_tested_at_the_checkpoint_that_is_asked_for(checkpoint):
    config = build(StudyConfig, checkpoint=checkpoint)
    training = config.training_of("run")
    assert config.evaluation_of(training).checkpoint == checkpoint
    assert config.search_of(training, "all").checkpoint == checkpoint


def test_the_defaults_of_training_depend_on_the_data_set():
    def optimization(**flags):
        return build(StudyConfig, **flags).training_of("run").optimization

    assert (optimization(dataset="Microscopy").lr, optimization(dataset="Microscopy").batch_size) == (1e-5, 32)
    assert (optimization(dataset="Synthetic").lr, optimization(dataset="Synthetic").batch_size) == (1e-3, 8)
    assert optimization(dataset="Microscopy", lr=1e-4).lr == 1e-4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"dataset": "Folder"},
            "--controls=adjustment needs mosaics at a low intensity, and a Folder holds one",
        ),
        ({"dataset": "MicroscopyRGB"}, "--dataset must be one of .*DroneSegmentation"),
        ({"controls": []}, "--controls is empty"),
        ({"severities": [6]}, "--severities must be one of 1, 2, 3, 4, 5, got 6"),
        ({"low_intensity": 0.3}, "--intensities must be one of those measured"),
        ({"output": ".."}, r"--output must be a folder's name, got '..'"),
        ({"lr": 0.0}, "--lr must be positive"),
    ],
)
def test_settings_that_no_job_would_take_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        build(StudyConfig, flags)
