"""Where ranks may run: from a list, a hostfile, or what a scheduler says."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence

from gmeta_tf.number_texts import whole_number

__all__ = ["Host", "allocate", "find_hosts", "hosts_text", "is_local", "parse_hostfile"]

_LIST_REMEDY = "Write such as host1:2,host2:2."
_MPIJOB_HOSTFILE = "etc/mpi/hostfile"


@dataclasses.dataclass(frozen=True)
class Host:
    """A host, and how many ranks it takes.

    Attributes:
        name: as ssh knows it.
        slots: of at least 1.
    """

    name: str
    slots: int


def find_hosts(
    environment: Mapping[str, str],
    *,
    given: str | None = None,
    hostfile: str | None = None,
    num_ranks: int | None = None,
    root: str = "/",
) -> tuple[list[Host], str]:
    """The hosts, and where they were found.

    What is given comes first; then the allocation of SLURM, the hostfile of a Kubernetes MPIJob,
    and PBS's. Without any of them all ranks run here.

    Args:
        environment: the variables of the process.
        given: `host1:2,host2:2`.
        hostfile: the path of a file with a host a line, `host1 slots=2` or `host1:2`.
        num_ranks: W, for this host alone; None where the slots say it.
        root: the folder that is the machine's `/`.

    Raises:
        ValueError: both a list and a hostfile, what they say cannot be read, or nothing tells the
            number of ranks.
        FileNotFoundError: no such hostfile.

    Example:
        >>> find_hosts({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "4(x2)"})
        ([Host(name='n1', slots=4), Host(name='n2', slots=4)], 'SLURM_JOB_NODELIST')
    """
    if given is not None and hostfile is not None:
        raise ValueError(
            f"launch: expected --hosts or --hostfile, got both, {given} and {hostfile}. Leave one "
            "out."
        )
    if given is not None:
        return _from_list(given), "--hosts"
    if hostfile is not None:
        return parse_hostfile(_text(hostfile), hostfile), f"--hostfile {hostfile}"
    if "SLURM_JOB_NODELIST" in environment:
        return _of_slurm(environment), "SLURM_JOB_NODELIST"
    if path := environment.get("OMPI_MCA_orte_default_hostfile"):
        return parse_hostfile(_text(path), path), f"OMPI_MCA_orte_default_hostfile ({path})"
    mpijob = pathlib.Path(root) / _MPIJOB_HOSTFILE
    if mpijob.is_file():
        return parse_hostfile(mpijob.read_text(encoding="utf-8"), str(mpijob)), str(mpijob)
    if path := environment.get("PBS_NODEFILE"):
        return parse_hostfile(_text(path), path), f"PBS_NODEFILE ({path})"
    if num_ranks is None:
        raise ValueError(
            "launch: expected -np, the number of ranks, since no hosts are given and no scheduler "
            "names any. Give such as -np 2."
        )
    return [Host("localhost", num_ranks)], "this host"


def allocate(hosts: Sequence[Host], num_ranks: int) -> list[Host]:
    """The first hosts that have room for so many ranks, the last with those that are left.

    Raises:
        ValueError: they have fewer slots in all.

    Example:
        >>> allocate([Host("a", 4), Host("b", 4), Host("c", 4)], 6)
        [Host(name='a', slots=4), Host(name='b', slots=2)]
    """
    there = sum(host.slots for host in hosts)
    if num_ranks > there:
        raise ValueError(
            f"launch: expected slots for -np {num_ranks} ranks, got {there} on "
            f"{hosts_text(hosts)}. Give fewer ranks or more hosts."
        )
    taken: list[Host] = []
    for host in hosts:
        slots = min(host.slots, num_ranks - sum(one.slots for one in taken))
        if slots:
            taken.append(Host(host.name, slots))
    return taken


def hosts_text(hosts: Sequence[Host]) -> str:
    """As `horovodrun -H` takes them."""
    return ",".join(f"{host.name}:{host.slots}" for host in hosts)


def parse_hostfile(text: str, path: str) -> list[Host]:
    """The hosts of a hostfile; one that is named on several lines has the slots of all.

    Args:
        text: `host1`, `host1 slots=2` or `host1:2` a line; `#` begins a comment.
        path: for the error.

    Raises:
        ValueError: a line that is none of these, or none at all.
    """
    slots: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        match = re.fullmatch(r"([^\s:=]+)(?::(\d+))?", words[0])
        options = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        count = options.get("slots") or (match and match[2]) or "1"
        if match is None or not count.isdigit() or int(count) < 1:
            raise ValueError(
                f"{path}, line {number}: expected a host, host slots=2 or host:2, got "
                f"{line.strip()!r}. Correct the line."
            )
        slots[match[1]] = slots.get(match[1], 0) + int(count)
    if not slots:
        raise ValueError(f"{path} names no host: expected one a line, such as host1 slots=2.")
    return [Host(name, count) for name, count in slots.items()]


def is_local(name: str) -> bool:
    """Whether a host is this one: an address that it resolves to is one of this machine's."""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(name, None, socket.AF_INET)}
    except OSError:
        return False
    for address in addresses:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, 0))  # the system gives a port at its own addresses alone
            except OSError:
                continue
            return True
    return False


def _from_list(text: str) -> list[Host]:
    hosts: dict[str, int] = {}
    for part in text.split(","):
        name, _, count = part.strip().partition(":")
        try:
            slots = whole_number(count or "1")
        except ValueError:
            slots = 0
        if not name or slots < 1 or name in hosts:
            raise ValueError(
                f"launch: expected --hosts to name each host once with its slots, got {part!r} in "
                f"{text}. {_LIST_REMEDY}"
            )
        hosts[name] = slots
    return [Host(name, slots) for name, slots in hosts.items()]


def _text(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"launch: no hostfile {path}: expected a file with a host a line. Correct the path."
        ) from error


def _of_slurm(environment: Mapping[str, str]) -> list[Host]:
    nodes = environment["SLURM_JOB_NODELIST"]
    names = list(_slurm_names(nodes))
    tasks = environment.get("SLURM_TASKS_PER_NODE") or "1"
    counts: list[int] = []
    for part in tasks.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match:
            counts += [int(match[1])] * int(match[2] or 1)
    if not names or len(counts) != len(names):
        raise ValueError(
            "launch: expected SLURM_JOB_NODELIST and SLURM_TASKS_PER_NODE to tell each node's "
            f"tasks, got {nodes!r} and {tasks!r}. Start within sbatch or salloc, or give --hosts."
        )
    return [Host(name, count) for name, count in zip(names, counts)]


def _slurm_names(text: str) -> Iterator[str]:
    """The nodes of a list in SLURM's short form.

    >>> list(_slurm_names("n[01-03,7]-ib,login"))
    ['n01-ib', 'n02-ib', 'n03-ib', 'n7-ib', 'login']
    """
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        ranges = re.search(r"\[([^\]]*)\]", part)
        if ranges is None:
            yield part
            continue
        for one in ranges[1].split(","):
            first, _, last = one.partition("-")
            for number in range(int(first), int(last or first) + 1):
                middle = str(number).zfill(len(first))
                yield from _slurm_names(part[: ranges.start()] + middle + part[ranges.end() :])
