"""A machine's devices → the variables of NCCL, UCX and Horovod that suit them, each with why."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from gmeta_tf.launching.devices import Ethernet, Gid, Machine, RdmaPort

__all__ = ["Choice", "choose", "link_bytes_per_second", "used_ports"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A variable of the environment.

    Attributes:
        name: of the variable.
        value: None leaves it unset.
        why: one sentence.
    """

    name: str
    value: str | None
    why: str


def choose(
    machine: Machine, *, num_hosts: int = 2, local_ranks: int = 1, mpi: bool
) -> list[Choice]:
    """The variables for ranks on hosts like this one.

    Args:
        machine: what it has.
        num_hosts: with one, nothing crosses a network.
        local_ranks: the ranks of a host.
        mpi: Horovod has MPI.

    Returns:
        A choice for each variable, also for those that stay unset.
    """
    ports = used_ports(machine.ports) if num_hosts > 1 else []
    interface = _interface(machine)
    return [
        *_rdma_choices(machine, ports, num_hosts),
        _gpu_direct(machine, ports),
        _peer_to_peer(machine),
        *_interface_choices(machine, interface, ports, num_hosts),
        _hierarchical(machine, num_hosts, local_ranks, mpi),
    ]


def used_ports(ports: Sequence[RdmaPort]) -> list[RdmaPort]:
    """The ports that carry the ranks' messages: the active ones of the faster kind of link.

    A port that is slower than another of its kind, such as one for storage or for logging in, is
    left out: messages are cut into even parts, and the slowest part would be waited for.
    """
    by_layer = collections.defaultdict(list)
    for port in ports:
        if port.is_active:
            by_layer[port.link_layer].append(port)
    if not by_layer:
        return []
    # InfiniBand first where both give the same.
    layer = max(by_layer, key=lambda one: (_gigabits(by_layer[one]), one == "InfiniBand"))
    fastest = max(port.gigabits for port in by_layer[layer])
    return [port for port in by_layer[layer] if port.gigabits == fastest]


def link_bytes_per_second(machine: Machine) -> float | None:
    """What the devices that are used should give to other hosts; None where nothing tells it."""
    ports = used_ports(machine.ports)
    if machine.gpus is not None and ports:
        return _gigabits(ports) * 1e9 / 8
    interface = _interface(machine)
    if interface is None or interface.megabits is None:
        return None
    return interface.megabits * 1e6 / 8


def _rdma_choices(machine: Machine, ports: list[RdmaPort], num_hosts: int) -> list[Choice]:
    hca, gid = "NCCL_IB_HCA", "NCCL_IB_GID_INDEX"
    if not ports:
        there = "all ranks are on one host"
        if num_hosts > 1:
            down = ", ".join(port.name for port in machine.ports)
            there = f"no port is active of {down}" if down else "no InfiniBand or RoCE device"
        return [Choice(hca, None, there), Choice(gid, None, there)]
    names = ",".join(port.name for port in ports)
    out = [port.name for port in machine.ports if port not in ports]
    kind = "InfiniBand" if ports[0].link_layer == "InfiniBand" else "RoCE"
    why = f"{len(ports)} {kind} port(s) of {ports[0].gigabits:g} Gbit/s"
    if out:
        why += f"; left out, since down, slower or of another kind: {', '.join(out)}"
    # "=": these alone, and not every device whose name begins like that.
    chosen = Choice(hca, f"={names}", why)
    if kind == "InfiniBand":
        return [chosen, Choice(gid, None, "InfiniBand is addressed without it")]
    return [chosen, _gid_index(ports)]


def _gid_index(ports: list[RdmaPort]) -> Choice:
    """One index for all devices: NCCL takes no more."""
    name = "NCCL_IB_GID_INDEX"
    best = {port.name: _best_gid(port) for port in ports}
    indices = [gid.index for gid in best.values() if gid is not None]
    if not indices:
        return Choice(
            name, None, "no port has an address of RoCE v2: give its interface an IPv4 address"
        )
    index, count = collections.Counter(indices).most_common(1)[0]
    one = next(gid for gid in best.values() if gid is not None and gid.index == index)
    kind = "IPv4" if one.address.ipv4_mapped else "IPv6"
    why = f"RoCE v2 with an {kind} address, {one.address.ipv4_mapped or one.address}"
    others = [
        f"{port} at {'none' if gid is None else gid.index}"
        for port, gid in best.items()
        if gid is None or gid.index != index
    ]
    if others:
        why += (
            f"; {count} of {len(ports)} ports have it there and not {', '.join(others)}: number "
            "their interfaces alike"
        )
    return Choice(name, str(index), why)


