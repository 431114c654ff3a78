"""What programs write of each file, and say of all, is what `tests/oracles` computes from the raw files and weights."""

import json
import re

import numpy as np
import pytest
import tifffile
from flawed_sensor import FlawedSensor, write_frames
from oracles import isp, network, scores, sensor, tables
from PIL import Image
from programs import call

CLASSES = ("blue", "green", "red")
MALVAR = ("malvar2004", "unsharp_masking", "median_denoising")


@pytest.mark.shows("predict --run --input --output --labels")
def test_predictions_are_those_of_the_weights_and_their_accuracy_is_counted(trained, tmp_path):
    flags = (f"--run={trained.run()}", f"--input={trained.data}", f"--output={tmp_path}/p.csv", "--labels=folder")
    done = call("predict.py", *flags)
    assert done.returncode == 0, done.stderr
    values, rows = trained.values(), tables.read(tmp_path / "p.csv")
    expected = network.probabilities(network.logits(values, network.rendered(values, trained.raws)))
    assert [row["file"] for row in rows] == [*map(str, trained.files)]
    # Logits are sums of hundreds of terms, which round by 20 * 2**-24 of sizes of 10 or so.
    np.testing.assert_allclose([[row[name] for name in CLASSES] for row in rows], expected, atol=1e-5)
    predicted = expected.argmax(-1)
    assert [row["class"] for row in rows] == [CLASSES[each] for each in predicted]
    matrix = scores.confusion(predicted, trained.labels, 3).astype(int)
    right = (predicted == trained.labels) * 1.0
    said = tables.interval(*scores.interval(right, bounds=(0, 1)))
    assert f"interval: {said}; {np.trace(matrix)} of 96 files correct\n" in done.stdout
    for true, counts in enumerate(matrix):
        (line,) = re.findall(rf"^{CLASSES[true]}: (.*)$", done.stdout, re.MULTILINE)
        others = sorted(((n, CLASSES[c]) for c, n in enumerate(counts) if n and c != true), reverse=True)
        assert line == ", ".join([f"{counts[true]} of 32 correct", *(f"{n} as {name}" for n, name in others)])


@pytest.mark.shows("process --input --output --camera --run --format")
@pytest.mark.parametrize("kind", ["run", "static"])
def test_renderings_are_those_of_the_stages(trained, tmp_path, kind):
    flags = [f"--input={trained.data}/red", f"--output={tmp_path}/out"]
    flags += {
        "run": [f"--run={trained.run(2)}", "--format=png"],
        "static": [
            *(f"--camera={trained.camera}", "--processing_mode=static", "--sp_debayer=malvar2004"),
            *("--sp_sharpening=unsharp_masking", "--sp_denoising=median_denoising"),
        ],
    }[kind]
    done = call("process.py", *flags)
    assert done.stdout.endswith("32 rendered, 0 failed\n"), done.stderr
    raws = trained.raws[64:]
    expected = isp.static(raws, trained.calibration, *MALVAR)
    if kind == "run":
        expected = network.rendered(trained.values(trained.run(2)), raws)
    rows = tables.read(tmp_path / "out/manifest.csv")
    assert [row["file"] for row in rows] == [*map(str, trained.files[64:])]
    for row, image in zip(rows, expected, strict=True):
        file = tmp_path / "out" / row["picture"]
        levels = 255 if kind == "run" else 65535
        written = np.asarray(Image.open(file)) if kind == "run" else tifffile.imread(file)
        np.testing.assert_allclose(written, levels * image, atol=0.51 if kind == "run" else 4)


def test_synthesized_pictures_are_renderings_of_drifted_raw_images(trained, tmp_path):
    done = call(
        *("synthesize.py", "--dataset=Folder", f"--data_dir={trained.data}", f"--camera={trained.camera}"),
        *("--tile_size=32", f"--output={tmp_path}/out", f"--pipelines={'.'.join(MALVAR)}", "--format=png"),
        *("--sensor=overexposure,black_level,bits,pattern_shift", "--severities=4", "--corruptions=contrast"),
    )
    assert done.stdout.startswith("10 sets of 96 pictures each"), done.stderr
    camera = trained.calibration
    for drift in ("clean", "overexposure", "black_level", "bits", "pattern_shift"):
        raws = trained.raws if drift == "clean" else sensor.drifted(trained.raws, drift, 4, camera)
        images = isp.static(raws, camera, *MALVAR)
        for corruption in ("uncorrupted", "contrast"):
            expected = images if corruption == "uncorrupted" else sensor.corrupted(images, corruption, 4)
            name = corruption if corruption == "uncorrupted" else f"{corruption}.4"
            folder = tmp_path / "out" / ".".join(MALVAR) / (drift if drift == "clean" else f"{drift}.4") / name
            rows = tables.read(folder / "manifest.csv")
            assert [row["sample"] for row in rows] == [str(file.relative_to(trained.data)) for file in trained.files]
            assert [row["class"] for row in rows] == [CLASSES[label] for label in trained.labels]
            for row, image in zip(rows, expected, strict=True):
                np.testing.assert_allclose(np.asarray(Image.open(folder / row["file"])), 255 * image, atol=0.52)


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_unprocessed_pictures_are_raw_images(trained, tmp_path, pattern):
    camera = trained.calibration | {"pattern": pattern, "full_well": 1e12, "read_noise": 0.0, "bits": 16}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    (tmp_path / "in/kind").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"in/kind/{number}.png")
    flags = (f"--input={tmp_path}/in", f"--output={tmp_path}/out", f"--camera={tmp_path}/camera.json")
    done = call("unprocess.py", *flags, "--exposure=1.6")
    assert done.returncode == 0, done.stderr
    black = isp.black_levels(camera["black_level"], 16, 24)
    light = 1.6 * (isp.unprocess(pictures / 255, camera) - black)
    written = [tifffile.imread(tmp_path / f"out/kind/{number}.tiff") for number in range(3)]
    np.testing.assert_allclose(written, 65535 * np.clip(black + np.maximum(light, 0), 0, 1), atol=1.5)
    saturated, dark = (f"{100 * sites.mean():.2f}%" for sites in (black + light >= 1, light < 0))
    assert f"; {saturated} of the sites are saturated, and {dark} are black because " in done.stdout


