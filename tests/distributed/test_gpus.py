"""The GPU that a rank gets, asked of made GPUs: there is none where the tests run."""

import collections
import logging

import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.distributed import gpus
from gmeta_tf.distributed.collectives import start

GPU = collections.namedtuple("GPU", "name")


class Host:
    """GPUs, and what has been done to them; in use, they refuse, as TensorFlow's do."""

    def __init__(self, count):
        self.gpus = [GPU(f"gpu:{index}") for index in range(count)]
        self.visible, self.growing, self.in_use, self.calls = self.gpus, set(), False, 0

    def change(self):
        self.calls += 1
        if self.in_use:
            raise RuntimeError("Physical devices cannot be modified after being initialized")

    def set_visible_devices(self, devices, kind):
        self.change()
        self.visible = devices

    def set_memory_growth(self, gpu, grow):
        self.change()
        assert grow
        self.growing.add(gpu)


@pytest.fixture
def host_of(monkeypatch):
    def make(count):
        host = Host(count)
        monkeypatch.setattr(gpus, "physical_gpus", lambda: host.gpus)
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: host.visible)
        monkeypatch.setattr(tf.config, "set_visible_devices", host.set_visible_devices)
        experimental = tf.config.experimental
        monkeypatch.setattr(experimental, "get_memory_growth", lambda gpu: gpu in host.growing)
        monkeypatch.setattr(experimental, "set_memory_growth", host.set_memory_growth)
        return host

    return make


def test_without_a_gpu_nothing_is_done(host_of):
    host = host_of(0)
    assert gpus.pin_gpu(gm.World()) is None
    assert host.calls == 0


@pytest.mark.parametrize(
    ("world", "count", "own"),
    [
        (gm.World(), 1, 0),
        (gm.World(5, 8, 1, 4), 4, 1),  # by its place on the host, and not among all ranks
        (gm.World(3, 4, 3, 4), 4, 3),
        (gm.World(3, 4, 3, 4), 1, 0),  # the launcher shows each rank its own
    ],
)
def test_each_rank_gets_its_own_gpu_whose_memory_grows(host_of, world, count, own):
    host = host_of(count)
    assert gpus.pin_gpu(world) == host.gpus[own]
    assert host.visible == [host.gpus[own]]
    assert host.growing == {host.gpus[own]}
    # Again, while it is in use, changes nothing and so raises nothing.
    host.in_use, calls = True, host.calls
    assert gpus.pin_gpu(world) == host.gpus[own]
    assert host.calls == calls


def test_more_ranks_than_gpus(host_of):
    host_of(2)
    with pytest.raises(ValueError, match=r"a GPU for each rank of a host, got 2 for 4 ranks"):
        gpus.pin_gpu(gm.World(2, 4, 2, 4))


@pytest.mark.parametrize("world", [gm.World(1, 2, 1, 2), gm.World()])
def test_a_gpu_that_is_in_use_and_not_pinned(host_of, world):
    host_of(2).in_use = True
    with pytest.raises(
        RuntimeError, match=rf"to pin rank {world.rank} to gpu:{world.rank} before any GPU is in"
    ):
        gpus.pin_gpu(world)


def test_one_process_with_the_one_gpu_may_go_on(host_of, caplog):
    host = host_of(1)
    host.in_use = True
    with caplog.at_level(logging.WARNING, logger="gmeta_tf"):
        assert gpus.pin_gpu(gm.World()) == host.gpus[0]
    assert "memory was taken whole" in caplog.text


def test_a_run_pins_before_it_does_anything_else(host_of, monkeypatch):
    host = host_of(1)
    monkeypatch.setattr(
        "gmeta_tf.distributed.collectives.share_cores", lambda world: order.append(host.calls)
    )
    order = []
    start(gm.World())
    assert order == [2]  # visible devices and growth had been set
