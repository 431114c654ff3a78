"""Tiles of a frame are metered by their frame, in training, evaluation, adaptation and prediction."""

import dataclasses
import json

import jax
import msgspec
import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
import r2l_jax
from isp.metering import Part
from r2l_jax.apps.export.description import described
from r2l_jax.apps.predict import predict_files, predict_frame, read_file
from r2l_jax.cli.flags import replace
from r2l_jax.data.sets import folder
from r2l_jax.drift import acquisition
from r2l_jax.drift.cases import CLEAN, Case
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.drift.renderer import Renderer
from r2l_jax.model import adaptation
from r2l_jax.training import train
from r2l_jax.training.run import Run

CAMERA = isp.CAMERAS["drone"]
KNOWN = {"black_level": CAMERA.black_level, "pattern": CAMERA.pattern}
# Four tiles a frame.
SHAPE, SIDE = (64, 64), 32
COUNT = 12


def frame(number, light=1.0):
    """A frame whose upper half is eight times as bright as its lower half; in the middle of a tile is an object."""
    rng = np.random.default_rng(number)
    levels = np.where(np.arange(SHAPE[0])[:, None] < SHAPE[0] // 2, 0.4, 0.05) * rng.uniform(0.7, 1.3, SHAPE)
    mask = np.zeros(SHAPE, bool)
    for row, col in rng.integers(4, 24, (4, 2)) + 32 * np.array([(0, 0), (0, 1), (1, 0), (1, 1)]):
        mask[row : row + 8, col : col + 8] = True
    sites = light * np.where(mask, 0.5 * levels, levels) * (0.6, 1)[number % 2]
    return (np.asarray(isp.cfa.black_levels(np.array(CAMERA.black_level), "RGGB", *SHAPE)) + sites).astype(
        np.float32
    ), mask


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(COUNT):
        raw, mask = frame(number)
        tifffile.imwrite(root / f"images/{number:02d}.tif", np.round(raw * 65535).astype(np.uint16))
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"masks/{number:02d}.png")
    (root / "camera.json").write_text(CAMERA.to_json())
    return root


@pytest.fixture(scope="module")
def run(base, root):
    data = {"dataset": "Folder", "data_dir": str(root), "camera": str(root / "camera.json"), "tile_size": SIDE}
    config = replace(
        base, **data, auto=("exposure", "white_balance"), epochs=1, augmentation="none", run_name="tiles", batch_size=4
    )
    train.run(config)
    return r2l_jax.load(config.run_dir, with_data=True)


def test_tiles_carry_the_summary_of_their_frame(root):
    dataset = folder.load(root, str(root / "camera.json"), SIDE)
    assert dataset.in_parts
    raws, _ = dataset.samples(np.arange(8))
    for place, name in enumerate(dataset.names[:8]):
        raw, _ = frame(int(name[:2]))
        row, col = (SIDE * int(part) for part in name[3:].split("_"))
        np.testing.assert_allclose(raws.raw[place], raw[row : row + SIDE, col : col + SIDE], atol=1e-5)
        found, expected = (isp.metering.levels(each, 6.0, **KNOWN) for each in (raws.frame[place], raw))
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert np.array_equal(raws.frame[0], raws.frame[3])
    assert not np.array_equal(raws.frame[0], raws.frame[4])


def test_a_frame_has_one_gain_in_training_and_prediction(run, root, tmp_path):
    place = run.dataset.names.index("03_01_00")
    (tiles, _), (raw, _) = run.dataset.samples(np.arange(place - 2, place + 2)), frame(3)
    trained = run.trace(tiles)["auto_exposure"].reshape(2, 2, SIDE, SIDE).swapaxes(1, 2).reshape(2 * SIDE, 2 * SIDE)
    raw = np.round(raw * 65535).astype(np.float32) / 65535
    gains = (trained - 0.0625) / (raw - 0.0625)
    for row, col in np.ndindex(2, 2):
        assert np.ptp(gains[row::2, col::2]) < 0.01 * gains[row, col]
    # In tiles, a frame is metered as a whole.
    metered = run.metered_frame(raw)

    def exposed(part):
        return run.trace(part)["auto_exposure"]

    by_tiles = predict_frame(exposed, raw, "RGGB", 8, side=24, margin=8, frame=metered)
    np.testing.assert_allclose(by_tiles, trained, rtol=1e-3)
    assert abs(predict_frame(exposed, raw, "RGGB", 8, side=24, margin=8) - by_tiles).max() > 0.03
    file = root / "images/03.tif"
    predict_files([file], tmp_path / "masks.csv", run, masks=tmp_path / "masks")
    found = np.asarray(Image.open(tmp_path / "masks/03.png"))
    np.testing.assert_allclose(found, 255 * run.predict(Part(raw, metered)), atol=0.51)
    of_tiles, inside = found.reshape(2, SIDE, 2, SIDE).swapaxes(1, 2).reshape(4, SIDE, SIDE), np.s_[:, 10:22, 10:22]
    np.testing.assert_allclose(of_tiles[inside], 255 * run.predict(tiles)[inside], atol=0.7)
    assert abs(of_tiles[inside] - 255 * run.predict(tiles.raw)[inside]).max() > 5
    middle = read_file(file, run, None, run.shape)
    np.testing.assert_allclose(middle.frame, metered, atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 1536), (1536, 32)])
