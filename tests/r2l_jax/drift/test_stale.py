"""Changes recompute the results that depend on them, and no others."""

import contextlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from changes import change_camera, change_pixel
from outcomes import of_counts
from small_runs import metrics

import isp
from r2l_jax.cli.flags import build, replace
from r2l_jax.data.sets import datasets
from r2l_jax.data.sets.synthetic import intensity_folder
from r2l_jax.drift import measure
from r2l_jax.drift.adjustment import adjustment
from r2l_jax.drift.adjustment.config import AdjustmentConfig
from r2l_jax.drift.forensics import forensics, sensitivity, tolerance, worst_case
from r2l_jax.drift.forensics.config import ANALYSES, ForensicsConfig
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.results import result, store
from r2l_jax.results.result import Result
from r2l_jax.training import model_io

PIPELINE = "bilinear.sharpening_filter.gaussian_denoising"


class Place:
    """A folder of the data that a run was trained on, of other data to drift to, and of all results."""

    def __init__(self, run, folder):
        self.run, self.folder, self.data_dir = str(run.run_dir), folder, str(folder / "data")
        (self.root,) = (folder / "data").glob("synthetic_40x32*")
        training, validation = (metrics(run)[f"{split}_indices"] for split in ("train", "valid"))
        labeled, *_, unlabeled = np.random.default_rng(0).permutation(training)
        self._indices = {"valid": validation[0], "labeled": labeled, "unlabeled": unlabeled}

    def file(self, sample, iso=1.0):
        """The mosaic of a sample to validate on, or to train on and adapt by, or not to adapt by."""
        return sorted((self.root / "images" / intensity_folder(iso)).iterdir())[self._indices[sample]]

    @property
    def configs(self):
        """The settings of an evaluation, of forensics and of an adaptation."""
        names = ("evaluation", "forensics", "adjustment")
        of_each = [{"data_dir": self.data_dir, "output": str(self.folder / name)} for name in names]
        evaluated = EvaluationConfig(
            run=(self.run,),
            against=("pipelines", "intensities", "exposures", "sensor", "cameras", "corruptions"),
            pipelines=(PIPELINE,),
            intensities=(0.05, 1.0),
            exposures=(0.5,),
            sensor=("read_noise",),
            cameras=(str(self.folder / "other.json"),),
            corruptions=("contrast",),
            severities=(1,),
            **of_each[0],
        )
        adapted = build(
            AdjustmentConfig,
            run=self.run,
            intensities=(0.05,),
            exposures=(0.5,),
            pipelines=(PIPELINE,),
            cameras=(str(self.folder / "other.json"),),
            drifted_data_dir=str(self.folder / "drifted"),
            unlabeled=0,
            labeled=8,
            **of_each[2],
        )
        return evaluated, ForensicsConfig(run=self.run, **of_each[1]), adapted


RUNS = (evaluation.run, forensics.run, adjustment.run)
CASES = ("clean", PIPELINE, "iso=0.05", "light=0.5", "read_noise.1", "camera=other", "contrast.1")
DRIFTS = ("iso=0.05", "light=0.5", PIPELINE, "camera=other", "data")


@contextlib.contextmanager
def watched():
    """The names of all that is computed, which takes no time, without pictures."""
    names, adapted = [], adjustment._adapted

    def outcomes(rows, cases, samples):
        return of_counts(rows, cases, samples, np.ones((len(rows), len(cases), len(samples))))

    def evaluated(models, cases, samples, **options):
        found = outcomes(models, [case.name for case in cases], samples.indices)
        names.extend(found.cases)
        return found

    def analyzed(name):
        return lambda *arguments: names.append(name) or Result({})

    def adapted_to(config, trained, drift, clean):
        blocks = measure.packed_blocks([outcomes(("clean", "nothing", "labels"), ["clean"], np.arange(8))])
        made = Result({"measured": "validation samples", "unused": []}, outcomes=blocks), trained.fold.model
        patch.setattr(adjustment, "adapt", lambda *arguments: names.append(drift.name) or made)
        return adapted(config, trained, drift, clean)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measure", evaluated)
        for name, module in zip(ANALYSES, (sensitivity, tolerance, worst_case), strict=True):
            patch.setattr(module, "analyze", analyzed(name))
        patch.setattr(adjustment, "_adapted", adapted_to)
        patch.setattr(result, "_draw", lambda folder, figures: [])
        yield names


