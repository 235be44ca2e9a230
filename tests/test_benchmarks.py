"""What the benchmarks measure against delivers the rows of its log, each once and by its task."""

import collections

import duckdb
import numpy as np
import pytest

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
