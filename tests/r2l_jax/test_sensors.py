"""Whole runs on sensors other than Bayer, at half size, and by the metadata of shots."""

import jax
import numpy as np
import pytest

import isp
from r2l_jax.cli.flags import build, replace
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.training import train
from r2l_jax.training.run import load

QUAD = "RRGG/RRGG/GGBB/GGBB"
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"


def write_frames(folder, pattern, per_class=10):
    """Writes frames of red or blue squares in front of gray, and returns their camera."""
    levels = [0.0625] * isp.cfa.black_level_shape(pattern)[0]
    camera = isp.Camera(levels, (2.0, 1.0, 1.5), np.eye(3), pattern, white_level=4095)
    for number in range(2 * per_class):
        label = ("blue", "red")[number % 2]
        rgb = np.full((48, 48, 3), 0.2, np.float32)
        rgb[12:36, 12:36] = (0.6, 0.2, 0.1) if label == "red" else (0.1, 0.2, 0.4)
        raw = isp.sensor.expose(rgb, jax.random.key(number), camera=camera)
        (folder / label).mkdir(parents=True, exist_ok=True)
        np.save(folder / label / f"{number}.npy", np.round(np.asarray(raw) * 4095).astype(np.uint16))
    return camera


def test_pictures_of_half_the_size_have_the_colors_of_the_scenes(base, tmp_path, monkeypatch):
    camera = tmp_path / "camera.json"
    camera.write_text(write_frames(tmp_path / "data", XTRANS, per_class=3).to_json())
    data = {"dataset": "Folder", "data_dir": str(tmp_path / "data"), "camera": str(camera)}
    config = replace(base, logdir=str(tmp_path / "runs"), **data, half_size=True, epochs=1, track=("predictions",))
    heights, judged = [], Classification.judged
    monkeypatch.setattr(Classification, "judged", lambda *given: heights.append(given[-1]) or judged(*given))
    train.run(config)
    search = {"analyses": ("worst_case",), "adv_parameters": ("gamma_correct",), "adv_track_differences": True}
    forensics.run(build(ForensicsConfig, run=str(config.run_dir), **search, steps=1, starts=1))
    # Training and the search judge the pictures of raw images of 48 rows.
    assert (set(heights), len(heights) > config.tracking.track_n_images) == ({48}, True)
    (fold,) = load(str(config.run_dir))
    raws, targets = fold.dataset.samples(np.arange(6))
    side = 48 // isp.demosaic.bin_side(XTRANS)
    pictures = np.asarray(fold.model.processor(raws))
    assert pictures.shape == (6, side, side, 3)
    red, _, blue = np.moveaxis(pictures[:, side // 3 : -side // 3, side // 3 : -side // 3].mean((1, 2)), -1, 0)
    assert ((red > 1.2 * blue) == (targets == 1)).all()
    assert ((blue > 1.2 * red) == (targets == 0)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "half_size"), [("MONO", False), (QUAD, False), (XTRANS, True), ("GRBG", True)])
def test_everything_works_on_every_sensor(base, tmp_path, pattern, half_size):
    """Training, evaluation against exposures, and forensics."""
    camera = tmp_path / "camera.json"
    camera.write_text(write_frames(tmp_path / "data", pattern).to_json())
    data = {"dataset": "Folder", "data_dir": str(tmp_path / "data"), "camera": str(camera)}
    config = replace(base, run_name="run", logdir=str(tmp_path / "runs"), **data, half_size=half_size, lr=1e-2)
    train.run(config)
    (fold,) = load(str(config.run_dir))
    raws, _ = fold.dataset.samples(np.arange(2))
    assert raws.shape == (2, 48, 48)
    side = 48 // isp.demosaic.bin_side(pattern) if half_size else 48
    assert fold.model.processor(raws).shape == (2, side, side, 3)
    assert fold.dataset.camera.pattern == isp.cfa.canonical(pattern)

    against = {"against": ("exposures",), "exposures": (0.5,)}
    found = evaluation.run(build(EvaluationConfig, run=(str(config.run_dir),), **against)).shown
    assert [row[0] for row in found.tables["drops"].rows] == ["clean", "exposures", "light=0.5"]
    searches = {"adv_parameters": ("all", "black_level"), "adv_aux_weight": (10.0,), "steps": 2, "starts": 1}
    which = {"analyses": ("sensitivity", "worst_case"), "adv_noise_layer": True}
    analyses = forensics.run(build(ForensicsConfig, run=str(config.run_dir), **which, **searches))
    assert analyses["fold_0"]["worst_case"].metadata["worst"].keys() == {"all", "black_level"}
