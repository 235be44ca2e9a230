"""What the benchmarks measure against does what ours does: rows of a log, rows of a table."""

import collections
import pathlib

import duckdb
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from benchmarks import embedding
from benchmarks.made_log import KEY_COLUMNS, VOCABULARIES, MadeLog
from benchmarks.peers import ROW, csv_group_by_window, example_per_sample

SIZES = {"tasks": 8, "support": 3, "query": 4}
FIRST_KEYS = 1 + np.cumsum([0, *VOCABULARIES.values()])[:-1]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return MadeLog(2_000, tmp_path_factory.mktemp("log") / "made", shards=3)


@pytest.fixture(scope="module")
def rows_of_log(log):
    """How often each row, the values of `ROW`, stands in the log."""
    return collections.Counter(_table(log.parquet_files(), ROW))


def _table(files, columns, kind="parquet"):
    with duckdb.connect() as database:
        return database.execute(f"SELECT {', '.join(columns)} FROM read_{kind}({files})").fetchall()


def _peers(log):
    return {
        "csv": csv_group_by_window.dataset(log.csv_files(), **SIZES, repeat=False),
        "csv, two groupers": csv_group_by_window.dataset(
            log.csv_files(), **SIZES, repeat=False, groupers=2
        ),
        "examples": example_per_sample.dataset(
            example_per_sample.write_examples(log, num_files=2),
            **SIZES,
            repeat=False,
            rows_a_batch=64,
        ),
    }


def _delivered(batch, part):
    """The real rows of one part of a batch, the values of `ROW`."""
    keys = batch["keys"][batch[part]["key_of"]]
    for task, values, labels, weights in zip(
        batch["task"], keys, batch[part]["label"], batch[part]["weight"], strict=True
    ):
        assert (np.diff(weights) <= 0).all()
        assert not values[weights == 0].any()
        for value, label in zip(values[weights == 1], labels[weights == 1], strict=True):
            yield (int(task), int(label), *(value - FIRST_KEYS).tolist())


@pytest.mark.parametrize("peer", ["csv", "csv, two groupers", "examples"])
def test_a_peer_delivers_every_row_once_with_its_task(log, rows_of_log, peer):
    found = collections.Counter()
    for batch in _peers(log)[peer].as_numpy_iterator():
        assert len(np.unique(batch["keys"])) == len(batch["keys"])
        read = np.concatenate([batch[part]["key_of"].ravel() for part in ("support", "query")])
        assert set(read) == set(range(len(batch["keys"])))
        assert (batch["query"]["weight"][:, 0] == 1).all(), "a task without a row to judge"
        for part in ("support", "query"):
            found.update(_delivered(batch, part))
    assert found == rows_of_log


@pytest.mark.parametrize("peer", [csv_group_by_window, example_per_sample])
def test_a_peer_goes_on_without_end(log, peer):
    files = (
        log.csv_files() if peer is csv_group_by_window else example_per_sample.write_examples(log)
    )
    steps = list(peer.dataset(files, **SIZES).take(200).as_numpy_iterator())
    assert len(steps) == 200
    assert {step["query"]["weight"].shape for step in steps} == {(8, 4)}


def test_the_log_is_the_same_every_time_and_in_both_formats(log, tmp_path):
    again = MadeLog(log.rows, tmp_path / "again", shards=3)
    rows = _table(log.parquet_files(), ["*"])
    assert len(rows) == log.rows
    assert rows == _table(again.parquet_files(), ["*"])
    assert rows == _table(log.csv_files(), ["*"], "csv")


def test_the_log_is_in_time_order_with_tasks_of_zipf(tmp_path):
    log = MadeLog(200_000, tmp_path / "made")
    columns = np.array(_table(log.parquet_files(), ["time", "user", "label", *KEY_COLUMNS])).T
    time, user, label, *keys = columns
    assert (np.diff(time) >= 0).all()
    for column, size in zip(keys, VOCABULARIES.values(), strict=True):
        assert column.min() >= 0
        assert column.max() < size
    assert 0.1 < label.mean() < 0.4
    sizes = np.sort(np.bincount(user, minlength=log.tasks))[::-1]
    assert len(sizes) == log.tasks == 3_000
    expected = np.diff((np.arange(log.tasks + 1) + 1) ** 0.2) / ((log.tasks + 1) ** 0.2 - 1)
    np.testing.assert_allclose(sizes[:5] / log.rows, expected[:5], rtol=0.1)


def test_a_log_of_too_few_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected at least 8 rows, got 7"):
        MadeLog(7, tmp_path)


# Embedding tables ----------------------------------------------------------------------------

