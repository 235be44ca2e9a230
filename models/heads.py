"""Several learners side by side, whose outputs are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from gmeta_tf.meta.inner_loop import InnerLoop

__all__ = ["Heads"]


class Heads(keras.Model):
    """Learners of one kind, each with its part of every vector, trained side by side.

    They differ by their first values alone. Each adapts by its own loss and is trained by its own,
    as if it were alone; the prediction is the mean of their outputs, which is better than any one
    of them (deep ensembles, Lakshminarayanan et al., NeurIPS 2017). One exchange fetches the rows
    of all: a row of H D numbers is H rows of D.

    Example:
        >>> from gmeta_tf.models.melu import MeLU
        >>> learner = Heads([MeLU((16,)) for _ in range(4)])
        >>> learner({"embedded": keras.ops.zeros([5, 3, 32])}).shape  # each reads 8 of the 32
        TensorShape([5, 4])
        >>> learner.inner_loop(3, 0.1).heads
        4
    """

    def __init__(self, learners: Sequence[keras.Model], *, name: str = "heads") -> None:
        """Puts them side by side.

        Args:
            learners: H, of one architecture, each of features -> `[R, 1]`.
            name: of the model.

        Raises:
            ValueError: none, or the same one twice.
        """
        super().__init__(name=name)
        if not learners or len({id(learner) for learner in learners}) < len(learners):
            raise ValueError(
                f"Heads: expected learners, each another object, got {len(learners)} of which "
                f"{len({id(learner) for learner in learners})} differ. Make one for each head."
            )
        self.learners = list(learners)

    def inner_loop(self, *arguments: Any, **options: Any) -> InnerLoop:
        """How each of them adapts, as its own `inner_loop` says."""
        return self.learners[0].inner_loop(*arguments, heads=len(self.learners), **options)

    def task_encoder(self, *arguments: Any, **options: Any) -> keras.Model | None:
        """The task encoders of all, side by side; None where they have none."""
        if not hasattr(self.learners[0], "task_encoder"):
            return None
        made = [learner.task_encoder(*arguments, **options) for learner in self.learners]
        return _Encoders(made, name=f"{self.name}_encoders")

    def build(self, input_shape: dict[str, Any]) -> None:
        """Looks at the widths.

        Raises:
            ValueError: heads do not share the numbers of a vector evenly.
        """
        heads = len(self.learners)
        for name, shape in input_shape.items():
            if _is_shared(name) and shape[-1] % heads:
                raise ValueError(
                    f"Heads: expected {name!r} to have {heads} (heads) times a whole number of "
                    f"columns, got {shape[-1]}."
                )
        super().build(input_shape)

    def call(self, inputs: dict[str, Any]) -> Any:
        """The output of each head for each row, `[R, H]`.

        Args:
            inputs: `"embedded"` float `[R, F, H D]`, `"dense"` float `[R, num_dense]` if any, which
                all of them read, and `"task"` float `[R, H M]` where they read a task encoder's.
        """
        parts = _parts(inputs, len(self.learners))
        outputs = [learner(part) for learner, part in zip(self.learners, parts, strict=True)]
        return ops.concatenate([ops.reshape(one, (-1, 1)) for one in outputs], axis=-1)


class _Encoders(keras.Model):
    """Task encoders side by side: `[T, H M]`."""

    def __init__(self, encoders: Sequence[keras.Model], *, name: str) -> None:
        super().__init__(name=name)
        self.encoders = list(encoders)

    def call(self, inputs: dict[str, Any]) -> Any:
        parts = _parts(inputs, len(self.encoders))
        outputs = [encoder(part) for encoder, part in zip(self.encoders, parts, strict=True)]
        return ops.concatenate(outputs, axis=-1)


def _is_shared(name: str) -> bool:
    """Whether heads share an input's columns; they all read the dense values and the labels."""
    return name.startswith("embedded") or name == "task"


def _parts(inputs: dict[str, Any], heads: int) -> list[dict[str, Any]]:
    """What each head reads."""
    of_heads: list[dict[str, Any]] = [{} for _ in range(heads)]
    for name, value in inputs.items():
        parts = ops.split(value, heads, axis=-1) if _is_shared(name) else [value] * heads
        for own, part in zip(of_heads, parts, strict=True):
            own[name] = part
    return of_heads
