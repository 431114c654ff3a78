"""The option `--slow_tenth` of tests/conftest.py, by which `.ci/run` runs all slow tests within ten days."""

import pathlib
import types


class Item(types.SimpleNamespace):
    """The part of a collected test that the option looks at."""

    __hash__ = object.__hash__

    def get_closest_marker(self, name):
        return self.path == name


def test_ten_days_run_each_slow_test_once_and_each_day_all_quick_ones(request):
    conftest = request.config.pluginmanager.get_plugin(str(pathlib.Path(__file__).with_name("conftest.py")))
    slow, quick = ({Item(path=kind, nodeid=f"{kind}[{i}]") for i in range(200)} for kind in ("slow", "quick"))
    hook = types.SimpleNamespace(pytest_deselected=lambda items: None)

    def kept(number):
        items = [*quick, *slow]
        conftest.pytest_collection_modifyitems(types.SimpleNamespace(getoption=lambda _: number, hook=hook), items)
        return set(items)

    days = [kept(20_000 + day) - quick for day in range(10)]
    assert kept(None) == slow | quick
    assert quick < kept(20_000)
    # Each is run on one day.
    assert sum(map(len, days)) == len(set().union(*days)) == len(slow)
    assert max(map(len, days)) < 40
    assert kept(20_010) - quick == days[0]
