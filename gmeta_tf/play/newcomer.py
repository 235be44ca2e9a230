"""A person's ratings -> what a model recommends, adapted to them and unadapted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from gmeta_tf.play.catalogue import Catalogue
from gmeta_tf.schema import Field, Schema

__all__ = ["Newcomer", "Recommendations", "Recommended", "person_values"]

_PERSON = "you"


class _Predictor(Protocol):
    """What of `gm.Predictor` is needed."""

    @property
    def request_schema(self) -> Schema: ...

    def __call__(self, query: Any, support: Any, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Recommended:
    """An item of a list.

    Attributes:
        place: its place in the catalogue.
        rank: its rank in the list, from 1.
        other_rank: its rank in the other list.
        prediction: the model's.
    """

    place: int
    rank: int
    other_rank: int
    prediction: float


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """The best items that a person has not rated.

    Attributes:
        adapted: to the person's ratings.
        unadapted: what anybody is recommended.
        num_ratings: how many ratings were adapted to.
        seconds: that the adapted predictions took.
    """

    adapted: tuple[Recommended, ...]
    unadapted: tuple[Recommended, ...]
    num_ratings: int
    seconds: float


class Newcomer:
    """A person of whom the model knows nothing but what is said here.

    Nothing of a person is kept: each call is given all ratings, so that several people may use one.

    Example:
        newcomer = Newcomer(gm.Predictor.load("run/saved_model"), catalogue)
        newcomer.recommend({0: 5.0, 7: 1.0}).adapted[0]    # after two ratings
    """

    def __init__(
        self, predictor: _Predictor, catalogue: Catalogue, person: Mapping[str, Any] | None = None
    ) -> None:
        """Checks that there is a value for each field, and predicts once.

        Args:
            predictor: an exported model.
            catalogue: its items.
            person: field -> value, of the fields that do not describe items; those that are left
                out are missing.

        Raises:
            ValueError: no such field, or one that may not be missing.
        """
        self.catalogue, self._predictor = catalogue, predictor
        # What a model looks up itself is asked of nobody.
        self.schema = predictor.request_schema
        self.person_fields: tuple[Field, ...] = tuple(
            field
            for field in self.schema.given_fields
            if field.column_name not in catalogue.columns
        )
        self.person = dict(person or {})
        known = [field.name for field in self.person_fields]
        for name in self.person:
            if name not in known:
                raise ValueError(
                    f"expected --person to be FIELD=VALUE, with a field that does not describe "
                    f"items ({', '.join(known) or 'there is none'}), got {name!r}."
                )
        for field in self.person_fields:
            must = field.kind == "dense" and field.missing == "error"
            if must and field.name not in self.person:
                raise ValueError(
                    f"the field {field.name!r} is a number that may not be missing, and the names "
                    f"have no column {field.column_name!r}: expected its value. Add the column to "
                    f"the file of names, or give --person {field.name}=VALUE."
                )
        self._unadapted: dict[tuple[tuple[str, str], ...], np.ndarray] = {}
        self.recommend({})

    def recommend(
        self,
        ratings: Mapping[int, float],
        person: Mapping[str, Any] | None = None,
        *,
        top: int = 10,
    ) -> Recommendations:
        """What the model recommends after these ratings.

        Args:
            ratings: the place of an item in the catalogue -> its label.
            person: as in the constructor, in place of its values.
            top: how many items.

        Raises:
            ValueError: a value that the model cannot read.
        """
        given = {name: one for name, one in (person or {}).items() if one not in (None, "", [])}
        about = self.person | given
        unadapted = self._without_ratings(about)
        began = time.perf_counter()
        adapted = self._predictor(self._every_item(about), self._rated(ratings, about))
        seconds = time.perf_counter() - began
        if not ratings:
            adapted = unadapted
        lists = [_ranked(predictions, ratings) for predictions in (adapted, unadapted)]
        ranks = [{place: rank for rank, place in enumerate(one, 1)} for one in lists]
        of_adapted, of_unadapted = (
            tuple(
                Recommended(place, own[place], other[place], float(predictions[place]))
                for place in order[:top]
            )
            for order, own, other, predictions in (
                (lists[0], ranks[0], ranks[1], adapted),
                (lists[1], ranks[1], ranks[0], unadapted),
            )
        )
        return Recommendations(of_adapted, of_unadapted, len(ratings), seconds)

    def _without_ratings(self, about: Mapping[str, Any]) -> np.ndarray:
        known = tuple(sorted((name, repr(value)) for name, value in about.items()))
        if known not in self._unadapted:
            if len(self._unadapted) >= 64:
                self._unadapted.clear()
            found = self._predictor(self._every_item(about), self._rated({}, about))
            self._unadapted[known] = found
        return self._unadapted[known]

    def _every_item(self, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return self._rows(np.arange(len(self.catalogue)), about)

    def _rated(self, ratings: Mapping[int, float], about: Mapping[str, Any]) -> dict[str, Any]:
        rows = self._rows(np.array(list(ratings), np.int64), about)
        if self.schema.weight is not None:
            rows = {self.schema.weight: np.ones(len(ratings), np.float32)} | rows
        return rows | {self.schema.label: np.array(list(ratings.values()), np.float32)}

    def _rows(self, places: np.ndarray, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
        of_items = {name: values[places] for name, values in self.catalogue.columns.items()}
        of_person = {
            field.column_name: _repeated(about.get(field.name), len(places))
            for field in self.person_fields
        }
        return {self.schema.task: _repeated(_PERSON, len(places)), **of_items, **of_person}


def person_values(schema: Schema, texts: list[str]) -> dict[str, Any]:
    """What a person says, as FIELD=VALUE, by field.

    >>> person_values(Schema((Field("age", "dense"),), "liked", "user"), ["age=31"])
    {'age': 31.0}

    Raises:
        ValueError: another form, or a dense field's value that is no number.
    """
    values: dict[str, Any] = {}
    fields = {field.name: field for field in schema.given_fields}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in fields:
            raise ValueError(
                f"expected --person to be FIELD=VALUE, with a field of {', '.join(fields)}, got "
                f"{text!r}."
            )
        values[name] = value
        if fields[name].kind == "dense":
            try:
                values[name] = float(value)
            except ValueError as error:
                raise ValueError(
                    f"expected --person {name}=NUMBER, since the field is dense, got {text!r}."
                ) from error
    return values


def _ranked(predictions: np.ndarray, ratings: Mapping[int, float]) -> list[int]:
    """The places of the items that are not rated, the best first, equal ones by frequency."""
    order = np.argsort(-predictions, kind="stable").tolist()
    return [place for place in order if place not in ratings]


def _repeated(value: Any, count: int) -> np.ndarray:
    repeated = np.empty(count, object)
    for place in range(count):
        repeated[place] = value
    return repeated
