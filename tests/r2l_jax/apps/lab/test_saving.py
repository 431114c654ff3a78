import dataclasses

import numpy as np
import own_code
import pytest

import isp
from r2l_jax.apps.lab import saving
from r2l_jax.apps.lab.engine import Engine
from r2l_jax.pipelines import find_pipeline
from r2l_jax.runtime.errors import InputError

CAMERA = isp.CAMERAS["microscopy"]


def moved(pipeline):
    engine = Engine(pipeline)
    return engine.values(np.random.default_rng(0).uniform(*engine.limits).astype(np.float32))


@pytest.mark.parametrize(("half_size", "auto"), [(False, ()), (True, ("white_balance",)), (False, ("exposure",))])
@pytest.mark.parametrize("name", ["parametrized", "full", "menon2007.unsharp_masking.median_denoising"])
def test_a_saved_pipeline_has_the_same_stages_and_values(tmp_path, name, half_size, auto):
    named = (find_pipeline(name).half_sized() if half_size else find_pipeline(name)).metered(auto)
    pipeline = named(CAMERA)
    values = moved(pipeline)
    file = tmp_path / "my_isp.py"
    with np.printoptions(legacy="1.13"):  # as colour-demosaicing sets it
        name = own_code.write(file, saving.pipeline_file(named, CAMERA, values))
    saved = find_pipeline(name)
    assert saved(CAMERA).stages == pipeline.stages
    # Values are those of the file, whatever the camera.
    for parameter, value in saved(isp.CAMERAS["drone"]).parameters().items():
        np.testing.assert_array_equal(value, values[parameter])


def test_a_saved_pipeline_of_a_file_takes_that_file(tmp_path):
    code = "import isp\n\n\ndef make(camera):\n    return isp.parametrized(camera).without('sharpening')\n"
    named = find_pipeline(own_code.write(tmp_path / "own.py", code))
    saved = saving.pipeline_file(named, CAMERA, moved(named(CAMERA)))
    assert find_pipeline(own_code.write(tmp_path / "my_isp.py", saved))(CAMERA).stages == named(CAMERA).stages


def test_a_pipeline_with_more_stages_than_its_name_says_is_refused():
    values = isp.parametrized(CAMERA, additive_layer=(4, 4)).parameters()
    with pytest.raises(InputError, match="parameters that a file cannot make: additive_layer"):
        saving.pipeline_file(find_pipeline("parametrized"), CAMERA, values)


def test_a_saved_camera_has_the_values_of_the_sliders_and_the_rest_of_the_shot():
    shot = dataclasses.replace(isp.CAMERAS["drone"], white_level=1023, full_well=9000)
    pipeline = isp.parametrized(shot)
    values = moved(pipeline)
    camera = isp.Camera.from_json(saving.camera(shot, pipeline, values))
    np.testing.assert_allclose(camera.black_level, values["black_level"], rtol=1e-6)
    np.testing.assert_allclose(camera.white_balance, values["white_balance"], rtol=1e-6)
    np.testing.assert_allclose(camera.color_matrix, values["colour_correction"], rtol=1e-6)
    assert (camera.white_level, camera.full_well, camera.pattern) == (1023, 9000, "RGGB")


def test_values_that_no_camera_has_are_refused():
    pipeline = isp.parametrized(CAMERA)
    values = {**pipeline.parameters(), "black_level": np.ones(4, np.float32)}
    with pytest.raises(InputError, match="no camera has these values: black_level must be below"):
        saving.camera(CAMERA, pipeline, values)
