"""The options of `gmeta-tf launch` and `doctor`: of where ranks run."""

from __future__ import annotations

import dataclasses

from gmeta_tf.cli.option_fields import ABOVE_0, AT_LEAST_0, AT_LEAST_1, PORT, Options, number

__all__ = ["DoctorOptions", "LaunchOptions"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchOptions(Options):
    """Starts ranks on one host or many: `gmeta-tf launch -np 4 -- gmeta-tf train ...`.

    What is behind -- runs once for each rank, on hosts that all have this environment and this
    folder. Without hosts they are those that SLURM, a Kubernetes MPIJob or PBS allotted, or else
    this one. Exit status: 0 where every rank succeeded, 75 where the ranks were preempted (start it
    again with `--resume`), 130 after Ctrl-C, and otherwise that of the rank that failed first.

    Attributes:
        np: the number of ranks; None is one for each slot of the hosts.
        hosts: such as host1:2,host2:2, with the ranks that each takes.
        hostfile: a file with a host a line, host1 slots=2.
        command: what each rank runs; better behind --.
        max_restarts: start again so often, with resume_with, when a rank or a host is lost or
            hangs; a rank that failed with an error of its own is not tried again.
        min_np: the fewest ranks to start again with; hosts that do not answer are left out.
        step_timeout: seconds without a step after which the ranks hang; it must be longer than a
            checkpoint takes. None is without limit.
        start_timeout: the same before the first step.
        resume_with: what a restarted command gets, if training had begun.
        grace_seconds: from SIGTERM to the end of ranks that have not ended; they save a checkpoint
            in it. After SIGUSR1 they take as long as they need.
        check: look at the hosts first, and do not start with one that would fail.
        only_check: look at the hosts and start nothing.
        network: set what suits the network, unless it is set already; `gmeta-tf doctor` shows it.
        interface: the network interface of the ranks; None is that of the default route, where all
            hosts call it the same, or one that horovodrun finds.
        bind_cores: give each rank cores of its own.
        ssh_port: of ssh on the other hosts.
        ssh_identity: the file of ssh's key.
        port: the port at which the ranks find the launcher; 0 takes any that is free.
        mpi: start the ranks by mpirun, where Horovod was built with MPI.
    """

    np: int | None = dataclasses.field(
        default=None, metadata={"range": AT_LEAST_1, "short": ("-np",)}
    )
    hosts: str | None = dataclasses.field(default=None, metadata={"short": ("-H",)})
    hostfile: str | None = None
    command: list[str] | None = None
    max_restarts: int = number(0, of=AT_LEAST_0)
    min_np: int = number(1, of=AT_LEAST_1)
    step_timeout: float | None = number(None, of=ABOVE_0)
    start_timeout: float = number(1800.0, of=ABOVE_0)
    resume_with: str = "--resume"
    grace_seconds: float = number(8.0, of=ABOVE_0)
    check: bool = True
    only_check: bool = False
    network: bool = True
    interface: str | None = None
    bind_cores: bool = False
    ssh_port: int | None = number(None, of=PORT)
    ssh_identity: str | None = None
    port: int = number(0, of=PORT)
    mpi: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.command and not self.only_check:
            raise ValueError(
                "launch: expected what each rank runs behind --, got nothing. Write such as "
                "gmeta-tf launch -np 2 -- gmeta-tf train --records records --run run"
            )
        if self.np is not None and self.min_np > self.np:
            raise ValueError(
                f"launch: expected --min-np of at most -np {self.np}, got {self.min_np}. Lower it."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions(Options):
    """Looks at this machine as training would use it, and says what to do about what it finds.

    Exit status: 1 if something would fail, 0 otherwise.

    Attributes:
        links: measure AlltoAll and AllReduce between the ranks, too: gmeta-tf launch -np 2 --
            gmeta-tf doctor --links
        folder: where a run would write: its free disk is looked at.
        json: print one JSON line and nothing else.
    """

    links: bool = False
    folder: str = "."
    json: bool = False
