"""A log with a table beside it: `python examples/side_tables.py LOG.csv ITEMS.csv RECORDS`.

The log has the columns user, item and stars, the table item and whatever is known of items. The
schema says how they are joined; a learner never sees that a value came from another file.
"""

import csv
import sys

import keras

import gmeta_tf as gm


def schema_of(items: str) -> gm.Schema:
    """The item and everything that the table has of it, numbers as dense fields."""
    with open(items, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [name for name in rows[0] if name != "item"]
    fields = [gm.Field("item")]
    for name in columns:
        values = [row[name] for row in rows if row[name]]
        if all(value.replace(".", "", 1).isdigit() for value in values):
            # Scaled by the training rows alone; items without a value get the mean.
            fields.append(gm.Field(name, "dense", transform="standardize", missing="mean"))
        elif any("|" in value for value in values):
            fields.append(gm.Field(name, "multi", max_values=4))
        else:
            fields.append(gm.Field(name))
    table = gm.SideTable("items", items, on="item", columns=tuple((one, one) for one in columns))
    return gm.Schema(
        tuple(fields), label="stars", task="user", positive_from=4.0, tables_to_join=(table,)
    )


def main(log: str, items: str, records_folder: str) -> None:
    schema = schema_of(items)
    records = gm.prepare(gm.files_source(log), schema, records_folder, split=gm.Split(0.2))
    for field in records.schema.fields:
        print(f"{field.name}: {field.kind}")

    keras.utils.set_random_seed(0)
    train = gm.TaskBatches(records, "train", tasks=4, support=3, query=4)
    test = gm.TaskBatches(records, "test", tasks=2, support=3, query=16, every_query=True)
    learner = gm.models.MeLU(hidden=(16,))
    embedding = gm.ShardedEmbedding(records.schema, width=8)
    model = gm.MetaModel(learner, embedding, learner.inner_loop(1, 0.1))
    model.compile(keras.optimizers.Adam(1e-3), gm.Adagrad(0.1), loss="binary_crossentropy")
    model.fit(train, epochs=2, verbose=0)
    found = model.evaluate(test, return_dict=True, verbose=0)
    print(f"test loss {found['loss']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
