"""Random search on the validation split: `python examples/random_search.py RECORDS`."""

import json
import sys

import keras
import numpy as np

import gmeta_tf as gm


def trained(records: gm.Records, width: int, inner_rate: float, row_rate: float) -> gm.MetaModel:
    keras.utils.set_random_seed(0)
    learner = gm.models.MeLU(hidden=(16,))
    embedding = gm.ShardedEmbedding(records.schema, width)
    model = gm.MetaModel(learner, embedding, learner.inner_loop(1, inner_rate))
    model.compile(keras.optimizers.Adam(1e-3), gm.Adagrad(row_rate), loss="binary_crossentropy")
    model.fit(gm.TaskBatches(records, "train", tasks=8, support=3, query=10), epochs=2, verbose=0)
    return model


def main(records_folder: str, trials: str = "8") -> None:
    records = gm.Records.open(records_folder)
    valid = gm.TaskBatches(records, "valid", tasks=2, support=3, query=32, every_query=True)
    draw, found = np.random.default_rng(0), []
    for _ in range(int(trials)):
        settings = {
            "width": int(draw.choice([4, 8, 16])),
            "inner_rate": float(10 ** draw.uniform(-2, 0)),  # rates are drawn by their logarithm
            "row_rate": float(10 ** draw.uniform(-2, 0)),
        }
        model = trained(records, **settings)
        auc = model.evaluate(valid, return_dict=True, verbose=0)["auc_adapted"]
        found.append({"auc": auc, **settings})
        print(json.dumps(found[-1]), flush=True)
    print("best:", json.dumps(max(found, key=lambda one: one["auc"])))


if __name__ == "__main__":
    main(*sys.argv[1:])
