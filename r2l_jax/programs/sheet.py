"""Draws one sample side by side: under pipelines, sensor drifts or corruptions.

python scripts/sheet.py --sheet=pipelines --output=pipelines.png
python scripts/sheet.py --sheet=corruptions --output=corruptions.png --severities=1,3,5
"""

import functools

from r2l_jax.drift.synthesis.config import SheetConfig
from r2l_jax.runtime import flags


def main(config: SheetConfig) -> None:
    """Draws the sheet that the flags name."""
    from r2l_jax.drift.synthesis import sheets

    sheets.run(config)


run = functools.partial(flags.run, main, SheetConfig)
