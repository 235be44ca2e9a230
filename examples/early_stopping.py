"""Stop when the validation split gets no better, and evaluate the best epoch.

python examples/early_stopping.py RECORDS RUN
"""

import pathlib
import sys

import keras
import numpy as np

import gmeta_tf as gm

PATIENCE = 2


def main(records_folder: str, run: str) -> None:
    keras.utils.set_random_seed(0)
    records = gm.Records.open(records_folder)
    train = gm.TaskBatches(records, "train", tasks=8, support=3, query=10)
    valid, test = (
        gm.TaskBatches(
            records, split, tasks=2, support=3, query=32, every_query=True, shuffle=False
        )
        for split in ("valid", "test")
    )
    learner = gm.models.MeLU(hidden=(16,))
    model = gm.MetaModel(
        learner, gm.ShardedEmbedding(records.schema, width=8), learner.inner_loop(1, 0.1)
    )
    model.compile(keras.optimizers.Adam(1e-3), gm.Adagrad(0.1), loss="binary_crossentropy")
    monitor = "val_auc_adapted"
    stop = keras.callbacks.EarlyStopping(monitor=monitor, mode="max", patience=PATIENCE)
    # Keras can bring back dense weights alone. A run's checkpoints have the rows of the tables too,
    # and with so many kept the best one is still there when training stops.
    folder = gm.RunFolder(run, train, checkpoint_every=1, keep=PATIENCE + 1)
    history = model.fit(
        train, validation_data=valid, epochs=20, callbacks=[stop, folder], verbose=2
    )
    best = int(np.argmax(history.history[monitor])) + 1
    gm.load_checkpoint(model, pathlib.Path(run) / "checkpoint" / f"epoch-{best:06d}")
    results = model.evaluate(test, return_dict=True, verbose=0)
    print(f"epoch {best} of {len(history.epoch)}: test AUC {results['auc_adapted']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
