import csv
import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pickled_jobs
import pytest
import tifffile
from flax import nnx
from PIL import Image
from small_runs import SmallHead

import isp
from r2l_jax import jobs
from r2l_jax.cli.flags import called, leaves, replace
from r2l_jax.data.files.masks import read_classes
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.data.settings import DataSettings
from r2l_jax.drift import cases, measure
from r2l_jax.drift.measure import Model, Samples
from r2l_jax.drift.renderer import Renderer
from r2l_jax.drift.synthesis import synthesis
from r2l_jax.drift.synthesis.config import SynthesisConfig
from r2l_jax.drift.synthesis.synthesis import file_names
from r2l_jax.errors import InputError
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import task_of
from r2l_jax.results import result
from r2l_jax.results.contact_sheet import quantized

OTHER = "bilinear.sharpening_filter.gaussian_denoising"
SIZE, IMAGES, BATCH = 32, 12, 5


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Three batches, of which the last is filled up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "_PIXELS", BATCH * SIZE * SIZE)
        yield


def scenes(task, iso):
    """Grey noise, darker at a lower intensity; no site near black, where the tone curve magnifies rounding."""
    light = np.random.default_rng(0).uniform(0.4, 0.6, (IMAGES, SIZE, SIZE)).astype(np.float32)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:16, :16] = mask[20:30, 5:9] = 1
    labels = np.arange(IMAGES, dtype=np.int32) % 3
    targets = [mask] * IMAGES if task == "segmentation" else labels
    return RawDataset(
        name="Scenes",
        task=task,
        classes=("something",) if task == "segmentation" else ("a", "b", "c"),
        camera=isp.Camera((0.05,) * 4, (1.0, 1.0, 1.0), np.eye(3), "RGGB"),
        names=tuple(f"scene_{number}" for number in range(IMAGES)),
        labels=labels,
        read=lambda index: (0.05 + 0.9 * iso * light[index], targets[index]),
    )


@pytest.fixture(scope="module", autouse=True)
def known_scenes():
    def load(name, *, iso, **settings):
        return scenes("segmentation" if name == "SyntheticSegmentation" else "classification", iso)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", load)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return SynthesisConfig(
        output=str(tmp_path_factory.mktemp("synthesis") / "drifted"),
        pipelines=("parametrized", OTHER),
        intensities=(1.0, 0.5),
        exposures=(0.3,),
        sensor=("read_noise",),
        corruptions=("gaussian_noise",),
        severities=(5,),
    )


@pytest.fixture(scope="module")
def written(base):
    """The data set at full intensity, of which the sets have been written."""
    synthesis.run(base)
    return synthesis.load(base)[1.0]


def folder(config, name=""):
    return pathlib.Path(config.output) / name


