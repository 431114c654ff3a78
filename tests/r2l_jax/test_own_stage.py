"""docs/own_stage.md, as a user follows it: the stage goes through every program by its name alone."""

import json
import pathlib
import re

import numpy as np
import own_code
import pytest
import tifffile
from small_runs import events, metrics, model

import isp
from r2l_jax.drift.adjustment import adaptation, learning
from r2l_jax.drift.adjustment.config import AdaptationConfig, LearningConfig
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.attack import Attack
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation, synthesis
from r2l_jax.drift.synthesis.config import EvaluationConfig, SynthesisConfig
from r2l_jax.drift.synthesis.evaluation import Evaluator
from r2l_jax.pipelines import find_pipeline
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training import train
from r2l_jax.training.run import open_runs

# Every test trains or analyzes a run with the stage.
pytestmark = pytest.mark.slow

GUIDE = (pathlib.Path(__file__).parents[2] / "docs" / "own_stage.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


NO_RANGE = r"^parameter strength has no natural range, which this needs: declare it as"


@pytest.fixture(scope="module")
def my_isp(tmp_path_factory):
    return own_code.write(tmp_path_factory.mktemp("own") / "my_isp.py", CODE)


@pytest.fixture(scope="module")
def trained(base, my_isp):
    """A run of two epochs with the stage of the guide."""
    config = replace(
        base, run_name="own_stage", processing_mode=None, pipeline=my_isp, track=("processing",), track_n_images=2
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
    (stage,) = (stage for stage in pipeline.stages if stage.name == "shading")
    with pytest.raises(ValueError, match=r"rgb must be \(\.\.\., H, W, 3\)"):
        stage.function(stages["color_correct"][..., 0], 0.5)


def test_it_trains_and_is_recorded(trained, my_isp):
    recorded = metrics(trained)
    file, function = my_isp.rsplit(":", 1)
    assert (recorded["pipeline"]["file"], recorded["pipeline"]["function"]) == (file, function)
    assert len(recorded["pipeline"]["sha256"]) == 64
    recorded = events(trained.run_dir / "fold_0")
    strengths, norms = (
        [event.value for event in recorded.Scalars(tag)]
        for tag in ("processor/strength", "processor_gradient_norm/strength")
    )
    assert all(strengths)
    assert all(norms)
    assert "stages/2_shading" in recorded.Tags()["images"]


def test_only_what_another_file_makes_is_evaluated_anew(trained, my_isp, tmp_path, monkeypatch, capsys):
    evaluated, evaluate = [], Evaluator.evaluate

    def watched(self, fold, dataset, cases, tick):
        evaluated.extend(case.name for case in cases)
        return evaluate(self, fold, dataset, cases, tick)

    monkeypatch.setattr(Evaluator, "evaluate", watched)

    def run(name):
        evaluated.clear()
        settings = {"against": ("pipelines",), "pipelines": (f"{name}:make", "parametrized"), "code": (my_isp,)}
        evaluation.run(EvaluationConfig(run=(str(trained.run_dir),), output=str(tmp_path / "out"), **settings))
        return list(evaluated)

    file = tmp_path / "my_isp.py"
    own_code.write(file, CODE)
    assert run(file) == ["own", "my_isp.make", "parametrized"]
    printed = capsys.readouterr().out
    # Its strength starts at 0: until it is learned, the pipeline is the published one.
    assert row(printed, "my_isp.make") == row(printed, "parametrized")
    (tmp_path / "moved").mkdir()
    moved = file.rename(tmp_path / "moved" / "my_isp.py")
    assert run(moved) == []
    for change in (CODE.replace("1 + strength", "1.1 + strength"), CODE.replace("width=0.5", "width=0.6")):
        own_code.write(moved, change)
        assert run(moved) == ["my_isp.make"]


def test_forensics_find_how_it_matters(trained, my_isp, tmp_path, capsys):
    config = build(
        ForensicsConfig,
        run=str(trained.run_dir),
        code=(my_isp,),
        output=str(tmp_path),
        adv_parameters=("strength",),
        adv_aux_weight=(1.0,),
        starts=1,
        steps=3,
        batch_size=8,
        map=("strength", "gamma_correct"),
    )
    found = forensics.run(config)[0]
    printed = capsys.readouterr().out
    assert float(row(found["sensitivity"]["table"], "strength")[1]) > 0
    assert found["sensitivity"]["overall"]["parameters"]["strength"]["worst"] > 0
    assert row(found["tolerances"]["table"], "strength")[0] == "gain"
    assert found["tolerances"]["maps"][0]["knobs"] == ["strength", "gamma_correct"]
    (worst,) = found["worst_case"]["rows"]
    start = json.loads((trained.run_dir / "fold_0/metrics.json").read_text())
    assert start["complete"]
    assert worst["group"] == "strength"
    assert worst["parameters"]["strength"] != found["tolerances"]["knobs"]["strength"]["value"]
    assert "\nstrength " in printed


def test_adjust_tunes_it_and_learns_it(trained, my_isp, tmp_path, capsys):
    config = build(
        AdaptationConfig,
        run=str(trained.run_dir),
        code=(my_isp,),
        output=str(tmp_path / "adapt"),
        intensities=(0.05,),
        unlabeled=0,
        labeled=8,
        starts=1,
        steps=3,
        batch_size=8,
        parameters=("strength",),
    )
    adaptation.run(config)
    before, after, farthest = row(capsys.readouterr().out, "strength")
    assert before != after
    assert float(farthest) > 0
    learning.run(LearningConfig(run=str(trained.run_dir), output=str(tmp_path / "learn"), code=(my_isp,)))
    camera, learned, _ = row(capsys.readouterr().out, "strength")
    assert (float(camera), float(learned) != 0) == (0, True)


def test_a_run_is_loaded_with_the_file_that_it_was_trained_with_alone(trained, my_isp, tmp_path):
    run = str(trained.run_dir)
    moved, other = (own_code.write(tmp_path / f"{name}.py", CODE + end) for name, end in (("a", ""), ("b", "\n")))
    for code in (my_isp, moved):
        ((fold,),) = open_runs([run], codes=[code])
        assert fold.config.processing.pipeline == code
    with pytest.raises(InputError, match=r"give --code=.*my_isp.py:make; --code=.*b.py:make is another$"):
        open_runs([run], codes=[other])
    with pytest.raises(InputError, match=r"--code=.*b.py:make: no --run was trained with this code"):
        open_runs([run], codes=[moved, other])


def test_training_goes_on_with_the_same_file_wherever_it_is_and_with_no_other(trained, my_isp, tmp_path):
    moved, other = tmp_path / "moved_isp.py", tmp_path / "other_isp.py"
    own_code.write(moved, CODE)
    own_code.write(other, CODE + "\n")
    before = metrics(trained)["history"]
    train.run(replace(trained, pipeline=f"{moved}:make"))
    assert metrics(trained)["history"] == before
    with pytest.raises(
        InputError, match=r"holds another run \(pipeline was make of a file of SHA-256 .*, is make of a"
    ):
        train.run(replace(trained, pipeline=f"{other}:make"))
    with pytest.raises(
        InputError, match=r"another run \(pipeline was make of a file of SHA-256 \w+, is 'parametrized'"
    ):
        train.run(replace(trained, pipeline="parametrized"))
    train.run(trained)


def test_a_parameter_without_a_range_trains_and_is_refused_where_it_needs_one(base, tmp_path):
    name = own_code.write(tmp_path / "my_isp.py", CODE.replace("width=0.5, ", ""))
    config = replace(base, run_name="no_range", processing_mode=None, pipeline=name, epochs=1, save_locally=True)
    with pytest.raises(InputError, match=NO_RANGE):
        train.run(replace(config, adv_training=True), Attack)
    train.run(config)
    assert model(config)["processor.strength"] != 0
    with pytest.raises(InputError, match=NO_RANGE):
        forensics.run(ForensicsConfig(run=str(config.run_dir), output=str(tmp_path), code=(name,)))


def test_adversarial_training_moves_it(trained, my_isp):
    config = replace(
        trained,
        run_name="attacked",
        adv_training=True,
        adv_parameters="strength",
        processor_uri=str(trained.run_dir),
        classifier_uri=str(trained.run_dir),
        epochs=1,
        lr=0.1,
        save_locally=True,
    )
    train.run(config, Attack)
    ((before,),) = open_runs([str(trained.run_dir)], codes=[my_isp])
    for name, value in before.model.processor.parameters().items():
        assert (np.asarray(value) != model(config)[f"processor.{name}"]).any() == (name == "strength"), name


def test_synthesize_writes_its_pictures(base, my_isp, tmp_path):
    size = {"synthetic_images": 40, "synthetic_size": 32}
    synthesis.run(
        SynthesisConfig(output=str(tmp_path), data_dir=base.data.data_dir, pipelines=(my_isp, "parametrized"), **size)
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["pipelines"]["my_isp.make"]["parameters"]["strength"] == 0
    own, plain = (
        tifffile.imread(next((tmp_path / name / "iso=1").glob("uncorrupted/*/cell_00000.tiff")))
        for name in ("my_isp.make", "parametrized")
    )
    assert np.abs(own.astype(int) - plain).max() <= 1
