import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
import optimized
import pytest
import variants

import isp
from r2l_jax.bench import baselines

CAMERA = isp.CAMERAS["drone"]

# A mosaic of the drone's camera, as the published program processes it with scikit-image 0.18.1.
PUBLISHED = np.load(pathlib.Path(__file__).with_name("unsharp_masking_vertical.npz"))

# Three of the pipelines, in which each algorithm occurs.
EACH_ALGORITHM = (
    ("bilinear", "sharpening_filter", "gaussian_denoising"),
    ("malvar2004", "unsharp_masking", "median_denoising"),
    ("menon2007", "unsharp_masking_vertical", "median_denoising"),
)

# Two mosaics with a hard edge, thin lines and noise.
Y, X = np.mgrid[:34, :46]
SCENE = 0.3 * (X + 2 * Y > 60) + 0.2 * (X % 9 == 4) + 0.04 * np.random.default_rng(0).standard_normal((2, *X.shape))
RAW = (0.23 + 0.5 * SCENE).astype(np.float32)


def test_the_published_twelve_come_in_a_fixed_order_and_differ_as_published_in_unsharp_masking():
    assert len(set(isp.PUBLISHED_STATIC)) == 12
    assert isp.PUBLISHED_STATIC[1] == ("bilinear", "sharpening_filter", "gaussian_denoising")
    assert isp.PUBLISHED_STATIC[-2] == ("menon2007", "unsharp_masking", "median_denoising")
    for named, run in zip(isp.PUBLISHED_STATIC, isp.AS_PUBLISHED_STATIC, strict=True):
        assert ".".join(run).replace("_vertical", "") == ".".join(named)
        assert run[1].endswith("_vertical") == (named[1] == "unsharp_masking")


@pytest.mark.parametrize("key", [key for key in PUBLISHED.files if key != "raw"])
def test_vertical_unsharp_masking_agrees_with_the_published_program(key):
    rgb = isp.static(CAMERA, *key.split("."))(PUBLISHED["raw"])
    np.testing.assert_allclose(rgb**2.2, PUBLISHED[key] ** 2.2, atol=2e-6)


@pytest.mark.shows("isp.published.static(demosaic, sharpen, denoise)")
@pytest.mark.parametrize("camera", variants.quick(1, isp.CAMERAS))
@pytest.mark.parametrize(
    "algorithms",
    variants.quick(3, dict.fromkeys([*EACH_ALGORITHM, *isp.PUBLISHED_STATIC, *isp.AS_PUBLISHED_STATIC])),
    ids="-".join,
)
def test_the_published_twelve_agree_with_numpy_scipy_and_scikit_image(algorithms, camera):
    expected = np.stack(baselines.static(algorithms, RAW.astype(np.float64), isp.CAMERAS[camera])())
    rgb = optimized.apply(isp.static(isp.CAMERAS[camera], *algorithms), RAW)
    # In linear light: the tone curve is steep near black.
    np.testing.assert_allclose(rgb**2.2, expected**2.2, atol=1e-5)


def test_settings_and_the_pattern_reach_their_stages():
    camera = dataclasses.replace(CAMERA, pattern="GBRG")
    pipeline = isp.static(camera, "menon2007", "unsharp_masking", "median_denoising", amount=2.0, size=5)
    assert pipeline.stage_names == (
        *("black_level", "demosaic", "white_balance", "color_correct"),
        *("sharpen", "denoise", "clipped", "gamma_correct"),
    )
    assert pipeline.amount[...] == 2
    _, demosaic, *_, denoise, _, _ = pipeline.stages
    assert (demosaic.options, denoise.options) == ({"pattern": "GBRG", "refine": True}, {"size": 5})


@pytest.mark.parametrize(
    ("denoise", "settings", "message"),
    [
        ("gaussian_denoising", {"sigma": 0}, "sigma must be positive, got 0"),
        ("fft_denoising", {"keep_fraction": 2, "softness": 1.0}, r"keep_fraction must be in \[0, 1\], got 2"),
        ("tv_bregman", {"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
        ("nlm_denoising", {"patch_size": 2}, "patch_size must be an odd number of pixels, got 2"),
        ("nlm", {}, "denoise must be one of none, gaussian_denoising, .*, nlm_denoising, got 'nlm'"),
        ("gaussian_denoising", {"radius": 2.0}, "bilinear, sharpening_filter and gaussian_denoising have no radius"),
        ("none", {"sharpen": "unsharp_masking", "size": 5}, "bilinear, unsharp_masking and none have no size"),
        ("none", {"demosaic": "ahd"}, "demosaic must be one of none, bilinear, .*, binned, got 'ahd'"),
    ],
)
def test_refuses_unknown_algorithms_and_invalid_settings(denoise, settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        isp.static(CAMERA, denoise=denoise, **settings)


@pytest.mark.parametrize("make", [isp.parametrized, isp.static])
def test_every_parameter_has_a_natural_range_and_camera_fields_are_declared(make):
    pipeline = make(CAMERA)
    assert all(parameter.has_range for parameter in pipeline.declarations.values())
    fields = {parameter.camera: name for name, parameter in pipeline.declarations.items() if parameter.camera}
    assert set(fields) == {"black_level", "white_balance", "color_matrix"}
    for field, name in fields.items():
        np.testing.assert_allclose(pipeline.parameters()[name], getattr(CAMERA, field), rtol=1e-6)


def test_only_static_pipelines_render_black_as_zero():
    """The slope of the tone curve is infinite at 0, where nothing could be learned."""
    dark = jnp.zeros((4, 6))
    np.testing.assert_allclose(isp.parametrized(CAMERA)(dark).min(), 1e-5 ** (1 / 2.2), rtol=1e-5)
    assert isp.static(CAMERA)(dark).min() == 0
