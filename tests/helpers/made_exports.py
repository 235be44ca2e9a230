"""A small model that exports quickly: two vocabularies and a dynamic table."""

import keras
import numpy as np
from made_batches import Task, dataset

import gmeta_tf as gm

GENRES = np.array(["Drama", "Comédie", "a\nb", "Sci Fi", ""], object)
ITEMS = np.array([f"i{item}" for item in range(9)], object)


def make_model(num_items, num_genres):
    """Two vocabularies in one group, and a dynamic table that forgets."""
    schema = gm.Schema(
        (gm.Field("item"), gm.Field("shop"), gm.Field("genre")),
        "liked",
        "user",
        tables=(
            gm.Table("item", num_items + 1),
            gm.Table("shop", keys="raw"),
            gm.Table("genre", num_genres + 1),
        ),
    )
    keras.utils.set_random_seed(0)
    embedding = gm.ShardedEmbedding(
        schema, 4, dynamic=gm.DynamicTable(capacity=4), scale=0.5, world=gm.World()
    )
    model = gm.MetaModel(gm.models.MeLU((6,)), embedding, gm.InnerLoop(1, 0.4))
    model.compile(keras.optimizers.Adam(0.05), gm.LazyAdam(0.1))
    return model, {"item": ITEMS[:num_items], "genre": GENRES[:num_genres]}


def train(model, items, shops):
    keys = np.array([[item, shop, 1 + item % 2] for item, shop in zip(items, shops, strict=True)])
    labels = np.arange(len(items)) % 2
    task = Task(0, 2, keys, np.zeros([len(items), 0]), labels)
    model.fit(dataset([[task]], 1, schema=model.embedding.schema), verbose=0)


def rows_of(items, genres, shops):
    return {
        "user": np.zeros(len(items), np.int64),
        "item": np.array(items, object),
        "genre": np.array(genres, object),
        "shop": np.array(shops, object),
    }
