"""The contract of every public function that processes batches of mosaics or images."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_names import public_names

import isp

SHAPES = {"mosaic": (8, 10), "image": (8, 10, 3), "plane": (8, 10), "planes": (8, 10, 3)}
MATRIX = np.float32([[1.5, -0.3, -0.2], [-0.2, 1.7, -0.5], [0.1, -0.3, 1.3]])
KERNEL = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"


def number(value):
    return np.array(value, np.float32)


# They draw counts of photons or round, but differentiate the mean.
STRAIGHT_THROUGH = {
    *("expose", "re_expose", "expose_sites", "bits", "read_noise", "row_noise", "column_noise", "photon_noise"),
    *("vignetting", "lamp_color", "flicker", "defocus", "overexposure", "underexposure", "color_balance", "motion"),
    "apply",
}

# What functions get for their arguments. NumPy arrays have gradients.
ARGUMENTS = {
    **{"black_level": (0.1, 0.0, 0.05, 0.02), "camera": isp.CAMERAS["drone"], "key": jax.random.key(0)},
    **{"coefficients": 0.3 * MATRIX, "gains": np.float32([0.5, 1.0, 0.75]), "kernel": KERNEL[:3, :3], "matrix": MATRIX},
    **{"neutral": np.float32([1.0, 2.0, 1.5]), "rises": np.float32([0.5, -1.0, 0.3, 2.0, 0.0]), "function": jnp.sin},
    **{"amount": number(1.3), "detail": number(1.3), "gamma": number(2.2), "pivot": number(0.4), "power": number(2.5)},
    **{"radius": number(0.8), "share": number(0.4), "sigma": number(0.7), "sigma_spatial": number(0.9)},
    **{"strength": number(0.4), "target": number(0.3), "weight": number(0.05)},
    **{"pattern": "GRBG", "size": 3, "patch_size": 3, "patch_distance": 1, "max_iterations": 10},
}
# Arguments of single functions, and other arguments to examine them with.
OTHERS = {
    "bilateral": {"sigma_color": number(0.2), "centered": True},
    "correct": {"pattern": None},
    "re_expose": {"light": number(0.5)},
    "fill": {"weights": np.abs(KERNEL[:3, :3]) * np.ones((3, 1, 1), np.float32)},
    "filter_luma": {"kernel": KERNEL},
    "interpolate": {"kernel": np.arange(81, dtype=np.float32).reshape(3, 3, 3, 3) / 81},
    "nlm_denoising": {"strength": number(0.9)},
    "normalized": {"weights": isp.demosaic.normalized_kernel(XTRANS), "pattern": XTRANS},
    "spread": {"pattern": XTRANS},
    "subtract_black_level": {"black_level": np.float32([0.1, 0.2, 0.3, 0.5]), "rescale": True},
    "apply": {"state": isp.CameraState(exposure=-0.4, defocus=0.6, row_noise=30.0, black_level=30.0)},
    "tv_bregman": {"weight": number(5.0)},
    **{name: {"amount": number(1e5)} for name in ("hot_sites", "dead_sites")},
    **{name: {"amount": number(30)} for name in ("black_level", "pattern_shift")},
}
VARIANTS = {
    "balance_mosaic clipped": {"clip": True},
    "bilateral as published": {"sigma_color": None, "centered": False},
    "binned of X-Trans": {"pattern": XTRANS},
    "correct of a mosaic": {"pattern": "GBRG"},
    "defects that are lone": {"threshold": number(0.04), "softness": 0.3, "isolated_only": True},
    "fft_denoising with a soft cut": {"keep_fraction": number(0.23), "softness": number(1.5)},
    "highlights desaturated": {"mode": "desaturate"},
    "median_denoising of 5x5": {"size": 5},
    "menon2007 unrefined": {"refine": False},
    "nlm_denoising centered": {"strength": number(0.3), "centered": True},
    "tv_bregman anisotropic": {"weight": number(5.0), "isotropic": False},
}


def processing_functions():
    """Finds the functions whose first argument and result have any number of batch axes."""

    def batched(annotation):
        return re.search(r"\*batch|'\.\.\.'", str(annotation)) is not None

    for name, value in public_names().items():
        if not inspect.isclass(value) and name.count(".") == 2:
            signature = inspect.signature(value)
            first = next(iter(signature.parameters.values()), None)
            if first is not None and batched(first.annotation) and batched(signature.return_annotation):
                yield name.rpartition(".")[2], value


OF_TWO_BATCHES, WITH_A_NUMBER = {"ciede2000", "with_luma"}, {"smoothed"}
FUNCTIONS = {name: function for name, function in processing_functions() if name not in OF_TWO_BATCHES | WITH_A_NUMBER}
EXAMPLES = [*FUNCTIONS, *VARIANTS]


def input_and_arguments(name):
    """Finds the kind of a function's input, and its other arguments."""
    function = name.split(" ")[0]
    first, *others = inspect.signature(FUNCTIONS[function]).parameters.values()
    arguments = {each.name: ARGUMENTS[each.name] for each in others if each.name in ARGUMENTS}
    arguments |= OTHERS.get(function, {}) | VARIANTS.get(name, {})
    if first.name in ("plane", "planes"):
        return first.name, arguments
    of_image = first.name in ("rgb", "hsv", "yuv") or "width 3" in str(first.annotation)
    return "image" if of_image or arguments.get("pattern", "") is None else "mosaic", arguments