def test_a_long_frame_has_one_gain_along_either_axis(run, tmp_path, shape):
    """It is longer than a tile, and its light rises thirtyfold. The models have not seen tiles."""
    (fold,) = run.folds
    model = Run([dataclasses.replace(fold, about=msgspec.structs.replace(fold.about, in_parts=False))])
    light = np.geomspace(0.02, 0.6, 1536) * np.random.default_rng(0).uniform(0.7, 1.3, (32, 1536))
    samples = np.round((0.0625 + (light if shape[1] > shape[0] else light.T)) * 65535).astype(np.uint16)
    raw = samples.astype(np.float32) / 65535
    tifffile.imwrite(tmp_path / "long.tif", samples)
    predict_files([tmp_path / "long.tif"], tmp_path / "p.csv", model, masks=tmp_path / "masks")
    expected = model.predict(raw)
    np.testing.assert_allclose(Image.open(tmp_path / "masks/long.png"), 255 * expected, atol=1.01)
    assert abs(predict_frame(model.predict, raw, "RGGB", 8) - expected).max() > 0.02


def test_the_target_of_metering_is_the_level_of_frames(run):
    frames = np.stack([frame(number)[0] for number in sorted({int(run.dataset.names[i][:2]) for i in range(48)})])
    pipeline = run.pipeline
    power = float(pipeline.exposure_power[...])
    levels = np.mean(np.asarray(isp.metering.levels(frames, power, **KNOWN)) ** power, 1) ** (1 / power)
    assert float(pipeline.exposure_target[...]) == pytest.approx(np.exp(np.log(levels).mean()), rel=0.1)


def test_less_light_falls_on_a_frame_and_its_tiles(run):
    tiles, _ = run.dataset.samples(np.arange(4))
    case, index = Case("half", "exposures", state=isp.CameraState(exposure=-1.0)), np.arange(4)
    darker = Renderer(0).mosaics(case.state_of(CAMERA), tiles, index, CAMERA)
    levels = [isp.metering.levels(each.frame, 6.0, **KNOWN) for each in (tiles, darker)]
    np.testing.assert_allclose(levels[1], 0.5 * levels[0], rtol=0.05)
    exposed, clean = run.trace(jax.tree.map(np.asarray, darker))["auto_exposure"], run.trace(tiles)["auto_exposure"]
    assert abs(exposed - clean).mean() < 0.02 * clean.mean()
    dataset = acquisition.drifted(run.config.data, run.dataset, case, 0)
    np.testing.assert_allclose(isp.metering.levels(dataset[0][0].frame, 6.0, **KNOWN), levels[1][0], rtol=0.02)
    # Evaluation passes frames on.
    found = measure({"run": Model(run.model)}, [CLEAN, case], Samples.of(run.folds[0]))
    tiles, masks = run.dataset.samples(run.folds[0].split.valid)
    objects, masks = run.predict(tiles) > 0.5, masks > 0
    assert found.score("run") == pytest.approx((objects & masks).sum() / (objects | masks).sum(), abs=1e-5)


def test_a_run_of_tiles_is_adapted_and_described(run):
    tiles, _ = run.dataset.samples(np.arange(16))
    adapted = run.adapted(tiles, force=True)
    assert not np.allclose(adapted.predict(tiles), run.adapted(tiles.raw, force=True).predict(tiles), atol=1e-3)
    # The statistics of clean tiles are of tiles that are metered by their frame.
    (fold,) = run.folds
    known, of_bare = (adaptation.known_of(fold.model, each, fold.task) for each in (tiles, tiles.raw))
    halves = [adaptation.known_of(fold.model, tiles[start : start + 8], fold.task) for start in (0, 8)]
    for name, (mean, _) in known.items():
        np.testing.assert_allclose(mean, np.mean([half[name][0] for half in halves], 0), rtol=1e-4, atol=1e-5)
    assert any(abs(known[name][0] - of_bare[name][0]).max() > 1e-3 for name in known)
    assert "must be a whole frame" in described(run, {})["raw"]["metering"]
    assert json.loads((run.folds[0].folder / "metrics.json").read_text())["in_parts"] is True
