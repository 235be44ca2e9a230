"""Ranking a catalogue, against records that hold every row it makes up."""

import json

import keras
import numpy as np
import pytest
from made_catalogue import ITEMS, SCHEMA, SUPPORT, batches_of, made_splits, rows_of, write

import gmeta_tf as gm
from gmeta_tf.evaluation.catalogue import (
    Catalogue,
    check_catalogue_field,
    rank_catalogue,
    ranked_tasks,
)
from gmeta_tf.evaluation.metrics import metric
from gmeta_tf.meta_io.records.writer import EpisodeWriter

METRICS = ("recall@2", "ndcg@3", "mrr")


@pytest.fixture(scope="module")
def splits():
    return made_splits()


@pytest.fixture(scope="module")
def records(splits, tmp_path_factory):
    return write(tmp_path_factory.mktemp("catalogue") / "records", splits)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    embedding = gm.ShardedEmbedding(SCHEMA, 3, scale=0.8)
    learner = gm.models.MeLU((4,))
    model = gm.MetaModel(learner, embedding, learner.inner_loop(num_steps=1, learning_rate=0.5))
    model.compile()
    return model


@pytest.mark.parametrize("rows_at_once", [4, 1 << 16])
def test_the_catalogue_has_each_item_with_what_describes_it(
    splits, records, rows_at_once, monkeypatch
):
    monkeypatch.setattr("gmeta_tf.evaluation.catalogue._ROWS_AT_ONCE", rows_at_once)
    found = Catalogue.of(records, "test", "item", "train")
    rows = [(i, y) for _, items, labels in splits["train"] for i, y in zip(items, labels)]
    assert found.keys.tolist() == list(ITEMS)
    assert found.is_item.tolist() == [False, False, True, True, True, True]
    np.testing.assert_array_equal(found.words[:, 2:], rows_of(0, ITEMS, np.zeros(13)).T[:, 2:])
    expected = [sum(item == i and y >= 4 for i, y in rows) for item in ITEMS]
    assert found.positives.tolist() == expected
    assert not found.seen


@pytest.mark.parametrize("negatives", [None, 3])
def test_what_is_ranked_for_a_task(splits, records, negatives):
    catalogue = Catalogue.of(records, "test", "item", "train")
    found = {one.task: one for one in ranked_tasks(batches_of(records), catalogue, negatives)}
    assert set(found) == {task for task, *_ in splits["test"]} - {13}
    for task, items, labels in splits["test"][:-1]:
        known, rest = set(items[:SUPPORT].tolist()), items[SUPPORT:]
        positive = {int(i) for i, y in zip(rest, labels[SUPPORT:]) if y >= 4}
        one = found[task]
        ranked = catalogue.keys[one.items].tolist()
        assert {i for i, yes in zip(ranked, one.is_positive) if yes} == positive
        if negatives is None:
            assert set(ranked) == set(ITEMS) - known
        else:
            others = set(ranked) - positive
            assert len(others) == min(3, 13 - len(items))
            assert not others & set(items.tolist())
        assert len(set(ranked)) == len(ranked)


def test_drawn_items_follow_from_the_seed(records):
    catalogue = Catalogue.of(records, "test", "item", "train")

    def drawn(seed):
        tasks = ranked_tasks(batches_of(records, seed), catalogue, 2)
        return [one.items.tolist() for one in tasks]

    assert drawn(0) == drawn(0) != drawn(1)


def test_ranks_are_those_of_rows_that_are_there(splits, records, model, tmp_path):
    every_row = []
    for task, items, labels in splits["test"][:-1]:
        known, positive = items[:SUPPORT], items[SUPPORT:][labels[SUPPORT:] >= 4]
        others = [item for item in ITEMS if item not in known]
        of_others = [5 if item in positive else 1 for item in others]
        every_row.append((task, [*known, *others], [*labels[:SUPPORT], *of_others]))
    written = write(tmp_path / "every-row", {"train": splits["train"], "test": every_row})
    predicted = model.predict(batches_of(written), verbose=0)
    catalogue = Catalogue.of(records, "test", "item", "train")
    before = model.evaluate(batches_of(records), return_dict=True, verbose=0)
    found = rank_catalogue(model, batches_of(records), catalogue, METRICS)
    assert found["tasks"] == len(every_row)
    assert found["samples"] == len(predicted["label"])
    popular = np.concatenate(
        [catalogue.positives[np.array(i[SUPPORT:]) - 1] for _, i, _ in every_row]
    )
    scores = {"adapted": predicted["adapted"], "unadapted": predicted["unadapted"]}
    order = np.argsort([task for task, *_ in every_row], kind="stable")
    assert order.tolist() == list(range(len(every_row)))
    for side, values in (scores | {"baseline": popular}).items():
        for name in METRICS:
            expected = metric(name).value(predicted["task"], predicted["label"], values)
            assert found[f"{name}_{side}"] == pytest.approx(expected, rel=1e-5), (name, side)
    assert found["mrr_adapted"] != found["mrr_unadapted"] != found["mrr_baseline"]
    # The model reports as before.
    assert model.evaluate(batches_of(records), return_dict=True, verbose=0) == before


