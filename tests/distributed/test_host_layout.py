"""Which ranks share a host."""

import pytest

from gmeta_tf.distributed.host_layout import HostLayout
from gmeta_tf.distributed.world import World


@pytest.mark.parametrize(("hosts", "per_host"), [(1, 1), (1, 4), (4, 1), (2, 2), (3, 5)])
def test_every_rank_has_one_host_and_one_rail(hosts, per_host):
    size = hosts * per_host
    layouts = [HostLayout(World(rank, size), per_host) for rank in range(size)]
    for rank, layout in enumerate(layouts):
        assert (layout.num_hosts, layout.host.size, layout.rail.size) == (hosts, per_host, hosts)
        assert layout.host.members[layout.host.rank] == rank
        assert layout.rail.members[layout.rail.rank] == rank
        assert set(layout.host.members) & set(layout.rail.members) == {rank}
        assert layout.parts == layouts[0].parts
    assert len(layouts[0].parts) == (hosts + per_host if hosts > 1 and per_host > 1 else 0)


def test_a_key_takes_the_rail_of_its_owner():
    for hosts, per_host in ((2, 2), (3, 4)):
        size = hosts * per_host
        for key in range(-2 * size, 2 * size):
            owner = key % size
            layout = HostLayout(World(owner, size), per_host)
            assert layout.host.rank == key % per_host
            assert layout.rail.rank == key // per_host % hosts


def test_hosts_of_different_sizes():
    message = "as many ranks on every host, got 5 ranks of which 2 are on this one"
    with pytest.raises(ValueError, match=message):
        HostLayout(World(0, 5), 2)


@pytest.mark.parametrize(
    ("world", "found"),
    [
        (World(2, 4, 0, 2, 2), (2, True)),
        (World(1, 4, 0, 2, 2), (2, False)),  # dealt out in turn: ranks 0 and 2 on a host
        (World(3, 4, 0, 1, 2), (None, False)),  # three ranks on another host
        (World(3, 4, 0, 1), (1, True)),  # the launcher does not say
        (World(1, 6, 1, 4, 2), (None, False)),
        (World(0, 1), (1, True)),
    ],
    ids=str,
)
def test_what_a_rank_sees(world, found):
    layout, fits = HostLayout.detect(world, {})
    assert (layout and layout.ranks_per_host, fits) == found


def test_the_variable_wins():
    layout, fits = HostLayout.detect(World(3, 4, 3, 4), {"GMETA_RANKS_PER_HOST": "2"})
    assert fits
    assert layout.host.members == (2, 3)


@pytest.mark.parametrize("text", ["3", "0", "-2", "two", "2.0"])
def test_a_variable_that_is_no_divisor(text):
    message = f"GMETA_RANKS_PER_HOST to be a divisor of the 4 ranks, got '{text}'"
    with pytest.raises(ValueError, match=message):
        HostLayout.detect(World(3, 4), {"GMETA_RANKS_PER_HOST": text})


def test_horovodrun_says_on_how_many_hosts_there_is_such_a_local_rank():
    launched = {"HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_CROSS_SIZE": "2"}
    assert World.detect(launched).cross_size == 2
    assert World.detect({"PMI_RANK": "3", "PMI_SIZE": "4"}).cross_size is None
