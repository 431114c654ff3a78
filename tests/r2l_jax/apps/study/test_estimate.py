import pytest

from r2l_jax.apps.study import estimate
from r2l_jax.apps.study.estimate import Ledger, Samples, Speed, passes
from r2l_jax.apps.study.plan import make_jobs
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import replace

SAMPLES = Samples(80, 20)


@pytest.fixture
def ledger(tmp_path):
    """A function that opens the ledger of finished jobs, which is empty at first."""
    return lambda: Ledger(tmp_path)


@pytest.fixture
def by_kind(config):
    """A job of each kind."""
    return {job.kind: job for job in make_jobs(config)}


def test_the_work_of_a_job_is_counted_in_passes_of_a_sample(by_kind):
    # Two folds of three epochs; the own images, twelve pipelines, two drifts of the sensor and two
    # corruptions; two weights of 40 steps of 16.
    assert passes(by_kind["training"], SAMPLES) == 2 * 3 * (3 * 80 + 20)
    assert passes(by_kind["evaluation"], SAMPLES) == 2 * 17 * 20
    assert passes(by_kind["search"], SAMPLES) == 2 * 2 * (3 * 40 * 16 + 20)


def test_finished_jobs_tell_the_speed_of_the_others_of_their_kind(config, by_kind, ledger):
    jobs = make_jobs(config)
    written = ledger()
    for job in by_kind.values():
        written.add(job, 60.0, passes(job, SAMPLES))
    written.add(by_kind["search"], 0.0, 1)  # A call that finds nothing to do says nothing of the speed.
    again = ledger()
    assert {job.name for job in jobs if again.has(job)} == {job.name for job in by_kind.values()}
    table = estimate.table(jobs, again, SAMPLES, pytest.fail, workers=2)
    assert table.splitlines()[0] == f"to do     {jobs[0].name}"
    assert f"finished  {by_kind['search'].name}" in table
    # 14 of 15 trainings, 11 of 12 evaluations and 1 of 2 searches, each a minute.
    assert "all" in table
    assert " 26:00" in table
    assert table.endswith("with 2 workers at a time about 13:00")


def test_other_settings_are_another_job(config, by_kind, ledger):
    ledger().add(by_kind["search"], 1.0, 1)
    other = {job.name: job for job in make_jobs(replace(config, steps=7))}[by_kind["search"].name]
    assert not ledger().has(other)


def test_without_finished_jobs_an_epoch_is_measured(by_kind, ledger):
    table = estimate.table([by_kind["evaluation"]], ledger(), SAMPLES, lambda: Speed(0.1, 30.0), 1)
    assert "01:38" in table  # 30 s to start, and 680 passes


def test_an_epoch_is_estimated_to_take_as_long_as_the_measured_one(config, by_kind, monkeypatch):
    def run(training):
        write_json(
            training.run_dir / "fold_0" / "metrics.json",
            {"history": [{"seconds": 12.0}], "train_indices": [*range(80)], "valid_indices": [*range(20)]},
        )

    clock = iter((100.0, 130.0))
    monkeypatch.setattr(estimate.train, "run", run)
    monkeypatch.setattr(estimate.time, "monotonic", lambda: next(clock))
    speed = estimate.measure(config)
    # Two folds of three epochs. The seconds are spent on steps; the rest of the time is spent once a job.
    assert speed.seconds_per_pass * passes(by_kind["training"], Samples(80, 0)) == pytest.approx(2 * 3 * 12)
    assert speed.start == 18


def test_a_damaged_ledger_is_named(tmp_path, ledger):
    (tmp_path / "jobs.csv").write_text("job,kind,settings,seconds,passes\ntrain a,training,x,long,3\n")
    with pytest.raises(InputError, match=r"jobs.csv is damaged .*: remove it; only an estimate is lost"):
        ledger()