def test_items_of_earlier_splits_are_known_too(splits, tmp_path):
    task, items, labels = splits["test"][0]
    earlier = [item for item in ITEMS if item not in items][:2]
    by_time = {
        "train": [*splits["train"], (task, earlier, [5, 1])],
        "test": [(task, items, labels)],
    }
    records = write(tmp_path / "by-time", by_time, details={"split": {"by": "time"}})
    batches = batches_of(records, tasks=1, support=1)
    catalogue = Catalogue.of(records, "test", "item", "train")
    (one,) = ranked_tasks(batches, catalogue, None)
    assert set(catalogue.keys[one.items].tolist()) == set(ITEMS) - set(earlier)


def test_rows_of_an_unknown_item_are_left_out(splits, tmp_path):
    task, items, labels = splits["test"][0]
    unknown = (task, [*items, 0, 0], [*labels, 5, 5])
    records = write(tmp_path / "unknown", {"train": splits["train"], "test": [unknown]})
    catalogue = Catalogue.of(records, "test", "item", "train")
    assert 0 not in catalogue.keys
    batches = batches_of(records, tasks=1)
    (one,) = ranked_tasks(batches, catalogue, None)
    positive = items[SUPPORT:][labels[SUPPORT:] >= 4]
    assert set(catalogue.keys[one.items[one.is_positive]].tolist()) == set(positive.tolist())


def test_a_field_of_neither_the_item_nor_the_task_is_refused(splits, tmp_path):
    fields = (gm.Field("item"), gm.Field("age"), *SCHEMA.fields[2:])  # the planes change places
    schema = gm.Schema(fields, "rating", "user", positive_from=4.0)
    schema = schema.with_num_rows({"age": 14, "item": 6, "genre": 5})
    records = write(tmp_path / "context", splits, schema)
    with pytest.raises(
        ValueError,
        match="the same in all rows of a value of 'item', or of a task, with --catalogue item: "
        "'age' is neither",
    ):
        Catalogue.of(records, "test", "item", "train")


def test_a_field_that_differs_between_the_episodes_of_a_task_is_not_the_tasks(splits, tmp_path):
    folder = tmp_path / "episodes"
    folder.mkdir()
    contents = {}
    for name, tasks in splits.items():
        writer = EpisodeWriter(folder, name, SCHEMA, num_files=1, episode_rows=2)
        for task, items, labels in tasks:
            words = rows_of(task, items, labels)
            words[1] = np.arange(len(items)) // 2 % 6  # each episode of two rows has another age
            writer.write(np.full(len(items) // 2 * 2, task), words[:, : len(items) // 2 * 2])
        contents[name] = writer.close()
    described = gm.Records(str(folder), SCHEMA, contents, episode_rows=2).describe()
    (folder / "schema.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="'age' is neither"):
        Catalogue.of(gm.Records.open(folder), "test", "item", "train")


def test_fields_without_one_value_a_row_are_refused():
    for name in ("genre", "length", "nothing"):
        with pytest.raises(
            ValueError,
            match=f"expected --catalogue to be a field with one value a row, age, "
            f"item, got '{name}'",
        ):
            check_catalogue_field(SCHEMA, name)


def test_no_positives_no_ranking(splits, model, tmp_path):
    records = write(tmp_path / "none", {"train": splits["train"], "test": splits["test"][-1:]})
    batches = batches_of(records, tasks=1)
    catalogue = Catalogue.of(records, "test", "item", "train")
    with pytest.raises(ValueError, match="expected tasks with a positive query row"):
        rank_catalogue(model, batches, catalogue, METRICS)
