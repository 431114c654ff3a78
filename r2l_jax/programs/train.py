"""Trains a raw-to-logit model: raw mosaics through a (learnable) image signal processor and a task's network.

python scripts/train.py --flagfile=configs/quickstart.flags
python scripts/train.py --flagfile=configs/quickstart.flags --run_name=group --seeds=6

Repeat the command to resume. With --seeds, the runs are trained one after the other, or as jobs of a --scheduler.
"""

import functools

from r2l_jax.config import TrainingProgram
from r2l_jax.runtime import flags, jobs


def main(config: TrainingProgram) -> None:
    """Trains as the flags say."""
    from r2l_jax.drift.forensics import attack
    from r2l_jax.drift.search import measure
    from r2l_jax.runtime.hosts import is_first
    from r2l_jax.training import group, train

    jobs.prepare(config.group.scheduler)
    rule = attack.rule_of(config.training)
    if config.group.seeds:
        group.run(config.training, config.group, rule)
    else:
        train.run(config.training, rule)
    keeps = config.training.tracking.log_model
    if keeps and (line := measure.tested(str(config.training.run_dir))) and is_first():
        print(line)


run = functools.partial(flags.run, main, TrainingProgram, several_hosts=True)
