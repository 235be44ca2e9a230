"""A task encoder of your own: attention over the support rows, which says what a task is like.

python examples/support_attention.py RECORDS
"""

import sys

import keras

import gmeta_tf as gm


class SupportAttention(keras.Model):
    """Support rows and their labels → a vector of the task: learned seeds attend to the rows."""

    def __init__(self, width: int = 16, seeds: int = 2) -> None:
        super().__init__(name="support_attention")
        self.row = keras.layers.Dense(width, activation="relu")
        self.seeds = keras.layers.Dense(seeds, use_bias=False)  # a row → what each seed makes of it
        self.task = keras.layers.Dense(width)

    def call(self, inputs):
        label, weight = inputs["label"], inputs["weight"]  # [T, S]; weight 0: no such row
        fields = inputs["embedded"]  # [T, S, F, D]
        flat = keras.ops.reshape(fields, (*keras.ops.shape(weight), -1))
        flat.set_shape([None, None, fields.shape[2] * fields.shape[3]])
        rows = self.row(keras.ops.concatenate([flat, label[..., None]], axis=-1))  # [T, S, width]
        there = keras.ops.cast(weight[..., None] > 0, rows.dtype)
        # A row of weight 2 counts as two rows: exp(score + ln 2) = 2 exp(score).
        weight = keras.ops.where(weight > 0, weight, 1.0)
        score = self.seeds(rows) + keras.ops.log(weight[..., None]) - 1e9 * (1 - there)
        share = keras.ops.softmax(score, axis=1) * there  # [T, S, seeds], 0 without rows
        attended = keras.ops.einsum("tsk,tsw->tkw", share, rows)
        return self.task(keras.ops.reshape(attended, (-1, share.shape[2] * rows.shape[2])))


class Scorer(keras.Model):
    """A row beside the vector of its task → a logit."""

    def __init__(self) -> None:
        super().__init__(name="scorer")
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(32, activation="relu")
        self.score = keras.layers.Dense(1)

    def call(self, inputs):
        parts = [self.flatten(inputs["embedded"]), inputs["task"]]
        return self.score(self.hidden(keras.ops.concatenate(parts, axis=-1)))


def main(records_folder: str) -> None:
    keras.utils.set_random_seed(0)
    records = gm.Records.open(records_folder)
    train = gm.TaskBatches(records, "train", tasks=8, support=5, query=10)
    test = gm.TaskBatches(
        records, "test", tasks=4, support=5, query=32, every_query=True, shuffle=False
    )
    # The encoder reads the support; the scorer's weights adapt to it by one step besides.
    inner = gm.InnerLoop(1, 0.05, adapt_embeddings=False)
    embedding = gm.ShardedEmbedding(records.schema, width=8)
    model = gm.MetaModel(Scorer(), embedding, inner, task_encoder=SupportAttention())
    model.compile(keras.optimizers.Adam(1e-3), gm.Adagrad(0.1), loss="binary_crossentropy")
    model.fit(train, epochs=3, verbose=2)
    results = model.evaluate(test, return_dict=True, verbose=0)
    print(f"AUC adapted {results['auc_adapted']:.4f}, unadapted {results['auc_unadapted']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
