"""Ids that nobody listed: a table whose rows come with their keys and go when they are not seen.

python examples/dynamic_table.py LOG.csv RECORDS

LOG.csv has the columns user, item and stars. RECORDS is made of it where it is not there yet, which
one process has to do: run it alone before `horovodrun -np 2` the first time.
"""

import pathlib
import sys

import keras

import gmeta_tf as gm

SCHEMA = gm.Schema(
    (gm.Field("item"),),
    label="stars",
    task="user",
    positive_from=3,
    # A 64-bit hash of the id, and no num_rows: no vocabulary is made, and the table has no limit.
    tables=(gm.Table("item", keys="hash"),),
)


def main(log: str, records_folder: str) -> None:
    keras.utils.set_random_seed(0)
    if not pathlib.Path(records_folder).exists():
        split = gm.Split(0.2)
        gm.prepare(gm.files_source(log), SCHEMA, records_folder, split=split, num_files=4)
    records = gm.Records.open(records_folder, SCHEMA)
    train = gm.TaskBatches(records, "train", tasks=4, support=3, query=5)
    # An item that six steps have not seen gives its row up, and starts anew if it comes back. In a
    # real log that is a day's steps or a week's.
    rules = gm.DynamicTable(time_to_live=6)
    embedding = gm.ShardedEmbedding(records.schema, width=8, dynamic=rules)
    learner = gm.models.MeLU(hidden=(16,))
    model = gm.MetaModel(learner, embedding, learner.inner_loop(1, 0.1))
    model.compile(keras.optimizers.Adam(1e-3), gm.Adagrad(0.1), loss="binary_crossentropy")
    for epoch in range(1, 4):
        model.fit(train, epochs=epoch, initial_epoch=epoch - 1, verbose=0)
        counts = embedding.metrics()["item"]
        print(
            f"epoch {epoch}: {counts['occupancy']:.0f} items have a row, "
            f"{counts['expirations']:.0f} have given theirs up"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
