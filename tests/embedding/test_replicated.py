"""Which tables are copied to every rank, and what a copy does with the sums of the ranks."""

import dataclasses
import json

import made_batches
import made_data
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from benchmarks import replicated
from gmeta_tf.cli import main as cli
from gmeta_tf.distributed.packed_alltoall import may_piggyback
from gmeta_tf.embedding.replicated import ReplicatedShard
from gmeta_tf.embedding.replication_rule import choose_replicated
from gmeta_tf.embedding.static_shard import StaticShard, TableRange

BOTH = ("embedded", "embedded_2")


def of_rows(item, genre=1):
    """Tables of widths 3 (the model's) and 2."""
    tables = (gm.Table("item", item), gm.Table("genre", genre, width=2))
    return dataclasses.replace(made_batches.SCHEMA, tables=tables)


# The rule -------------------------------------------------------------------------------------

# Numbers of a rank: 4 for an item, 3 for the one genre. A million bytes may be sent in all.
MOST = {2: (250_000 - 3) // 4, 3: (125_000 - 3) // 4, 5: (62_500 - 3) // 4}


@pytest.mark.parametrize("world_size", MOST)
def test_auto_copies_what_takes_no_longer_to_send_than_a_collective(world_size):
    inside = choose_replicated(of_rows(MOST[world_size]), 3, world_size)
    assert inside.groups == BOTH
    assert inside.tables == ("item", "genre")
    assert inside.sent_bytes == 4 * (4 * MOST[world_size] + 3) * (world_size - 1)
    assert inside.sent_bytes <= 1_000_000
    assert "no more than the 1,000,000 that take as long as the collective" in inside.reason
    beyond = choose_replicated(of_rows(MOST[world_size] + 1), 3, world_size)
    assert (beyond.groups, beyond.tables) == ((), ())
    assert beyond.sent_bytes > 1_000_000
    assert f"a rank sends {beyond.sent_bytes:,} bytes in a step, more than" in beyond.reason


def test_what_auto_copies_is_summed_by_one_alltoall():
    """With as much again of dense weights at 2 ranks: an AllReduce takes longer than both."""
    for world_size, rows in MOST.items():
        numbers = 4 * rows + 3
        assert may_piggyback(numbers, world_size, alone=True)
        assert may_piggyback(2 * numbers, 2, alone=True)
        assert not may_piggyback(10 * numbers, world_size, alone=True)


def test_a_table_that_grows_has_rows_exchanged_in_any_case():
    tables = (gm.Table("item", keys="raw"), gm.Table("genre", 7))
    schema = dataclasses.replace(made_batches.SCHEMA, tables=tables)
    auto = choose_replicated(schema, 3, 2)
    assert auto.groups == ()
    assert auto.reason == "the table 'item' grows, so rows are exchanged in any case"
    always = choose_replicated(schema, 3, 2, True)
    assert (always.groups, always.tables) == (("embedded",), ("genre",))
    assert always.sent_bytes == 4 * 4 * 7


def test_never_always_and_one_rank():
    large = of_rows(10**9)
    assert choose_replicated(large, 3, 2, True).groups == BOTH
    assert choose_replicated(of_rows(5), 3, 2, False).groups == ()
    for replicate in ("auto", True, False):
        alone = choose_replicated(of_rows(5), 3, 1, replicate)
        assert alone.groups == ()
        assert alone.reason == "one rank holds all rows anyway"
    tables = gm.ShardedEmbedding(of_rows(5), 3, replicate=True, world=gm.World())
    assert (tables.replicated, tables.exchanged) == ((), BOTH)
    assert all(type(shard) is StaticShard for shard in tables.shards.values())


@pytest.mark.parametrize("replicate", ["always", 1, None])
def test_another_choice_is_refused(replicate):
    with pytest.raises(
        ValueError, match="expected replicate to be 'auto', True, False or names of tables, got"
    ):
        gm.ShardedEmbedding(of_rows(5), 3, replicate=replicate, world=gm.World())


def test_names_choose_whole_groups():
    schema = of_rows(10**9)
    chosen = choose_replicated(schema, 3, 2, {"genre"})
    assert (chosen.groups, chosen.tables) == (BOTH[1:], ("genre",))
    assert chosen.reason == "replicate names them"
    assert choose_replicated(schema, 3, 1, {"genre"}).groups == ()
    assert choose_replicated(schema, 3, 2, ["item", "genre"]).groups == BOTH
    assert choose_replicated(schema, 3, 2, set()).groups == ()


@pytest.mark.parametrize(
    ("replicate", "message"),
    [
        ({"price"}, r"name tables of the schema \(item, brand, genre\), got 'price'\. Beside"),
        ({"query"}, r"name tables of known size, got 'query', which grows\. State its num_rows"),
        ({"item"}, r"name all tables of one width.* \(item, brand\), got them without brand\."),
    ],
    ids=str,
)
def test_names_that_choose_no_group(replicate, message):
    schema = gm.Schema(
        tuple(gm.Field(name) for name in ("item", "brand", "genre", "query")),
        "label",
        "user",
        tables=(
            *(gm.Table("item", 5), gm.Table("brand", 4), gm.Table("genre", 3, width=2)),
            gm.Table("query", keys="hash"),
        ),
    )
    with pytest.raises(ValueError, match=message):
        choose_replicated(schema, 3, 2, replicate)


# A copy ---------------------------------------------------------------------------------------


def copy_of(num_rows):
    return ReplicatedShard((TableRange("t", 0, num_rows, 5),), 2, gm.World(), scale=0.5, name="t")


def test_the_example_of_the_docstring():
    a, b, c = ([1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    copy = copy_of(3)
    own = [([a, b], [2, 0]), ([c], [2])]
    of_ranks = [
        copy.gradients_of_all_rows(tf.constant(gradients), tf.constant(places, tf.int64))
        for gradients, places in own
    ]
    np.testing.assert_array_equal(of_ranks[0], [[*b, 1], [0, 0, 0], [*a, 1]])
    np.testing.assert_array_equal(of_ranks[1], [[0, 0, 0], [0, 0, 0], [*c, 1]])
    places, sums = copy.touched(of_ranks[0] + of_ranks[1])
    assert places.dtype == tf.int64
    np.testing.assert_array_equal(places, [0, 2])
    np.testing.assert_array_equal(sums, [b, np.add(a, c)])


def test_a_copy_is_the_shard_of_a_rank_alone():
    alone = StaticShard((TableRange("t", 0, 9, 5),), 2, gm.World(), scale=0.5, name="t")
    copy = copy_of(9)
    np.testing.assert_array_equal(copy.rows, alone.rows)
    route = copy.route(tf.constant([4, 0], tf.int64))
    assert route.arrival is None
    np.testing.assert_array_equal(route.owned, [4, 0])


# The command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicated")
    made_data.make_records(folder, 40)
    return str(folder)


def plan_of(records, capsys, *words):
    small = ("--tasks", "4", "--support", "3", "--query", "5", "--width", "4", "--hidden", "6")
    cli.main(["plan", "--records", records, *small, "--steps", "2", *words])
    return capsys.readouterr().out


def test_a_plan_says_that_small_tables_are_copied(records, capsys):
    shown = plan_of(records, capsys, "--world-size", "2")
    held = [line.split()[1:4] for line in shown.splitlines() if line.startswith("  item ")]
    assert held[0] == ["17", "4", "17"]
    assert "traffic of a step, if all tables were sharded" in shown
    text = " ".join(shown.split())
    assert (
        "replicated on every rank: item, genre, since for the sums of all rows a rank sends 480"
        in text
    )
    assert "all tables are replicated: a step has one collective, and no exchange." in text
    assert "by bytes alone" not in text
    shown = json.loads(plan_of(records, capsys, "--world-size", "2", "--json"))
    of_row = 4 * (4 + sum(slot.width for slot in gm.LazyAdam().slots(4).values()))
    assert shown["replication"]["tables"] == ["item", "genre"]
    assert shown["replication"]["sent_bytes"] == 4 * 24 * 5
    assert shown["memory_bytes"]["least"] == shown["memory_bytes"]["most"] == 24 * of_row


def test_a_plan_says_why_nothing_is_copied(records, capsys):
    text = " ".join(plan_of(records, capsys, "--world-size", "2", "--replicate", "never").split())
    assert "no table is replicated: replicate=False shards every table." in text
    assert "by bytes alone, no table is cheaper replicated either." in text
    assert "if all tables were sharded" not in text
    words = ("--keys-from", "uniform", "--world-size")
    text = " ".join(plan_of(records, capsys, *words, "28", "--width", "400").split())
    sent = f"{4 * 24 * 401 * 27:,}"
    assert f"no table is replicated: for the sums of all rows a rank sends {sent}" in text
    # Of such narrow rows the keys are a third of the bytes.
    narrow = plan_of(records, capsys, *words, "2", "--width", "1", "--replicate", "never")
    text = " ".join(narrow.split())
    assert "by bytes alone, --replicate item,genre: the busiest rank would move" in text


def test_a_plan_where_one_table_grows(tmp_path, capsys):
    tables = (gm.Table("item", keys="raw"), gm.Table("genre", 7))
    schema = dataclasses.replace(made_data.SCHEMA, tables=tables)
    made_data.make_records(tmp_path, 40, schema=schema)
    words = ("--world-size", "2", "--keys-from", "uniform", "--replicate")
    text = " ".join(plan_of(str(tmp_path), capsys, *words, "always").split())
    assert (
        "replicated on every rank: genre, since replicate=True replicates every table of known "
        "size." in text
    )
    assert "all tables are replicated" not in text
    text = " ".join(plan_of(str(tmp_path), capsys, *words, "auto").split())
    assert "no table is replicated: the table 'item' grows" in text


@pytest.mark.parametrize("command", ["plan", "train"])
def test_the_flag_takes_three_words(command, records, tmp_path, capsys):
    more = ["--world-size", "2"] if command == "plan" else ["--run", str(tmp_path / "run")]
    with pytest.raises(SystemExit):
        cli.main([command, "--records", records, *more, "--replicate", "yes"])
    shown = capsys.readouterr().err
    assert "expected replicate to name tables of the schema (item, genre), got 'yes'" in shown
    assert "(on the command line: auto, always, never)" in shown


# The benchmark --------------------------------------------------------------------------------


def test_what_is_saved_is_taken_within_a_round():
    rounds = [{"sharded": 10.0 * n, "copied": 10.0 * n - n % 5} for n in (1, 2, 3, 4, 6)]
    figures = replicated.summary(rounds)
    assert figures["sharded"]["milliseconds"] == 30
    assert figures["sharded"]["saved"] == 0
    assert figures["copied"] == {
        "milliseconds": 27,
        "saved": 2,
        "saved_lower_quartile": 1,
        "saved_upper_quartile": 3,
    }
