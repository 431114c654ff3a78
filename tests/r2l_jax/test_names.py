import dataclasses
import inspect
import os
import pathlib
import subprocess
import sys

import isp
from isp import sensor_drift
from isp.sensor_drift import NAMED, QUANTITIES
from r2l_jax import names, programs
from r2l_jax.data.files.shot import Shot
from r2l_jax.pipelines import BINNED

PROGRAMS = sorted(pathlib.Path(programs.__path__[0]).glob("*.py"))
COMPUTING = ("jax", "flax", "isp", "orbax", "matplotlib", "sklearn", "grain", "b2sdk", "PIL", "rawpy")


def test_names_are_those_of_what_they_stand_for():
    assert (*names.DEMOSAICING, BINNED) == tuple(isp.ALGORITHMS["demosaic"])
    assert tuple(isp.ALGORITHMS["sharpen"]) == names.SHARPENING
    assert tuple(isp.ALGORITHMS["denoise"]) == names.DENOISING
    assert tuple(map(".".join, isp.PUBLISHED_STATIC)) == names.PUBLISHED_PIPELINES
    assert tuple(field.name for field in dataclasses.fields(Shot)) == names.SHOT_FIELDS


def test_flags_need_no_package_that_computes_or_reads_files():
    """Their imports take long, and users would wait for them with --help and after a mistake in a flag."""
    modules = ", ".join(f"r2l_jax.programs.{path.stem}" for path in PROGRAMS if path.stem != "__init__")
    code = f"import sys, {modules}; print([name for name in {COMPUTING} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_kinds_of_sensor_drift_are_the_functions_of_isp_with_severities_that_grow():
    of_amount = [
        name
        for name, function in vars(sensor_drift).items()
        if inspect.isfunction(function)
        and [*inspect.signature(function).parameters] == ["raw", "key", "amount", "camera"]
    ]
    assert sorted(names.SENSOR) == sorted(of_amount)
    assert len(of_amount) == 18
    for name, amounts in names.SENSOR.items():
        for quantity, factor in NAMED.get(name, {name: 1}).items():
            declared = QUANTITIES[quantity]
            values = [factor * amount for amount in amounts]
            assert all(map(declared.valid, values)), name
            # From the value that changes nothing, each severity is further than the one before.
            distances = [abs(value - declared.neutral) for value in (declared.neutral, *values)]
            assert len(amounts) == len(names.SEVERITIES)
            assert sorted({*distances}) == distances, name
