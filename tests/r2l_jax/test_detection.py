"""A detector of the user's in every program."""

import json
import pathlib
import re

import custom_code
import detection_files
import numpy as np
import pytest
import tifffile
from flax import nnx
from PIL import Image
from programs import call
from small_runs import metrics

import r2l_jax
from r2l_jax.apps.report.page import make_page
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.cli.flags import build, replace
from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import batch_of
from r2l_jax.drift.adjustment import adjustment
from r2l_jax.drift.adjustment.config import AdjustmentConfig
from r2l_jax.drift.cases import CLEAN, sensor
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.errors import InputError
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.results.files import read_csv
from r2l_jax.training import tracking, train

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of the detector on 40 frames, of which 32 are test frames."""
    folder = tmp_path_factory.mktemp("detection")
    flags = detection_files.write(folder, 40)
    flags |= {"test_size": 32, "batch_size": 8}
    config = build(TrainConfig, logdir=str(folder / "runs"), experiment_name="test", run_name="cells", **flags)
    train.run(config)
    return config


@pytest.fixture(scope="module")
def run(config):
    return r2l_jax.load(config.run_dir, code=config.code, with_data=True)


def test_a_run_without_training_has_the_average_precision_of_each_class(config, run):
    found = metrics(config)
    assert (found["task"], found["scored_by"]) == ("detection", "map")
    assert found["val_map"] == found["val_map50"] == 1
    assert found["val_AP50"] == {"dim": 1, "bright": 1}
    assert sum(found["val_samples"].values()) > 32
    assert 0 < found["val_loss"] < 0.1
    raws, targets = run.dataset.samples(np.arange(3))
    for boxes, target in zip(run.predict(raws), targets, strict=True):
        boxes, target = boxes[boxes[:, 5] >= 0], target[target[:, 4] >= 0]
        order = [np.lexsort(each[:, :2].T) for each in (boxes, target)]
        np.testing.assert_array_equal(boxes[order[0]][:, [0, 1, 2, 3, 5]], target[order[1]][:, :5])


def test_boxes_move_where_rows_move_and_missed_objects_lower_the_score(run):
    fold = run.folds[0]
    cases = [CLEAN, *sensor(["pattern_shift", "underexposure"], [5])]
    outcomes = measure({"cells": Model(fold.model)}, cases, Samples.of(fold))
    scores = [outcomes.score("cells", case.name) for case in cases]
    # All objects are found one pixel to the right of them: with an overlap of 7 of 9 columns, or of 7 of 8 at the left.
    targets = run.dataset.samples(fold.measured_indices)[1]
    boxes = targets[targets[:, :, 4] >= 0]
    assert scores[0] == 1
    assert outcomes.score("cells", cases[1].name, scoring=fold.task.metrics["map50"]) == 1
    assert 0.6 <= scores[1] < 0.6 + 0.2 * (boxes[:, 0] == 0).mean() + 0.1
    assert scores[2] == 0


def test_the_gradient_of_the_detectors_loss_reaches_the_camera(run):
    import jax

    fold = run.folds[0]
    frozen, batch = Frozen(fold.model, fold.task), batch_of(run.dataset, np.arange(2))

    def loss(gamma):
        values = {**frozen.default, "gamma_correct": gamma}
        return frozen.loss(frozen.images(values, batch), batch)

    gamma = np.float32(1.6)
    found = jax.jit(jax.grad(loss))(gamma)
    ahead, behind = (float(jax.jit(loss)(gamma + step)) for step in (0.02, -0.02))
    assert found == pytest.approx((ahead - behind) / 0.04, rel=0.02)
    assert abs(found) > 0.01


def test_half_size_images_have_boxes_in_pixels_of_the_raw_image(config, tmp_path, monkeypatch):
    code = detection_files.CODE.replace("AvgPool2d(8)", "AvgPool2d(4)").replace("* 8.0", "* 4.0")
    code = code.replace("y1 / 8", "y1 / 4").replace("x1 / 8", "x1 / 4")
    (tmp_path / "half.py").write_text(code)
    other = replace(
        config,
        run_name="half",
        half_size=True,
        pipeline="bilinear.none.none",
        classifier_network=f"{tmp_path / 'half.py'}:make",
        track=("predictions",),
        track_n_images=2,
    )
    words, sheet = [], Image.new("RGB", (8, 8))
    monkeypatch.setattr(tracking, "contact_sheet", lambda shown, *_, **__: words.extend(shown) or sheet)
    train.run(other)
    assert len(words) == 2
    assert all(re.search(r": (\d) of \1 objects found, 0 wrong boxes$", each) for each in words)
    found = metrics(other)
    assert found["val_map"] == 1
    assert found["val_loss"] == pytest.approx(metrics(config)["val_loss"], abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, "`epochs` must be 0 for detection, which trains nothing, got 1"),
        ({"classifier_network": "ResNet18"}, "`epochs=0` needs a trained head: name one with `classifier_network="),
        ({"score": "accuracy"}, r"`score` must be one of map, map50.*, got accuracy"),
        ({"annotations": None}, "must have a sub-folder of raw files for each of at least two classes"),
    ],
)
def test_what_cannot_be_detected_is_one_line(config, changes, message):
    with pytest.raises(InputError, match=message):
        train.run(replace(config, run_name="refused", **changes))


def test_a_head_that_would_be_trained_cannot_detect(config, tmp_path):
    code = "from flax import nnx\ndef make(classes, rngs):\n    return nnx.Conv(3, classes, (3, 3), rngs=rngs)\n"
    head = custom_code.write(tmp_path / "own.py", code)
    with pytest.raises(InputError, match=r"own.py:make` cannot detect: boxes need a trained detector, a torch.nn"):
        make_task("detection", ("dim", "bright"), build(NetworkSettings, classifier_network=head)).make_head(
            nnx.Rngs(0)
        )


def test_adaptation_is_not_for_detectors(config, run):
    with pytest.raises(InputError, match="adaptation by statistics is not for detection"):
        run.adapted(run.dataset.samples(np.arange(8))[0])
    settings = build(AdjustmentConfig, run=str(config.run_dir), code=config.code, sensor=("underexposure",))
    with pytest.raises(InputError, match="adaptation by statistics is not for detection"):
        adjustment.run(settings)


@pytest.mark.parametrize("name", ["map50", "map:bright"])
def test_the_score_is_a_flag(config, name):
    other = replace(config, run_name=name.replace(":", "_"), score=name)
    train.run(other)
    assert metrics(other)[f"val_{name}"] == 1


def test_files_are_predicted_as_a_table_as_coco_and_as_pictures(config, tmp_path):
    run_flags = [f"--run={config.run_dir}", f"--code={config.code[0]}"]
    done = call(
        "predict.py",
        *run_flags,
        f"--input={config.data.data_dir}",
        f"--output={tmp_path / 'p.csv'}",
        f"--pictures={tmp_path / 'pictures'}",
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()]
    assert rows[0] == ["file", "class", "score", "x1", "y1", "x2", "y2"]
    truth, coco = (
        json.loads(pathlib.Path(config.data.annotations).read_text()),
        json.loads((tmp_path / "p.json").read_text()),
    )
    names = {each["id"]: each["name"] for each in truth["categories"]}
    wanted = sorted(
        (f"{each['image_id']:02d}.tiff", names[each["category_id"]], *each["bbox"][:2]) for each in truth["annotations"]
    )
    found = sorted((row[0].rsplit("/")[-1], row[1], float(row[3]), float(row[4])) for row in rows[1:])
    assert found == wanted
    files = {each["id"]: each["file_name"].rsplit("/")[-1] for each in coco["images"]}
    names = {each["id"]: each["name"] for each in coco["categories"]}
    boxes = sorted((files[each["image_id"]], names[each["category_id"]], *each["bbox"]) for each in coco["annotations"])
    assert boxes == [(*each, 8, 8) for each in wanted]
    assert {(each["height"], each["width"]) for each in coco["images"]} == {(32, 48)}
    picture = np.asarray(Image.open(tmp_path / "pictures/00.png"))
    _, _, x, y = next(each for each in wanted if each[0] == "00.tiff")
    np.testing.assert_array_equal(picture[y : y + 8, x], [[255, 0, 255]] * 8)
    assert not (picture[y + 1 : y + 7, x + 1 : x + 7] == [255, 0, 255]).all(-1).any()
    again = call("predict.py", *run_flags, f"--input={config.data.data_dir}", f"--output={tmp_path / 'p.csv'}")
    assert again.returncode == 0, again.stderr


def test_an_onnx_file_is_measured_without_its_loss(config, tmp_path):
    file = detection_files.write_onnx(tmp_path / "net.onnx", size=detection_files.SHAPE)
    other = replace(config, run_name="onnx", classifier_network=file)
    train.run(other)
    found = metrics(other)
    assert np.isnan(found["val_loss"])
    # Its three boxes are nowhere near the objects.
    assert found["val_map"] == 0
    run_flags = [f"--run={other.run_dir}"]
    done = call("forensics.py", *run_flags, "--analyses=sensitivity")
    assert done.returncode == 1
    assert "--analyses=sensitivity needs the gradient of the head" in done.stderr
    done = call("evaluate.py", *run_flags, "--against=sensor", "--sensor=underexposure", "--severities=3")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_control_takes_a_detector(config, tmp_path):
    run_flags = [f"--run={config.run_dir}", f"--code={config.code[0]}"]
    calls = {
        "evaluate.py": ["--against=sensor,corruptions,pipelines", "--sensor=underexposure", "--severities=3"],
        "forensics.py": ["--steps=2", "--starts=1", "--analyses=sensitivity,worst_case", "--adv_track_differences"],
    }
    calls["evaluate.py"] += ["--corruptions=gaussian_noise", "--pipelines=bilinear.none.none"]
    for program, flags in calls.items():
        done = call(program, *run_flags, *flags)
        assert done.returncode == 0, done.stderr
    scores = {row["test"]: float(row["map"]) for row in read_csv(config.run_dir / "evaluation/drops.csv")}
    assert (scores["clean"], scores["underexposure.3"], scores["bilinear.none.none"]) == (1, 0, 1)
    assert {"sensitivity", "worst_case"} <= {each.name for each in (config.run_dir / "forensics/fold_0").iterdir()}
    assert "map" in make_page(read_runs([str(config.run_dir)]))


@pytest.mark.slow
def test_the_monitor_notices_dark_frames_and_offers_no_adaptation(config, run, tmp_path):
    (tmp_path / "dark").mkdir()
    for number in range(16):
        raw = 0.2 * run.dataset[number][0]
        tifffile.imwrite(tmp_path / f"dark/{number}.tiff", np.round(65535 * raw).astype(np.uint16))
    flags = [f"--run={config.run_dir}", f"--code={config.code[0]}", f"--input={tmp_path / 'dark'}"]
    done = call("monitor.py", *flags)
    assert done.returncode == 2, done.stderr
    assert "--adapt=statistics" not in done.stdout
