"""Monitors a camera: detects drift in new images without labels, diagnoses it, and estimates its cost.

python scripts/monitor.py --run=runs/quickstart/small
python scripts/monitor.py --run=runs/quickstart/small --input=more_raw_files --by=day
python scripts/monitor.py --run=runs/quickstart/small --input=more_raw_files --follow

The first command only stores the reference: samples that the run was measured on, and their statistics. From then on,
the data is not needed. New images are compared with the reference in windows. The program writes result.json, a figure
over the windows and TensorBoard events. The exit status is 2 on an alarm. Without drift, at most a fraction --level of
calls raise an alarm; with --follow, one in --false_alarm_every windows does. The members of a group of seeds predict
together, and their disagreement is a separate test.
"""

from r2l_jax.drift.monitoring.config import MonitorConfig

ALARM = 2


def main(config: MonitorConfig) -> int:
    """Monitors the images that the flags name, and returns the exit status."""
    from r2l_jax.apps import monitor

    return ALARM if monitor.run(config) else 0
