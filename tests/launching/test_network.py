"""Devices and what suits them, on the files of several kinds of machine; none of them was here.

The trees are written by hand after the kernel's documentation of sysfs and NCCL's of its variables.
"""

import pytest

from gmeta_tf.launching.devices import default_interface, detect, parse_topology
from gmeta_tf.launching.environment import rank_environment
from gmeta_tf.launching.network import choose, link_bytes_per_second, used_ports

ROUTE = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


class Tree:
    """A machine's files in a folder."""

    def __init__(self, root):
        self.root = root

    def write(self, path, text=""):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def interface(self, name, speed=None, state="up", device=True):
        self.write(f"sys/class/net/{name}/operstate", state)
        if speed is not None:
            self.write(f"sys/class/net/{name}/speed", speed)
        if device:
            self.write(f"sys/class/net/{name}/device/vendor", "0x15b3")

    def routes(self, *lines):
        self.write("proc/net/route", ROUTE + "\n".join(lines))

    def port(self, device, layer, rate, state="4: ACTIVE", gids=(), port=1):
        folder = f"sys/class/infiniband/{device}/ports/{port}"
        self.write(f"{folder}/link_layer", layer)
        self.write(f"{folder}/rate", rate)
        self.write(f"{folder}/state", state)
        for index, (kind, address, interface) in enumerate(gids):
            self.write(f"{folder}/gids/{index}", address)
            self.write(f"{folder}/gid_attrs/types/{index}", kind)
            self.write(f"{folder}/gid_attrs/ndevs/{index}", interface)


def route(interface, metric=0, destination="00000000", mask="00000000"):
    return f"{interface}\t{destination}\t0100A8C0\t0003\t0\t0\t{metric}\t{mask}\t0\t0\t0"


def roce(address, interface):
    """The usual table: link-local and IPv4, each for RoCE v1 and v2."""
    local = "fe80:0000:0000:0000:1e34:daff:fe00:0001"
    mapped = f"0000:0000:0000:0000:0000:ffff:{address}"
    kinds = ("IB/RoCE v1", "RoCE v2")
    gids = [(kind, one, interface) for one in (local, mapped) for kind in kinds]
    return [*gids, ("", "0000:0000:0000:0000:0000:0000:0000:0000", "")]


def matrix(gpus, nics, between, nearest):
    """What `nvidia-smi topo -m` prints."""
    names = [f"GPU{n}" for n in range(gpus)] + [f"NIC{n}" for n in range(nics)]
    lines = ["\t" + "\t".join(f"\x1b[4m{name}\x1b[0m" for name in names) + "\tCPU Affinity"]
    for row, one in enumerate(names):
        cells = []
        for column in range(len(names)):
            if row == column:
                cells.append(" X ")
            elif row < gpus and column < gpus:
                cells.append(between(row, column))
            else:
                gpu, nic = min(row, column), max(row, column) - gpus
                cells.append(nearest(gpu, nic) if gpu < gpus else "SYS")
        lines.append("\t".join([one, *cells, "0-31"]))
    legend = ["", "Legend:", "  X    = Self", "NIC Legend:", "  NIC0: mlx5_0"]
    return "\n".join([*lines, *legend])


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def laptop(tree):
    tree.interface("lo", device=False)
    tree.interface("wlan0", state="up")
    tree.interface("eth0", speed="-1", state="down")
    tree.interface("docker0", state="up", device=False)
    tree.interface("veth12", speed="10000", device=False)
    tree.routes(route("docker0", destination="000011AC", mask="0000FFFF"), route("wlan0", 600))
    return tree


@pytest.fixture
def roce_a100(tree):
    """8 A100 over NVSwitch; 4 RoCE ports of 200 Gbit/s and one of 25 for storage."""
    tree.interface("eno1", speed="25000")
    tree.routes(route("eno1"), route("eno1", destination="0000000A", mask="000000FF"))
    for n in range(4):
        tree.port(
            f"mlx5_{n}", "Ethernet", "200 Gb/sec (4X HDR)", gids=roce(f"0a00:0{n}01", f"r{n}")
        )
        tree.interface(f"r{n}", speed="200000")
    tree.port("mlx5_4", "Ethernet", "25 Gb/sec (1X EDR)", gids=roce("0a01:0001", "eno1"))
    tree.port("mlx5_5", "Ethernet", "200 Gb/sec (4X HDR)", state="1: DOWN")
    tree.write("sys/module/nvidia_peermem/refcnt", "0")
    nearest = lambda gpu, nic: "PXB" if gpu // 2 == nic else "SYS"  # noqa: E731
    tree.write("nvidia-smi-topo.txt", matrix(8, 4, lambda *_: "NV12", nearest))
    return tree


