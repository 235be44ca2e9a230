"""Records whose fields are the item's or the task's, so that any row can be made up."""

import json

import numpy as np

import gmeta_tf as gm
from gmeta_tf.meta_io.records.writer import EpisodeWriter

SCHEMA = gm.Schema(
    (
        gm.Field("age"),
        gm.Field("item"),
        gm.Field("length", "dense"),
        gm.Field("genre", "multi", max_values=2),
    ),
    "rating",
    "user",
    positive_from=4.0,
).with_num_rows({"age": 6, "item": 14, "genre": 5})
ITEMS = range(1, 14)  # 0 stands for the unknown


def genres_of(item):
    return [item % 5, -1 if item % 3 else (item + 2) % 5]


def rows_of(task, items, labels):
    """The planes of rows, int32 `[C, n]`: label, age, item, two genres, length."""
    items = np.asarray(items)
    keys = [np.full(len(items), task % 6), items, *np.array([genres_of(i) for i in items]).T]
    length = (items / 8).astype("<f4").view("<i4")
    return np.stack([np.asarray(labels, "<f4").view("<i4"), *keys, length]).astype("<i4")


def write(folder, splits, schema=SCHEMA, details=None):
    """Records of `splits`: name -> [(task, items, labels)]."""
    folder.mkdir()
    contents = {}
    for name, tasks in splits.items():
        writer = EpisodeWriter(folder, name, schema, num_files=2)
        for task, items, labels in tasks:
            writer.write(np.full(len(items), task), rows_of(task, items, labels))
        contents[name] = writer.close()
    described = gm.Records(str(folder), schema, contents, details=details or {}).describe()
    (folder / "schema.json").write_text(json.dumps(described))
    return gm.Records.open(folder)


SUPPORT = 3


def made_splits():
    """Tasks 0 to 5 in "train", 6 to 13 in "test"; the last has no positive query row."""
    draw = np.random.default_rng(3)
    made = {"train": [], "test": []}
    for task in range(14):
        items = draw.permutation(ITEMS)[: draw.integers(5, 9)]
        labels = draw.integers(1, 6, len(items))
        labels[-1] = 5
        if task == 13:
            labels[SUPPORT:] = 1
        made["train" if task < 6 else "test"].append((task, items, labels))
    return made


def batches_of(records, seed=0, tasks=3, support=SUPPORT, world=None):
    """The support is the first rows; 2 query rows a sample, so that tasks have several."""
    sizes = {"tasks": tasks, "support": support, "query": 2}
    options = {"every_query": True, "in_time_order": True, "shuffle": False}
    world = world or gm.World()
    return gm.TaskBatches(records, "test", seed=seed, world=world, **sizes, **options)
