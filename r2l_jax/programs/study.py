"""Repeats the study of Oala et al. (TMLR 2023) on a data set, and compares its results with the published ones.

python scripts/study.py --flagfile=configs/study_small.flags
python scripts/study.py --dataset=Microscopy --data_dir=data --epochs=60 --output=runs/microscopy --dry_run
python scripts/study.py --dataset=Microscopy --data_dir=data --epochs=60 --output=runs/microscopy --scheduler=local:2

Writes the results of each control and study.html to the output folder, in which each trained run has an ordinary run
folder. The default training settings are the published ones, whose learning rate suits pretrained weights; without
pretrained weights, give --lr=1e-3, for example. Repeat the command to resume. The exit status is 1 if any job failed.
"""

from r2l_jax.apps.study.config import StudyConfig


def main(config: StudyConfig) -> int:
    """Runs the study that the flags ask for, and returns the exit status."""
    from r2l_jax.apps.study import plan, study

    if config.choice.dry_run:
        print("\n".join(job.name for job in plan.make_jobs(config)))
        return 0
    has_succeeded = study.run(config)
    print(f"results in {config.output_dir}; study.html shows them")
    return 0 if has_succeeded else 1