def _best_gid(port: RdmaPort) -> Gid | None:
    """RoCE v2 goes through routers, and an IPv4 address is what its network is set up for."""
    routable = [gid for gid in port.gids if gid.kind == "RoCE v2"]
    mapped = [gid for gid in routable if gid.address.ipv4_mapped is not None]
    known = [gid for gid in routable if not gid.address.is_link_local]
    return next(iter([*mapped, *known]), None)


def _gpu_direct(machine: Machine, ports: list[RdmaPort]) -> Choice:
    name = "NCCL_NET_GDR_LEVEL"
    if machine.gpus is None or not ports:
        return Choice(name, None, "no GPU with an RDMA device in use")
    if not machine.has_peer_memory:
        return Choice(
            name,
            None,
            "the module nvidia_peermem is not loaded (modprobe nvidia_peermem), so NCCL decides",
        )
    paths = machine.gpus.nearest_nics
    for level in ("PIX", "PXB", "PHB"):
        if paths and all(_is_within(path, level) for path in paths):
            return Choice(name, level, f"each GPU reaches its nearest NIC by {level} or nearer")
    told = "/".join(sorted(set(paths))) or "no path"
    return Choice(name, None, f"GPUs reach their nearest NICs by {told}: NCCL decides")


def _peer_to_peer(machine: Machine) -> Choice:
    name = "NCCL_P2P_LEVEL"
    if machine.gpus is None or machine.gpus.num_gpus < 2:
        return Choice(name, None, "fewer than two GPUs")
    paths = machine.gpus.between_gpus
    if all(path.startswith("NV") for path in paths):
        return Choice(name, "NVL", f"all {machine.gpus.num_gpus} GPUs are joined by NVLink")
    for level in ("PIX", "PXB"):
        if all(path.startswith("NV") or _is_within(path, level) for path in paths):
            return Choice(name, level, f"GPUs reach each other by {level} or nearer")
    told = "/".join(sorted(set(paths)))
    return Choice(name, None, f"GPUs reach each other by {told}: NCCL decides")


def _is_within(path: str, level: str) -> bool:
    order = ("PIX", "PXB", "PHB")
    return path in order[: order.index(level) + 1]


def _interface_choices(
    machine: Machine, interface: Ethernet | None, ports: list[RdmaPort], num_hosts: int
) -> list[Choice]:
    names = ("NCCL_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE")
    devices = ",".join(port.name for port in ports)
    ucx = Choice("UCX_NET_DEVICES", devices, "the same ports, for MPI") if ports else None
    if num_hosts == 1 or interface is None:
        why = "all ranks are on one host" if num_hosts == 1 else "no interface is up"
        none = [Choice(name, None, why) for name in names]
        return [*none, ucx or Choice("UCX_NET_DEVICES", None, why)]
    speed = "unknown speed" if interface.megabits is None else f"{interface.megabits} Mbit/s"
    why = f"the default route's, {speed}"
    if interface.name != machine.default_interface:
        why = f"the fastest that is up, {speed}; there is no default route over a device"
    chosen = [Choice(name, interface.name, why) for name in names]
    return [*chosen, ucx or Choice("UCX_NET_DEVICES", interface.name, f"for MPI: {why}")]


def _interface(machine: Machine) -> Ethernet | None:
    """The default route's, since hosts reach each other by it; else the fastest that is up."""
    there = [one for one in machine.interfaces if one.is_up]
    for one in there:
        if one.name == machine.default_interface:
            return one
    real = [one for one in there if one.is_device]
    # In a container what leads outside is no device.
    return max(real or there, key=lambda one: one.megabits or 0, default=None)


def _hierarchical(machine: Machine, num_hosts: int, local_ranks: int, mpi: bool) -> Choice:
    name = "HOROVOD_HIERARCHICAL_ALLREDUCE"
    if num_hosts == 1 or local_ranks == 1:
        return Choice(name, None, "one host, or one rank a host: there are no two levels")
    if machine.gpus is None:
        return Choice(name, None, "Horovod has it for NCCL alone, and there is no GPU")
    if not mpi:
        return Choice(name, None, "Horovod has it for NCCL with MPI between hosts, and has no MPI")
    return Choice(name, "1", "GPUs of a host are nearer to each other than the network is")


def _gigabits(ports: Sequence[RdmaPort]) -> float:
    return sum(port.gigabits for port in ports)
