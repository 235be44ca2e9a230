"""One step of second-order meta-learning, as NumPy arrays: what every contestant solves.

The letters are those of docs/architecture.md. A contestant is a module with

    make_step(problem) -> step;  step() -> (loss, dense gradients, row gradients)

`step` does one whole step: each task adapts its own copy of the dense weights and of its rows on
its support rows, K times, and is judged on its query rows, where a row that the support has moved
is read adapted. The loss is the sum over the tasks of their mean query losses. The gradients are
those of the loss with respect to `dense` (a list in its order) and to `rows` `[U, D]`. What a
pipeline would have made ready (places, masks, tensors of the arrays) is made in `make_step`.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

__all__ = [
    "SHAPES",
    "Layer",
    "MetaProblem",
    "OwnRows",
    "Part",
    "Shape",
    "layers_of",
    "make_problem",
]

_VOCABULARY = 100_000
_FIELDS_OF_TASK = 4  # one field in four tells of the task: its value is the same in all its rows


@dataclasses.dataclass(frozen=True)
class Layer:
    """A Dense layer `x W + b`, with ReLU behind it but for the learner's last.

    Attributes:
        name: of the layer.
        inputs: I.
        outputs: O.
        input_moves: whether x depends on something that adapts; a DLRM's dense features do not.
    """

    name: str
    inputs: int
    outputs: int
    input_moves: bool = True


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a problem.

    Attributes:
        tasks: T.
        support: S.
        query: Q.
        fields: F.
        width: D.
        learner: "mlp": the fields' vectors side by side through Dense layers; "dlrm": those of
            `gmeta_tf.models.DLRM`.
        hidden: the widths of the Dense layers before the output (DLRM: of its top MLP).
        bottom: the widths of a DLRM's bottom MLP without its last layer, whose width is D.
        dense_features: the numbers in a row, of a DLRM.
        num_steps: K.
        rate: alpha of the dense weights.
        row_rate: alpha of the rows.
        order: 2 differentiates through the inner steps, 1 past them.
    """

    tasks: int = 128
    support: int = 20
    query: int = 10
    fields: int = 8
    width: int = 32
    _: dataclasses.KW_ONLY
    learner: str = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    bottom: tuple[int, ...] = ()
    dense_features: int = 0
    num_steps: int = 1
    rate: float = 0.1
    row_rate: float = 0.2
    order: int = 2

    def __post_init__(self) -> None:
        if self.learner not in ("mlp", "dlrm"):
            raise ValueError(f"Shape: expected learner 'mlp' or 'dlrm', got {self.learner!r}.")
        if self.order not in (1, 2):
            raise ValueError(f"Shape: expected order 1 or 2, got {self.order}.")
        if (self.learner == "dlrm") != (self.dense_features > 0):
            raise ValueError(
                "Shape: a DLRM has dense features and an MLP none, got learner="
                f"{self.learner!r} with dense_features={self.dense_features}."
            )


SHAPES = {
    "main": Shape(),
    "few": Shape(support=5, query=10),
    "many": Shape(support=100, query=100),
    "dlrm": Shape(fields=26, learner="dlrm", bottom=(64,), dense_features=13),
}
"""main: 256-64-64-1; few and many: the same with little and much support; dlrm: Criteo's 26 key and
13 dense fields, bottom MLP 13-64-32, top MLP 383-64-64-1 (32 + 27 * 26 / 2 inputs)."""


@dataclasses.dataclass(frozen=True)
class Part:
    """The support rows, or the query rows, of all tasks (R is S or Q).

    Attributes:
        keys: int32 `[T, R, F]`, indices into the problem's `rows`; 0 in a missing row.
        dense: float32 `[T, R, dense_features]`.
        label: float32 `[T, R]`, 0 or 1.
        weight: float32 `[T, R]`, 0 where a row is missing.
    """

    keys: np.ndarray
    dense: np.ndarray
    label: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True)
class OwnRows:
    """Each task's own rows: its distinct keys, and where its rows read them.

    Attributes:
        keys: int32 `[T, M]`, the task's distinct keys in the order in which it reads them, filled
            up with 0 to M, the most that a task has.
        count: int `[T]`, how many it has.
        support: int32 `[T, S, F]`, each position's place in the task's `keys`.
        query: int32 `[T, Q, F]`, the same of the query rows.
    """

    keys: np.ndarray
    count: np.ndarray
    support: np.ndarray
    query: np.ndarray


