import dataclasses

import numpy as np
import pytest
from two_cameras import FAR, NEAR

import isp
from r2l_jax.data.files.reference_camera import Reference, scaled
from r2l_jax.errors import InputError

X_TRANS = "GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG"


@pytest.mark.parametrize("pattern", ["RGGB", "GRBG", X_TRANS, "MONO"])
def test_processing_up_to_the_gains_sees_no_difference(pattern):
    """The sides of the mosaic are not multiples of all tiles."""
    count = isp.cfa.black_level_shape(pattern)[0]
    own, reference = (
        isp.Camera(
            camera.black_level[:count],
            None if pattern == "MONO" else camera.white_balance,
            None if pattern == "MONO" else camera.color_matrix,
            pattern,
        )
        for camera in (NEAR, FAR)
    )
    raw = np.random.default_rng(0).uniform(0.2, 0.5, (8, 14)).astype(np.float32)

    def balanced(raw, camera):
        gains = np.tile(np.array(camera.white_balance)[isp.cfa.tile(pattern)], (8, 14))[:8, :14]
        return isp.sensor.site_light(raw, camera) * gains

    np.testing.assert_allclose(balanced(scaled(raw, own, reference), reference), balanced(raw, own), atol=1e-6)
    assert abs(balanced(raw, reference) - balanced(raw, own)).max() > 0.01
    np.testing.assert_array_equal(scaled(raw, own, own), raw)


def test_light_beyond_the_white_of_the_reference_camera_saturates_it():
    gain = (1 - FAR.black_level[0]) / (1 - NEAR.black_level[0]) * 2.2 / 1.2
    almost = NEAR.black_level[0] + (0.999 - FAR.black_level[0]) / gain
    raw = scaled(np.float32([[almost, 0], [0, 0]]), NEAR, FAR)
    assert raw[0, 0] == pytest.approx(0.999)
    assert scaled(np.float32([[almost + 0.01, 0], [0, 0]]), NEAR, FAR)[0, 0] == 1
    assert raw.min() == 0


def test_a_model_of_one_camera_keeps_its_gains_unless_others_are_stated():
    raw, gains, both = np.full((2, 2), 0.5, np.float32), ["white_balance"], {"far": FAR, "near": NEAR}
    same_gains = dataclasses.replace(NEAR, white_balance=FAR.white_balance)
    np.testing.assert_array_equal(Reference(FAR, {}).scaled(raw, NEAR, []), scaled(raw, same_gains, FAR))
    for cameras, stated in (({}, gains), (both, []), (both, gains)):
        np.testing.assert_array_equal(Reference(FAR, cameras).scaled(raw, NEAR, stated), scaled(raw, NEAR, FAR))
    # Gains of other signs cannot be scaled, as those of the published microscope's camera.
    negative = dataclasses.replace(NEAR, white_balance=(-2.2, 1, 1.7))
    for stated in ([], gains):
        np.testing.assert_array_equal(Reference(FAR, {}).scaled(raw, negative, stated), scaled(raw, same_gains, FAR))
    with pytest.raises(InputError, match=r"gains must have the signs of \[1.2, 1.0, 3.0\], got \[-2.2, 1.0, 1.7\]"):
        Reference(FAR, {"far": FAR}).scaled(raw, negative, gains)
    fields, said = ["black_level", "white_balance", "color_matrix"], Reference(FAR, {}).explain_ignored
    assert (
        said(negative, fields)
        == "the stated white_balance and color_matrix cannot be converted; the run's values are used"
    )
    assert (said(negative, []), said(NEAR, gains), said(FAR, fields)) == (None, None, None)
    assert Reference(FAR, both).explain_ignored(NEAR, fields) is None


def test_saturated_light_stays_white():
    """With gains of at least 1, every color of a saturated site is at least as bright as white after the gains."""
    raw = scaled(np.ones((2, 2), np.float32), NEAR, FAR)
    balanced = isp.sensor.site_light(raw, FAR) * np.array(FAR.white_balance)[isp.cfa.tile("RGGB")]
    gains = np.minimum(NEAR.white_balance, FAR.white_balance)
    np.testing.assert_allclose(balanced, gains[isp.cfa.tile("RGGB")], atol=1e-6)
