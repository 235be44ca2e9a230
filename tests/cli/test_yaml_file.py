"""YAML files that people write: one line says what is wrong, and where."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmeta_tf.cli.first_checks import read_schema
from gmeta_tf.cli.yaml_file import read_yaml

WHOLE = """task: user
label: rating
fields:
  - {name: item}
  - {name: tags, kind: multi, max_values: 3}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: user\ntask: other\n", r"line 2, column 1: 'task' stands twice"),
        ("fields:\n  - {name: a, name: b}\n", r"line 2, column 15: 'name' stands twice"),
        ("a: [1, 2\n", r"line 2, column 1: expected ',' or '\]'"),
        ("a: b: c\n", r"line 1, column 5: mapping values are not allowed here\."),
        ("a: *b\n", r"line 1, column 4: found undefined alias 'b'"),
        ("a: !!python/name:os.sep x\n", r"line 1, column 4: could not determine a constructor"),
        ("? [a]\n: b\n", r"line 1, column 3: found unhashable key"),
        ("- a\n", r"expected names, got list"),
        ("", r"expected names, got NoneType"),
        ("a: 2024-13-45\n", r"is not YAML: month must be in 1..12"),
        ("a: \x07\n", r"is not YAML: .*special characters are not allowed"),
    ],
)
def test_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_yaml(path, "names")
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_another_encoding(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_bytes("a: größe".encode("latin-1"))
    with pytest.raises(ValueError, match=r"expected UTF-8, got the byte 0xf6 at the place 5"):
        read_yaml(path, "names")


def test_a_name_may_stand_in_several_mappings_and_merges_are_yaml(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(path, "names") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


@given(st.integers(0, len(WHOLE)), st.integers(0, 6), st.text(max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_schema_with_a_piece_exchanged_is_read_or_told_with_its_path(
    tmp_path_factory, first, length, text
):
    path = tmp_path_factory.getbasetemp() / "exchanged.yaml"
    path.write_text(WHOLE[:first] + text + WHOLE[first + length :], encoding="utf-8", newline="")
    problem = str(path)
    try:
        read_schema(str(path))
    except ValueError as error:
        problem = str(error)
    assert problem.startswith(str(path))


def test_on_and_no_are_names_like_others(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("on: item\nyes: [no, off, y, true, False]\ntruth: on\n")
    assert read_yaml(path, "names") == {
        "on": "item",
        "yes": ["no", "off", "y", True, False],
        "truth": "on",
    }
