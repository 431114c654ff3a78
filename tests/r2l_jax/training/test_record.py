"""A metrics.json may come from anyone: it is checked once, where it is read."""

import hashlib
import json
import shutil

import pytest
import safetensors
from small_runs import metrics

from r2l_jax.errors import InputError
from r2l_jax.model.raw_to_logit import Architecture
from r2l_jax.training.record import Record, differences, members, read_record, training_id
from r2l_jax.training.run import load


@pytest.fixture
def strange(one_epoch, tmp_path):
    """A function that changes the metrics.json of a run's copy, and returns the run's folder."""
    run = tmp_path / "run"
    shutil.copytree(one_epoch.run_dir, run)
    file = run / "fold_0" / "metrics.json"

    def write(change):
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return run

    return write


def put(*path):
    """Returns a change of one value, by its keys from the top."""
    *keys, last, value = path

    def change(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return change


@pytest.mark.shows("r2l_jax.load(with_data)")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("complete", "no"), r"was not written by a run of this program \(Expected bool, got str - at complete\)"),
        (put("valid_indices", [40]), "is damaged: valid_indices must be indices of the 40 samples, got index 40"),
        (put("flags", "lr", "fast"), "is damaged: `lr`: expected float, got str, 'fast'"),
        (put("complete", False), "is not fully trained"),
        (put("fingerprint", "other"), "was trained on different data: the samples or classes of Synthetic in .*"),
        (put("flags", "new", 1), "is from another version: unknown flags new"),
        (put("camera", {"black_level": 3}), "is damaged: a camera is not valid"),
        (put("classes", ["a", "b"]), r"does not fit this run: head.fc.bias expects \(2,\), got \(5,\)"),
        (put("best_epoch", 7), "its history lacks"),
    ],
)
def test_values_that_no_run_writes_are_named(strange, change, reason):
    with pytest.raises(InputError, match=reason) as raised:
        load(strange(change), with_data=True)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{}", "[" * 200_000])
def test_a_file_of_another_kind_is_named(tmp_path, text):
    file = tmp_path / "metrics.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"metrics.json (cannot be read|was not written by)") as raised:
        read_record(file, "start over")
    assert "\n" not in str(raised.value)


def test_a_run_can_be_tracked_otherwise_but_not_continued_with_other_settings(one_epoch):
    earlier = metrics(one_epoch)

    def reasons(**flags):
        return differences(earlier, {**earlier, "flags": earlier["flags"] | flags})

    assert reasons(track=["processing"], adv_track_differences=True, data_dir="elsewhere", overwrite=True) == []
    assert reasons(lr=0.1, seed=2) == ["lr was 0.001, is 0.1", "seed was 1, is 2"]


@pytest.fixture
def group(one_epoch, tmp_path):
    """A function that makes a group of the members 10 and 2, of which it changes the metrics.json of the former."""

    def make(change):
        for seed in (10, 2):
            fold = tmp_path / f"group/seed_{seed}/fold_0"
            fold.mkdir(parents=True)
            content = json.loads((one_epoch.run_dir / "fold_0/metrics.json").read_text())
            content["flags"] |= {"seed": seed, "run_name": f"group/seed_{seed}", "logdir": f"logs_{seed}"}
            if seed == 10:
                change(content)
            (fold / "metrics.json").write_text(json.dumps(content))
        return tmp_path / "group"

    return make


def test_members_are_in_the_order_of_their_seeds(group):
    folder = group(put("git_commit", "other"))
    (folder / "seed_3.old").mkdir()
    assert members(str(folder)) == [folder / "seed_2", folder / "seed_10"]
    assert members(str(folder / "seed_10")) == [folder / "seed_10"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put("flags", "lr", 0.5), "lr was 0.001, is 0.5"),
        (
            put("code", "pipeline", {"file": "", "function": "make", "sha256": 64 * "0"}),
            "pipeline was None, is 'make of a file of SHA-256 000",
        ),
        (put("data", "other"), "different data"),
        (put("camera", "black_level", [0.0]), "a different camera"),
    ],
)
def test_members_that_differ_in_more_than_seeds_are_refused(group, change, named):
    with pytest.raises(
        InputError, match=f"seed_10 differs from the first member in more than the seed: {named}"
    ) as raised:
        members(str(group(change)))
    assert "\n" not in str(raised.value)


def test_a_record_is_its_file(one_epoch):
    file = one_epoch.run_dir / "fold_0/metrics.json"
    written, record = json.loads(file.read_text()), read_record(file, "")
    assert json.dumps(record.content, sort_keys=True) == json.dumps(written, sort_keys=True)
    assert training_id(record) == hashlib.sha256(json.dumps(written["history"]).encode()).hexdigest()
    assert Record.of(record.header, "") == record
    # A model file holds the same.
    with safetensors.safe_open(file.with_name("model.safetensors"), "np") as stored:
        header = json.loads(stored.metadata()["about"])
    assert header == {**written, "checkpoint": "best", "fold": 0}


def test_a_run_is_read_once_and_its_model_is_made_once(one_epoch, monkeypatch):
    read, made = [], []
    of, abstract = Record.of, Architecture.abstract
    monkeypatch.setattr(
        Record, "of", lambda content, where, context="": read.append(where) or of(content, where, context)
    )
    monkeypatch.setattr(Architecture, "abstract", lambda self: made.append(self) or abstract(self))
    (fold,) = load(one_epoch.run_dir)
    assert "identity" not in vars(fold)  # Its arrays are hashed only on demand.
    assert (read, len(made)) == ([str(one_epoch.run_dir / "fold_0/metrics.json")], 1)
