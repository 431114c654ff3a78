import dataclasses
import json

import numpy as np
import pytest

import isp
from r2l_jax.cli.flags import build, replace
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import cases
from r2l_jax.drift.cases import GROUPS
from r2l_jax.errors import InputError
from r2l_jax.names import CORRUPTIONS, DRIFTS, PUBLISHED_PIPELINES, SENSOR

CAMERA = isp.CAMERAS["drone"]
MONO = isp.Camera(black_level=(0.1,), pattern="MONO")
SINGULAR = dataclasses.replace(CAMERA, color_matrix=np.ones((3, 3)))
NONE, NEURAL = (build(TrainConfig, processing_mode=mode) for mode in ("none", "neural_network"))
STATIC = build(TrainConfig, processing_mode="static", sp_debayer="malvar2004", sp_sharpening="unsharp_masking")
OWN_PIPELINE = "malvar2004.unsharp_masking.gaussian_denoising"


def dataset(camera=CAMERA):
    return RawDataset("Microscopy", "classification", ("a", "b"), camera, ("x",), np.zeros(1, np.int32), lambda i: None)


def test_results_find_the_group_of_a_kind_by_its_name_alone():
    of_corruptions = {GROUPS[name] for name in CORRUPTIONS}
    assert not {*SENSOR, *(GROUPS[name] for name in SENSOR)} & {*CORRUPTIONS, *of_corruptions, *DRIFTS}
    assert [GROUPS[name] for name in ("underexposure", "color_balance", "motion", "bits")] == [
        *("light", "light", "lens", "read-out")
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cases.intensities([0.3]), r"`intensities` must be one of the measured 0.01, .*1, got 0.3"),
        (lambda: cases.exposures([float("nan")]), r"`exposures` must be positive, and .*, got nan"),
        (lambda: cases.exposures([1e-9]), r"`exposures` must be positive, and at most 20 stops from 1, got 1e-09"),
        (lambda: cases.sensor(["rain"], [1]), r"`sensor` must be one of underexposure, .*, got 'rain'"),
        (lambda: cases.sensor(["rain=1"], [1]), r"`sensor=rain=1`: drifts must be among .*, got rain"),
        (lambda: cases.cameras(["auto"]), r"`cameras` must be drone, microscopy or a JSON file, got auto"),
        (lambda: cases.corruptions(["rain"], [1]), r"`corruptions` must be one of identity, .*, got 'rain'"),
        (lambda: cases.corruptions(["contrast"], [6]), r"`severities` must be one of 1, 2, 3, 4, 5, got 6"),
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


def test_each_severity_is_a_point_and_each_point_a_case():
    named = cases.sensor(["underexposure", "exposure=-1,defocus=0.5", "color_balance"], [2, 5])
    assert [(case.name, case.kind, case.severity, case.state.given) for case in named] == [
        ("underexposure.2", "underexposure", 2, {"exposure": -1}),
        ("underexposure.5", "underexposure", 5, {"exposure": -4.5}),
        ("exposure=-1,defocus=0.5", None, None, {"exposure": -1, "defocus": 0.5}),
        ("color_balance.2", "color_balance", 2, {"red_gain": 0.2, "blue_gain": -0.2}),
        ("color_balance.5", "color_balance", 5, {"red_gain": 1, "blue_gain": -1}),
    ]
    (half,) = cases.exposures([0.5])
    # A factor on the light is no number of stops, so their names differ.
    assert (half.name, half.state_of(CAMERA).given) == ("light=0.5", {"exposure": -1, "bits": 12})
    assert half.state_of(dataclasses.replace(CAMERA, bits=10)).bits == 10


def test_another_color_matrix_is_not_simulated_and_said_so(tmp_path, capsys):
    for matrix, words in (
        (np.array(CAMERA.color_matrix) + 0.001, ""),
        (np.eye(3), "warning: `cameras=new`: its color"),
    ):
        (tmp_path / "new.json").write_text(dataclasses.replace(CAMERA, color_matrix=matrix).to_json())
        cases.check_camera(cases.cameras([str(tmp_path / "new.json")]), dataset())
        printed = capsys.readouterr().err
        assert printed.startswith(words)
        assert bool(printed) == bool(words)


