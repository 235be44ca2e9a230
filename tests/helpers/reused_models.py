"""Models that are traced once, and made as new before each use."""

from __future__ import annotations

from collections.abc import Callable

import gmeta_tf as gm


def variables_of(model):
    """Every variable that training changes; the same ones in the same order in an equal model."""
    shards = model.embedding.shards.values()
    rows = [variable for s in shards for variable in (s.rows, *s.slots.values())]
    return [*model.variables, *model.optimizer.variables, *rows, model.input_seconds]


class ReusedModel:
    """One model in the place of many that are made alike and trained one after the other.

    A model's first step traces it, which takes many times longer than the steps of a test do.

    Args:
        make: its arguments -> a compiled model, over tables of known size. All models that it makes
            must differ in the values of their variables alone.
    """

    def __init__(self, make: Callable[..., gm.MetaModel]) -> None:
        self._make = make
        self._model: gm.MetaModel | None = None

    def __call__(self, *arguments, **options) -> gm.MetaModel:
        """What `make` gives, in the one model: whoever got it before has it no longer."""
        made = self._make(*arguments, **options)
        if self._model is None:
            self._model = made
        else:
            pairs = zip(variables_of(self._model), variables_of(made), strict=True)
            for variable, value in pairs:
                variable.assign(value)
        return self._model
