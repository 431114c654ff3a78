import msgspec
import report_runs

from r2l_jax.apps.report.adjustment import _methods_table
from r2l_jax.drift import results


def test_rows_of_earlier_versions_are_left_out():
    content = report_runs.adapted([0.2], [0.7], (0.31, 0.49))
    names = ("exposure", "normalizer", "batch_norms", "statistics")
    content["drifts"]["iso=0.05"]["methods"] = {name: report_runs.estimate(0.1, 0.2) for name in names}
    table = _methods_table(msgspec.convert(content, results.Adaptation))
    assert table is not None
    assert [row[0].text for row in table.rows] == ["nothing", "all statistics", "mixed statistics"]
