import json
import os
import re
import shutil

import custom_code
import numpy as np
import pytest
import tifffile
from PIL import Image
from programs import call

import isp
import r2l_jax
from r2l_jax.apps import files as loop
from r2l_jax.apps import predict
from r2l_jax.apps.labeled import labels_of
from r2l_jax.apps.predict import predict_files, predict_frame
from r2l_jax.cli.flags import replace
from r2l_jax.data.files.known_camera import find_known_camera
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.drift.monitoring import reference
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.errors import InputError
from r2l_jax.model import adaptation
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.results.files import read_csv
from r2l_jax.training import run as training_run
from r2l_jax.training import train
from r2l_jax.training.run import Run, load

PLAIN = {"epochs": 1, "processing_mode": "static", "augmentation": "none"}


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """A run on files of two classes, of which the middles are taken."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for label, level in (("bright", 600), ("dark", 200)):
        (root / label).mkdir()
        for number in range(8):
            samples = rng.normal(level, 100, (36 + 2 * number, 40)).clip(80, 1023).astype(np.uint16)
            tifffile.imwrite(root / label / f"{label}_{number}.tif", samples)
    fields = {**json.loads(isp.CAMERAS["drone"].to_json()), "white_level": 1023, "black_level": [64] * 4}
    (root / "camera.json").write_text(json.dumps(fields))
    data = {"dataset": "Folder", "data_dir": str(root), "camera": str(root / "camera.json"), "tile_size": 32}
    config = replace(base, **data, **PLAIN, run_name="folder", batch_size=4)
    train.run(config)
    return config


@pytest.fixture
def model(run):
    return load(str(run.run_dir))


@pytest.fixture
def files(run, tmp_path):
    """Copies of the files, away from where the training found them."""
    root = shutil.copytree(run.data.data_dir, tmp_path / "copied")
    return sorted(root.glob("*/*.tif"))


def mosaics(files, model):
    return np.stack([predict.read_file(file, model, None, model.shape) for file in files])


def test_validation_files_have_the_accuracy_that_evaluate_finds(model, files, tmp_path):
    (fold,) = model
    evaluated = measure({"fold": Model(fold.model)}, [CLEAN], Samples.of(fold)).score("fold")
    names = [fold.dataset.names[index] for index in fold.split.valid]
    chosen = [file for file in files if f"{file.parent.name}/{file.name}" in names]
    assert predict_files(chosen, tmp_path / "p.csv", model) == (len(names), 0)
    found = read_csv(tmp_path / "p.csv")
    assert [row["file"] for row in found] == [str(file) for file in chosen]
    right = [row["class"] == file.parent.name for row, file in zip(found, chosen, strict=True)]
    assert np.mean(right) == pytest.approx(evaluated)
    # The white level of the training counts, without its camera's file.
    expected = model.predict(np.stack([fold.dataset[fold.dataset.names.index(n)][0] for n in sorted(names)]))
    values = [[float(row[name]) for name in model.classes] for row in found]
    # Other batches: logits are sums of hundreds of terms, which round by 20 * 2**-24 of sizes of 10 or so.
    np.testing.assert_allclose(values, expected, atol=1e-5)


def unequal_folds(config, *factors):
    """The same fold of a run several times, with the weights of its head multiplied by these factors."""
    opened = [load(str(config.run_dir)) for _ in factors]
    for model, factor in zip(opened, factors, strict=True):
        head = model.model.head
        (head.fc if hasattr(head, "fc") else head.conv2).kernel[...] *= factor
    return opened


@pytest.mark.shows("apps.files keys: ended")
def test_another_call_predicts_parts_that_have_failed_or_changed(run, model, files, tmp_path, monkeypatch):
    read, original = [], loop.read_raw
    monkeypatch.setattr(loop, "read_raw", lambda file, *rest: read.append(file) or original(file, *rest))
    monkeypatch.setattr(predict, "BATCH", 2)
    monkeypatch.setattr(loop, "BATCH", 2)
    output, files = tmp_path / "p.csv", files[:6]
    content = files[1].read_bytes()
    files[1].write_bytes(b"no file")
    assert predict_files(files, output, model) == (5, 1)
    files[1].write_bytes(content)
    read.clear()
    assert predict_files(files, output, model) == (2, 0)
    assert sorted(read) == files[:2]
    assert predict_files(files, output, model) == (0, 0)
    assert [row["file"] for row in read_csv(output)] == list(map(str, files))
    os.utime(files[4], (0, 0))
    assert predict_files(files, output, model) == (0, 0)
    # Other samples of the same size, from the same time.
    tifffile.imwrite(files[4], 1023 - tifffile.imread(files[4]))
    os.utime(files[4], (0, 0))
    assert predict_files(files, output, model) == (2, 0)
    (other,), before = unequal_folds(run, -1), read_csv(output)
    assert predict_files(files, output, other) == (6, 0)
    assert read_csv(output) != before
    with pytest.raises(InputError, match=r"p.csv holds rows that are not predictions of these files: choose"):
        predict_files(files[:5], output, model)
    assert len(read_csv(output)) == 6


def test_predictions_are_not_reused_under_another_camera(model, files, tmp_path):
    names, output = [*files[:2], *files[-2:]], tmp_path / "p.csv"
    fields = {"white_level": 1023, "black_level": [64] * 4, "color_matrix": np.eye(3).tolist()}
    found = {}
    for gains in ([1, 1, 1], [3, 1, 1], [1, 1, 1]):
        (tmp_path / "camera.json").write_text(json.dumps({**fields, "white_balance": gains}))
        camera = find_known_camera(str(tmp_path / "camera.json"))
        assert predict_files(names, output, model, camera) == (4, 0)
        assert predict_files(names, output, model, camera) == (0, 0)
        rows = read_csv(output)
        assert found.setdefault(gains[0], rows) == rows
    assert found[1] != found[3]


@pytest.mark.shows("predict --adapt --force")
def test_models_are_adapted_to_files_that_are_evenly_spaced(run, model, files, tmp_path, monkeypatch):
    # The first eight are all bright.
    monkeypatch.setattr(predict, "MOST", 8)
    found, unadapted = predict.adapted_run(model, files, None, reference.file_of(run.run_dir), force=True)
    spaced = mosaics([files[place] for place in (0, 2, 4, 6, 9, 11, 13, 15)], model)
    assert found.identity == model.adapted(spaced, force=True).identity != model.identity
    assert (unadapted, found.folds[0].adaptation.images) == (None, 8)
    flags = [f"--run={run.run_dir}", f"--output={tmp_path}/few.csv", "--adapt=statistics"]
    flags.append(f"--input={','.join(map(str, files[:4]))}")
    refused, forced = (call("predict.py", *flags, *more) for more in ([], ["--force"]))
    assert (refused.returncode, forced.returncode) == (1, 0)
    assert "at least 8 images are needed to adapt, got 4" in refused.stderr
    assert "4 predicted, 0 failed" in forced.stdout


def test_a_run_is_adapted_if_a_drift_is_noticed(model, files, tmp_path, monkeypatch, capsys):
    clean = mosaics(files * 2, model)
    # Other noise, so that no two mosaics are one.
    rng = np.random.default_rng(0)
    noisy = (clean + rng.normal(0, 0.002, clean.shape)).clip(0, 1).astype(np.float32)
    labels = np.zeros(32, np.int32)
    known = reference.Reference(quantized(noisy, np.uint16), labels, labels, np.arange(32), "test", see(model, noisy))
    stored = reference.file_of(tmp_path)
    reference.write(known, model, stored)
    monkeypatch.setattr(adaptation.Adapted, "refusal", None)
    found, unadapted = predict.adapted_run(model, files, None, stored)
    assert found is model
    said = r"no drift is detected in the features of 16 images, compared with 32 clean ones \(p = [01]\.?\d*\)"
    assert re.fullmatch(said, unadapted)
    for file in files:
        tifffile.imwrite(file, tifffile.imread(file) // 2 + 32)
    found, unadapted = predict.adapted_run(model, files, None, stored)
    assert unadapted is None
    assert found.identity != model.identity
    # Sixteen samples are too few for a reference.
    assert (
        predict.adapted_run(model, files, None, reference.file_of(tmp_path / "elsewhere"))[0].identity == found.identity
    )
    assert "warning: the model is adapted without a test for drift: a reference needs 32 s" in capsys.readouterr().err


@pytest.mark.shows("predict --save_adapted")
def test_what_cannot_be_written_is_said_before_a_model_is_adapted(run, files, tmp_path, monkeypatch):
    adapting = [f"--run={run.run_dir}", "--adapt=statistics", "--force", f"--save_adapted={tmp_path}/kept"]
    given = [f"--input={tmp_path}/copied", f"--output={tmp_path}/adapted.csv"]
    for said in ("16 predicted, 0 failed", "0 predicted, 0 failed, 16 predicted earlier"):
        done = call("predict.py", *adapting, *given)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, said), done.stderr
    kept, rows = r2l_jax.load(tmp_path / "kept"), read_csv(tmp_path / "adapted.csv")
    assert kept.about.adapted
    np.testing.assert_allclose(
        [[float(row[name]) for name in kept.classes] for row in rows], kept.predict(mosaics(files, kept)), atol=1e-5
    )
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(predict, "adapted_run", lambda *_: pytest.fail("the model was adapted"))
    for changed, message in [
        (f"--output={tmp_path}/foreign.csv", "foreign.csv holds rows that are not predictions of these files: choose"),
        (f"--output={files[0]}/p.csv", "cannot write to this folder"),
        (f"--masks={tmp_path}/masks", "--masks is only for models that predict masks"),
    ]:
        done = call("predict.py", *adapting, *given, changed)
        assert done.returncode == 1
        assert message in done.stderr


def test_bad_files_are_listed_at_the_end(model, files, tmp_path, write_dng, capsys):
    bad, small, gone = (tmp_path / f"{name}.tif" for name in ("bad", "small", "gone"))
    tifffile.imwrite(small, np.full((16, 16), 500, np.uint16))
    bad.write_bytes(b"no file")
    other = write_dng(np.full((64, 64), 2000, np.uint16), cfa=(2, 1, 1, 0))
    assert predict_files([bad, small, gone, other, *files[:2]], tmp_path / "p.csv", model) == (2, 4)
    assert [row["file"] for row in read_csv(tmp_path / "p.csv")] == [*map(str, files[:2])]
    said = [
        f"{bad}: truncated, corrupt",
        f"{small} is 16x16, smaller than the raw images in training, 32x32",
        f"{gone}: no such file",
        f"{other}: the color filter array must be RGGB, got BGGR",
    ]
    for line, message in zip(capsys.readouterr().err.splitlines(), said, strict=True):
        assert line.startswith(f"error: {message}")


def test_integers_whose_white_level_is_unknown_are_refused_if_most_are_below_black(one_epoch, tmp_path, capsys):
    """The black level of the embedded data set is 2048 of 65535; a site in the dark has about that value."""
    model, rng = load(one_epoch.run_dir), np.random.default_rng(0)
    black = 65535 * model.camera.black_level[0]
    levels = {"of_12_bits": 1600, "dark": black + 1000, "darker": 0.95 * black}
    files = [tmp_path / f"{name}.tiff" for name in levels]
    for file, level in zip(files, levels.values(), strict=True):
        tifffile.imwrite(file, rng.normal(level, 50, (32, 32)).astype(np.uint16))
    assert predict_files(files, tmp_path / "p.csv", model) == (2, 1)
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {files[1]}: the highest value is")
    assert re.fullmatch(
        rf"error: {files[0]}: the white level is unknown: the highest value is 1\d\d\d of 65535, and most are below "
        r'the black level, 2048: give it as "white_level" in the camera\'s JSON file \(`camera`\)',
        error,
    )
    # The white level makes them fractions of it.
    fields = json.loads(model.camera.to_json()) | {"white_level": 4095, "black_level": [128] * 4}
    (tmp_path / "camera.json").write_text(json.dumps(fields))
    camera = find_known_camera(str(tmp_path / "camera.json"))
    assert predict_files(files[:1], tmp_path / "q.csv", model, camera) == (1, 0)


@pytest.fixture(scope="module")
def segmenter(base):
    config = replace(base, dataset="SyntheticSegmentation", run_name="segmenter", **PLAIN)
    train.run(config)
    return config


def test_a_frame_by_tiles_is_the_whole_frame(segmenter):
    model = r2l_jax.load(segmenter.run_dir)
    raw = np.random.default_rng(1).random((160, 224)).astype(np.float32)
    tiled = predict_frame(model.predict, raw, "RGGB", model.multiple, side=96, margin=32)
    np.testing.assert_allclose(tiled, model.predict(raw), atol=1e-5)
    assert np.ptp(tiled) > 0.01


@pytest.mark.parametrize("pattern", ["RGGB", "GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG"])
def test_frames_of_any_size_are_filled_up_in_phase(pattern):
    sites = isp.cfa.tile(pattern)
    raw = np.tile(np.arange(sites.size, dtype=np.float32).reshape(sites.shape), (20, 20))[:50, :70]
    seen = []
    predict_frame(lambda tile: seen.append(tile) or tile, raw, pattern, 32)
    (tile,) = seen
    repeats = [-(-have // period) for have, period in zip(tile.shape, sites.shape, strict=True)]
    expected = np.tile(raw[: sites.shape[0], : sites.shape[1]], repeats)[: tile.shape[0], : tile.shape[1]]
    np.testing.assert_array_equal(tile, expected)
    assert all(side % 32 == 0 for side in tile.shape)


@pytest.mark.shows("predict --masks")
def test_masks_are_pictures_of_the_mean_probabilities_of_all_folds(segmenter, tmp_path):
    first, other = unequal_folds(segmenter, 1, -1)
    frame = np.random.default_rng(2).integers(0, 65536, (64, 96)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "frame.tif", frame)
    one, two = (model.predict(frame.astype(np.float32) / 65535) for model in (first, other))
    assert abs(one - two).mean() > 0.1
    for name, model, expected in (("first", first, one), ("both", Run([*first, *other]), (one + two) / 2)):
        output, masks = tmp_path / f"{name}.csv", tmp_path / name
        assert predict_files([tmp_path / "frame.tif"], output, model, masks=masks) == (1, 0)
        mask = np.asarray(Image.open(masks / "frame.png"))
        np.testing.assert_array_equal(mask, np.round(expected * 255).astype(np.uint8))
        (row,) = read_csv(output)
        assert float(row[model.classes[0]]) == pytest.approx((expected > 0.5).mean(), abs=1e-6)
    with pytest.raises(InputError, match="`labels=folder` is for classification: this model is for segmentation"):
        labels_of([tmp_path / "frame.tif"], first)
    with pytest.raises(InputError, match="`masks` is needed for models that predict masks"):
        predict_files([tmp_path / "frame.tif"], tmp_path / "q.csv", first)


HEAD = """
import jax.numpy as jnp
from flax import nnx

