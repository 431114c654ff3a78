"""Whole runs on sensors other than Bayer, at half size, and by the facts of shots."""

import json

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation, synthesis
from r2l_jax.drift.synthesis.config import EvaluationConfig, SynthesisConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training import train
from r2l_jax.training.run import open_runs

QUAD = "RRGG/RRGG/GGBB/GGBB"
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
STATES = {"white_balance": [2.0, 1.0, 1.5], "color_matrix": np.eye(3).tolist(), "white_level": 4095}


def camera_file(folder, pattern):
    levels = [256.0] * isp.cfa.black_level_shape(pattern)[0]
    layout = {"width": 48, "height": 48, "bits": 12, "packing": "pfnc"}
    path = folder / "camera.json"
    path.write_text(json.dumps(STATES | {"black_level": levels, "pattern": pattern, "raw": layout}))
    return path


def write_frames(folder, pattern, per_class=10):
    """Writes packed frames of red or blue squares in front of gray."""
    for number in range(2 * per_class):
        label = ("blue", "red")[number % 2]
        rgb = np.full((48, 48, 3), 0.2, np.float32)
        rgb[12:36, 12:36] = (0.6, 0.2, 0.1) if label == "red" else (0.1, 0.2, 0.4)
        levels = [0.0625] * isp.cfa.black_level_shape(pattern)[0]
        camera = isp.Camera(levels, STATES["white_balance"], np.eye(3), pattern)
        raw = isp.sensor.expose(rgb, jax.random.key(number), camera=camera)
        values = np.round(np.asarray(raw) * 4095).astype(np.uint16)
        bits = (values.ravel()[:, None] >> np.arange(12) & 1).astype(np.uint8)
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.bin").write_bytes(np.packbits(bits, bitorder="little").tobytes())


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "half_size"), [("MONO", False), (QUAD, False), (XTRANS, True), ("GRBG", True)])
def test_everything_works_on_every_sensor(base, tmp_path, pattern, half_size):
    """Training, evaluation against exposures, and forensics."""
    write_frames(tmp_path / "data", pattern)
    config = replace(
        base,
        run_name="run",
        logdir=str(tmp_path / "runs"),
        dataset="Folder",
        data_dir=str(tmp_path / "data"),
        camera=str(camera_file(tmp_path, pattern)),
        synthetic_images=None,
        synthetic_size=None,
        epochs=2,
        half_size=half_size,
        lr=1e-2,
    )
    train.run(config)
    ((fold,),) = open_runs([str(config.run_dir)])
    raws, _ = fold.dataset.samples(np.arange(2))
    assert raws.shape == (2, 48, 48)
    side = 48 // isp.demosaic.bin_side(pattern) if half_size else 48
    assert fold.model.processor(raws).shape == (2, side, side, 3)
    assert fold.dataset.camera.pattern == isp.cfa.canonical(pattern)

    found = evaluation.run(
        build(EvaluationConfig, run=(str(config.run_dir),), against=("exposures",), exposures=(0.5,))
    )
    assert set(found["runs"]["run"]["tests"]) == {"own", "exposure=0.5"}
    analyses = forensics.run(
        build(
            ForensicsConfig,
            run=str(config.run_dir),
            analyses=("sensitivity", "worst_case"),
            steps=2,
            starts=1,
            adv_aux_weight=(10.0,),
            adv_parameters=("all", "black_level"),
            adv_noise_layer=True,
        )
    )
    assert {row["group"] for row in analyses[0]["worst_case"]["rows"]} == {"all", "black_level"}


def test_bayer_algorithms_are_refused_by_name(base, tmp_path):
    write_frames(tmp_path / "data", QUAD, per_class=5)
    config = replace(
        base,
        run_name="refused",
        logdir=str(tmp_path / "runs"),
        dataset="Folder",
        data_dir=str(tmp_path / "data"),
        camera=str(camera_file(tmp_path, QUAD)),
        synthetic_images=None,
        synthetic_size=None,
        processing_mode="static",
        sp_debayer="malvar2004",
    )
    with pytest.raises(
        InputError, match=r"malvar2004 is for the Bayer patterns, got the pattern RRGG/.*use normalized"
    ):
        train.run(config)