TABLE = embedding.Sizes(
    num_rows=40,
    width=4,
    num_keys=6,
    small_rows=20,
    large_rows=60,
    few_keys=5,
    memory_rows=50,
    memory_width=3,
)
KEYS = [7, 0, 39, 12]


def made_embedding():
    made = embedding.make_embedding("static", TABLE.num_rows, TABLE.width, gm.World())
    return made, made.all_rows("embedded").numpy()


def test_a_step_moves_the_rows_of_its_keys_by_a_hundredth_of_themselves():
    made, before = made_embedding()
    step = tf.function(embedding.make_step(made, gm.SGD(0.5)), autograph=False)
    step(tf.constant(KEYS, tf.int64))
    expected = before.copy()
    expected[KEYS] *= 1 - 0.5 * 0.01
    np.testing.assert_allclose(made.all_rows("embedded"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("make_peer", "optimizer"),
    [
        (embedding.make_dense_adam_step, gm.LazyAdam(0.125)),
        (embedding.make_plain_step, gm.SGD(0.125)),
    ],
    ids=["dense_adam", "plain_loop"],
)
def test_a_peer_of_the_tables_does_what_our_step_does(make_peer, optimizer):
    """Of one step: later ones of Adam move rows that are not seen, and ours do not."""
    made, before = made_embedding()
    embedding.make_step(made, optimizer)(tf.constant(KEYS, tf.int64))
    peer, variable = make_peer(before, 0.125)
    peer(tf.constant(KEYS, tf.int64))
    np.testing.assert_allclose(made.all_rows("embedded"), variable.numpy(), rtol=1e-5, atol=1e-7)
    assert (variable.numpy()[KEYS] != before[KEYS]).all()


def test_every_contestant_of_the_tables_runs():
    rounds = embedding.timed_rounds(gm.World(), TABLE, 2, 0.0)
    assert len(rounds) == 2
    result = embedding.speed_result(rounds)
    assert set(result["ratio"]) == {
        "dense_adam",
        "dense_adam_unsent",
        "dynamic",
        "plain_loop",
        "step_1e7_over_1e5",
    }
    assert min(result["milliseconds"].values()) > 0


def test_ratios_are_taken_within_a_round():
    usual = {
        "static_adam": 2.0,
        "dense_adam": 8.0,
        "allreduce": 4.0,
        "static_sgd": 3.0,
        "plain_loop": 1.0,
        "exchange": 1.0,
        "small_table": 2.0,
        "large_table": 2.5,
        "dynamic_adam": 5.0,
    }
    rounds = [{name: factor * value for name, value in usual.items()} for factor in (1, 10, 2)]
    result = embedding.speed_result(rounds)
    assert result["ratio"] == {
        "dense_adam": 6.0,
        "dense_adam_unsent": 4.0,
        "plain_loop": 1.5,
        "step_1e7_over_1e5": 1.25,
        "dynamic": 2.5,
    }
    assert result["milliseconds"]["static_adam"] == 4000.0


def test_keys_of_a_step_are_distinct_over_the_ranks():
    of_ranks = [embedding.made_keys(40, 13, gm.World(rank, 3)) for rank in range(3)]
    for of_step in zip(*of_ranks, strict=True):
        keys = np.concatenate(of_step)
        assert len(np.unique(keys)) == 39
        assert keys.min() >= 0
        assert keys.max() < 40
    assert (of_ranks[0][0] != of_ranks[0][1]).any()


def test_a_dynamic_table_does_the_step_of_a_static_one():
    rows = {}
    for kind in ("static", "dynamic"):
        table = embedding.make_embedding(kind, 10, 4, gm.World())
        step = embedding.make_step(table, gm.SGD(0.5))
        step(tf.constant([7, 2], tf.int64))
        routes = table.routes(dict.fromkeys(table.shards, tf.constant([2, 7], tf.int64)))
        (rows[kind],) = table.fetch(routes, table.locate(routes)).values()
    np.testing.assert_allclose(rows["dynamic"], rows["static"], rtol=1e-6)
    assert (rows["static"].numpy() != 0).all()


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="read from /proc")
def test_memory_is_told_in_bytes():
    before = embedding.resident_bytes("VmRSS")
    held = np.ones([10_000_000])
    assert 0.9 * held.nbytes < embedding.resident_bytes("VmRSS") - before < 1.2 * held.nbytes
    measured = embedding.measure_memory("static", gm.World(), TABLE, num_steps=2)
    assert measured["raw_bytes"] == 2 * 50 * 3 * 4
    assert measured["peak_over_raw"] >= measured["peak_of_building_over_raw"] >= 0
    with pytest.raises(RuntimeError, match="expected a line VmNone in /proc/self/status"):
        embedding.resident_bytes("VmNone")
