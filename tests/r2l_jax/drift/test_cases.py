import numpy as np
import pytest

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import cases, sensor
from r2l_jax.drift.corruptions import GROUPS
from r2l_jax.names import CORRUPTIONS, DRIFTS, PUBLISHED_PIPELINES, SENSOR
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace

CAMERA = isp.CAMERAS["drone"]
NONE, NEURAL = (build(TrainConfig, processing_mode=mode) for mode in ("none", "neural_network"))
STATIC = build(TrainConfig, processing_mode="static", sp_debayer="malvar2004", sp_sharpening="unsharp_masking")
OWN_PIPELINE = "malvar2004.unsharp_masking.gaussian_denoising"


def dataset(camera=CAMERA):
    return RawDataset("Microscopy", "classification", ("a", "b"), camera, ("x",), np.zeros(1, np.int32), lambda i: None)


def test_results_find_the_group_of_a_kind_by_its_name_alone():
    assert not {*SENSOR, *sensor.ORDER} & {*CORRUPTIONS, *GROUPS.values(), *DRIFTS}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cases.intensities([0.3]), r"--intensities must be one of the measured 0.01, .*1, got 0.3"),
        (lambda: cases.exposures([float("nan")]), r"--exposures must be positive, got nan"),
        (lambda: cases.corruptions(["rain"], [1]), r"--corruptions must be one of identity, .*, got 'rain'"),
        (lambda: cases.corruptions(["contrast"], [6]), r"--severities must be one of 1, 2, 3, 4, 5, got 6"),
    ],
)
def test_what_is_not_known_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (STATIC, OWN_PIPELINE),
        (TrainConfig(), None),
        (build(TrainConfig, freeze_processor=True), "parametrized"),
        (build(TrainConfig, freeze_processor=True, processor_uri="elsewhere"), None),
        (NONE, None),
    ],
)
def test_only_a_pipeline_that_was_not_learned_is_the_runs_by_name(config, title):
    pipeline = cases.run_pipeline(config.processing)
    assert (pipeline and pipeline.title) == title
    known = cases.pipelines([*PUBLISHED_PIPELINES, "parametrized"])
    assert [case.name for case in known if cases.is_clean(case, config)] == ([title] if title else [])


def test_an_intensity_that_was_trained_at_is_no_drift_but_one_of_several_only_a_part_of_the_clean_images():
    known = [cases.CLEAN, *cases.intensities([0.25, 0.5, 1.0]), *cases.exposures([1.0, 0.5])]
    known += cases.pipelines([OWN_PIPELINE])

    def names(found, *isos):
        return [case.name for case in known if found(case, replace(STATIC, iso=isos))]

    assert names(cases.is_clean, 0.5) == names(cases.equals_clean, 0.5) == ["clean", "iso=0.5", OWN_PIPELINE]
    assert names(cases.is_clean, 0.25, 1.0) == ["clean", "iso=0.25", "iso=1", OWN_PIPELINE]
    assert names(cases.equals_clean, 0.25, 1.0) == ["clean", OWN_PIPELINE]


@pytest.mark.parametrize(
    ("group", "config", "camera", "message"),
    [
        ("pipelines", NONE, None, "on Microscopy, which is already processed"),
        ("pipelines", NEURAL, CAMERA, "whose images have half the size"),
        ("intensities", build(TrainConfig, dataset="Folder"), CAMERA, "one intensity: --against=exposures simulates"),
        ("corruptions", NEURAL, CAMERA, r"whose images are not in \[0, 1\]"),
    ],
)
def test_what_makes_no_sense_for_a_run_is_refused_and_named(group, config, camera, message):
    with pytest.raises(InputError, match=rf"^--against={group}: --run=here was trained .*{message}[^\n]*$"):
        cases.check([cases.Case("case", group)], config, dataset(camera), "--run=here")