@pytest.fixture(scope="module")
def finished(one_epoch, data_dir, tmp_path_factory):
    """The folder of a place with all results."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(data_dir, folder / "data")
    dataset = datasets.load(one_epoch.data.dataset, **one_epoch.data.source)
    for index in range(len(dataset)):
        raw, target = dataset[index]
        of_class = folder / "drifted" / dataset.classes[int(target)]
        of_class.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(of_class / f"{index:02d}.tiff", np.round(65535 * raw).astype(np.uint16), metadata=None)
    (folder / "other.json").write_text(isp.CAMERAS["drone"].to_json())
    place = Place(one_epoch, folder)
    with watched() as names:
        for run, config in zip(RUNS, place.configs, strict=True):
            run(config)
    assert sorted(names) == sorted([*CASES, *ANALYSES, *DRIFTS])
    return folder


@pytest.fixture
def place(one_epoch, finished, tmp_path):
    """A copy of it, to change."""
    shutil.copytree(finished, tmp_path / "place")
    return Place(one_epoch, tmp_path / "place")


@pytest.fixture
def made():
    """The names of what is recomputed."""
    with watched() as names:
        yield names


def other_model(place, patch):
    """Lets a run be loaded with another number in its head."""
    load = model_io.stored

    def loaded(*arguments):
        arrays, clean = load(*arguments)
        arrays["head"]["fc"]["bias"] += jnp.float32(0.01)
        return arrays, clean

    patch.setattr(model_io, "stored", loaded)


SEVERITIES = ("read_noise.1", "read_noise.2", "contrast.1", "contrast.2")
# Functions of the place change what results depend on, and dictionaries their flags. None: it has no such flag.
CHANGES = {
    "nothing": ({}, (), (), ()),
    # The score of the validation samples without a drift is what all drifts are compared with.
    "validation": (lambda place, _: change_pixel(place.file("valid")), CASES, ANALYSES, DRIFTS),
    "training": (lambda place, _: change_pixel(place.file("unlabeled")), (), ("worst_case",), ()),
    "labeled": (
        lambda place, _: change_pixel(place.file("labeled")),
        (),
        ("worst_case",),
        ("light=0.5", PIPELINE, "camera=other"),
    ),
    "intensity": (lambda place, _: change_pixel(place.file("valid", 0.05)), ("iso=0.05",), (), ("iso=0.05",)),
    "camera": (
        lambda place, _: change_camera(place.root / "camera.json"),
        (PIPELINE, "light=0.5", "read_noise.1", "camera=other"),
        (),
        (PIPELINE, "light=0.5", "camera=other"),
    ),
    "other camera": (
        lambda place, _: change_camera(place.folder / "other.json"),
        ("camera=other",),
        (),
        ("camera=other",),
    ),
    "drifted": (lambda place, _: [*map(change_pixel, place.folder.glob("drifted/*/*"))], (), (), ("data",)),
    "model": (other_model, CASES, ANALYSES, DRIFTS),
    "source": (lambda _, patch: patch.setattr(store, "source_hash", lambda: "other"), CASES, ANALYSES, DRIFTS),
    "jaxlib": (lambda _, patch: patch.setattr(store.jaxlib.version, "__version__", "2"), CASES, ANALYSES, DRIFTS),
    # Only noise that is drawn depends on it.
    "seed": (
        {"seed": 1},
        ("light=0.5", "read_noise.1", "camera=other", "contrast.1"),
        ("tolerances", "worst_case"),
        DRIFTS,
    ),
    "batch_size": ({"batch_size": 4}, (), ("worst_case",), DRIFTS),
    "severities": ({"severities": (1, 2)}, SEVERITIES, None, None),
    "tolerance": ({"tolerance": 3.0}, None, ("tolerances",), None),
    "steps": ({"steps": 5}, None, ("worst_case",), DRIFTS),
}
SLOW = ("labeled", "intensity", "model", "jaxlib", "batch_size")


@pytest.mark.parametrize("change", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CHANGES])
def test_what_depends_on_a_change_is_recomputed_and_nothing_else(place, made, monkeypatch, change):
    changes, *recomputed = CHANGES[change]
    flags = changes if isinstance(changes, dict) else {}
    if callable(changes):
        changes(place, monkeypatch)
    for run, config, names in zip(RUNS, place.configs, recomputed, strict=True):
        if names is not None:
            config = replace(config, **flags)
            made.clear()
            run(config)
            assert sorted(made) == sorted(names)
            made.clear()
            if names:
                run(config)
            assert made == []
