"""Parameter-server MAML: TensorFlow's ParameterServerStrategy around the same inner and outer loop.

One server holds the embedding tables, their accumulators and the dense weights. A worker pulls the
rows of its step's distinct keys (the look-up is done by the server, and only those rows travel) and
the dense weights, runs the inner and the outer loop with the very code of `gmeta_tf.MetaModel`,
and pushes its gradients, which the server's own update ops apply: SGD to the dense weights, Adagrad
to the touched rows. Workers are asynchronous, as `ClusterCoordinator.schedule` runs them.

What was chosen, and why:

- The updates are TensorFlow's resource ops, which run where the variable lies, as those of its own
  optimizers do. Keras 3 optimizers were not tried: they have no update of touched rows alone.
- A coordinator's function can not call Python on a worker, and the plan of `TaskBatches` does. So
  rows are drawn and saved beforehand, and the workers make batches of them with the same ops.
  Planning, checking and drawing is thereby spared the workers, to their favour.
- Tasks a step and steps a call are tuned: every call costs the coordinator time, which shares the
  cores. Calls are queued ahead, so that no worker waits for the coordinator.
"""

from __future__ import annotations

import functools
import pathlib
import socket
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import gmeta_tf as gm
from gmeta_tf.batch import Batch
from gmeta_tf.meta.losses import task_losses
from gmeta_tf.meta_io.batches.assembly import assemble_batch

__all__ = [
    "Coordinator",
    "apply_gradients",
    "free_cluster",
    "save_steps",
    "start_server",
    "task_gradients",
]

Cluster = dict[str, list[str]]


def free_cluster(workers: int) -> Cluster:
    """Addresses on this host for a chief, a server and the workers, at ports that are free now."""
    sockets = [socket.socket() for _ in range(2 + workers)]
    for each in sockets:
        each.bind(("localhost", 0))
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return {"chief": addresses[:1], "ps": addresses[1:2], "worker": addresses[2:]}


def start_server(cluster: Cluster, job: str, index: int, threads: int) -> Any:
    """Starts this process' server; it works on threads of its own.

    Args:
        cluster: the addresses.
        job: "ps" or "worker".
        index: of the process in its job.
        threads: for the ops, and as many within an op.
    """
    config = tf.compat.v1.ConfigProto(
        inter_op_parallelism_threads=max(2, threads),  # one thread would wait for its own receives
        intra_op_parallelism_threads=threads,
    )
    return tf.distribute.Server(
        tf.train.ClusterSpec(cluster),
        job_name=job,
        task_index=index,
        protocol="grpc",
        config=config,
        start=True,
    )


def save_steps(batches: gm.TaskBatches, folder: pathlib.Path, steps: int) -> None:
    """Saves the drawn rows of a worker's first steps, which `Coordinator` has it read."""
    batches.picked(0).take(steps).save(str(folder))


