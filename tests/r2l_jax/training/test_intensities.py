"""Runs of several intensities."""

import numpy as np
import pytest
from small_runs import metrics

from r2l_jax.cli.flags import replace
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.errors import InputError
from r2l_jax.results.result import read
from r2l_jax.training import train
from r2l_jax.training.plan import Plan


@pytest.fixture(scope="module")
def several(base):
    """A finished run of two intensities, with test samples."""
    config = replace(base, run_name="several", iso=(0.05, 1.0), epochs=1, test_size=16)
    train.run(config)
    return config


def test_splits_keep_the_mosaics_of_a_scene_together(base):
    folds = Plan(replace(base, iso=(0.05, 0.5, 1.0), n_splits=2, test_size=0.2)).folds
    alone = Plan(replace(base, n_splits=2, test_size=0.2)).folds
    for fold, of_one in zip(folds, alone, strict=True):
        parts = fold.split._asdict()
        assert sorted(np.concatenate([*parts.values()])) == list(range(120))
        for name, indices in parts.items():
            scenes = indices // 3
            assert all((scenes == scene).sum() == 3 for scene in scenes)
            # They are the scenes of a run of one intensity with the same seed.
            assert list(dict.fromkeys(scenes.tolist())) == getattr(of_one.split, name).tolist()


@pytest.mark.shows("train --state_dict_uri")
def test_splits_are_taken_from_runs_of_the_same_intensities(base, several):
    uri = str(several.run_dir)
    again = Plan(replace(base, iso=(1.0, 0.05), seed=9, state_dict_uri=uri)).folds[0]
    assert again.split.train.tolist() == metrics(several)["train_indices"]
    with pytest.raises(InputError, match=r"`state_dict_uri=.*several` must have the samples"):
        Plan(replace(base, iso=(0.05, 0.5), state_dict_uri=uri))
    with pytest.raises(InputError, match=r"different run \(iso was \[0\.05, 1\.0\], is \[1\.0\]; different samples"):
        train.run(replace(several, iso=(1.0,)))


def test_a_finished_run_is_tested_from_all_of_its_mosaics(several, tmp_path):
    cases = {"against": ("intensities", "exposures"), "intensities": (0.05, 0.25, 1.0), "exposures": (0.5,)}
    config = EvaluationConfig(run=(str(several.run_dir),), by=("iso",), output=str(tmp_path), **cases)
    summary = evaluation.run(config).summaries["several"]
    assert summary.metadata["clean"] == ["iso=0.05", "iso=1"]
    tables = [read(tmp_path / group).tables["models"] for group in ("clean", "intensities")]
    loss = {case: loss for table in tables for _, case, _, loss, _ in table.rows}
    assert loss["clean"] == pytest.approx((loss["iso=0.05"] + loss["iso=1"]) / 2, rel=1e-5)
    assert [(row[0], row[1]) for row in summary.tables["by_iso"].rows] == [("0.05", 8), ("1", 8)]
    assert (summary.metadata["samples"], summary.metadata["groups"]) == (16, 8)
    assert [row[0] for row in summary.tables["drops"].rows][3:] == ["iso=0.25", "light=0.5"]