def test_sets_of_pictures_at_half_size_name_pipelines_that_differ_only_in_demosaicing_as_one(base, tmp_path):
    config = build(
        SynthesisConfig,
        output=str(tmp_path),
        data_dir=base.data.data_dir,
        synthetic_images=40,
        synthetic_size=32,
        pipelines=("parametrized", "malvar2004.sharpening_filter.gaussian_denoising"),
        half_size=True,
    )
    synthesis.run(config)
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"parametrized.half_size", "binned.sharpening_filter.gaussian_denoising"}
    assert tifffile.imread(next(tmp_path.glob("binned*/*/*/*/*.tiff"))).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processing_mode": "none"}, "--half_size: the images of --processing_mode=none already have that size"),
        (
            {"processing_mode": "static", "sp_debayer": "bilinear"},
            "--half_size takes the place of --sp_debayer=bilinear",
        ),
        (
            {"pipeline": "binned.none.none", "processing_mode": None, "half_size": False},
            "use --half_size with another demosaicing instead",
        ),
    ],
)
def test_half_size_fits_what_else_is_asked_for(base, settings, message):
    with pytest.raises(InputError, match=message):
        _ = replace(base, **{"half_size": True, **settings}).processing.named_pipeline


@pytest.fixture(scope="module")
def two_cameras(tmp_path_factory, small_heads, base):
    """The folder of a run on frames of two cameras, of which one takes the pictures of the other class."""
    folder = tmp_path_factory.mktemp("cameras")
    rng = np.random.default_rng(0)
    for number in range(24):
        label, model = ("a", "b")[number % 2], ("One", "Two")[number // 2 % 2]
        (folder / "data" / label).mkdir(parents=True, exist_ok=True)
        samples = rng.integers(8000 if label == "a" else 30000, 40000, (32, 32)).astype(np.uint16)
        exif = [(271, "s", 0, "Maker"), (272, "s", 0, model), (306, "s", 0, "2024:05:06 07:08:09")]
        tifffile.imwrite(folder / "data" / label / f"{number}.tiff", samples, metadata=None, extratags=exif)
    config = replace(
        base,
        run_name="run",
        logdir=str(folder / "runs"),
        dataset="Folder",
        data_dir=str(folder / "data"),
        camera="drone",
        synthetic_images=None,
        synthetic_size=None,
        epochs=1,
        lr=1e-2,
    )
    train.run(config)
    return config


@pytest.mark.slow
def test_scores_of_an_evaluation_by_camera(two_cameras, capsys):
    found = evaluation.run(
        build(
            EvaluationConfig,
            run=(str(two_cameras.run_dir),),
            against=("exposures",),
            exposures=(0.5,),
            by=("model", "maker"),
        )
    )
    ((fold,),) = open_runs([str(two_cameras.run_dir)])
    valid, by = fold.valid_indices, found["by"]["model"]
    models = [fold.dataset.shot(index).model for index in valid.tolist()]
    assert dict(zip(by["rows"], by["samples"], strict=True)) == {name: models.count(name) for name in sorted({*models})}
    assert by["columns"] == ["own", "exposure=0.5"]
    score = found["score"]
    for column, name in enumerate(by["columns"]):
        whole = found["runs"]["run"]["tests"][name][score]["mean"]
        weighted = np.average([row[column] for row in by["mean"]], weights=by["samples"])
        np.testing.assert_allclose(weighted, whole, rtol=1e-6)
    assert found["by"]["maker"]["rows"] == ["Maker"]
    printed = capsys.readouterr().out
    assert "model  samples" in printed
    for field in ("model", "maker"):
        with Image.open(two_cameras.run_dir / "evaluation" / f"by_{field}.png") as picture:
            assert min(picture.size) > 100


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("model", "--by=model: Synthetic does not know with what its samples were taken"),
        ("color", "--by must be one of maker, model, .*, got 'color'|--by=color"),
    ],
)
def test_fields_that_a_data_set_does_not_know_are_named(one_epoch, field, message):
    with pytest.raises(InputError, match=message):
        evaluation.run(build(EvaluationConfig, run=(str(one_epoch.run_dir),), by=(field,)))
