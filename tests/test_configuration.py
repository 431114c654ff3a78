"""The settings of the tests, and the pinned versions."""

import itertools
import os
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_each_dependency_is_pinned_to_one_version_that_the_project_takes(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    versions = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in versions, pin.name
            (specifier,) = pin.specifier
            assert specifier.operator == "==", pin
            versions[pin.name] = Version(specifier.version)
    extras = itertools.chain(*PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        if requirement.name != PROJECT["name"]:
            assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement


TEST = """
import warnings
import dependency_of_the_test
import pytest

@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning])
def test_that_warns(category):
    warnings.warn("own", category)
"""
DEPENDENCY = """
import warnings

for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, UserWarning):
    warnings.warn("of a dependency", category)
"""
CATEGORIES = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning", "UserWarning")


@pytest.fixture
def run_tests(tmp_path):
    """A function that runs tests under the settings of the project, and returns which fail, and the shown warnings."""
    tests = tmp_path / "tests"  # By this name, the module of the test is one of ours.
    tests.mkdir()
    (tests / "test_warnings.py").write_text(TEST)
    (tmp_path / "dependency_of_the_test.py").write_text(DEPENDENCY)
    paths = [tmp_path, ROOT / "tests", ROOT / "tests/fixtures"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}

    def run(*options):
        command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-rf", *options]
        command += [f"--rootdir={tmp_path}", f"--config-file={ROOT}/pyproject.toml", str(tests)]
        output = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True).stdout
        failed = re.findall(r"^FAILED \S+::test_that_warns\[(\w+)\]", output, re.MULTILINE)
        shown = re.findall(r"^  .*\.py:\d+: (\w+): (.*)$", output, re.MULTILINE)
        return failed, shown

    return run


def test_warnings_are_errors_but_for_deprecations_and_for_those_of_dependencies(run_tests):
    failed, shown = run_tests()
    assert failed == ["UserWarning"]
    assert shown == [(name, "of a dependency") for name in CATEGORIES] + [(name, "own") for name in CATEGORIES[:3]]


def test_our_own_deprecations_are_errors_on_demand(run_tests):
    failed, shown = run_tests("--own_deprecations")
    assert failed == list(CATEGORIES)
    assert shown == [(name, "of a dependency") for name in CATEGORIES]
