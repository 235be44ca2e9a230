"""A machine's network devices and GPUs, as the system's files describe them."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
import re
import shutil
import subprocess

__all__ = [
    "Ethernet",
    "Gid",
    "GpuTopology",
    "Machine",
    "RdmaPort",
    "default_interface",
    "detect",
    "parse_topology",
]

_TOPOLOGY_FILE = "nvidia-smi-topo.txt"
_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class Ethernet:
    """A network interface.

    Attributes:
        name: such as eth0.
        is_up: its operstate is up, or unknown as of some virtual ones.
        megabits: its speed; None where the driver does not say.
        is_device: it is hardware, a paravirtual card or a bond of such, and not a bridge or a pair
            of a container's.
    """

    name: str
    is_up: bool
    megabits: int | None
    is_device: bool


@dataclasses.dataclass(frozen=True)
class Gid:
    """One address of an RDMA port.

    Attributes:
        index: in the port's table.
        kind: such as "RoCE v2".
        address: as IPv6.
        interface: the network interface that it belongs to; "" where none is told.
    """

    index: int
    kind: str
    address: ipaddress.IPv6Address
    interface: str


@dataclasses.dataclass(frozen=True)
class RdmaPort:
    """A port of an InfiniBand or RoCE device.

    Attributes:
        device, port: such as mlx5_0 and 1.
        link_layer: "InfiniBand" or "Ethernet", which is RoCE.
        is_active: its link is up.
        gigabits: its rate.
        gids: its addresses, without those that are 0.
    """

    device: str
    port: int
    link_layer: str
    is_active: bool
    gigabits: float
    gids: tuple[Gid, ...] = ()

    @property
    def name(self) -> str:
        """As NCCL and UCX write it."""
        return f"{self.device}:{self.port}"


@dataclasses.dataclass(frozen=True)
class GpuTopology:
    """How GPUs and NICs are connected, by `nvidia-smi topo -m`.

    Attributes:
        num_gpus: how many there are.
        between_gpus: the kinds of path between two of them: "NV18", "PIX", "PXB", "PHB", "NODE",
            "SYS".
        nearest_nics: of each GPU, the kind of path to the nearest NIC; empty without NICs.
    """

    num_gpus: int
    between_gpus: tuple[str, ...]
    nearest_nics: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a machine has.

    Attributes:
        interfaces: all but the loopback.
        default_interface: that of the default route.
        ports: of RDMA devices.
        gpus: None without NVIDIA's.
        has_peer_memory: NICs may read GPUs' memory (the kernel's module nvidia_peermem).
    """

    interfaces: tuple[Ethernet, ...]
    default_interface: str | None
    ports: tuple[RdmaPort, ...]
    gpus: GpuTopology | None
    has_peer_memory: bool


def detect(root: str = "/") -> Machine:
    """Reads what a machine has.

    Args:
        root: the folder that is the machine's `/`. In another than `/`, the output of `nvidia-smi
            topo -m` is the file nvidia-smi-topo.txt.
    """
    top = pathlib.Path(root)
    text = _topology_text(root)
    return Machine(
        interfaces=tuple(
            _ethernet(path)
            for path in _entries(top / "sys/class/net")
            if path.name != "lo" and _text(path / "operstate")
        ),
        default_interface=default_interface(root),
        ports=tuple(
            _rdma_port(device.name, port)
            for device in _entries(top / "sys/class/infiniband")
            for port in _entries(device / "ports")
        ),
        gpus=None if text is None else parse_topology(text),
        has_peer_memory=any(
            (top / "sys/module" / name).exists() for name in ("nvidia_peermem", "nv_peer_mem")
        ),
    )


def default_interface(root: str = "/") -> str | None:
    """The interface of the default route, the one of the smallest metric; None without a route."""
    found = []
    for line in _text(pathlib.Path(root) / "proc/net/route").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == words[7] == "00000000":
            found.append((int(words[6]), words[0]))
    return min(found)[1] if found else None


def parse_topology(text: str) -> GpuTopology | None:
    """The matrix that `nvidia-smi topo -m` prints; None where it names no GPU.

    Args:
        text: rows and columns of GPUs and NICs, with colours or without.
    """
    lines = [line.split() for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()]
    header = next((words for words in lines if words[:1] == ["GPU0"]), [])
    columns = [word for word in header if re.fullmatch(r"(GPU|NIC|mlx)\w*", word)]
    rows = {
        words[0]: words[1 : 1 + len(columns)] for words in lines if words and words[0] != "GPU0"
    }
    # The first row has the same first word as the header.
    first = [words for words in lines if words[:2] == ["GPU0", "X"]]
    rows |= {"GPU0": first[0][1 : 1 + len(columns)]} if first else {}
    gpus = [name for name in columns if name.startswith("GPU") and name in rows]
    if not gpus:
        return None
    between, nearest = [], []
    for one in gpus:
        paths = dict(zip(columns, rows[one]))
        between += [paths[other] for other in gpus if other > one and other in paths]
        to_nics = [paths[name] for name in columns if not name.startswith("GPU") and name in paths]
        if to_nics:
            nearest.append(min(to_nics, key=_distance))
    return GpuTopology(len(gpus), tuple(between), tuple(nearest))


def _distance(path: str) -> int:
    order = ("PIX", "PXB", "PHB", "NODE", "SYS")
    return order.index(path) if path in order else len(order)


def _topology_text(root: str) -> str | None:
    if root != "/":
        return _text(pathlib.Path(root) / _TOPOLOGY_FILE) or None
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "topo", "-m"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _ethernet(path: pathlib.Path) -> Ethernet:
    speed = _text(path / "speed")
    megabits = int(speed) if speed.isdigit() and int(speed) else None
    state = _text(path / "operstate")
    return Ethernet(
        path.name,
        is_up=state in ("up", "unknown"),
        megabits=megabits,
        is_device=(path / "device").exists() or (path / "bonding").exists(),
    )


def _rdma_port(device: str, path: pathlib.Path) -> RdmaPort:
    rate = re.match(r"[\d.]+", _text(path / "rate"))
    gids = []
    for entry in _entries(path / "gids"):
        address = ipaddress.IPv6Address(_text(entry) or "::")
        if int(address) == 0 or address == ipaddress.IPv6Address("fe80::"):
            continue
        attributes = path / "gid_attrs"
        gids.append(
            Gid(
                int(entry.name),
                _text(attributes / "types" / entry.name),
                address,
                _text(attributes / "ndevs" / entry.name),
            )
        )
    return RdmaPort(
        device,
        int(path.name),
        _text(path / "link_layer"),
        is_active=_text(path / "state").startswith("4"),
        gigabits=float(rate[0]) if rate else 0.0,
        gids=tuple(sorted(gids, key=lambda gid: gid.index)),
    )


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # the speed of an interface that is down cannot be read
