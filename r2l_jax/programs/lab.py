"""Serves a web page on which raw files are processed live, with a trained model's predictions for them.

python scripts/lab.py
python scripts/lab.py --run=runs/quickstart/small
python scripts/lab.py --input=more_raw_files --camera=drone --port=9000

Open the printed address in a browser, drop a raw file or pick a sample, choose a pipeline, and move its sliders. With a
run, the page also shows the probabilities of the classes, the direction of each slider in which the loss rises, and the
intervals that the model tolerates, as measured by forensics.py. The page needs NiceGUI: pip install 'r2l_jax[lab]'.
"""

import functools

from r2l_jax.apps.lab.config import LabConfig
from r2l_jax.runtime import flags


def main(config: LabConfig) -> None:
    """Serves the page until the program is interrupted."""
    from r2l_jax.apps.lab import start

    start.run(config)


run = functools.partial(flags.run, main, LabConfig, any_thread=True)