def manifest(where):
    with (where / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tree(config):
    """The contents of all files but those that name the output folder."""
    files = [path for path in folder(config).rglob("*") if path.is_file() and path.name != result.FILE]
    return {str(path.relative_to(config.output)): path.read_bytes() for path in files}


def pictures(config, name):
    return np.stack([tifffile.imread(folder(config, name) / row["file"]) for row in manifest(folder(config, name))])


@pytest.mark.shows(
    "synthesize --output --pipelines --intensities --exposures --sensor --corruptions --severities",
    "synthesis.synthesis keys: acquisition, camera, corruption, dataset, flags",
    "synthesis.synthesis keys: parameters, pipeline, size, state, title",
)
def test_sets_are_the_product_of_pipelines_acquisitions_and_corruptions(base, written):
    names = {
        f"{pipeline}/{acquisition}/{corruption}"
        for pipeline in ("parametrized", OTHER)
        for acquisition in ("iso=1", "iso=0.5", "light=0.3", "read_noise.5")
        for corruption in ("uncorrupted", "gaussian_noise.5")
    }
    assert {str(path.parent.relative_to(base.output)) for path in folder(base).rglob("result.json")} == names
    metadata = result.read(folder(base, f"{OTHER}/light=0.3/gaussian_noise.5")).metadata
    assert (metadata["pipeline"], metadata["acquisition"], metadata["corruption"]) == (
        OTHER,
        "light=0.3",
        "gaussian_noise.5",
    )
    assert isp.Camera(**metadata["camera"]) == written.camera
    assert (metadata["flags"]["seed"], metadata["size"]) == (0, [SIZE, SIZE])
    assert metadata["title"] == f"Scenes: {OTHER}/light=0.3/gaussian_noise.5"
    assert metadata["dataset"] == {"name": "Scenes", "task": "classification", "classes": ["a", "b", "c"]}
    assert metadata["state"] == {"exposure": np.log2(0.3), "bits": 12}
    metadata = result.read(folder(base, "parametrized/iso=1/uncorrupted")).metadata
    assert metadata["corruption"] is None
    np.testing.assert_allclose(metadata["parameters"]["black_level"], written.camera.black_level, rtol=1e-6)


@pytest.mark.shows("synthesize --cameras")
def test_states_and_other_cameras_are_acquisitions_as_well(base, written, tmp_path):
    (tmp_path / "new.json").write_text(dataclasses.replace(written.camera, black_level=(0.06,) * 4).to_json())
    config = replace(
        base,
        output=str(tmp_path / "sets"),
        pipelines=("parametrized",),
        intensities=(),
        exposures=(),
        sensor=("black_level=-82,pattern_shift=50",),
        cameras=(str(tmp_path / "new.json"),),
        corruptions=(),
    )
    synthesis.run(config)
    raws, render = written.samples(np.arange(IMAGES))[0], isp.parametrized(written.camera)
    lower, raised = raws - 82 / 4095, raws + 41 / 4095
    lower[:, SIZE // 2 :, :-1] = lower[:, SIZE // 2 :, 1:]
    for name, expected in (("black_level=-82,pattern_shift=50", lower), ("camera=new", raised)):
        found = pictures(config, f"parametrized/{name}/uncorrupted")[:, 2:-2, 2:-4]
        of_file = np.asarray(render(jax.numpy.asarray(expected)))[:, 2:-2, 2:-4]
        np.testing.assert_allclose(found / 65535, np.clip(of_file, 0, 1), atol=1e-4)
    state = result.read(folder(config, "parametrized/camera=new/uncorrupted")).metadata["state"]
    assert state == {"red_gain": 0, "blue_gain": 0, "black_level": 41}


@pytest.mark.shows("synthesis.synthesis manifest.csv: class, file, index, sample")
def test_a_set_has_a_folder_a_class_and_a_line_a_picture(base, written):
    name = "parametrized/iso=0.5/gaussian_noise.5"
    rows = manifest(folder(base, name))
    files = sorted(str(path.relative_to(folder(base, name))) for path in folder(base, name).glob("*/*"))
    assert sorted(row["file"] for row in rows) == files
    assert [(row["sample"], int(row["index"])) for row in rows] == list(zip(written.names, range(IMAGES), strict=True))
    for row, label in zip(rows, written.labels, strict=True):
        assert row["file"] == f"{written.classes[label]}/{row['sample']}.tiff"
        assert row["class"] == written.classes[label]


def test_an_evaluation_sees_the_same_pictures(base, written, monkeypatch):
    """To the last bit where batches are of one size."""
    normalizer, head = Standardize(jnp.zeros(3), jnp.ones(3)), SmallHead(4, 3, nnx.Rngs(0))
    model = RawToLogit(isp.parametrized(written.camera), normalizer, head)
    model.eval()
    rendered, render = {}, Renderer.images

    def watched(*arguments):
        for rendering, of_models in render(*arguments):
            rendered.setdefault(rendering, []).extend(of_models)
            yield rendering, of_models

    monkeypatch.setattr(Renderer, "images", watched)
    sets = {
        "parametrized/iso=1/uncorrupted": cases.CLEAN,
        f"{OTHER}/iso=1/uncorrupted": cases.pipelines([OTHER])[0],
        "parametrized/light=0.3/uncorrupted": cases.exposures([0.3])[0],
        "parametrized/read_noise.5/uncorrupted": cases.sensor(["read_noise"], [5])[0],
        "parametrized/iso=1/gaussian_noise.5": cases.corruptions(["gaussian_noise"], [5])[0],
    }
    samples = Samples(task_of(written), written, np.arange(IMAGES), BATCH, base.seed)
    measure.measure({"model": Model(model)}, [*sets.values()], samples)
    for name, case in sets.items():
        images = np.concatenate(jax.device_get(rendered[case]))[:IMAGES]
        np.testing.assert_array_equal(pictures(base, name), quantized(images, np.uint16))


@pytest.mark.shows("synthesize --pipeline --half_size --seed")
def test_one_pipeline_at_half_the_size_and_the_noise_of_the_seed(tmp_path):
    of = []
    for seed in (0, 1):
        how = {"pipeline": "malvar2004.none.none", "half_size": True, "exposures": (0.3,), "seed": seed}
        config = SynthesisConfig(output=str(tmp_path / f"{seed}"), **how)
        synthesis.run(config)
        names = sorted(each.name for each in config.sets)
        assert [each.split("/")[1] for each in names] == ["iso=1", "light=0.3"]
        of.append([pictures(config, each) for each in names])
    (full, dim), (again, other) = of
    assert full.shape == dim.shape == (IMAGES, SIZE // 2, SIZE // 2, 3)
    np.testing.assert_array_equal(full, again)
    assert (dim != other).any((1, 2, 3)).all()


@pytest.mark.shows("synthesize DataSettings")
def test_the_data_set_is_loaded_as_the_settings_say(monkeypatch):
    given = {"data_dir": "x", "camera": "drone", "tile_size": 32, "classes": ("a",), "group": "folder"}
    given |= {"annotations": "a.json", "synthetic_images": 7, "synthetic_size": 40, "download": True}
    assert {leaf.name for leaf in leaves(DataSettings)} == {"dataset", *given}
    seen = []
    monkeypatch.setattr(
        datasets, "load", lambda name, **settings: seen.append((name, settings)) or scenes("classification", 1.0)
    )
    synthesis.load(SynthesisConfig(output="out", dataset="Drone", intensities=(0.5,), **given))
    assert seen == [("Drone", {"iso": 0.5, **given})]


@pytest.mark.shows("synthesize --scheduler")
def test_workers_write_what_one_process_writes(base, written, tmp_path, monkeypatch):
    asked, elsewhere = [], pickled_jobs.run_elsewhere
    monkeypatch.setattr(jobs, "prepare", lambda scheduler: None)
    monkeypatch.setattr(jobs, "run_elsewhere", lambda given, *how: asked.append(how[0]) or elsewhere(given, *how))
    many = replace(base, output=str(tmp_path / "many"), scheduler="local:2")
    synthesis.run(many)
    assert tree(many) == tree(base)
    assert {*asked} == {"local:2"}


@pytest.mark.shows("synthesize --format", "synthesis.synthesis manifest.csv: mask")
def test_segmentation_in_8_bits_with_masks_that_move_with_the_shifted_pattern_alone(tmp_path):
    config = SynthesisConfig(
        dataset="SyntheticSegmentation",
        output=str(tmp_path / "out"),
        sensor=("pattern_shift", "motion"),
        corruptions=("gaussian_noise",),
        severities=(3,),
        format="png",
    )
    synthesis.run(config)
    dataset = synthesis.load(config)[1.0]
    mask = dataset.read(0)[1]
    shifted = mask.copy()
    # Of 32 rows, the last 10.
    shifted[22:, :-1] = mask[22:, 1:]
    expected = {"iso=1": mask, "motion.3": mask, "pattern_shift.3": shifted}
    names = [(f"images/{stem}.png", f"masks/{stem}.png") for stem in dataset.names]
    for acquisition, corruption in itertools.product(expected, ("uncorrupted", "gaussian_noise.3")):
        where = folder(config, f"parametrized/{acquisition}/{corruption}")
        rows = manifest(where)
        assert [(row["file"], row["mask"]) for row in rows] == names
        for row in rows:
            np.testing.assert_array_equal(np.asarray(Image.open(where / row["mask"])), 255 * expected[acquisition])
    where = folder(config, "parametrized/iso=1/uncorrupted")
    values = np.stack([np.asarray(Image.open(where / row["file"])) for row in manifest(where)])
    raws, _ = dataset.samples(np.arange(IMAGES))
    assert values.dtype == np.uint8
    np.testing.assert_allclose(values, 255 * np.clip(isp.parametrized(dataset.camera)(raws), 0, 1), atol=0.51)


def test_dng_holds_the_raw_images_and_their_camera_without_pipelines_and_corruptions(tmp_path):
    settings = {"dataset": "SyntheticSegmentation", "output": str(tmp_path), "format": "dng"}
    config = called(SynthesisConfig, {**settings, "sensor": "pattern_shift", "severities": 3})
    synthesis.run(config)
    dataset = synthesis.load(config)[1.0]
    raws, _ = dataset.samples(np.arange(IMAGES))
    shifted = raws.copy()
    shifted[:, 22:, :-1] = raws[:, 22:, 1:]
    for acquisition, expected in (("iso=1", raws), ("pattern_shift.3", shifted)):
        where = folder(config, f"raw/{acquisition}/uncorrupted")
        rows = manifest(where)
        assert [(row["file"], row["mask"]) for row in rows] == [
            (f"images/{name}.dng", f"masks/{name}.png") for name in dataset.names
        ]
        mosaics, cameras = zip(*(read_raw(where / row["file"]) for row in rows), strict=True)
        assert {*cameras} == {dataset.camera}
        # The last column has no neighbor to shift from.
        np.testing.assert_allclose(np.stack(mosaics)[..., :-1], expected[..., :-1], atol=0.51 / 65535)
        assert result.read(where).metadata["pipeline"] is None
    assert len([*tmp_path.rglob("result.json")]) == 2
    for given in ({"corruptions": "contrast"}, {"pipelines": "parametrized"}, {"pipeline": "full"}):
        with pytest.raises(InputError, match=rf"`{next(iter(given))}` has no effect with `format=dng`"):
            called(SynthesisConfig, {**settings, **given})


def other_pixel(dataset):
    raw, target = dataset.read(3)
    raw = raw + np.float32(0.1) * (np.arange(raw.size).reshape(raw.shape) == 5)
    return dataclasses.replace(dataset, read=lambda index: (raw, target) if index == 3 else dataset.read(index))


@pytest.mark.parametrize(
    ("flags", "change", "made"),
    [({}, None, 0), ({}, "picture", 1), ({}, other_pixel, 2), ({"seed": 1}, None, 2), ({"format": "png"}, None, 2)],
)
def test_a_set_is_made_anew_where_something_has_changed_and_only_there(
    tmp_path, monkeypatch, capsys, flags, change, made
):
    small = SynthesisConfig(output=str(tmp_path / "small"), corruptions=("gaussian_noise",), severities=(5,))
    synthesis.run(small)
    assert capsys.readouterr().out.endswith(f"2 sets of {IMAGES} pictures each in {small.output}\n")
    mine = folder(small, "parametrized/iso=1/uncorrupted/a/mine.tiff")
    mine.touch()
    times = {path: path.stat().st_mtime_ns for path in folder(small).rglob("result.json")}
    if change == "picture":
        picture = next(folder(small).glob("*/*/gaussian_noise.5/*/*.tiff"))
        picture.rename(picture.with_name(f".{picture.name}.7.part"))  # As a killed call leaves it.
    elif change:
        changed = change(scenes("classification", 1.0))
        monkeypatch.setattr(datasets, "load", lambda name, **settings: changed)
    synthesis.run(dataclasses.replace(small, **flags))
    assert sum(path.stat().st_mtime_ns != time for path, time in times.items()) == made
    files = [path for path in folder(small).rglob("*.tiff") if path != mine]
    assert len(files) == (0 if "format" in flags else 2 * IMAGES)
    assert mine.exists()
    assert not [*folder(small).rglob(".*.part")]


def test_sets_of_masks_name_their_classes_and_boxes_are_refused(base, tmp_path, monkeypatch):
    """Without the names, the written masks could not be loaded; boxes would be left out without a word."""
    made = dataclasses.replace(scenes("segmentation", 1.0), classes=("ground", "car"), colors=("#000000", "#ff8000"))
    monkeypatch.setattr(datasets, "load", lambda name, **settings: made)
    flags = {"intensities": (1.0,), "exposures": (), "sensor": (), "corruptions": (), "pipelines": ("parametrized",)}
    config = dataclasses.replace(base, output=str(tmp_path), **flags)
    synthesis.run(config)
    (where,) = (path.parent for path in tmp_path.rglob("classes.json"))
    assert read_classes(where) == (made.classes, made.colors)
    mask = np.asarray(Image.open(where / manifest(where)[0]["mask"]))
    np.testing.assert_array_equal(mask, made[0][1])
    boxes = dataclasses.replace(made, task="detection")
    monkeypatch.setattr(datasets, "load", lambda name, **settings: boxes)
    with pytest.raises(InputError, match="must have classes or masks, got data for detection"):
        synthesis.run(config)


def test_data_that_is_processed_already_is_named(base, written, monkeypatch):
    processed = dataclasses.replace(written, camera=None)
    monkeypatch.setattr(datasets, "load", lambda name, **settings: processed)
    with pytest.raises(InputError, match="`dataset=Synthetic` is already processed and has no raw data"):
        synthesis.run(base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corruptions": ("contrast",), "severities": ()}, r"`severities` is empty"),
        ({"intensities": ()}, r"`intensities`, `exposures`, `sensor` and `cameras` are all empty"),
        ({"dataset": "Folder", "intensities": (0.5,)}, r"`intensities`: this data set has only one intensity"),
    ],
)
def test_settings_that_are_wrong_are_named(change, message):
    with pytest.raises(InputError, match=message):
        SynthesisConfig(**({"output": "somewhere"} | change))


def named(names, task="classification"):
    classes = ("object",) if task == "segmentation" else ("a", "b")
    labels = np.arange(len(names), dtype=np.int32) // 4
    return RawDataset("Folder", task, classes, None, names, labels, lambda index: None)


def test_files_are_called_as_their_samples_in_the_folder_of_their_class_and_no_two_the_same():
    # Some file systems do not tell large from small letters, and hidden files would be overlooked.
    names = ("IMG 1.dng", "x.dng", "X.nef", "deep/x.tiff", ".dng", "x_1", "zone1.5_x2", "b/IMG 1.dng")
    found = [name for (name,) in file_names(named(names), "png")]
    assert found[:4] == ["a/IMG_1.png", "a/x.png", "a/X_2.png", "a/x_3.png"]
    assert found[4:] == ["b/dng.png", "b/x_1.png", "b/zone1.5_x2.png", "b/IMG_1.png"]
    assert file_names(named(("x.dng",), "segmentation"), "tiff") == [("images/x.tiff", "masks/x.png")]
    # The name with the index may be that of another sample.
    assert file_names(named(("x", "x_2", "X")), "png")[2] == ("a/X_2_2.png",)
