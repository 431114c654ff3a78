"""The option `--slow_tenth` of tests/conftest.py, by which `.ci/run` runs all slow tests within ten days."""

import pathlib
import unittest.mock


def test_ten_days_run_each_slow_test_once_and_each_day_all_quick_ones(request):
    conftest = request.config.pluginmanager.get_plugin(str(pathlib.Path(__file__).with_name("conftest.py")))
    slow, quick = (
        {unittest.mock.Mock(path=kind, nodeid=f"{kind}[{i}]", get_closest_marker=kind.__eq__) for i in range(200)}
        for kind in ("slow", "quick")
    )
    days = []
    for day in range(10):
        config, items = unittest.mock.Mock(**{"getoption.return_value": 20_000 + day}), [*quick, *slow]
        conftest.pytest_collection_modifyitems(config, items)
        assert quick <= set(items)
        days.append(set(items) - quick)
    assert sum(map(len, days)) == len(set().union(*days)) == len(slow)
    assert max(map(len, days)) < 40