class Channels(nnx.Module):
    def __call__(self, images):
        return 20 * images

def make():
    return Channels()
"""


@pytest.mark.shows("predict --pictures")
def test_masks_of_several_classes_are_indices_with_the_classes_colors(base, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for stem in range(4):
        tifffile.imwrite(tmp_path / f"data/images/{stem}.tif", rng.integers(0, 65536, (32, 32)).astype(np.uint16))
        Image.fromarray(rng.choice([0, 1, 2, 255], (32, 32)).astype(np.uint8)).save(tmp_path / f"data/masks/{stem}.png")
    (tmp_path / "data/classes.json").write_text('{"road": "#000000", "car": "#ff0000", "tree": "#00ff00"}')
    data = {"dataset": "Folder", "data_dir": str(tmp_path / "data"), "camera": "drone", "tile_size": 32}
    name = custom_code.write(tmp_path / "head.py", HEAD)
    config = replace(base, **data, **PLAIN | {"epochs": 0}, run_name="classes", classifier_network=name, batch_size=2)
    train.run(config)
    model = r2l_jax.load(config.run_dir, code=name)
    frame = rng.integers(0, 65536, (66, 130)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "frame.tif", frame)
    probabilities = model.predict(frame.astype(np.float32) / 65535)
    assert (model.classes, probabilities.shape) == (("road", "car", "tree"), (66, 130, 3))
    folders = {"masks": tmp_path / "masks", "pictures": tmp_path / "pictures"}
    assert predict_files([tmp_path / "frame.tif"], tmp_path / "p.csv", model, **folders) == (1, 0)
    mask, found = Image.open(tmp_path / "masks/frame.png"), probabilities.argmax(-1)
    assert len(np.unique(found)) == 3
    np.testing.assert_array_equal(mask, found)
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]])
    np.testing.assert_array_equal(mask.convert("RGB"), colors[found])
    image = np.clip(model.render(frame.astype(np.float32) / 65535), 0, 1)
    mixed = np.where(found[..., None] > 0, (image + colors[found] / 255) / 2, image)
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / "pictures/frame.png")), 255 * mixed, atol=0.51)
    (row,) = read_csv(tmp_path / "p.csv")
    assert [*row] == ["file", "road", "car", "tree"]
    shares = [float(row[each]) for each in model.classes]
    np.testing.assert_allclose(shares, np.bincount(found.ravel()) / found.size, atol=1e-6)
    # Pictures that are gone are made again.
    (tmp_path / "pictures/frame.png").unlink()
    assert predict_files([tmp_path / "frame.tif"], tmp_path / "p.csv", model, **folders) == (1, 0)


def test_masks_are_needed_or_refused_before_a_model_is_loaded(run, segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "load", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "frame.tif").touch()
    given = [f"--input={tmp_path}/frame.tif", f"--output={tmp_path}/p.csv"]
    for trained, more, message in (
        (run, [f"--masks={tmp_path}/masks"], "--masks is only for models that predict masks"),
        (segmenter, [], "--masks is needed for models that predict masks"),
    ):
        done = call("predict.py", f"--run={trained.run_dir}", *given, *more)
        assert (done.returncode, done.stderr) == (1, f"predict.py: error: {message}\n")
