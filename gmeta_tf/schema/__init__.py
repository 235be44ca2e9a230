"""What a row is: fields, tables, label and task."""

from gmeta_tf.schema.field import Field, Fitted
from gmeta_tf.schema.schema import Schema
from gmeta_tf.schema.side_table import SideTable
from gmeta_tf.schema.table import LARGEST_KEY, PADDING_KEY, UNKNOWN_KEY, Table

__all__ = [
    "LARGEST_KEY",
    "PADDING_KEY",
    "UNKNOWN_KEY",
    "Field",
    "Fitted",
    "Schema",
    "SideTable",
    "Table",
]