@pytest.fixture
def infiniband(tree):
    """HDR InfiniBand with an Ethernet port on the same kind of card; GPUs by PCIe alone."""
    tree.interface("ens1", speed="10000")
    tree.interface("ib0", speed="200000")
    tree.routes(route("ens1", 100), route("ib0", 300))
    for n in range(2):
        gids = [("IB/RoCE v1", "fe80:0000:0000:0000:0002:c903:0000:0001", "")]
        tree.port(f"mlx5_{n}", "InfiniBand", "200 Gb/sec (4X HDR)", gids=gids)
    tree.port("mlx5_2", "Ethernet", "100 Gb/sec (4X EDR)", gids=roce("0a00:0001", "ens2"))
    tree.write("nvidia-smi-topo.txt", matrix(4, 2, lambda a, b: "NODE", lambda gpu, nic: "PHB"))
    return tree


@pytest.fixture
def bonds(tree):
    """Two bonds whose addresses lie at other places of the table."""
    tree.interface("bond0", speed="50000", device=False)
    tree.write("sys/class/net/bond0/bonding/mode", "802.3ad 4")
    tree.interface("bond1", speed="50000", device=False)
    tree.write("sys/class/net/bond1/bonding/mode", "802.3ad 4")
    tree.port("mlx5_bond_0", "Ethernet", "50 Gb/sec (2X HDR)", gids=roce("0a00:0001", "bond0"))
    late = [roce("0a00:0002", "bond1")[0], *roce("0a00:0002", "bond1")]
    tree.port("mlx5_bond_1", "Ethernet", "50 Gb/sec (2X HDR)", gids=late)
    return tree


def chosen(tree, **options):
    options = {"num_hosts": 2, "local_ranks": 4, "mpi": True} | options
    choices = choose(detect(str(tree.root)), **options)
    return {choice.name: choice.value for choice in choices if choice.value is not None}, {
        choice.name: choice.why for choice in choices
    }


def test_a_laptop_has_its_default_route(laptop):
    values, why = chosen(laptop)
    assert values == {
        "NCCL_SOCKET_IFNAME": "wlan0",
        "HOROVOD_GLOO_IFACE": "wlan0",
        "UCX_NET_DEVICES": "wlan0",
    }
    assert why["NCCL_IB_HCA"] == "no InfiniBand or RoCE device"
    machine = detect(str(laptop.root))
    assert [one.name for one in machine.interfaces] == ["docker0", "eth0", "veth12", "wlan0"]
    assert link_bytes_per_second(machine) is None


def test_without_a_default_route_it_is_the_fastest_device_that_is_up(laptop):
    laptop.routes()
    laptop.interface("eth1", speed="1000")
    values, why = chosen(laptop)
    assert values["HOROVOD_GLOO_IFACE"] == "eth1"
    assert "the fastest that is up, 1000 Mbit/s" in why["HOROVOD_GLOO_IFACE"]
    assert link_bytes_per_second(detect(str(laptop.root))) == 125e6


def test_in_a_container_without_a_route_it_is_what_there_is(tree):
    tree.interface("eth0", speed="10000", device=False)
    assert chosen(tree)[0]["HOROVOD_GLOO_IFACE"] == "eth0"


def test_roce_uses_its_fast_ports_by_ipv4(roce_a100):
    values, why = chosen(roce_a100)
    assert values == {
        "NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1",
        "NCCL_IB_GID_INDEX": "3",
        "NCCL_NET_GDR_LEVEL": "PXB",
        "NCCL_P2P_LEVEL": "NVL",
        "NCCL_SOCKET_IFNAME": "eno1",
        "HOROVOD_GLOO_IFACE": "eno1",
        "UCX_NET_DEVICES": "mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1",
        "HOROVOD_HIERARCHICAL_ALLREDUCE": "1",
    }
    assert why["NCCL_IB_HCA"] == (
        "4 RoCE port(s) of 200 Gbit/s; left out, since down, slower or of another kind: mlx5_4:1, "
        "mlx5_5:1"
    )
    assert why["NCCL_IB_GID_INDEX"] == "RoCE v2 with an IPv4 address, 10.0.0.1"
    assert link_bytes_per_second(detect(str(roce_a100.root))) == 4 * 25e9