def test_an_export_has_the_numbers_of_the_model(trained, tmp_path):
    formats = "--formats=stablehlo,safetensors,camera"
    done = call("export.py", f"--run={trained.run()}", f"--output={tmp_path}/out", formats)
    assert done.returncode == 0, done.stderr
    values = trained.values()
    with np.load(tmp_path / "out/samples.npz") as file:
        samples = dict(file)
    with np.load(tmp_path / "out/parameters.npz") as file:
        stored = dict(file)
    images = network.rendered(values, samples["raw"].astype(float))
    learned = network.part(values, "processor")
    # Before the tone curve, whose slope is 240 at black: stencils of 49 terms in float32, whose magnitudes sum to less
    # than 10, round by 10 * sqrt(49) * 2**-24.
    gamma = learned["gamma_correct"]
    np.testing.assert_allclose(samples["images"] ** gamma, images**gamma, atol=4e-6)
    np.testing.assert_allclose(samples["logits"], network.logits(values, images), atol=1e-4)
    assert {name: value.tolist() for name, value in stored.items()} == {k: v.tolist() for k, v in learned.items()}
    camera = json.loads((tmp_path / "out/camera.json").read_text())
    for field, name in (("black_level",) * 2, ("white_balance",) * 2, ("color_matrix", "colour_correction")):
        np.testing.assert_allclose(camera[field], learned[name], rtol=1e-6)
    about = json.loads((tmp_path / "out/model.json").read_text())
    expected = {"name": "accuracy", "value": trained.metrics()["best_val_accuracy"], "samples": "validation"}
    assert about["score"] == expected
    assert about["normalization"]["mean"] == pytest.approx(values["normalizer.mean"].tolist())
    assert about["normalization"]["standard_deviation"] == pytest.approx(np.sqrt(values["normalizer.var"]), rel=1e-4)
    # The samples are of the data.
    raws = trained.raws.astype(np.float32)
    assert all((abs(raws - each).max((1, 2)) < 1e-6).any() for each in samples["raw"])


def test_a_calibration_has_the_numbers_of_the_frames(tmp_path):
    faulty = FlawedSensor(shape=(64, 64), hot=2, dead=2, flickering=2, black=(0.05, 0.06, 0.07, 0.08))
    write_frames(tmp_path, faulty, darks=8, exposures=(0.2, 0.4, 0.6), flats=4)
    frames = (f"--dark={tmp_path}/dark", f"--flat={tmp_path}/flat", f"--camera={tmp_path}/base.json")
    done = call("calibrate.py", *frames, f"--output={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    darks, flats = (
        np.array([tifffile.imread(file) for file in sorted((tmp_path / kind).iterdir())]) / 65535 * 4095
        for kind in ("dark", "flat")
    )
    good = np.ones(faulty.shape, bool)
    good[tuple(np.concatenate([*faulty.defects.values()]).T)] = False
    found = json.loads((tmp_path / "out/photon_transfer.json").read_text())
    rows = tables.read(tmp_path / "out/defects.csv")
    for kind, sites in faulty.defects.items():
        assert sorted([row["row"], row["column"]] for row in rows if row["kind"] == kind) == sorted(sites.tolist())
    for number, site in enumerate(found["sites"]):
        at = np.s_[..., number // 2 :: 2, number % 2 :: 2]
        expected = sensor.photon_transfer(darks[at], flats.reshape(3, 4, 64, 64)[at], good[at])
        means, variances = expected.pop("means"), expected.pop("variances")
        assert site["black_level"] == pytest.approx(expected.pop("black_level"), abs=1e-4)
        assert {name: site[name] for name in expected} == pytest.approx(expected, rel=5e-3)
        points = [point for point in found["curve"] if point["color"] == site["color"]]
        if site["color"] != "green":  # Of which two places share a color.
            assert [point["mean"] for point in points] == pytest.approx(means, rel=1e-6)
            assert [point["variance"] for point in points] == pytest.approx(variances, rel=2e-3)
    gain, wells, noises = (
        np.mean([site[f"{name}"] for site in found["sites"]])
        for name in ("electrons_per_number", "full_well_electrons", "read_noise_electrons")
    )
    assert found["dynamic_range_decibels"] == pytest.approx(20 * np.log10(wells / noises), rel=1e-6)
    camera = json.loads((tmp_path / "out/camera.json").read_text())
    assert (camera["full_well"], camera["read_noise"]) == pytest.approx((wells, noises), rel=1e-3)
    assert camera["black_level"] == pytest.approx([site["black_level"] / 4095 for site in found["sites"]])
    levels = ", ".join(f"{site['black_level']:.5g}" for site in found["sites"])
    assert (
        f"black level {levels} of 4095\n{gain:.4g} electrons per digital number; full well {wells:.0f}" in done.stdout
    )