@dataclasses.dataclass(frozen=True)
class MetaProblem:
    """A step's data and the values that it starts from.

    Attributes:
        shape: the sizes.
        rows: float32 `[U, D]`, the embedding rows of the step's distinct keys.
        dense: kernel `[I, O]` and bias `[O]` of each of `layers_of(shape)`, float32.
        support: what tasks adapt on.
        query: what they are judged on.
    """

    shape: Shape
    rows: np.ndarray
    dense: list[np.ndarray]
    support: Part
    query: Part

    @property
    def samples(self) -> int:
        """The support and query rows that are there."""
        return int(self.support.weight.sum() + self.query.weight.sum())

    def own_rows(self) -> OwnRows:
        """Which rows each task has of its own; what a pipeline finds before the step."""
        shape = self.shape
        keys = np.concatenate([self.support.keys, self.query.keys], axis=1)
        there = np.concatenate([self.support.weight, self.query.weight], axis=1) > 0
        places = np.zeros_like(keys)
        own = []
        for task in range(shape.tasks):
            distinct, places[task, there[task]] = _in_order(keys[task, there[task]])
            own.append(distinct)
        count = np.array([len(distinct) for distinct in own])
        filled = np.zeros([shape.tasks, max(1, count.max())], np.int32)
        for task, distinct in enumerate(own):
            filled[task, : len(distinct)] = distinct
        return OwnRows(filled, count, places[:, : shape.support], places[:, shape.support :])


def layers_of(shape: Shape) -> list[Layer]:
    """The Dense layers of the learner, in the order of `MetaProblem.dense`."""
    if shape.learner == "mlp":
        widths = (shape.fields * shape.width, *shape.hidden, 1)
        return _stack("hidden", widths, input_moves=True)
    vectors = shape.fields + 1
    bottom = (shape.dense_features, *shape.bottom, shape.width)
    top = (shape.width + vectors * (vectors - 1) // 2, *shape.hidden, 1)
    return _stack("bottom", bottom, input_moves=False) + _stack("top", top, input_moves=True)


def make_problem(shape: Shape, seed: int = 0) -> MetaProblem:
    """Draws a problem.

    A quarter of the fields (rounded up) tell of the task; the values of the others follow
    Zipf's law, so that rows share keys within a task, between its support and its query, and
    between tasks. Of eight tasks one lacks a random share of its rows, and the last task has no
    support (if there are several): missing rows have weight 0.

    Args:
        shape: the sizes.
        seed: the same seed and shape make the same problem.
    """
    rng = np.random.default_rng(seed)
    size = shape.support + shape.query
    there = _rows_that_are_there(shape, rng)
    values = np.floor((_VOCABULARY + 1.0) ** rng.random([shape.tasks, size, shape.fields])) - 1
    of_task = -(-shape.fields // _FIELDS_OF_TASK)
    values[:, :, :of_task] = rng.integers(0, 4 * shape.tasks, [shape.tasks, 1, of_task])
    codes = (values * shape.fields + np.arange(shape.fields)).astype(np.int64)
    distinct, found = _in_order(codes[there])
    keys = np.zeros(codes.shape, np.int32)
    keys[there] = found

    features = rng.normal(size=[shape.tasks, size, shape.dense_features]).astype(np.float32)
    label = (rng.random([shape.tasks, size]) < 0.4) * there
    parts = [
        Part(
            keys[:, columns],
            features[:, columns],
            label[:, columns].astype(np.float32),
            there[:, columns].astype(np.float32),
        )
        for columns in (slice(shape.support), slice(shape.support, None))
    ]
    dense = []
    for layer in layers_of(shape):
        spread = np.sqrt(2 / layer.inputs)
        dense.append(rng.normal(0, spread, [layer.inputs, layer.outputs]).astype(np.float32))
        dense.append(rng.normal(0, 0.1, [layer.outputs]).astype(np.float32))
    rows = rng.normal(0, 0.5, [len(distinct), shape.width]).astype(np.float32)
    return MetaProblem(shape, rows, dense, *parts)


def _rows_that_are_there(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """bool `[T, S + Q]`; of support and of query each the first ones are there."""
    num_support = np.full(shape.tasks, shape.support)
    num_query = np.full(shape.tasks, shape.query)
    lacking = np.arange(shape.tasks) % 8 == 1
    num_support[lacking] = rng.integers(1, shape.support + 1, lacking.sum())
    num_query[lacking] = rng.integers(1, shape.query + 1, lacking.sum())
    if shape.tasks > 1:
        num_support[-1] = 0
    return np.concatenate(
        [
            np.arange(shape.support) < num_support[:, np.newaxis],
            np.arange(shape.query) < num_query[:, np.newaxis],
        ],
        axis=1,
    )


def _stack(name: str, widths: tuple[int, ...], *, input_moves: bool) -> list[Layer]:
    """The layers of an MLP. What is behind its first layer moves in any case."""
    return [
        Layer(f"{name}_{index}", inputs, outputs, input_moves or index > 0)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths))
    ]


def _in_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in the order in which they come, and each value's place among them."""
    distinct, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return distinct[order], place[inverse].reshape(values.shape).astype(np.int32)
