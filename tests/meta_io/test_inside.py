"""What a records folder names lies in it: nothing else is read, followed, waited for or deleted."""

import json
import os
import shutil

import pytest

from gmeta_tf.meta_io.inside import check_inside
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.records import Records
from gmeta_tf.meta_io.records.verification import verify
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.schema import Field, Schema

SCHEMA = Schema((Field("item"),), "rating", "user")
VALUES, TASKS, INDEX = "vocabulary/item-000.parquet", "tasks-000.parquet", "index-train-000.npy"
RECORDS = "train-000-00000-of-00001.tfrecord"


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    rows = "".join(
        f"user{user},item{user * item % 7},1\n" for user in range(6) for item in range(4)
    )
    path.write_text("user,item,rating\n" + rows)
    return files_source(str(path))


@pytest.fixture(scope="module")
def prepared(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "out"
    prepare(log, SCHEMA, folder, num_files=1, split=Split(0.2))
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "records")


def contents(folder):
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


def named(folder, change):
    """Changes what `schema.json` says."""
    values = json.loads((folder / "schema.json").read_text())
    change(values)
    (folder / "schema.json").write_text(json.dumps(values))


NAMING = {
    "index": lambda v, name: v["splits"]["train"].__setitem__("index", name),
    "records": lambda v, name: v["splits"]["test"].__setitem__("files", [name]),
    "tasks": lambda v, name: v.__setitem__("tasks", name),
    "vocabulary": lambda v, name: v["vocabularies"].__setitem__("item", name),
}


@pytest.mark.parametrize("name", ["/etc/passwd", "../precious.npy", "vocabulary/../../x", "a//b"])
@pytest.mark.parametrize("what", NAMING)
def test_a_name_that_leaves_the_folder(what, name, folder, log, tmp_path):
    (tmp_path / "precious.npy").write_text("mine")
    named(folder, lambda values: NAMING[what](values, name))
    before = contents(tmp_path)
    match = r"schema.json names the file .*: expected a name inside the folder, without `\.\.` and"
    for act in (
        lambda: Records.open(folder),
        lambda: verify(str(folder)),
        lambda: read_vocabulary(folder, "item"),
        lambda: prepare(log, SCHEMA, folder, append=True),
    ):
        with pytest.raises(ValueError, match=match):
            act()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["schema.json", VALUES, TASKS, INDEX, RECORDS])
def test_a_link_that_leaves_the_folder(name, folder, log, tmp_path):
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    for act in (lambda: Records.open(folder), lambda: prepare(log, SCHEMA, folder, append=True)):
        with pytest.raises(ValueError, match=r"is a link that leaves its folder, to .*elsewhere"):
            act()
    if name != "schema.json":
        damages = verify(str(folder)).damages
        assert {damage.path for damage in damages} == {str(folder / name)}
        assert all("is a link that leaves its folder" in damage.reason for damage in damages)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["schema.json", VALUES, TASKS, INDEX, RECORDS])
def test_a_pipe_is_told_and_not_waited_for(name, folder):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=r"is not a file but a pipe: expected a regular file"):
        Records.open(folder)
    if name != "schema.json":
        damages = verify(str(folder)).damages
        assert {damage.path for damage in damages} == {str(folder / name)}
        assert all("a pipe" in damage.reason for damage in damages)


def test_a_folder_of_vocabularies_elsewhere_is_not_emptied(folder, log, tmp_path):
    """Appending removes what `schema.json` does not name, by the names that it gives itself."""
    (folder / "vocabulary").rename(tmp_path / "elsewhere")
    (folder / "vocabulary").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "other-007.parquet").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="is a link that leaves its folder"):
        prepare(log, SCHEMA, folder, append=True)
    named(folder, lambda values: values["vocabularies"].clear())
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="vocabulary/any is a link that leaves its folder"):
        prepare(log, SCHEMA, folder, append=True)
    assert contents(tmp_path) == before


def test_a_folder_that_is_a_link_itself_is_opened(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    (folder / INDEX).rename(folder / "moved.npy")
    (folder / INDEX).symlink_to("moved.npy")  # stays inside
    assert Records.open(tmp_path / "link").splits == ("train", "test")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.__setitem__("generation", "7"),
        lambda v: v.__setitem__("generation", -1),
        lambda v: v.__setitem__("tasks", 7),
        lambda v: v.__setitem__("vocabularies", {"item": 7}),
        lambda v: v.__setitem__("details", []),
        lambda v: v["schema"]["tables"][0].__setitem__("num_rows", 10**30),
    ],
    ids=["generation", "negative", "tasks", "vocabulary", "details", "num_rows"],
)
def test_a_description_of_other_kinds(change, folder):
    named(folder, change)
    with pytest.raises(ValueError, match=r"schema\.json does not describe records"):
        Records.open(folder)


def test_what_is_not_there_is_left_to_its_reader(tmp_path):
    check_inside(tmp_path, "none.npy")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is not a file but a folder"):
        check_inside(tmp_path, "folder")
