import numpy as np

from r2l_jax.apps.report.events import Course, read_events
from r2l_jax.training.tracking import Tracker


def track(folder, epochs, offset=0.0):
    with Tracker(folder, epochs.start, save_tensors=False) as tracker:
        for epoch in epochs:
            values = {"gamma_correct": offset + epoch, "gain": [[epoch, 1.5]], "kernel": np.ones(10)}
            arrays = {name: np.array(value) for name, value in values.items()}
            tracker.processor(arrays, {"gain": 0.5 * epoch}, epoch)
            # Much longer than the events of numbers.
            tracker.picture("stages/0_demosaic", np.random.default_rng(epoch).random((64, 64, 3)), epoch)


def test_each_element_of_small_parameters_has_a_course(tmp_path):
    track(tmp_path, range(3))
    recorded = read_events(tmp_path)
    assert recorded.parameters["gamma_correct"] == {(): Course([0, 1, 2], [0.0, 1.0, 2.0])}
    assert recorded.parameters["gain"][0, 1] == Course([0, 1, 2], [1.5, 1.5, 1.5])
    assert "kernel" not in recorded.parameters
    assert recorded.norms == {"gain": Course([0, 1, 2], [0.0, 0.5, 1.0])}


def test_a_continued_run_supersedes_the_epochs_that_it_repeats(tmp_path):
    track(tmp_path, range(4))
    (first,) = tmp_path.glob("events.*")
    # The names of the files begin with their time in seconds.
    first.rename(first.with_name("events.out.tfevents.0000000001.host"))
    track(tmp_path, range(2, 3), offset=10.0)
    assert read_events(tmp_path).parameters["gamma_correct"][()] == Course([0, 1, 2], [0.0, 1.0, 12.0])


def test_events_that_are_being_written_end_at_the_last_complete_one(tmp_path):
    track(tmp_path, range(3))
    (file,) = tmp_path.glob("events.*")
    content = file.read_bytes()
    for length in range(0, len(content), 997):
        file.write_bytes(content[:length])
        course = read_events(tmp_path).parameters.get("gamma_correct", {(): Course([], [])})[()]
        assert course.epochs == list(range(len(course.epochs)))


def test_without_events_nothing_is_recorded(tmp_path):
    assert read_events(tmp_path) == ({}, {})
