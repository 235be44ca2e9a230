"""Learning from ratings where the metrics are of clicks."""

import dataclasses
import math

import keras
import made_batches
import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.meta.losses import row_loss

SCHEMA = dataclasses.replace(made_batches.SCHEMA, positive_from=4.0)
AS_THEY_ARE = made_batches.SCHEMA


def rated(seed=3):
    rng = np.random.default_rng(seed)
    return [
        dataclasses.replace(t, label=rng.integers(1, 6, len(t.label)).astype(np.float32))
        for t in made_batches.made_tasks(seed)
    ]


def trained(schema, loss, *, centre=0.0, scale=1.0):
    """A model after three steps; labels in units of `scale` from `centre` on."""
    keras.utils.set_random_seed(1)
    embedding = gm.ShardedEmbedding(schema, 3, scale=0.8, world=gm.World(), seed=4)
    model = gm.MetaModel(gm.models.MamlDLRM((4,), (5,)), embedding, gm.InnerLoop(2, 0.1))
    model.compile("sgd", "sgd", loss=loss)
    tasks = [dataclasses.replace(t, label=(t.label - centre) / scale) for t in rated()]
    model.fit(made_batches.dataset([tasks] * 3, 8, schema=schema), verbose=0)
    return model, made_batches.batch(tasks, schema=schema)


def test_it_is_the_squared_error_of_the_ratings():
    """As if there were no clicks and labels were in its units; predictions are ratings."""
    ratings, batch = trained(SCHEMA, gm.rating_loss(3.2, 1.5))
    numbers, in_units = trained(AS_THEY_ARE, "mse", centre=3.2, scale=1.5)
    found, expected = ratings.test_step(batch), numbers.test_step(in_units)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    for name in ("adapted", "unadapted"):
        np.testing.assert_allclose(found[name], 3.2 + 1.5 * expected[name], rtol=1e-4)
    assert set(found["label"].numpy()) == {0.0, 1.0}
    assert set(np.round(3.2 + 1.5 * expected["label"].numpy())) == {1, 2, 3, 4, 5}


def test_without_clicks_it_takes_the_labels():
    loss = gm.rating_loss(1.0, 2.0)
    part = made_batches.batch(rated(), schema=AS_THEY_ARE)["query"]
    assert "value" not in part
    np.testing.assert_array_equal(loss.labels_of(part), part["label"])
    assert float(loss.loss(tf.constant(5.0), tf.constant(1.0))) == 1.0


def test_its_name_is_that_of_its_plain_units():
    loss = row_loss("ratings")
    assert (loss.name, loss.takes_values, loss.takes_logits) == ("ratings", True, False)
    assert float(loss.predict(tf.constant(2.5))) == 2.5


@pytest.mark.parametrize("units", [(math.nan, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, math.inf)])
def test_wrong_units(units):
    with pytest.raises(ValueError, match="a finite centre and a finite scale above 0, got"):
        gm.rating_loss(*units)


def test_ranks_agree_on_its_units(monkeypatch):
    """Two losses of one name are told apart where the ranks compare what they were given."""
    told = []
    monkeypatch.setattr(
        "gmeta_tf.meta.meta_model.agree", lambda value, world, name: told.append(value)
    )
    embedding = gm.ShardedEmbedding(SCHEMA, 3, world=gm.World())
    model = gm.MetaModel(gm.models.MeLU((4,)), embedding, gm.InnerLoop())
    for loss, inner in ((3.0, 3.0), (3.5, 3.0), (3.5, 3.5)):
        model.compile(loss=gm.rating_loss(loss), inner_loss=gm.rating_loss(inner))
    assert told[0] != told[1]
    assert told[1] != told[2]
