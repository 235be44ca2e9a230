"""The format of a schema's file as JSON Schema, which editors complete and check YAML by.

python -m gmeta_tf.cli.json_schema > docs/schema.json
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import docstring_parser

from gmeta_tf import allowed
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.schema import Field, Fitted, Schema, SideTable, Table

__all__ = ["json_schema"]

Facts = dict[str, Any]

_TEXT: Facts = {"type": "string", "minLength": 1}
_OF_TYPE: dict[Any, Facts] = {
    str: _TEXT,
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}
_NAMES: Facts = {"type": "array", "items": _TEXT}
_NUMBERS: Facts = {"type": "array", "items": {"type": "number"}}
# What the types of the classes do not say.
_KNOWN: dict[tuple[type, str], Facts] = {
    (Field, "kind"): {"enum": list(allowed.FIELD_KINDS)},
    (Field, "transform"): {"enum": list(allowed.DENSE_TRANSFORMS)},
    (Field, "missing"): {"anyOf": [{"enum": list(allowed.MISSING)}, {"type": "number"}]},
    (Field, "edges"): _NUMBERS,
    (Field, "fitted"): {"anyOf": [{"$ref": "#/$defs/Fitted"}, {"type": "null"}]},
    (Field, "max_values"): {"type": "integer", "minimum": 1},
    (Field, "min_count"): {"type": "integer", "minimum": 1},
    (Field, "buckets"): {"type": "integer", "minimum": 2},
    (Fitted, "edges"): _NUMBERS,
    (Table, "keys"): {"enum": list(allowed.KEYS)},
    (Table, "num_rows"): {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
    (Table, "width"): {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
    (SideTable, "columns"): {
        "anyOf": [_NAMES, {"type": "object", "additionalProperties": _TEXT}],
    },
    (SideTable, "read"): {"$ref": "#/$defs/ReaderOptions"},
    (Schema, "fields"): {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/Field"}},
    (Schema, "tables"): {
        "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Table"}}, {"type": "null"}]
    },
    (Schema, "tables_to_join"): {
        "anyOf": [
            {"type": "object", "additionalProperties": {"$ref": "#/$defs/SideTable"}},
            {"type": "null"},
        ]
    },
    (Schema, "time_unit"): {"anyOf": [{"enum": list(allowed.TIME_UNITS)}, {"type": "null"}]},
    (ReaderOptions, "quoting"): {"anyOf": [{"enum": list(allowed.QUOTINGS)}, {"type": "null"}]},
    (ReaderOptions, "encoding"): {"anyOf": [{"enum": list(allowed.ENCODINGS)}, {"type": "null"}]},
    (ReaderOptions, "format"): {"anyOf": [{"enum": list(allowed.FILE_FORMATS)}, {"type": "null"}]},
}


def json_schema() -> dict[str, Any]:
    """The format of a schema's file: JSON Schema, draft 2020-12.

    >>> json_schema()["required"]
    ['fields', 'label', 'task']
    """
    whole = _object(Schema)
    whole["properties"]["read"] = {
        "$ref": "#/$defs/ReaderOptions",
        "description": "How the raw files are written, where not in the usual way.",
    }
    parts: dict[str, Facts] = {
        kind.__name__: _object(kind) for kind in (Field, Fitted, Table, ReaderOptions)
    }
    parts["SideTable"] = _object(SideTable, without="name")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A schema of gmeta_tf",
        **whole,
        "$defs": parts,
    }


def _object(kind: type, without: str = "") -> Facts:
    """A dataclass as an object: one property for each of its fields."""
    documented = docstring_parser.parse(kind.__doc__ or "")
    told = {param.arg_name: param.description or "" for param in documented.params}
    hints = typing.get_type_hints(kind)
    members = [one for one in dataclasses.fields(kind) if one.name != without]
    properties = {}
    for member in members:
        facts = _KNOWN.get((kind, member.name)) or _of_hint(hints[member.name])
        properties[member.name] = {**facts, "description": " ".join(told[member.name].split())}
        if isinstance(member.default, str | int | float):
            properties[member.name]["default"] = member.default
    missing = dataclasses.MISSING
    required = [one.name for one in members if one.default is one.default_factory is missing]
    return {
        "type": "object",
        "description": documented.short_description or "",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _of_hint(hint: Any) -> Facts:
    if isinstance(hint, types.UnionType):
        return {"anyOf": [_of_hint(one) for one in typing.get_args(hint)]}
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": _of_hint(typing.get_args(hint)[0])}
    return dict(_OF_TYPE[hint])


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
