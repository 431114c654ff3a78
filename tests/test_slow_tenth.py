"""The option `--slow_tenth` of tests/conftest.py, by which `.ci/run` runs all slow tests within ten days."""

import pathlib
import types

import pytest


class Item:
    """The part of a collected test that the option looks at."""

    def __init__(self, kind, number):
        self.nodeid, self.path = f"{kind}[{number}]", kind

    def get_closest_marker(self, name):
        return self.path == name


@pytest.fixture
def kept(request):
    """Returns a function of a tenth's number, which returns the names of the tests that are kept."""
    (conftest,) = (
        each
        for each in request.config.pluginmanager.get_plugins()
        if getattr(each, "__file__", None) == str(pathlib.Path(__file__).parent / "conftest.py")
    )
    every = [Item(kind, number) for kind in ("slow", "quick") for number in range(200)]

    def keep(number):
        items, left_out = every.copy(), []
        hook = types.SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
        conftest.pytest_collection_modifyitems(types.SimpleNamespace(getoption=lambda _: number, hook=hook), items)
        assert len(items) + len(left_out) == len(every)
        return {item.nodeid for item in items}

    return keep


def test_ten_days_run_each_slow_test_once_and_each_day_all_quick_ones(kept):
    every, quick = kept(None), {f"quick[{number}]" for number in range(200)}
    days = [kept(20_000 + day) for day in range(10)]
    assert all(quick < day for day in days)
    slow = [name for day in days for name in day - quick]
    assert sorted(slow) == sorted(every - quick)
    assert max(len(day) for day in days) - len(quick) < 40
    assert kept(20_010) == days[0]
