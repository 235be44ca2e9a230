"""Evidence candidates against a slow loop over rows."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf
from made_data import SCHEMA, make_records

import gmeta_tf as gm


def model_of(inner=None, *, make=lambda: gm.models.MeLU((5, 4)), schema=SCHEMA, world=None):
    keras.utils.set_random_seed(2)
    embedding = gm.ShardedEmbedding(schema, 3, scale=0.8, world=world or gm.World())
    learner = make()
    encoder = learner.task_encoder(width=4) if hasattr(learner, "task_encoder") else None
    inner = gm.models.MeLU.inner_loop() if inner is None else inner
    model = gm.MetaModel(learner, embedding, inner, task_encoder=encoder)
    model.compile()
    return model


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    make_records(folder, 9)
    return gm.Records.open(folder)


def batches_of(records, **options):
    options = {"tasks": 4, "support": 3, "query": 5, "every_row": True, **options}
    return gm.TaskBatches(records, "train", shuffle=False, **options)


def slow(model, batches, slot):
    """Of each key the mean norm and the rows, by one tape for each row."""
    norms, counts = collections.defaultdict(float), collections.Counter()
    adapted = [variable.value for variable in model.adapter.tasks.adapted]
    table = model.embedding.all_rows("embedded").numpy()
    for batch in batches.dataset().take(batches.steps_per_epoch):
        keys = np.append([-1], batch["keys"]["embedded"])[batch["pair_to_key"]["embedded"]]
        for part in (batch["support"], batch["query"]):
            for task, row in np.argwhere(part["weight"].numpy() > 0):
                of_slots = keys[part["pairs"]["embedded"][task, row]]
                if of_slots[slot] < 0:
                    continue
                vectors = []
                for field in np.split(of_slots, [1, 4]):
                    there = field[field >= 0]
                    mean = table[there].mean(axis=0) if len(there) else np.zeros(3, np.float32)
                    vectors.append(mean)
                features = {
                    "embedded": tf.constant(np.array(vectors)[np.newaxis], tf.float32),
                    "dense": part["dense"][task, row][tf.newaxis],
                }
                with tf.GradientTape() as tape:
                    output = model.learner(features)
                slopes = tape.gradient(output, adapted)
                norms[of_slots[slot]] += np.sqrt(sum(np.sum(np.square(one)) for one in slopes))
                counts[of_slots[slot]] += 1
    return {key: norms[key] / counts[key] for key in norms}, counts


@pytest.mark.parametrize("fast_weights", ["low_rank", "vectorized"])
@pytest.mark.parametrize("adapts", ["all", "kernel"])
def test_norms_are_those_of_one_row_after_the_other(records, fast_weights, adapts):
    """Of all weights; and of those that the loop adapts alone."""
    chosen = "all" if adapts == "all" else lambda variable: variable.path.endswith("score/kernel")
    inner = gm.InnerLoop(adapt_dense=chosen, adapt_embeddings=False, fast_weights=fast_weights)
    model = model_of(inner)
    found = gm.evidence_candidates(model, batches_of(records), "item", top=100)
    norms, counts = slow(model, batches_of(records), 0)
    norms.pop(0)
    assert {one.key for one in found} == set(norms)
    assert len(norms) > 10
    for one in found:
        np.testing.assert_allclose(one.norm, norms[one.key], rtol=1e-4)
        assert one.num_rows == counts[one.key]
    scaled = [
        {key: (value - min(of.values())) / (max(of.values()) - min(of.values())) for key, value in
         of.items()}
        for of in (norms, {key: counts[key] for key in norms})
    ]  # fmt: skip
    expected = {key: scaled[0][key] * scaled[1][key] for key in norms}
    assert [one.key for one in found] == sorted(expected, key=lambda key: (-expected[key], key))
    np.testing.assert_allclose(
        [one.score for one in found], [expected[one.key] for one in found], rtol=1e-3, atol=1e-5
    )


def test_top_cuts_the_list(records):
    model = model_of()
    every, best = (
        gm.evidence_candidates(model, batches_of(records), "item", top=top) for top in (100, 3)
    )
    assert best == every[:3]
    assert len(every) > 3


REFUSED = {
    "top": ({}, "item", 0, "expected top of at least 1, got 0"),
    "field": ({}, "genre", 1, "expected a categorical field, item, got 'genre'"),
    "closed form": (
        {"inner": gm.ClosedForm(), "make": gm.models.Factors},
        "item",
        1,
        "whose dense weights adapt by gradient steps, got one .* another way",
    ),
    "rows alone": (
        {"inner": gm.InnerLoop(adapt_dense="none")},
        "item",
        1,
        "whose dense weights adapt by gradient steps",
    ),
    "encoder": (
        {"make": lambda: gm.models.MMAML((4,))},
        "item",
        1,
        "without a task encoder, which reads labels",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_does_not_take(records, name):
    options, field, top, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        gm.evidence_candidates(model_of(**options), batches_of(records), field, top=top)
