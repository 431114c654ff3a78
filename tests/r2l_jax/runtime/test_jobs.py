import time

import pytest

from r2l_jax.runtime import jobs
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.jobs import Job, Outcome, Serial
from r2l_jax.runtime.locks import FolderInUseError
from r2l_jax.runtime.stop import Interrupted


def failing(errors, calls):
    """A job's work that raises each of some errors, and then succeeds."""

    def work():
        calls.append(len(calls))
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]

    return work


def outcomes(*listed):
    return {outcome.name: outcome.error for outcome in Serial().run(listed)}


def test_jobs_run_in_their_order():
    called = []
    done = outcomes(Job("a", lambda: called.append("a")), Job("b", lambda: called.append("b"), ("a",)))
    assert (done, called) == ({"a": None, "b": None}, ["a", "b"])


def test_a_job_that_fails_is_tried_again_and_then_reported_while_the_others_finish(capsys):
    few, many = [], []
    done = outcomes(
        Job("few", failing([OSError("disk"), MemoryError()], few)),
        Job("many", failing([ValueError("no\nnumber")] * 5, many)),
        Job("needs many", lambda: None, ("many",)),
        Job("needs that", lambda: None, ("needs many",)),
        Job("other", lambda: None, ("few",)),
    )
    assert (len(few), len(many)) == (3, jobs.TRIES)
    assert done == {
        "few": None,
        "many": "failed 3 times, at last: no number",
        "needs many": "not begun, since many failed",
        "needs that": "not begun, since needs many failed",
        "other": None,
    }
    assert "few: try 2 of 3 failed: MemoryError\n" in capsys.readouterr().err


def test_a_mistake_of_the_user_is_final_and_a_folder_in_use_is_not():
    mistake, used = [], []
    done = outcomes(
        Job("mistake", failing([InputError("--lr must be positive")], mistake)),
        Job("used", failing([FolderInUseError("in use")], used)),
    )
    assert done == {"mistake": "--lr must be positive", "used": None}
    assert (len(mistake), len(used)) == (1, 2)


def test_an_interruption_ends_all():
    ran = Serial().run([Job("stopped", failing([Interrupted("stopped")], [])), Job("later", pytest.fail)])
    with pytest.raises(Interrupted):
        next(ran)


def test_an_outcome_of_a_job_that_succeeds_has_its_seconds():
    (outcome,) = Serial().run([Job("a", lambda: time.sleep(0.1))])
    assert outcome == Outcome("a", outcome.seconds)
    assert 0.1 <= outcome.seconds < 5