@functools.cache
def example(name):
    """Returns a function of an input and traced arguments, the traced arguments, and a batch of 2x2 inputs."""
    kind, arguments = input_and_arguments(name)
    traced = {key: jnp.asarray(value) for key, value in arguments.items() if isinstance(value, np.ndarray)}
    static = {key: value for key, value in arguments.items() if key not in traced}
    function = FUNCTIONS[name.split(" ")[0]]
    # The images differ in spread, so that settings derived from an image differ.
    shape = SHAPES[kind]
    spread = np.float32([[0.3, 0.6], [1, 1.5]]).reshape(2, 2, *[1] * len(shape))
    inputs = jnp.asarray(spread * np.random.default_rng(0).uniform(0.02, 1, (2, 2, *shape)).astype(np.float32))
    return lambda image, traced: function(image, **traced, **static), traced, inputs


@functools.cache
def results_and_gradients(name):
    """Compiles a function's batched results, in float64, and the gradients of their weighted sum."""
    function, _, _ = example(name)

    def loss(images, traced):
        results = jax.vmap(function, (0, None))(images, traced)
        leaves = jax.tree.leaves(results)
        assert {leaf.dtype for leaf in leaves} == {np.dtype("float64")}
        rng = np.random.default_rng(3)
        return sum((rng.normal(size=leaf.shape) * leaf).sum() for leaf in leaves), leaves

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def in_float64(name):
    _, traced, inputs = example(name)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (inputs, traced))


@pytest.mark.parametrize("name", sorted({*EXAMPLES} - STRAIGHT_THROUGH))  # Each input needs its part of the noise.
def test_vmap_and_batch_axes_equal_one_by_one(name):
    with jax.enable_x64(True):
        images, traced = in_float64(name)
        (_, together), _ = results_and_gradients(name)(images, traced)
        for place in np.ndindex(2, 2):
            alone = np.broadcast_to(images[place], images.shape)
            (_, results), _ = results_and_gradients(name)(alone, traced)
            for found, expected in zip(together, results, strict=True):
                np.testing.assert_allclose(found[place], expected[0, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_gradients_agree_with_finite_differences_and_are_finite_everywhere(name):
    with jax.enable_x64(True):
        images, traced = start = in_float64(name)
        constant = np.array([[0.0, 0.4], [1.0, -0.5]]).reshape(2, 2, *[1] * (images.ndim - 2))
        with_an_edge = np.where(images < images.mean(), 0.2, 0.9)
        for contents in (np.broadcast_to(constant, images.shape), with_an_edge):
            _, gradients = results_and_gradients(name)(contents, traced)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
        if name in STRAIGHT_THROUGH:
            return
        leaves, tree = jax.tree.flatten(start)
        gradients = jax.tree.leaves(results_and_gradients(name)(*start)[1])
        rng = np.random.default_rng(4)
        for part, leaf in enumerate(leaves):
            step = 1e-6 * rng.normal(size=leaf.shape)
            ends = ([*leaves[:part], end, *leaves[part + 1 :]] for end in (leaf + step, leaf - step))
            ((above, _), _), ((below, _), _) = (results_and_gradients(name)(*tree.unflatten(end)) for end in ends)
            np.testing.assert_allclose((gradients[part] * step).sum(), (above - below) / 2, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_empty_batch_stays_empty_and_float16_stays_float16(name):
    function, traced, inputs = example(name)
    empty, traced = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float16), (inputs[:0], traced))
    for result in jax.tree.leaves(jax.eval_shape(function, empty, traced)):
        assert (result.shape[:2], result.dtype) == ((0, 2), jnp.float16)


REFUSED = {
    "image": [
        (np.zeros((3, 8, 8), np.float32), r"\w+ must be \(..., H, W, 3\), channels last, got shape \(3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), "\\w+ must be floating point with white at 1, got uint8: divide by the white"),
    ],
    "mosaic": [
        (np.zeros((4, 4), np.uint16), r"\w+ must be floating point with the white level at 1, got uint16: divide by"),
        (np.zeros(4, np.float32), r"\w+ must be \(..., H, W\), got shape \(4,\)"),
        (np.zeros((5, 3), np.float32), r"\w+ must have an even .*: mosaics \(..., H, W\) have no axis of channels"),
        (np.zeros((0, 4), np.float32), r"\w+ must have an even height and width, got shape \(0, 4\)"),
    ],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_refuses_arrays_of_other_shapes_and_types(name, unchecked):
    function, traced, _ = example(name)
    for array, message in REFUSED.get(input_and_arguments(name)[0], []):
        with pytest.raises(ValueError, match=message):
            function(array, traced)
