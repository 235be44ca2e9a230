"""A records folder of made-up tasks: small, deterministic and full of awkward shapes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import NamedTuple

import numpy as np

import gmeta_tf as gm
from gmeta_tf.meta_io.records.writer import EpisodeWriter

# A dense field in the middle, so that the schema's order is not the record's; two fields that read
# one table; multi-valued fields of different lengths.
SCHEMA = gm.Schema(
    (
        gm.Field("item"),
        gm.Field("price", "dense"),
        gm.Field("genre", "multi", max_values=3),
        gm.Field("similar", "multi", table="item", max_values=2),
    ),
    "rating",
    "user",
    positive_from=4.0,
).with_num_rows({"item": 17, "genre": 7})

# The same fields; genre's rows are of width 2, and a tensor of their own.
TWO_WIDTHS = dataclasses.replace(
    SCHEMA, tables=(gm.Table("item", 17), gm.Table("genre", 7, width=2))
)

# The largest key of each table, which no row holds.
NEVER_READ = {"item": 16, "genre": 6}

MOST_ROWS = 30


def price_of(task, row):
    """The dense value of a task's row: no two rows of a folder have the same, exact in float32."""
    return (64 * task + row) / 4096


def made_rows(task, num_rows, rng):
    """One task's rows: label `[n]`, keys `[slots, n]` (item, 3 genres, 2 similar), dense `[1, n]`.

    Few keys, so that they repeat within a task and between tasks. A row has 0 to 3 genres and 0
    to 2 similar items. Labels are 1 to 5, and depend on the task and on the item.
    """
    item = rng.integers(0, NEVER_READ["item"], num_rows)
    genre = _some_values(rng, NEVER_READ["genre"], 3, num_rows)
    similar = _some_values(rng, NEVER_READ["item"], 2, num_rows)
    taste = np.sin(item * (1 + task % 3)) + rng.normal(size=num_rows)
    label = np.clip(np.round(3.3 + taste), 1, 5)
    price = [[price_of(task, row) for row in range(num_rows)]]
    return label, np.concatenate([item[np.newaxis], genre, similar]), np.array(price)


def sizes_of(num_tasks, rng):
    """Rows of each task, 1 to 30: the first has one row, the second two, the third all 30."""
    drawn = rng.integers(1, MOST_ROWS + 1, num_tasks)
    drawn[:3] = (1, 2, MOST_ROWS)[:num_tasks]
    return drawn.tolist()


def make_records(
    folder,
    tasks=20,
    seed=0,
    *,
    num_files=3,
    splits=("train", "test"),
    schema=SCHEMA,
    **options,
):
    """Writes a records folder and opens it.

    Args:
        folder: where to; made when it is not there.
        tasks: how many tasks each split has, or the rows of each of them.
        seed: of everything that is drawn. The same arguments give the same bytes.
        num_files: the files of a split; those beyond the number of tasks are empty.
        splits: their names. Tasks are numbered on from one split to the next.
        schema: `SCHEMA`, or `TWO_WIDTHS`, or one with the same fields.
        options: `episode_rows` and `compression` of the writer.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    number = 0
    contents = {}
    for split in splits:
        writer = EpisodeWriter(folder, split, schema, num_files=num_files, **options)
        for num_rows in sizes_of(tasks, rng) if isinstance(tasks, int) else tasks:
            words = made_words(made_rows(number, num_rows, rng), schema)
            writer.write(np.full(num_rows, number), words)
            number += 1
        contents[split] = writer.close()
    records = gm.Records(
        str(folder),
        schema,
        contents,
        compression=options.get("compression", "none"),
        episode_rows=options.get("episode_rows", 1024),
        details={"made with seed": seed},
    )
    (folder / "schema.json").write_text(json.dumps(records.describe()))
    return gm.Records.open(folder)


class SharedBatches(gm.TaskBatches):
    """Makes a dataset once, for all that read it: that takes as long as many steps."""

    def dataset(self, first_epoch=None):
        made = self.__dict__.setdefault("made", {})
        if first_epoch not in made:
            made[first_epoch] = super().dataset(first_epoch)
        return made[first_epoch]


def made_words(rows, schema=SCHEMA):
    """The planes of rows: int32 `[C, n]`."""
    label, keys, dense = (np.asarray(part) for part in rows)
    floats = (label[np.newaxis].astype("<f4").view("<i4"), dense.astype("<f4").view("<i4"))
    return np.concatenate([floats[0], key_words(keys, schema), floats[1]])


def key_words(keys, schema):
    """Keys `[slots, n]` as the words of records: of wide tables a field's low words, then high."""
    planes, first = [], 0
    for field in schema.key_fields:
        own = np.asarray(keys[first : first + field.num_slots], "<i8")
        planes.append(own.astype("<i4"))
        if schema.table(field.table_name).words_per_key == 2:
            planes.append((own >> 32).astype("<i4"))
        first += field.num_slots
    return np.concatenate(planes)


class Drawn(NamedTuple):
    """A task of a step: which episode it is made of, and which of its rows stand where."""

    task: int
    part: int
    chunk: int
    support: tuple[int, ...]
    query: tuple[int, ...]


def steps_of(plan, rank):
    """What the pipeline must make of a rank's windows: `(bucket, [Drawn or None])` of each step."""
    waiting = [[] for _ in range(plan.buckets)]
    steps = []
    for window in plan.windows(rank):
        entries = plan.index[window.records]
        for bucket, rows in enumerate(plan.row_positions(window)):
            part = window.samples[bucket]
            num_support = min(plan.cut.support, plan.capacities[bucket] - 1)
            assert rows.shape == (len(part), plan.capacities[bucket])
            for record, chunk, places in zip(part.record, part.chunk, rows):
                support, query = (
                    tuple(half[half >= 0].tolist())
                    for half in (places[:num_support], places[num_support:])
                )
                if record < 0:
                    assert not support
                    assert not query
                    waiting[bucket].append(None)
                else:
                    entry = entries[record]
                    name = (int(entry["task"]), int(entry["part"]), int(chunk))
                    waiting[bucket].append(Drawn(*name, support, query))
        for bucket in window.steps.tolist():
            count = plan.tasks_of_buckets[bucket]
            assert len(waiting[bucket]) >= count
            steps.append((bucket, waiting[bucket][:count]))
            del waiting[bucket][:count]
    assert not any(waiting)
    return steps


def _some_values(rng, num_keys, slots, num_rows):
    """Keys `[slots, n]` of 0 to `slots` values a row, padded with -1 at the end."""
    keys = rng.integers(0, num_keys, [slots, num_rows])
    count = rng.integers(0, slots + 1, num_rows)
    return np.where(np.arange(slots)[:, np.newaxis] < count, keys, -1)
