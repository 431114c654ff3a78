"""Trains a raw-to-logit model: raw mosaics through a (learnable) image signal processor and a task's network.

python scripts/train.py --flagfile=configs/quickstart.flags
"""

import functools

from r2l_jax.config import TrainConfig
from r2l_jax.runtime import flags


def main(config: TrainConfig) -> None:
    """Trains as the flags say."""
    from r2l_jax.drift.forensics import attack
    from r2l_jax.training import train

    train.run(config, attack.rule_of(config))


run = functools.partial(flags.run, main, TrainConfig)
