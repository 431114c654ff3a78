import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import own_code
import pytest
from brightness import dark_images
from flax import nnx
from small_runs import SmallHead

import isp
from r2l_jax import pipelines
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.model.model_hash import model_hash, processor_hash
from r2l_jax.model.processors import Standardize, Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import task_of
from r2l_jax.runtime import named_code

CAMERA = isp.CAMERAS["drone"]


def make(processor=None, mean=0.0, seed=0):
    normalizer = Standardize(jnp.full(3, mean), jnp.ones(3))
    return RawToLogit(processor or isp.static(CAMERA), normalizer, SmallHead(4, 3, nnx.Rngs(seed)))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"mean": 0.1},
        {"processor": Unprocessed()},
        {"processor": isp.static(CAMERA, sharpen="unsharp_masking")},
        {"processor": isp.static(CAMERA, sharpen="none")},
        {"processor": isp.static(dataclasses.replace(CAMERA, pattern="BGGR"))},
        {"processor": isp.static(dataclasses.replace(CAMERA, white_balance=(1.0, 1.0, 1.0)))},
    ],
)
def test_a_variable_a_stage_or_an_option_changes_the_hash(other):
    assert model_hash(make()) == model_hash(make())
    assert model_hash(make(**other)) != model_hash(make())
    if "processor" in other:
        assert processor_hash(other["processor"]) != processor_hash(isp.static(CAMERA))


def test_a_frozen_model_has_the_hash_of_the_model_which_the_statistics_of_a_batch_norm_change():
    model = make()
    before = Frozen(model, task_of(dark_images([0.5]))).fingerprint
    assert model_hash(model) == before
    model.head.bn1.mean[...] = model.head.bn1.mean[...] + 0.01
    assert model_hash(model) != before


def own(function, **facts):
    facts = {"width": 1.0, **facts}
    return isp.Pipeline([isp.Stage("own", function, {"factor": isp.Parameter(1.0, **facts)})])


def scale(image, factor, power=1):
    return image * factor**power


def scale_by(captured):
    def scaled(image, factor):
        return image * factor * captured

    return scaled


class Map:
    def __init__(self, values):
        self.values = values

    def __call__(self, image, factor):
        return image * factor * self.values


def test_facts_and_the_values_that_a_function_holds_change_the_hash():
    others = [
        own(scale),
        own(scale, width=2.0),
        own(scale, unit="gain"),
        own(jax.jit(lambda image, factor: image * factor)),
        own(functools.partial(scale, power=1)),
        own(functools.partial(scale, power=2)),
        own(scale_by(1.0)),
        own(scale_by(2.0)),
        # The repr of long arrays shows only their ends.
        own(scale_by(np.zeros(2000))),
        own(scale_by(np.eye(1, 2000, 1000)[0])),
        own(scale_by(jnp.ones(2))),
        own(scale_by(scale_by(3.0))),
        own(Map(np.zeros((64, 64)))),
        own(Map(np.eye(64))),
    ]
    assert len({processor_hash(other) for other in others}) == len(others)


def test_equal_functions_with_equal_values_have_one_hash():
    for make in (lambda: scale_by(np.arange(3)), lambda: functools.partial(scale, power=2)):
        assert processor_hash(own(make())) == processor_hash(own(make()))


MAPPED = """
import numpy as np
import isp

MAP = np.load({file!r})

def shade(image, factor):
    return image * factor * MAP

class Own(isp.Pipeline):
    def __call__(self, raw):
        return super().__call__(raw) * {factor}

def make(camera):
    return isp.static(camera).inserted(isp.Stage("shade", shade, {{"factor": isp.Parameter(1.0)}}), before="clipped")

def make_own(camera):
    return Own([isp.Stage("bilinear", isp.demosaic.bilinear)])
"""


def test_loaded_values_and_classes_of_a_users_file_change_the_hash(tmp_path):
    def hashes(values, factor):
        np.save(tmp_path / "map.npy", values)
        own_code.write(tmp_path / "my_isp.py", MAPPED.format(file=str(tmp_path / "map.npy"), factor=factor))
        for cached in (named_code._run, pipelines._make_once):  # as in a new process
            cached.cache_clear()
        return [
            processor_hash(pipelines.find_pipeline(f"{tmp_path}/my_isp.py:{name}")(CAMERA))
            for name in ("make", "make_own")
        ]

    first = hashes(np.ones(2000), 1)
    assert hashes(np.ones(2000), 1) == first
    mapped, same = hashes(np.eye(1, 2000, 1000)[0], 1)
    assert (mapped != first[0], same == first[1]) == (True, True)
    assert all(other != one for other, one in zip(hashes(np.ones(2000), 2), first, strict=True))


REFERRING = """
import jax
import jax.numpy as jnp
import numpy as np
import isp

def shade(image, modes):
    return jax.nn.relu(jnp.asarray(np.ones(3)) * image) if "b" in modes else image

def make(camera):
    return isp.Pipeline([isp.Stage("shade", shade, options={"modes": frozenset("abcdefgh")})])
"""


def test_the_hash_does_not_depend_on_the_process(tmp_path):
    # Python shuffles the order of sets of texts in each process.
    code = (
        "import sys, isp; from r2l_jax.pipelines import find_pipeline; from r2l_jax.model.model_hash import *;"
        "print(processor_hash(find_pipeline(sys.argv[1])(isp.CAMERAS['drone'])))"
    )
    name = own_code.write(tmp_path / "my_isp.py", REFERRING)
    here = processor_hash(pipelines.find_pipeline(name)(CAMERA))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "3"
    environment = os.environ | {"PYTHONHASHSEED": seed}
    there = subprocess.run([sys.executable, "-c", code, name], env=environment, capture_output=True, check=True)
    assert there.stdout.decode().strip() == here
