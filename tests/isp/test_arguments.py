"""Each argument that may be left out acts: another value has another result."""

import fnmatch
import functools
import inspect

import inventory
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_names import public_names

import isp

DRONE = isp.CAMERAS["drone"]
IMAGE = jnp.array(np.random.default_rng(0).uniform(0.05, 0.95, (12, 16, 3)).astype(np.float32))
# A corner is saturated.
MOSAIC = IMAGE[..., 1].at[:4, :4].set(1)
OTHER_KERNEL = np.float32([[0, 0, 0], [0, 1, 1], [0, 0, 0]])
BARS = isp.Stage("bars", lambda rgb: rgb * np.float32([1, 0.5, 0.2]))

# Values of arguments without a default, and others without which the tested argument would have no effect.
NEEDED = {"camera": DRONE, "key": jax.random.key(0), "black_level": (0.02, 0.04, 0.06, 0.08)}
NEEDED |= {"gains": np.float32([2.0, 1.0, 1.5]), "amount": 1.5, "state": isp.CameraState(hot_sites=1e5)}
NEEDED |= {"target": 0.01, "neutral": np.float32([1.0, 2.0, 1.5]), "coefficients": np.diag(np.float32([0.3, 0.2, 0.1]))}
NEEDED |= {"light": MOSAIC, "raw": MOSAIC, "image": IMAGE, "rgb": IMAGE}
BESIDES = {
    "isp.cfa.subtract_black_level(pattern)": {"black_level": jnp.arange(3) / 10, "pattern": "RRGG/RRGG/GGBB/GGBB"},
    "isp.cfa.subtract_black_level(rescale)": {"black_level": jnp.full(4, 0.1)},
    "isp.color.highlights(start)": {"mode": "desaturate"},
    "isp.pipeline.Pipeline.inserted(after)": {"after": "demosaic"},
    "isp.pipeline.Pipeline.inserted(before)": {"before": "demosaic"},
    "isp.repair.defects": {"threshold": 0.02},
    "isp.sensor.re_expose(lost)": {"kept": 0.5, "light": 0.5},
    "isp.shading.correct(pattern)": {"image": MOSAIC, "pattern": "RGGB"},
    "isp.stages.contrast(pivot)": {"amount": 1.5},
}
# Other values than the defaults.
OTHERS = {
    **{"pattern": "GRBG", "rescale": True, "clip": True, "mode": "desaturate", "start": 0.3, "border": "mirror"},
    **{"refine": False, "weights": isp.demosaic.normalized_kernel("RGGB") * 0.5 + 0.1, "sigma": 0.9, "size": 3},
    **{"keep_fraction": 0.15, "softness": 0.5, "weight": 0.5, "eps": 0.3, "max_iterations": 1, "isotropic": False},
    **{"sigma_spatial": 1.5, "sigma_color": 0.05, "bins": 8, "centered": True, "strength": 0.6, "patch_size": 3},
    **{"patch_distance": 2, "half_size": True, "defocus": jnp.ones(()), "motion": jnp.ones(())},
    **{"power": 2.0, "share": 0.3, "keeps_white": True, "frame": MOSAIC**2, "threshold": 0.3, "isolated_only": True},
    **{"exposure": 0.5, "full_well": 100.0, "read_noise": 50.0, "bits": 3, "light": 0.5, "gain": 2.0, "kept": 0.5},
    **{"lost": 1 - MOSAIC, "sensor_key": jax.random.key(1), "kernel": OTHER_KERNEL, "sharpening_filter": OTHER_KERNEL},
    **{"radius": 0.6, "amount": 1.7, "highlights": None, "neutral": np.float32([1.5, 1.0, 2.0]), "target": 0.3},
    **{"detail": 1.6, "smoothness": 0.5, "cell": 2, "floor": 0.1, "name": "other", "gamma": 1.5, "pivot": 0.2},
    **{"segments": 6, "low": 0.4, "high": 0.6, "additive_layer": (12, 16)},
    **{"demosaic": "menon2007", "sharpen": "unsharp_masking", "denoise": "median_denoising", "white_balance": False},
    **{
        "like": MOSAIC[None],
        "coefficients": np.float32([[0.3, 0.1, 0.1], [0.1, 0.2, 0.1], [0.2, 0.1, 0.3]]),
        "perturbations": {"bars": 1 - IMAGE},
    },
    **{"after": "bars", "before": "bars", "chromatic_aberration": jnp.full((), 3.0)},
}
SPECIAL = {"isp.auto.metered(exposure)": False, "isp.stages.black_level(rescale)": False}
SPECIAL |= {"isp.stages.mosaic_white_balance(clip)": False, "isp.denoise.median_denoising(size)": 5}
SPECIAL |= {"isp.stages.median_denoising(size)": 5, "isp.cfa.subtract_black_level(pattern)": "GGBB/GGBB/RRGG/RRGG"}
TWO = isp.Pipeline([isp.Stage("demosaic", isp.demosaic.bilinear), BARS])


