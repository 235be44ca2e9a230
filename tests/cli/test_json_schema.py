"""docs/schema.json is what the code knows, and takes what the code takes."""

import dataclasses
import json
import pathlib
import re

import made_log
import made_tables
import pytest

import gmeta_tf as gm
from gmeta_tf.cli.json_schema import json_schema
from gmeta_tf.cli.yaml_file import read_yaml
from gmeta_tf.meta_io.sources.ali_ccp import ali_ccp_schema
from gmeta_tf.meta_io.sources.movielens import movielens_schema
from gmeta_tf.schema import Fitted

ROOT = pathlib.Path(__file__).parents[2]
KINDS = {
    "Field": gm.Field,
    "Fitted": Fitted,
    "Table": gm.Table,
    "SideTable": gm.SideTable,
    "ReaderOptions": gm.ReaderOptions,
}
OF_TYPE = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def faults(value, facts, whole, place="it"):
    """What is wrong with a value, by the part of JSON Schema that the file uses."""
    if "$ref" in facts:
        facts = whole["$defs"][facts["$ref"].rpartition("/")[2]]
    if "anyOf" in facts:
        tried = [faults(value, one, whole, place) for one in facts["anyOf"]]
        return [] if [] in tried else tried[0]
    if "enum" in facts:
        return [] if value in facts["enum"] else [f"{place} is none of the words"]
    is_bool = isinstance(value, bool) and facts["type"] in ("integer", "number")
    if is_bool or not isinstance(value, OF_TYPE[facts["type"]]):
        return [f"{place} is no {facts['type']}"]
    if isinstance(value, str | list) and len(value) < facts.get(
        "minLength", facts.get("minItems", 0)
    ):
        return [f"{place} is empty"]
    if isinstance(value, int | float) and value < facts.get("minimum", value):
        return [f"{place} is too small"]
    if isinstance(value, list):
        parts = [(one, facts["items"], f"{place}[{index}]") for index, one in enumerate(value)]
        return [fault for one in parts for fault in faults(one[0], one[1], whole, one[2])]
    if not isinstance(value, dict):
        return []
    known, others = facts.get("properties", {}), facts.get("additionalProperties", True)
    found = [
        f"{place}.{name} is missing" for name in facts.get("required", []) if name not in value
    ]
    for name, one in value.items():
        if name in known:
            found += faults(one, known[name], whole, f"{place}.{name}")
        elif others is False:
            found.append(f"{place}.{name} is not known")
        elif isinstance(others, dict):
            found += faults(one, others, whole, f"{place}.{name}")
    return found


def wrong(values):
    whole = json_schema()
    return faults(values, whole, whole)


def test_the_file_is_what_the_code_knows():
    written = json.loads((ROOT / "docs" / "schema.json").read_text(encoding="utf-8"))
    remedy = "python -m gmeta_tf.cli.json_schema > docs/schema.json"
    assert written == json_schema(), remedy
    assert sorted(written["properties"]) == sorted(
        [*(one.name for one in dataclasses.fields(gm.Schema)), "read"]
    )
    for name, kind in KINDS.items():
        members = {one.name for one in dataclasses.fields(kind)} - (
            {"name"} if kind is gm.SideTable else set()
        )
        properties = written["$defs"][name]["properties"]
        assert set(properties) == members
        assert all(one["description"] for one in properties.values())


def test_the_page_has_every_name():
    page = (ROOT / "docs" / "schema.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.S | re.M))
    titles = {"A field": "Field", "A table": "Table", "A table to join": "SideTable"}
    titles["How files are written"] = "ReaderOptions"
    for title, kind in titles.items():
        named = re.findall(r"^\| `(\w+)` \|", sections[title], re.M)
        assert sorted(named) == sorted(json_schema()["$defs"][kind]["properties"])


SCHEMAS = {
    "made log": made_log.SCHEMA,
    "made tables": made_tables.schema_of("here"),
    "MovieLens": movielens_schema(),
    "Ali-CCP": ali_ccp_schema(),
    "fitted": gm.Schema(
        (gm.Field("x", "dense", transform="standardize", fitted=Fitted(1.0, 2.0, 0.5)),), "y", "t"
    ),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_of_the_code_fit(name):
    assert wrong(SCHEMAS[name].to_json()) == []


def blocks():
    """The schemas in YAML that the pages show."""
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"^```ya?ml[^\n]*\n(.*?)^```$", text, re.S | re.M):
            if re.search(r"^fields:", block, re.M) and re.search(r"^task:", block, re.M):
                yield pytest.param(block, id=f"{path.name}-{block.splitlines()[0][:30]}")


@pytest.mark.parametrize("block", list(blocks()))
def test_schemas_of_the_pages_fit(block, tmp_path):
    (tmp_path / "schema.yaml").write_text(block, encoding="utf-8")
    assert wrong(read_yaml(str(tmp_path / "schema.yaml"), "a schema")) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"lable": "y"}, "it.lable is not known"),
        ({"label": None}, "it.label is no string"),
        ({"task": ""}, "it.task is empty"),
        ({"fields": []}, "it.fields is empty"),
        ({"fields": [{}]}, "it.fields[0].name is missing"),
        ({"fields": [{"name": "x", "kind": "text"}]}, "it.fields[0].kind is none of the words"),
        ({"fields": [{"name": "x", "max_values": 0}]}, "it.fields[0].max_values is too small"),
        ({"fields": [{"name": "x", "missing": "drop"}]}, "it.fields[0].missing is none of the wor"),
        ({"tables": [{"name": "x", "keys": "md5"}]}, "it.tables[0].keys is none of the words"),
        ({"tables_to_join": {"a": {"path": "a.csv"}}}, "it.tables_to_join.a.on is missing"),
        ({"read": {"quoting": "all"}}, "it.read.quoting is none of the words"),
    ],
)
def test_what_the_code_rejects_does_not_fit(change, fault, tmp_path):
    values = {"fields": [{"name": "x"}], "label": "y", "task": "t"} | change
    assert any(one.startswith(fault) for one in wrong(values)), wrong(values)
    read = values.pop("read", None)
    with pytest.raises(ValueError, match=r"."):
        gm.ReaderOptions.from_json(read) if read else gm.Schema.from_json(values)