def test_gpus_memory_is_not_promised_without_the_module(roce_a100):
    (roce_a100.root / "sys/module/nvidia_peermem/refcnt").unlink()
    (roce_a100.root / "sys/module/nvidia_peermem").rmdir()
    values, why = chosen(roce_a100, mpi=False)
    assert "NCCL_NET_GDR_LEVEL" not in values
    assert "modprobe nvidia_peermem" in why["NCCL_NET_GDR_LEVEL"]
    assert "has no MPI" in why["HOROVOD_HIERARCHICAL_ALLREDUCE"]


def test_infiniband_before_ethernet(infiniband):
    values, why = chosen(infiniband)
    assert values["NCCL_IB_HCA"] == "=mlx5_0:1,mlx5_1:1"
    assert "NCCL_IB_GID_INDEX" not in values
    assert "NCCL_P2P_LEVEL" not in values
    assert why["NCCL_P2P_LEVEL"] == "GPUs reach each other by NODE: NCCL decides"
    assert values["HOROVOD_GLOO_IFACE"] == "ens1"
    assert values["UCX_NET_DEVICES"] == "mlx5_0:1,mlx5_1:1"


def test_bonds_of_other_indices_are_told(bonds):
    values, why = chosen(bonds)
    assert values["NCCL_IB_GID_INDEX"] == "3"
    assert "1 of 2 ports have it there and not mlx5_bond_1:1 at 4" in why["NCCL_IB_GID_INDEX"]
    assert values["HOROVOD_GLOO_IFACE"] in ("bond0", "bond1")


def test_a_port_without_addresses_of_roce_v2(tree):
    tree.port("mlx5_0", "Ethernet", "100 Gb/sec", gids=roce("0a00:0001", "e0")[:1])
    values, why = chosen(tree)
    assert "NCCL_IB_GID_INDEX" not in values
    assert "give its interface an IPv4 address" in why["NCCL_IB_GID_INDEX"]


def test_one_host_needs_no_network(roce_a100):
    values, _ = chosen(roce_a100, num_hosts=1)
    assert values == {"NCCL_P2P_LEVEL": "NVL"}


def test_ports_of_links_that_are_down_are_not_used(tree):
    tree.port("mlx5_0", "InfiniBand", "10 Gb/sec (4X SDR)", state="2: INIT")
    assert used_ports(detect(str(tree.root)).ports) == []


def test_what_is_set_already_stays(roce_a100):
    set_before = {"NCCL_IB_GID_INDEX": "5", "HOROVOD_CYCLE_TIME": "1"}
    environment, lines = rank_environment(
        set_before, profiled=True, num_hosts=2, local_ranks=8, root=str(roce_a100.root)
    )
    assert set_before.items() <= environment.items()
    assert environment["NCCL_IB_HCA"].startswith("=mlx5_0:1")
    assert environment["HOROVOD_CACHE_CAPACITY"] == "1024"
    assert "NCCL_IB_GID_INDEX=5, as it was set" in lines
    plain, lines = rank_environment(
        {}, profiled=False, num_hosts=2, local_ranks=8, root=str(roce_a100.root)
    )
    assert not lines
    assert not any(name.startswith("NCCL") for name in plain)


def test_a_topology_of_one_gpu_and_of_none():
    one = parse_topology(matrix(1, 1, None, lambda gpu, nic: "PIX"))
    assert (one.num_gpus, one.between_gpus, one.nearest_nics) == (1, (), ("PIX",))
    assert parse_topology("No devices were found\n") is None


def test_the_default_route_of_the_smallest_metric(tree):
    tree.routes(route("a", 100), route("b", 50), route("c", 0, destination="0000000A"))
    assert default_interface(str(tree.root)) == "b"
    assert default_interface(str(tree.root / "none")) is None