def values(stage):
    return [each.value for each in stage.parameters.values()]


def seen(value):
    """The numbers and names that two results are compared by."""
    if isinstance(value, isp.Stage):
        # Its function is seen by itself.
        return [value.name, *values(value), *map(str, value.options.values())]
    if isinstance(value, isp.Pipeline):
        return [" ".join(value.stage_names), value(MOSAIC)]
    return jax.tree.leaves(value)


def differ(one, other):
    pairs = zip(map(np.asarray, one), map(np.asarray, other), strict=False)
    return len(one) != len(other) or any(a.shape != b.shape or (a != b).any() for a, b in pairs)


@pytest.mark.shows("isp.*.*(*)")
@pytest.mark.parametrize("fact", sorted(fnmatch.filter(inventory.call_facts(), "isp.*.*(*)")))
def test_another_value_of_an_argument_has_another_result(fact):
    name, argument = fact.removesuffix(")").split("(")
    call = public_names()[name]
    if "Pipeline" in name:
        call = functools.partial(call, TWO, *[isp.Stage("again", jnp.sqrt)] * name.endswith("inserted"))
    if name == "isp.auto.metered":
        call = functools.partial(call, TWO)
    needed = [each for each in inspect.signature(call).parameters.values() if each.default is each.empty]
    given = {each.name: NEEDED[each.name] for each in needed if each.kind is not each.VAR_KEYWORD}
    given |= BESIDES.get(name, {}) | BESIDES.get(fact, {})
    other = SPECIAL.get(fact, OTHERS[argument])
    made = call(**given | {argument: other})
    assert differ(seen(call(**given)), seen(made))
    if isinstance(made, isp.Stage):
        # Its function gets the value, and its name does not depend on other arguments.
        passed = inspect.signature(made.function).bind(None, *values(made), **made.options).arguments
        np.testing.assert_array_equal(passed.get(argument, other), other)
        further = {each: OTHERS[each] for each in inspect.signature(call).parameters if each not in given}
        assert "name" not in further or call(**given | further).name == "other"


# The noises of the drone's sensor need much light to show, and its black level of 262 leaves room to fall.
STATE = {"bits": 4, "black_level": 30, "blue_gain": 0.5, "chromatic_aberration": 3, "column_noise": 3000, "defocus": 1}
STATE |= {"dead_sites": 1e5, "exposure": -1, "flicker": 0.5, "gamma": 1.5, "hot_sites": 1e5, "lamp_color": 100}
STATE |= {"motion": 3, "pattern_shift": 50, "photon_noise": 3, "read_noise": 3000, "red_gain": 0.5, "row_noise": 3000}
STATE |= {"saturation": 0.5, "vignetting": 2}


@pytest.mark.shows("isp.CameraState(*)")
def test_each_quantity_of_a_camera_state_acts():
    names = [fact[16:-1] for fact in fnmatch.filter(inventory.call_facts(), "isp.CameraState(*)")]
    assert sorted(names) == sorted(STATE)
    apply = functools.partial(isp.sensor_drift.apply, MOSAIC, jax.random.key(0), camera=DRONE)
    for name, amount in STATE.items():
        assert np.abs(apply(isp.CameraState(**{name: amount})) - MOSAIC).max() > 1e-3, name
