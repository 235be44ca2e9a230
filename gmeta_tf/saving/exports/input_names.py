"""What the inputs of a served model are called."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from gmeta_tf.schema import Schema

__all__ = ["InputNames", "input_names"]


@dataclasses.dataclass(frozen=True)
class InputNames:
    """The names of a signature's inputs, without `support_` or `query_` before them.

    Attributes:
        fields: field -> its input; crosses have none.
        label: the label's input.
        weight: the weight's input, where the schema has one.
    """

    fields: Mapping[str, str]
    label: str
    weight: str | None = None


def input_names(schema: Schema) -> InputNames:
    """Names that TensorFlow takes, whatever fields, label and weight are called.

    A name of letters, digits and underscores stays. Each run of other characters, those outside of
    ASCII too, becomes an underscore; a name without a letter or a digit then is `field`. A name
    that another input has already gets a number, from 2; `count` is the number of support rows.

    Example:
        >>> from gmeta_tf.schema import Field
        >>> schema = Schema((Field("Book-Rating"), Field("Book Rating"), Field("count")), "y", "u")
        >>> input_names(schema).fields
        {'Book-Rating': 'Book_Rating', 'Book Rating': 'Book_Rating_2', 'count': 'count_2'}
    """
    taken = {"count"}

    def free(name: str) -> str:
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", name)
        if not re.search(r"[A-Za-z0-9]", plain):
            plain = "field"
        made, number = plain, 1
        while made in taken:
            number += 1
            made = f"{plain}_{number}"
        taken.add(made)
        return made

    # Names that can stay are given out first: no other may take one of them.
    given = [field.name for field in schema.given_fields]
    names = [*given, schema.label, *([] if schema.weight is None else [schema.weight])]
    places = sorted(range(len(names)), key=lambda place: not names[place].isidentifier())
    made = dict(zip(places, [free(names[place]) for place in places], strict=True))
    in_order = [made[place] for place in range(len(names))]
    fields = dict(zip(given, in_order, strict=False))
    return InputNames(fields, *in_order[len(fields) :])
