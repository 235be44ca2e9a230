"""What tables take and what steps send, against counts that are made key by key."""

import dataclasses
import itertools
import json

import made_data
import numpy as np
import pytest

import gmeta_tf as gm
from gmeta_tf.planner.key_requests import (
    counted_requests,
    expected_distinct,
    uniform_requests,
)
from gmeta_tf.planner.placement import place, tables_to_replicate
from gmeta_tf.planner.report import human_bytes, placement_lines, size_lines
from gmeta_tf.planner.table_sizes import table_sizes
from gmeta_tf.planner.traffic import StepShape, Wire, exchange_bytes, ring_bytes

# Two tables of the model's width, one of width 2, and one that grows, in a group of its own.
FIELDS = ("item", "city", "hour", "query")
SCHEMA = gm.Schema(
    tuple(gm.Field(name) for name in FIELDS),
    "label",
    "user",
    tables=(
        gm.Table("item", 17),
        gm.Table("city", 5),
        gm.Table("hour", 3, width=2),
        gm.Table("query", width=6, keys="hash"),
    ),
)
SHAPE = StepShape(4, 3, 5)


def accumulators(width):
    """An optimizer that keeps D numbers and one more."""
    return {"accumulator": width, "count": 1}


def sizes_for(world_size, schema=SCHEMA, width=4):
    return table_sizes(schema, width, accumulators, world_size)


def placed(sizes, requests, **options):
    requests = {name: np.array(one, float) for name, one in requests.items()}
    return place(sizes, requests, SHAPE, requests_from="a test", **options)


# Memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 40])
def test_every_row_is_on_the_rank_that_its_key_says(world_size):
    item, city, hour, query = sizes_for(world_size)
    owners = [key % world_size for key in range(22)]  # item's rows, then city's
    assert item.rows_of_ranks == tuple(owners[:17].count(rank) for rank in range(world_size))
    assert city.rows_of_ranks == tuple(owners[17:].count(rank) for rank in range(world_size))
    assert hour.rows_of_ranks == tuple(owners[:3].count(rank) for rank in range(world_size))
    assert query.rows_of_ranks is None


def test_bytes_of_rows_and_slots():
    item, _, hour, query = sizes_for(2)
    assert (item.width, item.row_bytes, item.slot_bytes) == (4, 16, 20)
    assert (hour.width, hour.row_bytes, hour.slot_bytes) == (2, 8, 12)
    assert item.bytes_of_ranks == (9 * 36, 8 * 36)
    assert (query.num_rows, query.row_bytes, query.slot_bytes) == (None, 24, 28)
    assert query.bytes_of_ranks is None


@pytest.mark.parametrize(("width", "world_size"), [(0, 2), (4, 0)])
def test_sizes_of_nothing_are_refused(width, world_size):
    name = "width" if width < 1 else "world_size"
    with pytest.raises(ValueError, match=f"expected {name} of at least 1, got 0"):
        table_sizes(SCHEMA, width, accumulators, world_size)


# Distinct keys --------------------------------------------------------------------------------


@pytest.mark.parametrize(("draws", "num_keys"), [(0, 3), (1, 3), (4, 3), (3, 5), (5, 1), (0, 1)])
def test_expected_distinct_keys_are_the_mean_of_all_draws(draws, num_keys):
    every = [len(set(drawn)) for drawn in itertools.product(range(num_keys), repeat=draws)]
    assert expected_distinct(draws, num_keys) == pytest.approx(np.mean(every), rel=1e-12)


def test_expected_distinct_keys_of_a_table_that_few_draws_touch():
    assert expected_distinct(1000, 10**15) == pytest.approx(1000, rel=1e-9)
    assert expected_distinct(1000, None) == 1000


def test_no_other_distribution_has_more_distinct_keys():
    draws, shares = 4, np.array([0.6, 0.3, 0.1])
    every = itertools.product(range(3), repeat=draws)
    skewed = sum(len(set(drawn)) * shares[list(drawn)].prod() for drawn in every)
    assert 1 < skewed < expected_distinct(draws, 3)


