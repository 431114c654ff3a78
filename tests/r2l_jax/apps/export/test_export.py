import dataclasses
import importlib.util
import json
import pathlib
import re
import subprocess
import sys
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import programs
import pytest
import tifffile
from flax import nnx

import isp
import r2l_jax
from r2l_jax.apps.export import onnx_files, stablehlo
from r2l_jax.apps.export.description import described
from r2l_jax.apps.export.export import LIMIT, export_model
from r2l_jax.apps.export.parts import Part, parts_of
from r2l_jax.apps.export.samples import samples_of
from r2l_jax.data.files.known_camera import find_known_camera, read_camera_file
from r2l_jax.errors import InputError
from r2l_jax.training.run import Run


@pytest.fixture(scope="module")
def raws(model):
    return samples_of(model)


@pytest.fixture(scope="module")
def exported(model, raws, tmp_path_factory):
    """All formats but ONNX."""
    output = tmp_path_factory.mktemp("exported")
    (output / ".isp.stablehlo.7.part").touch()  # by a killed call
    outcomes = export_model(model, output, raws, None, ("stablehlo", "safetensors", "camera"))
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return output


def loaded(output, name):
    return jax.export.deserialize(bytearray((output / name).read_bytes()))


def description(output):
    return json.loads((output / "model.json").read_text())


def test_model_json_describes_the_model_and_its_files(model, exported):
    about = description(exported)
    assert about["identity"] == model.identity
    assert (about["classes"], about["score"]) == (
        [*model.classes],
        {"name": "accuracy", "value": model.score, "samples": "validation"},
    )
    assert (about["raw"]["pattern"], about["raw"]["range"]) == ("RGGB", [0, 1])
    assert "white_level" not in about["raw"]
    fold = dataclasses.replace(model.folds[0], about=msgspec.structs.replace(model.about, white_level=1023.0))
    assert described(Run([fold]), {})["raw"]["white_level"] == 1023
    assert about["parts"]["whole"]["input"] == {"name": "raw", "shape": ["B", 32, 32], "dtype": "float32"}
    files = {*about["files"], "model.json", "samples.npz", "parameters.npz"}
    assert {file.name for file in exported.iterdir()} == files
    difference = about["parts"]["isp"]["files"]["stablehlo"]["difference"]
    assert 0 <= difference <= LIMIT
    images = model.render(np.load(exported / "samples.npz")["raw"])
    normalized = (images - about["normalization"]["mean"]) / about["normalization"]["standard_deviation"]
    np.testing.assert_allclose(normalized, model.model.normalizer(jnp.asarray(images)), atol=1e-4)


def test_stablehlo_predicts_any_number_of_images_on_every_platform(model, raws, exported):
    whole, parameters = loaded(exported, "whole.stablehlo"), dict(np.load(exported / "parameters.npz"))
    assert whole.platforms == ("cpu", "cuda", "tpu")
    assert not whole.has_vjp()
    # Not the number of samples on which the export has compared the file with the model.
    probabilities = jax.nn.softmax(whole.call(parameters, raws[:3]))
    np.testing.assert_allclose(probabilities, model.predict(raws)[:3], atol=1e-5)


