"""What distribution costs of quality: one rank, two ranks and a parameter server, step for step.

MeLU on MovieLens, from ratings, by plain SGD on its dense weights and Adagrad on its rows, whose
rates do not fall: what the server's own update ops can do (benchmarks/peers/parameter_server.py).
One rank takes steps of 32 tasks, two ranks steps of 16 each, and the server's two workers, which do
not wait for one another, steps of 32 of their own, so that all take as many updates of as many
tasks. All adapt to the same support and are evaluated on the same query rows of cold users. The
last line is the result as JSON: of each the AUC of each seed, their mean, and the epochs' losses.

    python -m benchmarks.convergence                        # seeds 0 to 4: about ten minutes
    python -m benchmarks.convergence --picture loss.png     # the losses of the epochs, too
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import re
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import yaml

from benchmarks.commands import core_seconds
from benchmarks.processes import Process

__all__ = ["main"]

_TASKS, _SUPPORT = 32, 10
_WORKERS = 2
_ONE, _TWO, _SERVER = "1 rank", "2 ranks", "parameter server, 2 workers"
# As `gmeta-tf train --config` takes it.
_SETTINGS: dict[str, Any] = {
    "model": "melu",
    "loss": "ratings",
    "width": 16,
    "hidden": [64, 64],
    "inner_steps": 3,
    "inner_learning_rate": 0.1,
    "support": _SUPPORT,
    "query": 40,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "row_optimizer": "adagrad",
    "row_learning_rate": 0.3,
    "decay": "none",
    "metrics": ["auc"],
}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    aucs: dict[str, list[float]] = {_ONE: [], _TWO: [], _SERVER: []}
    losses: dict[str, list[list[float]]] = {_ONE: [], _TWO: [], _SERVER: []}
    for seed in range(options.seeds):
        for name, (auc, of_epochs) in _of_seed(seed, options).items():
            aucs[name].append(auc)
            losses[name].append(of_epochs)
            print(f"seed {seed}  {name:28} AUC {auc:.4f}  loss {of_epochs[-1]:.4f}", flush=True)
    means = {name: round(statistics.mean(of_seeds), 5) for name, of_seeds in aucs.items()}
    curves = {
        name: [round(statistics.mean(of_epoch), 5) for of_epoch in zip(*of_seeds, strict=True)]
        for name, of_seeds in losses.items()
    }
    for name, mean in means.items():
        print(f"{name:28} AUC {mean:.4f}")
    if options.picture:
        _draw(curves, options.picture)
    result = {
        "benchmark": "convergence",
        "auc": means,
        "largest_difference": round(max(means.values()) - min(means.values()), 5),
        "auc_of_seeds": aucs,
        "loss_of_epochs": curves,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "data": options.data,
    }
    print(json.dumps(result))
    return result


def _of_seed(seed: int, options: argparse.Namespace) -> dict[str, tuple[float, list[float]]]:
    """Each contestant's AUC and losses on one draw of cold users."""
    with tempfile.TemporaryDirectory() as folder:
        records, epochs = str(pathlib.Path(folder) / "records"), options.epochs
        core_seconds("prepare", "--movielens", options.data, "--output", records, "--seed", seed)
        return {
            _ONE: _of_ranks(folder, records, seed, 1, epochs),
            _TWO: _of_ranks(folder, records, seed, 2, epochs),
            _SERVER: _of_server(folder, records, seed, epochs),
        }