def test_another_camera_is_the_difference_of_calibrations_and_combines_with_a_state(tmp_path):
    (tmp_path / "new.json").write_text(dataclasses.replace(CAMERA, read_noise=8.0, full_well=7500).to_json())
    (new,) = cases.cameras([str(tmp_path / "new.json")])
    wanted = {"black_level": 0, "red_gain": 0, "blue_gain": 0, "photon_noise": 2, "read_noise": 2}
    assert (new.name, new.state_of(CAMERA).given) == ("camera=new", pytest.approx(wanted))
    moved = new._replace(state=isp.CameraState(defocus=1.0, black_level=10.0)).state_of(CAMERA).given
    assert moved == pytest.approx(wanted | {"defocus": 1, "black_level": 10})
    assert new.identity != cases.cameras(["drone"])[0]._replace(name=new.name).identity
    (tmp_path / "other").mkdir()
    (tmp_path / "other/new.json").write_text(CAMERA.to_json())
    with pytest.raises(InputError, match=r"^`cameras`: two different cases are called camera=new$"):
        cases.cameras([str(tmp_path / "new.json"), str(tmp_path / "other/new.json")])
    # States may come from files as well.
    (tmp_path / "exposure=1.json").write_text('{"overexposure": 1}')
    from_file, same = cases.sensor([str(tmp_path / "exposure=1.json"), "overexposure=1.0"], [])
    assert (from_file.name, same.name) == ("state=exposure=1", "exposure=1")
    assert from_file.state == same.state
    assert cases.sensor(["exposure=1", "overexposure=1"], []) == [same]
    with pytest.raises(InputError, match=r"^`sensor`: two different cases are called exposure=1$"):
        cases.sensor(["exposure=1", "exposure=1.0000001"], [])


@pytest.mark.parametrize(
    ("case", "camera", "message"),
    [
        (cases.sensor(["lamp_color"], [1]), MONO, "`sensor=lamp_color`: .* without color filters; give `sensor=under"),
        (cases.sensor(["color_balance"], [1]), MONO, "`sensor=color_balance`: Microscopy is from a sensor without"),
        (cases.sensor(["defocus=1,red_gain=1"], []), MONO, "`sensor=red_gain=1,defocus=1`: .* without color filters"),
        (
            cases.sensor(["defocus=-1"], []),
            CAMERA,
            r"`sensor=defocus=-1`: defocus must be at least 0 \(pixels RMS\), got",
        ),
        (
            cases.sensor(["exposure=nan"], []),
            CAMERA,
            r"`sensor=exposure=nan`: exposure must be from -20 to 20 \(stops\)",
        ),
        (cases.cameras(["drone"]), MONO, "`cameras=drone` must have the pattern MONO, got RGGB"),
        (
            cases.cameras(["microscopy"]),
            CAMERA,
            r"`cameras=microscopy` must have gains of the signs of \[2.8.*, got \[-0.6",
        ),
        (cases.sensor(["lamp_color=9"], []), SINGULAR, "`sensor=lamp_color=9`: .*color_matrix must have an inverse"),
    ],
)
def test_states_that_a_camera_cannot_have_are_refused(case, camera, message):
    with pytest.raises(InputError, match=f"^{message}[^\n]*$"):
        cases.check_camera(case, dataset(camera))


def test_a_camera_without_colors_has_the_other_kinds():
    kinds = [
        name for name in SENSOR if name not in ("lamp_color", "color_balance", "chromatic_aberration", "pattern_shift")
    ]
    cases.check_camera(cases.sensor(kinds, [1, 5]), dataset(MONO))


@pytest.mark.parametrize(
    ("group", "config", "camera", "message"),
    [
        ("pipelines", NONE, None, "on Microscopy, which is already processed"),
        ("pipelines", NEURAL, CAMERA, "whose images have half the size"),
        ("intensities", build(TrainConfig, dataset="Folder"), CAMERA, "one intensity: `against=exposures` simulates"),
        ("corruptions", NEURAL, CAMERA, r"whose images are not in \[0, 1\]"),
    ],
)
def test_what_makes_no_sense_for_a_run_is_refused_and_named(group, config, camera, message):
    with pytest.raises(InputError, match=rf"^`against={group}`: `run=here` was trained .*{message}[^\n]*$"):
        cases.check([cases.Case("case", group)], config, dataset(camera), "`run=here`")


def test_the_identity_of_a_case_follows_each_value_of_its_state_and_camera():
    """Beyond the digits that its name shows."""
    named = [cases.Case("defocus=1", "sensor", state=isp.CameraState(defocus=value)) for value in (1.0, 1.0 + 1e-9)]
    cameras = [dataclasses.replace(isp.CAMERAS["drone"], full_well=well) for well in (1e4, 2e4)]
    named += [cases.Case("cam.json", "cameras", camera=camera) for camera in cameras]
    found = [json.dumps(case.identity) for case in named]
    assert len(set(found)) == 4
    assert [json.dumps(case.identity) for case in named] == found