def test_uniform_requests_count_all_slots_of_all_fields_of_a_table():
    schema = made_data.SCHEMA  # item is read by a field of 1 slot and one of 2; genre by one of 3
    sizes = sizes_for(3, schema)
    requests = uniform_requests(schema, sizes, SHAPE, 3)
    draws = 3 * SHAPE.rows
    assert SHAPE.rows == 32
    for name, num_rows in (("item", 17), ("genre", 7)):
        np.testing.assert_allclose(requests[name].sum(axis=1), expected_distinct(draws, num_rows))
        assert (np.ptp(requests[name], axis=0) == 0).all()
    np.testing.assert_allclose(
        requests["item"][0], expected_distinct(draws, 17) * np.array([6, 6, 5]) / 17
    )
    growing = uniform_requests(SCHEMA, sizes_for(2), SHAPE, 2)["query"]
    np.testing.assert_array_equal(growing, np.full([2, 2], 16.0))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return made_data.make_records(tmp_path_factory.mktemp("records"), 40)


def batches_of(records, world_size, **options):
    world = gm.World(0, world_size)
    return gm.TaskBatches(records, "train", tasks=4, support=3, query=5, world=world, **options)


def counted_by_hand(records, world_size, steps, **options):
    """Distinct keys by table, rank and owner: a set for each step of each rank."""
    first_row = {"item": 0, "genre": 17}
    counts = {name: np.zeros([world_size, world_size]) for name in first_row}
    for rank in range(world_size):
        own = dataclasses.replace(
            batches_of(records, world_size, **options), world=gm.World(rank, world_size)
        )
        for batch in own.dataset().take(steps):
            keys = batch["keys"]["embedded"].numpy()
            places = batch["pair_to_key"]["embedded"].numpy()
            read = set()
            for part in ("support", "query"):
                pairs = batch[part]["pairs"]["embedded"].numpy()
                read |= {int(keys[places[pair] - 1]) for pair in pairs.ravel() if pair}
            for key in read:
                counts["item" if key < 17 else "genre"][rank, key % world_size] += 1
    return {name: count / steps for name, count in counts.items()}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"every_row": True, "seed": 5}])
def test_requests_are_those_of_the_steps(records, world_size, options):
    batches = batches_of(records, world_size, **options)
    sizes = sizes_for(world_size, records.schema)
    counted = counted_requests(batches, sizes, 3)
    by_hand = counted_by_hand(records, world_size, 3, **options)
    assert sum(one.sum() for one in by_hand.values()) > 0
    for name, expected in by_hand.items():
        np.testing.assert_array_equal(counted[name], expected)


@pytest.mark.slow
def test_requests_of_tables_of_two_widths(tmp_path):
    records = made_data.make_records(tmp_path, 20, schema=made_data.TWO_WIDTHS)
    counted = counted_requests(batches_of(records, 2), sizes_for(2, records.schema), 2)
    one_width = made_data.make_records(tmp_path / "one", 20)
    same = counted_requests(batches_of(one_width, 2), sizes_for(2, one_width.schema), 2)
    np.testing.assert_array_equal(counted["item"], same["item"])
    # Alone in its group, genre's keys start at 0 and not at 17: the ranks have changed places.
    np.testing.assert_array_equal(counted["genre"], same["genre"][:, ::-1])


def test_what_can_not_be_counted_is_refused(records):
    with pytest.raises(ValueError, match="expected steps of at least 1, got 0"):
        counted_requests(batches_of(records, 2), sizes_for(2, records.schema), 0)
    with pytest.raises(ValueError, match="expected tables with num_rows, got 'query' without"):
        counted_requests(batches_of(records, 2), sizes_for(2), 1)


# Traffic --------------------------------------------------------------------------------------


