"""A learner of your own: attention over the fields of a row, adapted to each task.

python examples/attention_learner.py RECORDS
"""

import sys

import keras

import gmeta_tf as gm


class FieldAttention(keras.Model):
    """Each field of a row attends to the others; what comes out is scored.

    A learner gives a row its output by itself: attention runs over the F fields of one row, and
    never over rows.
    """

    def __init__(self, heads: int = 2, width: int = 8) -> None:
        super().__init__(name="field_attention")
        self.attention = keras.layers.MultiHeadAttention(heads, key_dim=width)
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(32, activation="relu")
        self.score = keras.layers.Dense(1)

    def call(self, inputs):
        fields = inputs["embedded"]  # [R, F, D]
        joined = self.flatten(fields + self.attention(fields, fields))
        if "dense" in inputs:
            joined = keras.ops.concatenate([joined, inputs["dense"]], axis=-1)
        return self.score(self.hidden(joined))  # [R, 1], a logit


def main(records_folder: str) -> None:
    keras.utils.set_random_seed(0)
    records = gm.Records.open(records_folder)
    train = gm.TaskBatches(records, "train", tasks=8, support=5, query=10)
    test = gm.TaskBatches(
        records, "test", tasks=4, support=5, query=32, every_query=True, shuffle=False
    )
    # Every layer adapts by one step on the support rows, the attention's too; embeddings do not.
    inner = gm.InnerLoop(1, 0.1, adapt_embeddings=False)
    model = gm.MetaModel(FieldAttention(), gm.ShardedEmbedding(records.schema, width=8), inner)
    model.compile(keras.optimizers.Adam(1e-3), gm.Adagrad(0.1), loss="binary_crossentropy")
    model.fit(train, epochs=3, verbose=2)
    results = model.evaluate(test, return_dict=True, verbose=0)
    print(f"AUC adapted {results['auc_adapted']:.4f}, unadapted {results['auc_unadapted']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