class Coordinator:
    """The chief: holds the model whose variables lie on the server, and schedules steps."""

    def __init__(
        self,
        cluster: Cluster,
        make_model: Callable[[], gm.MetaModel],
        *,
        learning_rate: float,
        row_learning_rate: float,
    ) -> None:
        """Connects to the servers and makes the variables.

        Args:
            cluster: the addresses, of servers that have been started.
            make_model: called where variables are placed on the server; compiled with `gm.Adagrad`.
            learning_rate: of SGD, for the dense weights.
            row_learning_rate: of Adagrad, for the rows.
        """
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(cluster), rpc_layer="grpc"
        )
        self._num_workers = len(cluster["worker"])
        self._strategy = tf.distribute.ParameterServerStrategy(resolver)
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(self._strategy)
        self._rates = learning_rate, row_learning_rate
        with self._strategy.scope():
            self.model = make_model()

    def prepare(self, folders: list[str], num_support: int, steps_a_call: int) -> Callable[[], Any]:
        """Makes the workers' input and the call that they are sent.

        Args:
            folders: what `save_steps` wrote, one for each worker.
            num_support: S.
            steps_a_call: the steps of a call.

        Returns:
            A function that schedules one call and returns a value to fetch later: float32 `[2]`,
            the samples of its steps and the sum of the steps' losses.
        """
        schema = self.model.embedding.schema
        assemble = functools.partial(assemble_batch, schema=schema, num_support=num_support)

        def dataset_of(context: tf.distribute.InputContext) -> tf.data.Dataset:
            # One function is traced for all workers, whose number it does not know: each reads all
            # that was saved, in an order that it draws.
            del context
            steps = tf.data.Dataset.load(folders[0])
            for folder in folders[1:]:
                steps = steps.concatenate(tf.data.Dataset.load(folder))
            return (
                steps.shuffle(64)
                .repeat()
                .map(assemble, num_parallel_calls=tf.data.AUTOTUNE)
                .prefetch(tf.data.AUTOTUNE)
            )

        batches = iter(
            self._coordinator.create_per_worker_dataset(
                lambda: self._strategy.distribute_datasets_from_function(dataset_of)
            )
        )

        def one_step(batches: Any) -> tf.Tensor:
            batch = next(batches)
            loss, gradients, row_gradients = task_gradients(self.model, batch)
            apply_gradients(self.model, gradients, row_gradients, self._rates)
            samples = sum(tf.reduce_sum(batch[part]["weight"]) for part in ("support", "query"))
            return tf.stack([samples, loss])

        @tf.function(autograph=False)
        def call(batches: Any) -> tf.Tensor:
            if steps_a_call == 1:
                return one_step(batches)
            _, sums = tf.while_loop(
                lambda index, _: index < steps_a_call,
                lambda index, sums: (index + 1, sums + one_step(batches)),
                (tf.constant(0), tf.zeros([2])),
                parallel_iterations=1,
            )
            return sums

        return lambda: self._coordinator.schedule(call, args=(batches,))

    def rate(self, schedule: Callable[[], Any], seconds: float) -> float:
        """Samples a second of all workers over about so many seconds."""
        start = time.perf_counter()
        self._many(schedule, 2 * self._num_workers)
        a_call = (time.perf_counter() - start) / (2 * self._num_workers)
        calls = max(2 * self._num_workers, round(seconds / a_call))
        start = time.perf_counter()
        answers = self._many(schedule, calls)
        elapsed = time.perf_counter() - start
        return sum(float(answer.fetch()[0]) for answer in answers) / elapsed

    def mean_loss(self, schedule: Callable[[], Any], steps: int) -> float:
        """The mean loss of so many steps, each in a call of its own."""
        answers = self._many(schedule, steps)
        return sum(float(answer.fetch()[1]) for answer in answers) / steps

    def _many(self, schedule: Callable[[], Any], calls: int) -> list[Any]:
        answers = [schedule() for _ in range(calls)]
        self._coordinator.join()
        return answers


def task_gradients(
    model: gm.MetaModel, batch: Batch
) -> tuple[tf.Tensor, list[tf.Tensor], dict[str, tuple[tf.Tensor, tf.Tensor]]]:
    """What a worker computes: the mean of the tasks' query losses, and its gradients.

    Returns:
        The loss; the gradients of the dense weights; and group -> keys int64 `[U]` and their
        gradients `[U, D]`.
    """
    routes = model.embedding.routes(batch["keys"])
    rows = model.embedding.fetch(routes, model.embedding.locate(routes))
    with tf.GradientTape() as tape:
        tape.watch(rows)
        outputs = model.adapter.outputs(rows, batch, training=True)
        query = batch["query"]
        labels = model.row_loss.labels_of(query)
        losses = task_losses(model.row_loss, labels, outputs, query["weight"])
        judged = tf.reduce_any(query["weight"] > 0, axis=1)
        count = tf.maximum(tf.reduce_sum(tf.cast(judged, tf.float32)), 1.0)
        loss = tf.reduce_sum(losses) / count
    gradients, row_gradients = tape.gradient(loss, (model.trainable_variables, rows))
    return (
        loss,
        gradients,
        {
            group: (batch["keys"][group], tf.convert_to_tensor(gradient))
            for group, gradient in row_gradients.items()
        },
    )


def apply_gradients(
    model: gm.MetaModel,
    gradients: list[tf.Tensor],
    row_gradients: dict[str, tuple[tf.Tensor, tf.Tensor]],
    rates: tuple[float, float],
) -> None:
    """What the server does: SGD on the dense weights, Adagrad on the rows.

    The ops run where the variable lies; only gradients and keys travel.
    """
    rate, row_rate = rates
    for variable, gradient in zip(model.trainable_variables, gradients):
        tf.raw_ops.ResourceApplyGradientDescent(
            var=variable.value.handle, alpha=rate, delta=gradient
        )
    for group, (keys, gradient) in row_gradients.items():
        shard: Any = model.embedding.shards[group]
        tf.raw_ops.ResourceSparseApplyAdagradV2(
            var=shard.rows.handle,
            accum=shard.slots["accumulator"].handle,
            lr=row_rate,
            epsilon=0.0,  # Keras' and ours has 1e-7 within the root, where sums start at 0.1
            grad=gradient,
            indices=keys,
        )
