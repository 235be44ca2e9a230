"""What the first episodes tell."""

import json

import numpy as np
import pytest
from made_data import made_words, make_records

import gmeta_tf as gm
from gmeta_tf.meta_io.records.first_look import first_look
from gmeta_tf.meta_io.records.writer import EpisodeWriter

SCHEMA = gm.Schema(
    (gm.Field("age"), gm.Field("item"), gm.Field("hobby", "multi", max_values=2)),
    "label",
    "user",
).with_num_rows({"age": 9, "item": 9, "hobby": 9})


def records_of(folder, tasks):
    """Records of tasks of rows: age, item, two hobbies, label."""
    writer = EpisodeWriter(folder, "train", SCHEMA, num_files=1)
    for number, rows in enumerate(tasks):
        keys = np.array([row[:4] for row in rows]).T
        label = np.array([row[4] for row in rows])
        words = made_words((label, keys, np.zeros([0, len(rows)])), SCHEMA)
        writer.write(np.full(len(rows), number), words)
    records = gm.Records(str(folder), SCHEMA, {"train": writer.close()})
    (folder / "schema.json").write_text(json.dumps(records.describe()))
    return gm.Records.open(folder)


TASKS = [
    [(1, 2, 3, 4, 1.0), (1, 5, 3, 4, 5.0)],
    [(2, 2, 1, -1, 3.0), (2, 6, 1, -1, 3.0), (2, 7, 1, -1, 3.0)],
]


def test_fields_of_the_task_are_those_that_never_differ_within_one(tmp_path):
    look = first_look(records_of(tmp_path, TASKS), "train")
    assert look.task_fields == ("age", "hobby")
    assert look.mean == 3.0
    assert look.deviation == pytest.approx(np.std([1, 5, 3, 3, 3]))


def test_one_value_of_a_list_that_differs_is_enough(tmp_path):
    tasks = [*TASKS, [(3, 1, 1, 2, 2.0), (3, 1, 1, 5, 2.0)]]
    records = records_of(tmp_path, tasks)
    assert first_look(records, "train").task_fields == ("age",)
    assert first_look(records, "train", num_episodes=2).task_fields == ("age", "hobby")


def test_tasks_of_one_row_tell_of_labels_alone(tmp_path):
    look = first_look(records_of(tmp_path, [[(1, 2, 3, 4, 2.0)], [(2, 2, 3, 4, 2.0)]]), "train")
    assert look == ((), 2.0, 1.0)


def test_labels_are_those_of_the_data(tmp_path):
    records = make_records(tmp_path, tasks=5)
    assert records.schema.positive_from is not None
    labels = np.concatenate([words[0].view(np.float32) for _, words in records.read("train")])
    look = first_look(records, "train")
    assert (look.mean, look.deviation) == (
        pytest.approx(labels.mean()),
        pytest.approx(labels.std()),
    )
    assert look.task_fields == ()