def _of_ranks(
    folder: str, records: str, seed: int, ranks: int, epochs: int
) -> tuple[float, list[float]]:
    """The AUC, and the loss of each epoch, of a run of `gmeta-tf train`."""
    run, config = pathlib.Path(folder) / f"run-{ranks}", pathlib.Path(folder) / "config.yaml"
    config.write_text(yaml.safe_dump(_SETTINGS))
    core_seconds(
        *("train", "--config", config, "--records", records, "--run", run, "--seed", seed),
        *("--tasks", _TASKS // ranks, "--epochs", epochs),
        ranks=ranks,
    )
    core_seconds("evaluate", "--run", run, "--seed", seed)
    report = json.loads((run / "evaluation-test.json").read_text())
    log = (run / "log.txt").read_text()
    losses = [float(one) for one in re.findall(r"^epoch \d+  loss (\S+)", log, re.MULTILINE)]
    return report["auc_adapted"], losses


def _of_server(folder: str, records: str, seed: int, epochs: int) -> tuple[float, list[float]]:
    """The same of a parameter server; it, its workers and the coordinator have processes each."""
    with Process(_serve_addresses) as process:
        cluster = process.ask("cluster")
    with contextlib.ExitStack() as stack:
        for job, index in (("ps", 0), *(("worker", index) for index in range(_WORKERS))):
            stack.enter_context(Process(_serve_server, cluster, job, index)).ask("start")
        coordinator = stack.enter_context(
            Process(_serve_coordinator, cluster, folder, records, seed, epochs)
        )
        losses = coordinator.ask("train")
        auc: float = coordinator.ask("auc")
    return auc, losses


def _serve_addresses() -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import parameter_server

    return {"cluster": lambda: parameter_server.free_cluster(_WORKERS)}


def _serve_server(cluster: Any, job: str, index: int) -> dict[str, Callable[..., Any]]:
    from benchmarks.peers import parameter_server

    held = []

    def start() -> None:
        held.append(parameter_server.start_server(cluster, job, index, threads=1))

    return {"start": start}


def _serve_coordinator(
    cluster: Any, folder: str, records: str, seed: int, epochs: int
) -> dict[str, Callable[..., Any]]:
    import keras

    import gmeta_tf as gm
    from benchmarks.peers import parameter_server
    from gmeta_tf.cli.built_model import build_model, look_at_records
    from gmeta_tf.cli.options import TrainOptions
    from gmeta_tf.cli.run_batches import evaluation_batches, training_batches

    data = gm.Records.open(records)
    options = TrainOptions(records=records, run="", seed=seed, tasks=_TASKS, **_SETTINGS)
    options = look_at_records(options, data, gm.World())

    def made() -> gm.MetaModel:
        keras.utils.set_random_seed(seed)
        return build_model(options, data.schema, gm.World())

    coordinator = parameter_server.Coordinator(
        cluster,
        made,
        learning_rate=options.learning_rate,
        row_learning_rate=options.row_learning_rate,
    )

    def train() -> list[float]:
        folders = []
        for worker in range(_WORKERS):
            batches = training_batches(options, data, gm.World(worker, _WORKERS))
            folders.append(f"{folder}/steps-{worker}")
            # Draws of as many epochs as there will be.
            steps = batches.steps_per_epoch * epochs
            parameter_server.save_steps(batches, pathlib.Path(folders[-1]), steps)
        schedule = coordinator.prepare(folders, _SUPPORT, steps_a_call=1)
        alone = training_batches(options, data, gm.World()).steps_per_epoch
        return [coordinator.mean_loss(schedule, alone) for _ in range(epochs)]

    def auc() -> float:
        """Of a model in this process, with the server's weights and rows."""
        model = made()
        for variable, trained in zip(
            model.trainable_variables, coordinator.model.trainable_variables, strict=True
        ):
            variable.assign(trained.numpy())
        for group, shard in model.embedding.shards.items():
            shard.rows.assign(coordinator.model.embedding.shards[group].rows.numpy())
        batches = evaluation_batches(data, "test", _SUPPORT, seed, gm.World())
        return float(model.evaluate(batches, return_dict=True, verbose=0)["auc_adapted"])

    return {"train": train, "auc": auc}


def _draw(curves: dict[str, list[float]], path: str) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    # Told apart in grey, too.
    for (name, losses), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        axes.plot(range(1, len(losses) + 1), losses, style, label=name, linewidth=2)
    axes.set(xlabel="epoch", ylabel="mean query loss in training")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many (5)")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of each (20)")
    parser.add_argument("--data", default="download", help="a folder with ml-100k or ml-1m")
    parser.add_argument("--picture", metavar="FILE", help="a PNG of the epochs' losses")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
