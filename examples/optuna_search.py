"""Search with Optuna, which stops what falls behind: `python examples/optuna_search.py RECORDS`."""

import sys

import keras
import optuna

import gmeta_tf as gm

EPOCHS = 3


def main(records_folder: str, trials: str = "8") -> None:
    records = gm.Records.open(records_folder)
    train = gm.TaskBatches(records, "train", tasks=8, support=3, query=10)
    valid = gm.TaskBatches(records, "valid", tasks=2, support=3, query=32, every_query=True)

    def auc_of(trial: optuna.Trial) -> float:
        keras.utils.set_random_seed(0)
        learner = gm.models.MeLU(hidden=(16,))
        embedding = gm.ShardedEmbedding(records.schema, trial.suggest_categorical("width", [4, 8]))
        inner_rate = trial.suggest_float("inner_rate", 0.01, 1.0, log=True)
        model = gm.MetaModel(learner, embedding, learner.inner_loop(1, inner_rate))
        row_rate = trial.suggest_float("row_rate", 0.01, 1.0, log=True)
        model.compile(keras.optimizers.Adam(1e-3), gm.Adagrad(row_rate), loss="binary_crossentropy")
        for epoch in range(EPOCHS):
            model.fit(train, epochs=1, verbose=0)
            auc = model.evaluate(valid, return_dict=True, verbose=0)["auc_adapted"]
            trial.report(auc, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return auc

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(auc_of, n_trials=int(trials))
    print(f"best of {len(study.trials)}: {study.best_value:.4f} with {study.best_params}")


if __name__ == "__main__":
    main(*sys.argv[1:])
