"""Repeats the study of Oala et al. (TMLR 2023) on a data set, and compares its results with the published ones.

python scripts/study.py --flagfile=configs/study_small.flags
python scripts/study.py --dataset=Microscopy --data_dir=data --epochs=60 --output=runs/microscopy --dry_run
python scripts/study.py --dataset=Microscopy --data_dir=data --epochs=60 --output=runs/microscopy --scheduler=local:2

Writes study.json, figures in the layout of the study, and study.html to the output folder. Every trained run there is
an ordinary run's folder. Repeat the command to resume. With --dry_run, the program only prints the jobs and an estimate
of their time. The exit status is 1 if any job has failed.
"""

import functools

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.runtime import flags


def main(config: StudyConfig) -> int:
    """Runs the study that the flags ask for, and returns the exit status."""
    from r2l_jax.apps.study import study

    if config.choice.dry_run:
        print(study.dry_run(config))
        return 0
    content = study.run(config)
    print("\n".join([*study.conclude(content), f"results in {config.output_dir}, to read in study.html"]))
    return 1 if content["failed"] else 0


run = functools.partial(flags.run, main, StudyConfig)