def test_the_bytes_of_an_exchange_are_those_of_its_messages():
    requests = np.random.default_rng(3).integers(0, 9, [4, 4]).astype(float)
    sent, received = np.zeros(4), np.zeros(4)
    for rank, owner in itertools.permutations(range(4), 2):
        for sender, receiver, each in ((rank, owner, 8), (owner, rank, 64), (rank, owner, 64)):
            sent[sender] += requests[rank, owner] * each
            received[receiver] += requests[rank, owner] * each
    found = exchange_bytes(requests, key_bytes=8, row_bytes=64)
    np.testing.assert_array_equal(found, [sent, received])
    assert sent.sum() == received.sum() > 0
    assert (sent != received).any()


def test_what_an_owner_serves_and_a_rank_asks():
    requests = {name: [[0, 0], [0, 0]] for name in FIELDS} | {"item": [[3, 5], [2, 7]]}
    placement = placed(sizes_for(2), requests)
    item = placement.tables[0]
    assert (item.distinct_keys, item.remote_keys) == (8.5, 3.5)
    assert item.served.tolist() == [2, 5]
    assert placement.sent.tolist() == [5 * (4 + 16) + 2 * 16, 2 * (4 + 16) + 5 * 16]
    assert placement.received.tolist() == [2 * (4 + 16) + 5 * 16, 5 * (4 + 16) + 2 * 16]
    assert placement.busiest_rank == 0


def test_half_precision_and_narrow_keys():
    requests = {name: [[0, 1], [0, 0]] for name in FIELDS}
    placement = placed(sizes_for(2), requests, wire=Wire("bfloat16"))
    sent = {table.size.name: table.sent.tolist() for table in placement.tables}
    assert sent["item"] == [4 + 8, 8]
    assert sent["hour"] == [4 + 4, 4]
    assert sent["query"] == [8 + 12, 12]  # keys without a limit do not fit into 4 bytes
    assert Wire().key_bytes(2**31) == 4
    assert Wire().key_bytes(2**31 + 1) == 8
    assert Wire().key_bytes(5) == 4
    assert Wire().key_bytes(None) == 8


def test_a_ring_sends_each_number_nearly_twice():
    # Of 4 ranks each sends a quarter of 8 numbers 3 times to be added up, and 3 times as a sum.
    assert ring_bytes(8, 4) == 6 * 2 * 4
    assert ring_bytes(8, 1) == 0


def test_bad_shapes_and_types_are_refused():
    with pytest.raises(ValueError, match="expected support of at least 1, got 0"):
        StepShape(4, 0, 5)
    with pytest.raises(ValueError, match=r"one of float32, bfloat16, float16, got 'int8'"):
        Wire("int8")
    with pytest.raises(ValueError, match=r"'city': expected requests of shape \[2, 2\], got"):
        placed(sizes_for(2), {"item": np.ones([2, 2])})


# Replicated tables --------------------------------------------------------------------------


def tables_for(world_size, rows, reads, width=4):
    """Tables of so many rows, of which each rank reads the first so many in every step."""
    names = [f"t{number}" for number in range(len(rows))]
    # The first takes the model's width and the second states it, so that each travels by itself.
    tables = tuple(
        gm.Table(name, num_rows, width=stated)
        for name, num_rows, stated in zip(names, rows, (None, width))
    )
    schema = gm.Schema(tuple(gm.Field(name) for name in names), "label", "user", tables=tables)
    requests = {}
    for name, num_read in zip(names, reads):
        owners = [key % world_size for key in range(num_read)]
        row = [owners.count(rank) for rank in range(world_size)]
        requests[name] = np.tile(row, [world_size, 1])
    return placed(sizes_for(world_size, schema, width), requests)


def test_a_table_of_which_every_rank_reads_all_is_cheaper_copied():
    placement = tables_for(4, rows=[400, 8], reads=[40, 8])
    assert placement.replicated == ("t1",)
    # Even ranks, each of which reads 48 keys and has 36 of them sent by others.
    assert placement.bytes_of_advice == (36 * (4 + 32), 30 * (4 + 32) + ring_bytes(8 * 4, 4))


