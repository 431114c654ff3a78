import dataclasses
import functools

import custom_code
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from r2l_jax import named_code, pipelines
from r2l_jax.model.processor_hash import described, processor_hash
from r2l_jax.model.processors import Unprocessed

CAMERA = isp.CAMERAS["drone"]


def test_a_variable_a_stage_or_an_option_changes_the_hash():
    processors = [
        isp.static(CAMERA),
        Unprocessed(),
        isp.static(CAMERA, sharpen="unsharp_masking"),
        isp.static(dataclasses.replace(CAMERA, pattern="BGGR")),
        isp.static(dataclasses.replace(CAMERA, white_balance=(1.0, 1.0, 1.0))),
    ]
    brighter = isp.static(CAMERA)
    brighter.gamma_correct = nnx.Param(jnp.array(1.0))
    assert processor_hash(isp.static(CAMERA)) == processor_hash(processors[0])
    assert len({*map(processor_hash, [*processors, brighter])}) == 6


def own(function, width=1.0):
    return isp.Pipeline([isp.Stage("own", function, {"factor": isp.Parameter(1.0, width=width)})])


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


def variants():
    return [
        own(scale),
        own(scale, width=2.0),
        own(jax.jit(lambda image, factor: image * factor)),
        *(own(lambda image, factor, power=power: image * factor**power) for power in (1, 2)),
        own(functools.partial(scale, power=1)),
        own(functools.partial(scale, power=2)),
        own(scale_by(1.0)),
        own(scale_by(2.0)),
        # The repr of long arrays shows only their ends.
        own(scale_by(np.zeros(2000))),
        own(scale_by(np.eye(1, 2000, 1000)[0])),
        own(scale_by(scale_by(3.0))),
        own(Map(np.zeros((64, 64)))),
        own(Map(np.eye(64))),
    ]


def test_declarations_and_the_values_that_a_function_holds_change_the_hash():
    hashes = [processor_hash(each) for each in variants()]
    assert hashes == [processor_hash(each) for each in variants()]
    assert len({*hashes}) == len(hashes)


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
    return Own([isp.Stage("shade", shade, {{"factor": isp.Parameter(1.0)}})])
"""


def test_loaded_values_and_classes_of_a_users_file_change_the_hash(tmp_path):
    def hashed(values, factor):
        np.save(tmp_path / "map.npy", values)
        code = MAPPED.format(file=str(tmp_path / "map.npy"), factor=factor)
        name = custom_code.write(tmp_path / "my_isp.py", code)
        for cached in (named_code._run, pipelines._make_once):  # as in a new process
            cached.cache_clear()
        return processor_hash(pipelines.find_pipeline(name)(CAMERA))

    first = hashed(np.ones(2000), 1)
    assert hashed(np.ones(2000), 1) == first
    assert len({first, hashed(np.eye(1, 2000, 1000)[0], 1), hashed(np.ones(2000), 2)}) == 3


REFERRING = """
import jax.numpy as jnp
import numpy as np

def make(image):
    return np.ones(3) * jnp.asarray(image)
"""


def test_sets_and_globals_are_described_in_the_same_order_in_each_process(tmp_path):
    assert described(frozenset("badc")) == list("abcd")
    _, function = named_code.load(custom_code.write(tmp_path / "my_isp.py", REFERRING), "--code", "pipeline")
    *_, referred = described(function)
    assert referred == [["jnp", "jax.numpy"], ["np", "numpy"]]