def test_a_shipped_isp_can_be_tuned(model, raws, tmp_path):
    part, file = parts_of(model.model, raws.shape[1:])["isp"], tmp_path / "isp.stablehlo"
    stablehlo.write(part, file, gradient=True)
    shipped = loaded(tmp_path, file.name)

    def gradients(process):
        return jax.jit(jax.grad(lambda parameters: (process(parameters, raws) ** 2).mean()))(part.parameters)

    expected = gradients(lambda parameters, raws: model.pipeline.with_values(parameters)(raws))
    for name, gradient in gradients(shipped.call).items():
        np.testing.assert_allclose(gradient, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.shows("isp.Parameter(camera)")
def test_the_file_and_the_camera_are_those_of_the_model_and_are_not_overwritten(model, raws, exported):
    assert r2l_jax.load(exported / "model.safetensors").identity == model.identity
    assert pathlib.Path(model.config.tracking.logdir).is_absolute()
    for name in ("model.safetensors", "model.json"):
        assert model.config.tracking.logdir.encode() not in (exported / name).read_bytes()
    camera = read_camera_file(exported / "camera.json")
    np.testing.assert_allclose(camera.white_balance, model.pipeline.white_balance[...], rtol=1e-6)
    np.testing.assert_allclose(camera.black_level, model.pipeline.black_level[...], rtol=1e-6)
    assert camera.pattern == model.camera.pattern
    with pytest.raises(InputError, match="holds an export: choose another folder"):
        export_model(model, exported, raws, None, ["safetensors"])


@pytest.mark.parametrize(("added", "words"), [(2 * LIMIT, "2.0e-04"), (-2 * LIMIT, "2.0e-04"), (np.nan, "nan")])
def test_files_that_differ_are_refused(model, raws, tmp_path, monkeypatch, added, words):
    images = model.render(raws)
    images.flat[7] += added
    monkeypatch.setattr(stablehlo, "write", lambda part, file, gradient: file.touch())
    monkeypatch.setattr(stablehlo, "run", lambda *_: images)
    (outcome,) = export_model(model, tmp_path / "out", raws, ["isp"], ["stablehlo"])
    assert f"differs from the model by {words} on the samples, more than 1e-04" in outcome.error
    assert not (tmp_path / "out" / "isp.stablehlo").exists()
    assert description(tmp_path / "out")["files"] == []


def test_parts_that_cannot_be_traced_are_named_with_the_reason_and_other_files_are_written(
    model, raws, tmp_path, monkeypatch
):
    monkeypatch.setattr(stablehlo, "write", Mock(side_effect=ValueError("this stage has\nno formula")))
    outcomes = export_model(model, tmp_path / "other", raws, ["isp"], ["stablehlo", "safetensors"])
    assert [outcome.error for outcome in outcomes] == ["this stage has no formula", None]


@pytest.fixture(scope="module")
def ensemble(model):
    """Three models, of which no one is the mean."""
    (fold,), others = model.folds, [nnx.clone(model.model) for _ in range(2)]
    for strength, other in zip((1.0, 3.0), others, strict=True):
        other.head.fc.bias[...] += strength * jnp.arange(5.0)
    return Run([fold, *(dataclasses.replace(fold, model=other) for other in others)])


def test_a_group_becomes_one_file_of_the_mean_of_its_probabilities(ensemble, raws, tmp_path):
    (outcome,) = export_model(ensemble, tmp_path / "out", raws, None, ["stablehlo"])
    assert (outcome.file, outcome.error) == ("whole.stablehlo", None)
    about = description(tmp_path / "out")
    assert [member["identity"] for member in about["members"]] == [fold.identity for fold in ensemble]
    assert about["parts"]["whole"]["output"] == {"name": "probabilities", "dtype": "float32"}
    # Of a member alone, the probabilities are others.
    assert np.abs(ensemble.predict(raws) - Run(ensemble.folds[:1]).predict(raws)).max() > 0.1
    found = loaded(tmp_path / "out", "whole.stablehlo").call({}, raws[:3])
    np.testing.assert_allclose(found, ensemble.predict(raws)[:3], atol=1e-5)
    for parts, formats, words in (
        (["isp"], None, "`parts=isp`: this model can be exported only as whole"),
        (None, ["camera"], "`formats=camera`: this model can be exported only as stablehlo, onnx"),
    ):
        with pytest.raises(InputError, match=words):
            export_model(ensemble, tmp_path / "other", raws, parts, formats)


def test_without_its_packages_onnx_is_left_out_unless_it_is_wanted(model, raws, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jax2onnx" else find(name) or Mock())
    outcomes = export_model(model, tmp_path / "out", raws)
    files = [f"{part}.stablehlo" for part in ("whole", "isp", "head")] + ["model.safetensors", "camera.json"]
    assert [(each.file, each.error) for each in outcomes] == [(file, None) for file in files]
    assert not (tmp_path / "out" / "example.py").exists()
    install = "the package jax2onnx: pip install 'r2l_jax[onnx]'"
    assert capsys.readouterr().err == f"warning: no ONNX files are written, which need {install}\n"
    with pytest.raises(InputError, match=f"^{re.escape(f'`formats=onnx` needs {install}, or ')}"):
        export_model(model, tmp_path / "other", raws, formats=["onnx"])
    assert not (tmp_path / "other").exists()


# Imports of these fail, as in an environment without them.
WITHOUT_JAX = """
import runpy, sys
sys.modules.update(dict.fromkeys(["jax", "jaxlib", "flax", "isp", "tasks", "r2l_jax", "jax2onnx", "onnx"]))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.slow
def test_onnx_needs_numpy_and_onnxruntime_alone(model, raws, tmp_path):
    pytest.importorskip("jax2onnx")
    outcomes = export_model(model, tmp_path / "out", raws, None, ["onnx"])
    assert [outcome.error for outcome in outcomes] == [None] * 3
    command = [sys.executable, "-c", WITHOUT_JAX, str(tmp_path / "out" / "example.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"whole: (8, 32, 32) -> (8, {len(model.classes)}), difference ")
    probabilities = model.predict(raws)
    for line, row in zip(lines[1:9], probabilities, strict=True):
        assert line == f"  {model.classes[row.argmax()]}: {row.max():.3f}"


def faded(rgb, strength):
    return rgb + strength * (rgb.mean(-1, keepdims=True) - rgb)


FADED = isp.Stage("faded", faded, {"strength": isp.Parameter(0.5)})
DRONE = isp.CAMERAS["drone"]
STEPS = [(step, name) for step, algorithms in isp.ALGORITHMS.items() for name in algorithms]


@pytest.mark.parametrize(
    "make",
    [
        lambda: isp.parametrized(DRONE).inserted(FADED, after="gaussian"),
        lambda: isp.metered(isp.parametrized(DRONE), DRONE),
        *(pytest.param(lambda step=step: isp.static(DRONE, **dict([step])), marks=pytest.mark.slow) for step in STEPS),
    ],
    ids=["a stage of one's own", "metering", *(name for _, name in STEPS)],
)
def test_pipelines_become_onnx(make, tmp_path):
    pytest.importorskip("jax2onnx")
    pipeline, file = make(), tmp_path / "isp.onnx"
    part = Part("isp", "raw", "images", lambda _, raw: pipeline(raw), {}, (24, 36))
    onnx_files.write(part, file)
    rng = np.random.default_rng(0)
    raw = (0.2 + 0.5 * np.kron(rng.random((2, 6, 9)), np.ones((4, 4)))).astype(np.float32)
    expected = np.asarray(pipeline(raw))
    # In linear light, since the tone curve is steep near black.
    for count in (1, 2):
        np.testing.assert_allclose(onnx_files.run(part, file, raw[:count]) ** 2.2, expected[:count] ** 2.2, atol=2e-5)


def test_samples_of_another_size_repeat_the_mosaics_around_their_middle(model):
    # Spread evenly, from the first sample of the data set to the last.
    ends = np.array([0, len(model.dataset) - 1])
    np.testing.assert_array_equal(samples_of(model)[[0, -1]], model.dataset.samples(ends)[0])
    larger = samples_of(model, size=(48, 80))
    np.testing.assert_array_equal(larger[:, :32, 32:64], samples_of(model))
    np.testing.assert_array_equal(larger[:, 32:, 64:], samples_of(model)[:, :16, :16])
    upright = np.random.default_rng(0).random((8, 12, 4), np.float32)
    repeated = samples_of(Mock(spec=Run, dataset=[(raw, 0) for raw in upright]), size=(18, 10))
    np.testing.assert_array_equal(repeated, np.pad(upright, ((0, 0), (0, 6), (0, 6)), "wrap"))


@pytest.mark.shows("export --parts --size --gradient --input --camera --formats --output")
def test_files_to_check_on_are_cut_to_the_size(model, one_epoch, tmp_path):
    frame = np.arange(64 * 96, dtype=np.uint16).reshape(64, 96) * 10
    tifffile.imwrite(tmp_path / "frame.tiff", frame)
    # From the middle, and on the grid of the color filter array.
    found = samples_of(model, [tmp_path / "frame.tiff"])
    np.testing.assert_allclose(found, frame[None, 16:48, 32:64] / 65535, atol=1e-6)
    flags = [f"--run={one_epoch.run_dir}", f"--output={tmp_path}/out", "--parts=isp", "--formats=stablehlo"]
    more = [f"--input={tmp_path}/frame.tiff", "--size=64,80"]
    done = programs.call("export.py", *flags, *more, "--gradient")
    assert done.returncode == 0, done.stderr
    assert loaded(tmp_path / "out", "isp.stablehlo").has_vjp()
    about = description(tmp_path / "out")
    assert about["parts"]["isp"]["input"]["shape"] == ["B", 64, 80]
    assert about["files"] == ["isp.stablehlo"]
    checked_on = np.load(tmp_path / "out" / "samples.npz")["raw"]
    np.testing.assert_allclose(checked_on, frame[None, :, 8:88] / 65535, atol=1e-6)
    flags[1] = f"--output={tmp_path}/other"
    done = programs.call("export.py", *flags, *more, "--camera=microscopy")
    assert done.returncode == 0, done.stderr
    camera = find_known_camera("microscopy")
    of_camera = np.load(tmp_path / "other" / "samples.npz")["raw"]
    np.testing.assert_array_equal(of_camera, samples_of(model, [tmp_path / "frame.tiff"], camera, (64, 80)))
    assert np.abs(of_camera - checked_on).max() > 0.01
