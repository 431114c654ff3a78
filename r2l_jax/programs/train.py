"""Trains a raw-to-logit model: raw images through a (learnable) image signal processor and a task's network.

python scripts/train.py --flagfile=configs/quickstart.flags
python scripts/train.py --flagfile=configs/quickstart.flags --run_name=group --seeds=6

Repeat the command to resume. With --seeds, the runs are trained one after the other, or as jobs of a --scheduler.
"""

import dataclasses

from r2l_jax import jobs
from r2l_jax.cli.flags import POSITIVE, Settings, setting
from r2l_jax.config import GroupSettings, TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostSettings(Settings):
    """Several hosts."""

    multi_host: bool = setting(
        "join the processes that Slurm, Open MPI or Kubernetes has started for this run", False, rare=True
    )
    host_timeout: float = setting(
        "if a host has not answered for this many seconds, end the run on the other hosts as well",
        100.0,
        bound=POSITIVE,
        rare=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingProgram(Settings):
    """The flags of train.py."""

    training: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    group: GroupSettings = dataclasses.field(default_factory=GroupSettings)
    hosts: HostSettings = dataclasses.field(default_factory=HostSettings)


def main(config: TrainingProgram) -> None:
    """Trains the run or the group that the flags describe."""
    import jax

    from r2l_jax.devices.hosts import initialize
    from r2l_jax.drift import measure
    from r2l_jax.drift.forensics import attack
    from r2l_jax.results.files import write_json
    from r2l_jax.training import group, train
    from r2l_jax.training.model_io import TEST
    from r2l_jax.training.record import state_in_words

    initialize(config.hosts.host_timeout, config.hosts.multi_host)
    jobs.prepare(config.group.scheduler)
    rule = attack.rule_of(config.training)
    if config.group.seeds:
        group.run(config.training, config.group, rule)
    else:
        train.run(config.training, rule)
    # Test samples are measured on one host; after training on several, evaluate.py measures them.
    measures = config.training.tracking.log_model and jax.process_count() == 1
    if measures and (found := measure.tested(str(config.training.run_dir), config.training.code)):
        write_json(config.training.run_dir / TEST, found._asdict())
        print(measure.stated(found, state_in_words("best", config.training.optimization.epochs)))
