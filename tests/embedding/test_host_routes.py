"""Routing by host gives the rows and the sums of one process, whatever the layout."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_threads import RankThreads

from gmeta_tf.distributed.host_layout import HostLayout
from gmeta_tf.distributed.world import World
from gmeta_tf.embedding import exchange, host_routes

LAYOUTS = [(1, 1), (1, 3), (3, 1), (2, 2), (3, 2), (2, 3)]  # hosts, ranks of each
WIDTH = 3


def rows_of(keys):
    """A row for each key; exact in float32, and in bfloat16 for small keys."""
    keys = np.asarray(keys, np.float32).reshape(-1, 1)
    return tf.constant(np.concatenate([keys, keys / 2, -keys], axis=1).reshape(-1, WIDTH))


def gradients_of(rank, keys):
    """Small integers: sums are exact in any order."""
    keys = np.asarray(keys, np.float32).reshape(-1, 1)
    return tf.constant(np.concatenate([keys + rank, keys * 0 + 2.0**rank, keys], axis=1))


def departed(keys, world):
    return exchange.departure_of(tf.constant(keys, tf.int64, [len(keys)]), None, world)


def by_host(layout, wanted, following, *, wire=tf.float32, totals=()):
    """A rank's whole step: its rows, what it owns, sums, the next keys that it owns, totals."""
    departure = departed(wanted, layout.host)
    (arrival,) = host_routes.send_keys([departure], layout, name="keys")
    route = host_routes.host_route(departure, arrival, layout)
    rows = host_routes.fetch([route], [rows_of(route.owned)], layout, name="rows", wire=wire)
    sums, (ahead,), summed = host_routes.return_gradients(
        [gradients_of(layout.world.rank, wanted)],
        [route],
        layout,
        name="gradients",
        wire=wire,
        following=[departed(following, layout.host)],
        totals=totals,
    )
    return rows[0], route.owned, sums[0], ahead.owned, summed


def flat(world, wanted, following):
    departure = departed(wanted, world)
    (arrival,) = exchange.send_keys([departure], world, name="keys")
    route = exchange.Route(departure, arrival)
    exchange.fetch([route], [rows_of(route.owned)], world, name="rows")
    exchange.return_gradients(
        [gradients_of(world.rank, wanted)],
        [route],
        world,
        name="gradients",
        following=[departed(following, world)],
    )


def assert_step(results, wanted, following):
    """What every rank has is what one process would compute."""
    size = len(results)
    for rank, (rows, owned, sums, ahead, _) in enumerate(results):
        np.testing.assert_array_equal(rows, rows_of(wanted[rank]))
        expected = {}
        for other, keys in enumerate(wanted):
            for key, gradient in zip(keys, gradients_of(other, keys).numpy(), strict=True):
                if key % size == rank:
                    expected[key] = expected.get(key, 0) + gradient
        assert sorted(owned.numpy()) == sorted(expected)
        for key, gradient in zip(owned.numpy(), sums.numpy(), strict=True):
            np.testing.assert_array_equal(gradient, expected[key])
        next_own = {key for keys in following for key in keys if key % size == rank}
        assert sorted(ahead.numpy()) == sorted(next_own)


def layouts_of(hosts, per_host):
    size = hosts * per_host
    return [HostLayout(World(rank, size), per_host) for rank in range(size)]


keys_of_a_rank = st.lists(st.integers(-40, 200), max_size=9, unique=True)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), shape=st.sampled_from(LAYOUTS))
def test_any_layout_and_any_keys(data, shape):
    layouts = layouts_of(*shape)
    size = len(layouts)
    wanted, following = (
        data.draw(st.lists(keys_of_a_rank, min_size=size, max_size=size)) for _ in range(2)
    )
    with pytest.MonkeyPatch.context() as patch:
        results = RankThreads(patch, size).run(
            lambda rank: by_host(layouts[rank], wanted[rank], following[rank])
        )
    assert_step(results, wanted, following)


def test_as_the_docstring_says(monkeypatch):
    layouts = layouts_of(2, 2)
    wanted = [[7, 2, 4], [2, 7], [7], []]
    ranks = RankThreads(monkeypatch, 4)

    def arrive(rank):
        departures = [departed(wanted[rank], layouts[rank].host)]
        return host_routes.send_keys(departures, layouts[rank], name="keys")[0]

    arrivals = ranks.run(arrive)
    assert [sorted(each.near_owned.numpy()) for each in arrivals] == [[2, 4], [7], [], [7]]
    assert [sorted(each.owned.numpy()) for each in arrivals] == [[4], [], [2], [7]]


def test_keys_of_both_ranks_of_a_host_cross_once(monkeypatch):
    """All four ranks want the same 40 keys: half the bytes cross hosts, in either direction."""
    keys, none = list(range(40)), []
    across = {}
    for name, step in {
        "by host": lambda rank: by_host(layouts_of(2, 2)[rank], keys, none),
        "flat": lambda rank: flat(World(rank, 4), keys, none),
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            ranks = RankThreads(patch, 4)
            ranks.run(step)
        across[name] = sum(n for (a, b, _), n in ranks.sent.items() if a // 2 != b // 2)
        near = {(a, b) for (a, b, what) in ranks.sent if what.endswith("_of_host")}
        assert all(a // 2 == b // 2 for a, b in near)
    # Beside the payloads only counts travel, of which the flat exchange has a few bytes more.
    assert 1.95 < across["flat"] / across["by host"] < 2.1


@pytest.mark.parametrize("numbers", [3, (1 << 20) + 1], ids=["ride", "a ring of their own"])
def test_totals_are_the_sums_of_all_ranks(monkeypatch, numbers):
    layouts = layouts_of(2, 2)
    results = RankThreads(monkeypatch, 4).run(
        lambda rank: by_host(
            layouts[rank], [rank], [], totals=[tf.fill([numbers], 10.0**rank), tf.constant(1.0)]
        )
    )
    for *_, (total, count) in results:
        np.testing.assert_array_equal(total, np.full([numbers], 1111.0))
        assert count == 4


def test_sums_of_a_host_are_rounded_once_on_the_wire(monkeypatch):
    """bfloat16 has steps of 2**-7 at 1; rounded in the host too, the sum would be a step more."""
    layouts, parts = layouts_of(2, 2), {2: 1 + 2**-8 + 2**-10, 3: 2**-8}

    def step(rank):
        layout = layouts[rank]
        departure = departed([0] if rank in parts else [], layout.host)
        (arrival,) = host_routes.send_keys([departure], layout, name="keys")
        route = host_routes.host_route(departure, arrival, layout)
        gradient = tf.fill([tf.size(departure.keys), WIDTH], parts.get(rank, 0.0))
        sums, _, _ = host_routes.return_gradients(
            [gradient], [route], layout, name="gradients", wire=tf.bfloat16
        )
        return sums[0]

    own, *others = RankThreads(monkeypatch, 4).run(step)
    np.testing.assert_array_equal(own, np.full([1, WIDTH], 1 + 2**-7))
    assert all(len(each) == 0 for each in others)
