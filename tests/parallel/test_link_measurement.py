"""Links are measured over the ranks that there are, with the same figures on every rank."""

import dataclasses

import pytest

from gmeta_tf.distributed.collectives import gather_json, start
from gmeta_tf.distributed.link_measurement import hosts_of_ranks, measure_links
from gmeta_tf.distributed.world import World


@pytest.fixture
def world():
    world = World.detect()
    start(world)
    return world


def test_every_rank_has_the_same_figures_of_each_size(world):
    figures = measure_links(world, sizes=(64, 4096), repeats=3)
    told = [dataclasses.asdict(figure) for figure in figures]
    assert gather_json(told, world, name="links_test")[0] == told
    named = [(f.collective, f.between, f.message_bytes) for f in figures]
    assert named == [(c, "all", size) for size in (64, 4096) for c in ("alltoall", "allreduce")]
    assert all(0 < figure.seconds < 10 and figure.bytes_per_second > 0 for figure in figures)
    # W - 1 of W parts go to others; a ring of an AllReduce sends twice as much.
    part = -(-4096 // (4 * world.size)) * 4
    assert figures[2].sent_bytes == part * (world.size - 1)
    assert figures[3].sent_bytes == 2 * 4096 * (world.size - 1) // world.size


def test_messages_to_other_hosts_are_told_apart(world):
    hosts = ["a", *["b"] * (world.size - 1)]
    figures = measure_links(world, sizes=(4096,), repeats=2, hosts=hosts)
    assert [f.between for f in figures if f.collective == "alltoall"] == [
        "all",
        *(["same host"] if world.size > 2 else []),
        "other hosts",
    ]
    # Whoever is alone on its host sends all that it has to the others, and nothing to its own.
    assert max(f.sent_bytes for f in figures if f.between == "other hosts") == 4096
    if world.size > 2:
        assert [f.sent_bytes for f in figures if f.between == "same host"] == [4096]


def test_each_rank_names_its_host(world):
    assert len(set(hosts_of_ranks(world))) == 1
    assert len(hosts_of_ranks(world)) == world.size


def test_hosts_of_another_number_of_ranks_are_refused(world):
    with pytest.raises(ValueError, match=r"expected the host of each of \d ranks, got 1: \['a'\]"):
        measure_links(world, hosts=["a"])
