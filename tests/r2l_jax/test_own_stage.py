"""docs/own_stage.md, as a user follows it: the stage goes through every program by its name alone."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import tifffile
from small_runs import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import isp
from r2l_jax import render, train
from r2l_jax.drift import adaptation, evaluation, forensics, learning
from r2l_jax.drift.adaptation import AdaptationConfig
from r2l_jax.drift.evaluation import EvaluationConfig
from r2l_jax.drift.forensics_config import ForensicsConfig
from r2l_jax.drift.learning import LearningConfig
from r2l_jax.pipelines import find_pipeline

GUIDE = (pathlib.Path(__file__).parents[2] / "docs" / "own_stage.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def my_isp(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "my_isp.py"
    file.write_text(CODE)
    return f"{file}:make"


@pytest.fixture(scope="module")
def trained(base, my_isp):
    """A run of two epochs with the stage of the guide."""
    config = dataclasses.replace(
        base, run_name="own_stage", processing_mode=None, pipeline=my_isp, track_processing=True, track_n_images=2
    )
    train.run(config)
    return config


def row(text, name):
    """The cells of a table's row."""
    (line,) = (line for line in text.splitlines() if line.split(" ")[0] == name)
    return line.split()[1:]


def test_the_example_is_short_and_does_what_it_says(my_isp):
    assert len(CODE.splitlines()) <= 25
    camera = isp.CAMERAS["drone"]
    pipeline, plain = find_pipeline(my_isp)(camera), isp.parametrized(camera)
    raw = np.random.default_rng(0).random((16, 16), np.float32)
    np.testing.assert_allclose(pipeline(raw), plain(raw), atol=1e-5)  # a strength of 0 changes nothing
    _, stages = pipeline.with_values({"strength": 0.5}).trace(raw)
    gains = np.asarray(stages["shading"] / stages["color_correct"])
    np.testing.assert_allclose(gains[[0, 0, -1, -1], [0, -1, 0, -1]], 1.5, rtol=1e-5)
    assert gains.min() == pytest.approx(1, abs=0.01)


def test_it_trains_and_is_recorded(trained, my_isp):
    recorded = metrics(trained)
    file, function = my_isp.rsplit(":", 1)
    assert (recorded["pipeline"]["file"], recorded["pipeline"]["function"]) == (file, function)
    assert len(recorded["pipeline"]["sha256"]) == 64
    events = EventAccumulator(str(trained.run_dir / "fold_0"))
    events.Reload()
    strengths, norms = (
        [event.value for event in events.Scalars(tag)]
        for tag in ("processor/strength", "processor_gradient_norm/strength")
    )
    assert all(strengths)
    assert all(norms)
    assert "stages/2_shading" in events.Tags()["images"]


def test_evaluate_tests_it(trained, my_isp, tmp_path, capsys):
    evaluation.run(
        EvaluationConfig(
            run=(str(trained.run_dir),),
            output=str(tmp_path),
            against=("pipelines",),
            pipelines=(my_isp, "parametrized"),
        )
    )
    printed = capsys.readouterr().out
    # Its strength starts at 0: until it is learned, the pipeline is the published one.
    assert row(printed, "my_isp.make") == row(printed, "parametrized")


def test_forensics_find_how_it_matters(trained, tmp_path, capsys):
    config = ForensicsConfig(
        run=str(trained.run_dir), output=str(tmp_path), adv_parameters=("strength",), adv_aux_weight=(1.0,), starts=1,
        steps=3, batch_size=8, map=("strength", "gamma_correct"),
    )  # fmt: skip
    found = forensics.run(config)[0]
    printed = capsys.readouterr().out
    assert float(row(found["sensitivity"]["table"], "strength")[1]) > 0
    assert found["sensitivity"]["overall"]["parameters"]["strength"]["worst"] > 0
    assert row(found["tolerances"]["table"], "strength")[0] == "gain"
    assert found["tolerances"]["map"]["knobs"] == ["strength", "gamma_correct"]
    (worst,) = found["worst_case"]["rows"]
    start = json.loads((trained.run_dir / "fold_0/metrics.json").read_text())
    assert start["complete"]
    assert worst["group"] == "strength"
    assert worst["parameters"]["strength"] != found["tolerances"]["knobs"]["strength"]["value"]
    assert "\nstrength " in printed


def test_adjust_tunes_it_and_learns_it(trained, tmp_path, capsys):
    config = AdaptationConfig(
        run=str(trained.run_dir), output=str(tmp_path / "adapt"), intensities=(0.05,), labelled=8, starts=1, steps=3,
        batch_size=8, parameters=("strength",),
    )  # fmt: skip
    adaptation.run(config)
    before, after, farthest = row(capsys.readouterr().out, "strength")
    assert before != after
    assert float(farthest) > 0
    learning.run(LearningConfig(run=str(trained.run_dir), output=str(tmp_path / "learn")))
    camera, learned, _ = row(capsys.readouterr().out, "strength")
    assert (float(camera), float(learned) != 0) == (0, True)


def test_process_renders_with_it(my_isp, tmp_path):
    raw, file, camera = (
        np.random.default_rng(0).random((16, 16), np.float32),
        tmp_path / "raw.tiff",
        isp.CAMERAS["drone"],
    )
    tifffile.imwrite(file, np.round(65535 * raw).astype(np.uint16))
    rendered = render.render_files([file], tmp_path / "out", camera, stages=True, pipeline=find_pipeline(my_isp))
    assert rendered == (1, 0)
    assert (tmp_path / "out" / "raw_stages.png").exists()