def test_a_table_of_which_ranks_read_a_part_stays_sharded():
    assert tables_for(4, rows=[400, 16], reads=[40, 8]).replicated == ()


def test_a_table_of_fewer_rows_than_ranks_leaves_its_owners():
    # One row that all want: its owner sends 31 of them, and so is the busiest by far.
    placement = tables_for(32, rows=[1, 3200], reads=[1, 32])
    before, after = placement.bytes_of_advice
    assert placement.busiest_rank == 0
    assert placement.replicated == ("t0",)
    assert after < 0.9 * before


def test_copies_that_save_next_to_nothing_are_not_worth_having():
    placement = tables_for(4, rows=[40000, 8], reads=[4000, 8])
    assert placement.replicated == ()
    assert tables_to_replicate(placement.tables, least_saving=0.0) == ("t1",)


def test_one_rank_and_tables_that_grow_copy_nothing():
    assert tables_for(1, rows=[400, 8], reads=[40, 8]).replicated == ()
    requests = dict.fromkeys(FIELDS, np.zeros([2, 2])) | {"query": np.full([2, 2], 9.0)}
    assert placed(sizes_for(2), requests).replicated == ()
    assert tables_to_replicate([]) == ()


# The report -----------------------------------------------------------------------------------


def report(world_size=2, **options):
    sizes = sizes_for(world_size)
    requests = uniform_requests(SCHEMA, sizes, SHAPE, world_size)
    return placed(sizes, requests, **options)


def test_the_report_says_what_tables_take():
    lines = size_lines(sizes_for(2))
    cells = {line.split()[0]: line.split("  ") for line in lines}
    assert len({len(line) for line in lines[:-2]}) == 1
    assert [cell.strip() for cell in cells["item"] if cell.strip()] == [
        *("item", "17", "4", "8 to 9", "272 B", "340 B", "324 B"),
    ]
    assert [cell.strip() for cell in cells["query"] if cell.strip()] == [
        *("query", "grows", "6", "24 B each", "28 B each"),
    ]
    assert "total of those that do not grow" in lines[-1]
    assert lines[-1].split()[-2:] == ["436", "B"]  # 11 rows of 36 bytes, 2 of 20


def test_the_report_names_the_busiest_rank_and_the_advice():
    shown = "\n".join(placement_lines(report(dense_weights=1000)))
    assert "2 ranks; a step of a rank is 4 tasks of 3 support and 5 query rows" in shown
    assert "is the busiest: it sends" in shown
    assert "dense weights: 1,000 numbers, for which a rank sends 4.00 kB" in shown
    copies = "\n".join(placement_lines(tables_for(4, rows=[400, 8], reads=[40, 8])))
    assert "by bytes alone, --replicate t1: the busiest rank would move" in copies
    one = placement_lines(report(1))
    assert one[-1] == "one rank exchanges nothing."


def test_the_report_is_json():
    placement = report(3, dense_weights=10)
    shown = json.loads(json.dumps(placement.to_json()))
    assert shown["sent_bytes"]["mean"] == pytest.approx(placement.sent.mean())
    assert shown["memory_bytes"]["most"] == max(placement.bytes_of_ranks)
    assert shown["allreduce_bytes"] == ring_bytes(10, 3)
    query = shown["tables"][-1]
    assert (query["grows"], query["rows"], query["memory_bytes"]) == (True, None, None)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((0, "0 B"), (999, "999 B"), (999.6, "1.00 kB"), (9_996, "10.0 kB"), (99_960, "100 kB")),
        *((999_600, "1.00 MB"), (1_234_000_000, "1.23 GB"), (5e18, "5,000 PB")),
    ],
)
def test_human_bytes(number, shown):
    assert human_bytes(number) == shown
