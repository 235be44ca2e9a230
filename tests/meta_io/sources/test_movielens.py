"""MovieLens: the three layouts on small made files, and the counts of the real data."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import pathlib
import socket
import subprocess
import threading
import zipfile

import duckdb
import numpy as np
import pytest
from made_movielens import GROUPLENS_1M, GROUPLENS_100K, RECBOLE, write_files

from gmeta_tf.cli import main as cli
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.records.vocabulary import read_vocabulary
from gmeta_tf.meta_io.sources import movielens
from gmeta_tf.meta_io.sources.movielens import (
    movielens_100k,
    movielens_items,
    movielens_schema,
    movielens_source,
)
from gmeta_tf.meta_io.sources.sources import Source

COLUMNS = (
    *("user_id", "item_id", "rating", "timestamp", "age", "gender"),
    *("occupation", "zip", "zip_area", "genre", "year"),
)

# In the order of the ratings; user 3 and item 20's genre and year are not known.
EXPECTED = [
    (
        "2",
        "10",
        "3",
        "881",
        "53",
        "F",
        "other",
        "T8H1N",
        "T8",
        "Animation|Children's|Comedy",
        "1995",
    ),
    ("1", "20", "5", "870", "24", "M", "technician", "85711", "85", None, None),
    ("3", "10", "4", "860", None, None, None, None, None, "Animation|Children's|Comedy", "1995"),
]


def rows_of(source: Source) -> list[tuple[str | None, ...]]:
    query = f"SELECT {', '.join(COLUMNS)} FROM ({source.query}) ORDER BY {source.row}"
    with contextlib.closing(duckdb.connect()) as database:
        rows = database.execute(query).fetchall()
    return [tuple(value or None for value in row) for row in rows]


@pytest.mark.parametrize(
    ("files", "encoding"),
    [(RECBOLE, "utf-8"), (GROUPLENS_100K, "latin-1"), (GROUPLENS_1M, "latin-1")],
    ids=["recbole", "ml-100k", "ml-1m"],
)
class TestLayouts:
    def test_all_give_the_same_rows(self, files, encoding, tmp_path):
        source = movielens_source(write_files(tmp_path / "it's", files, encoding))
        assert rows_of(source) == EXPECTED
        assert source.description == f"MovieLens in {tmp_path}/it's"

    def test_all_give_the_same_films_as_people_call_them(self, files, encoding, tmp_path):
        source = movielens_items(write_files(tmp_path / "it's", files, encoding))
        with contextlib.closing(duckdb.connect()) as database:
            query = f"SELECT item_id, title, genre, year FROM ({source.query}) ORDER BY item_id"
            first, second = database.execute(query).fetchall()
        assert first == ("10", "Les Misérables", "Animation|Children's|Comedy", "1995")
        assert (second[0], second[1].lower(), second[2] or None) == ("20", '"unknown"', None)
        assert second[3] in (None, "")

    def test_a_missing_file_is_named(self, files, encoding, tmp_path):
        present = dict(list(files.items())[:2])
        folder = write_files(tmp_path / "part", present, encoding)
        message = (
            f"part is not a folder of MovieLens: .*{list(files)[2]}.*found {sorted(present)[0]}"
        )
        with pytest.raises(ValueError, match=message):
            movielens_source(folder)

    def test_prepares_by_the_schema(self, files, encoding, tmp_path):
        source = movielens_source(write_files(tmp_path / "data", files, encoding))
        records = prepare(source, movielens_schema(), tmp_path / "out", split=Split(0.0))
        assert read_vocabulary(records.path, "genre").tolist() == [
            *("Animation", "Children's", "Comedy")
        ]
        assert read_vocabulary(records.path, "zip_area").tolist() == ["85", "T8"]
        words = dict(records.read("train"))
        # label, item, six genres, year, age, gender, occupation, zip_area
        assert words[0][1:, 0].tolist() == [2, 0, -1, -1, -1, -1, -1, 0, 1, 2, 2, 1]
        assert words[2][1:, 0].tolist() == [1, 1, 2, 3, -1, -1, -1, 1, 0, 0, 0, 0]


def test_every_genre_flag_has_its_name(tmp_path):
    ones = ["|".join("1" if flag == genre else "0" for flag in range(19)) for genre in range(19)]
    files = dict(GROUPLENS_100K)
    files["u.item"] = "".join(f"{item}|t|01-Jan-1995|||{ones[item]}\n" for item in range(19))
    files["u.data"] = "".join(f"1\t{item}\t3\t{item}\n" for item in range(19))
    names = [row[9] for row in rows_of(movielens_source(write_files(tmp_path, files, "latin-1")))]
    assert names[0] == "unknown"
    assert names[1:] == sorted(names[1:])
    assert (names[4], names[10], names[15], names[18]) == (
        *("Children's", "Film-Noir", "Sci-Fi", "Western"),
    )


def test_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match=r"ml-100k\.inter.*u\.data.*ratings\.dat.*found nothing"):
        movielens_source(tmp_path / "nowhere")


def fake_pip(monkeypatch, content: bytes | None) -> list[list[str]]:
    """Makes pip put `content` into its folder, or fail without a network; returns its calls."""
    calls = []

    def run(command, **_):
        calls.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retry\nERROR: no network")
        folder = pathlib.Path(command[command.index("--dest") + 1])
        (folder / "recbole-1.2.1-py3-none-any.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(movielens.subprocess, "run", run)
    return calls


class TestDownload:
    def test_is_extracted_once(self, tmp_path, monkeypatch):
        with zipfile.ZipFile(tmp_path / "wheel", "w") as archive:
            for name, content in {**RECBOLE, "ml-100k.kg": "not wanted"}.items():
                archive.writestr(f"recbole/dataset_example/ml-100k/{name}", content)
        wheel = (tmp_path / "wheel").read_bytes()
        calls = fake_pip(monkeypatch, wheel)
        monkeypatch.setattr(movielens, "_SHA256", hashlib.sha256(wheel).hexdigest())
        monkeypatch.setenv("GMETA_DATA", str(tmp_path / "deep" / "cache"))
        folder = movielens_100k()
        assert folder == tmp_path / "deep" / "cache" / "ml-100k"
        assert sorted(path.name for path in folder.iterdir()) == sorted(RECBOLE)
        assert [path.name for path in folder.parent.iterdir()] == ["ml-100k"]
        assert rows_of(movielens_source(folder)) == EXPECTED
        assert movielens_100k(folder.parent) == folder
        assert len(calls) == 1
        assert calls[0][-1] == "recbole==1.2.1"

    def test_with_another_content(self, tmp_path, monkeypatch):
        fake_pip(monkeypatch, b"something else")
        with pytest.raises(ValueError, match=r"with the SHA-256 9c9948.*--movielens DIR"):
            movielens_100k(tmp_path)
        assert not list(tmp_path.rglob("*.*"))

    def test_without_a_network(self, tmp_path, monkeypatch):
        fake_pip(monkeypatch, None)
        match = r"from the package index that pip is set to: no network\. .*--movielens DIR"
        with pytest.raises(ConnectionError, match=match):
            movielens_100k(tmp_path)
        assert not list(tmp_path.rglob("*.*"))

    def test_goes_to_the_home_without_the_variable(self, tmp_path, monkeypatch):
        monkeypatch.delenv("GMETA_DATA", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        folder = write_files_of_cache(tmp_path / ".cache" / "gmeta_tf" / "ml-100k")
        assert movielens_100k() == folder


class Index(http.server.BaseHTTPRequestHandler):
    """A package index on this machine, which answers as its server's `answer` says."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        answer, wheel = self.server.answer, "recbole-1.2.1-py3-none-any.whl"
        if isinstance(answer, int):
            self.send_error(answer)
            return
        is_page = self.path.rstrip("/").endswith("/recbole")
        page = f'<!DOCTYPE html><html><body><a href="/files/{wheel}">{wheel}</a></body></html>'
        content = page.encode() if is_page else answer["content"]
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if is_page else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if is_page else content[: answer["sent"]])
        self.wfile.flush()
        if not is_page:
            self.connection.shutdown(socket.SHUT_RDWR)


def wheel_of(files: dict[str, str]) -> bytes:
    """What pip takes for recbole 1.2.1."""
    packed = io.BytesIO()
    about = "recbole-1.2.1.dist-info"
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", content)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{about}/RECORD", "")
    return packed.getvalue()


@pytest.fixture
def index(monkeypatch):
    """An index that pip asks, with a name and a password that no message may have."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv(
            "PIP_INDEX_URL", f"http://me:secret@127.0.0.1:{server.server_port}/simple"
        )
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        server.answer = 404
        yield server
        server.shutdown()


class TestDownloadFromAnIndex:
    """pip itself, against a server on this machine."""

    def told(self, folder, error=ConnectionError) -> str:
        with pytest.raises(error) as raised:
            movielens_100k(folder)
        assert not list(folder.rglob("*.*"))
        (line,) = str(raised.value).splitlines()
        assert "secret" not in line
        assert "--movielens DIR" in line
        return line

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [(404, "404 Client Error: Not Found"), (503, "too many 503 error responses")],
    )
    def test_that_answers_with_an_error(self, answer, reason, index, tmp_path):
        index.answer = answer
        url = f"http://127.0.0.1:{index.server_port}/simple/recbole/"
        assert f"cannot be downloaded from {url}: {reason}. " in self.told(tmp_path)

    def test_that_refuses_the_connection(self, index, tmp_path, monkeypatch):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@127.0.0.1:{port}/simple")
            line = self.told(tmp_path)
        assert f"from http://127.0.0.1:{port}/simple/recbole/: " in line
        assert "Connection refused" in line

    @pytest.mark.parametrize("sent", [0, 1000, -1])
    def test_that_cuts_the_connection(self, sent, index, tmp_path):
        index.answer = {"content": wheel_of({"u.data": "x" * 5000}), "sent": sent}
        line = self.told(tmp_path)
        assert f"from http://127.0.0.1:{index.server_port}/files/recbole-1.2.1" in line

    @pytest.mark.parametrize("content", [b"<html>please log in</html>", b"\0" * 9999])
    def test_that_sends_something_else(self, content, index, tmp_path):
        index.answer = {"content": content, "sent": None}
        line = self.told(tmp_path)
        assert ".whl: what came is another file, or a part of one. " in line

    def test_that_sends_another_wheel(self, index, tmp_path):
        index.answer = {"content": wheel_of(RECBOLE), "sent": None}
        line = self.told(tmp_path, ValueError)
        assert f"from http://127.0.0.1:{index.server_port}/files/recbole-1.2.1" in line
        assert "expected recbole==1.2.1 with the SHA-256 9c9948" in line

    def test_that_sends_the_right_one(self, index, tmp_path, monkeypatch):
        wheel = wheel_of(RECBOLE)
        index.answer = {"content": wheel, "sent": None}
        monkeypatch.setattr(movielens, "_SHA256", hashlib.sha256(wheel).hexdigest())
        assert rows_of(movielens_source(movielens_100k(tmp_path))) == EXPECTED

    def test_the_command_ends_in_that_line(self, index, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("GMETA_DATA", str(tmp_path / "cache"))
        with pytest.raises(SystemExit) as ended:
            cli.main(["prepare", "--movielens", "download", "--output", str(tmp_path / "records")])
        assert ended.value.code == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("gmeta-tf prepare: MovieLens-100k cannot be downloaded from http://")
        assert not (tmp_path / "records").exists()


def write_files_of_cache(folder: pathlib.Path) -> pathlib.Path:
    folder.parent.mkdir(parents=True)
    return write_files(folder, RECBOLE, "utf-8")


def test_the_real_data(tmp_path):
    try:
        folder = movielens_100k()
    except ConnectionError as error:
        pytest.skip(str(error))
    records = prepare(movielens_source(folder), movielens_schema(), tmp_path / "out")
    assert records.details["rows"] == 100_000
    assert records.details["tasks"] == 943
    assert records.contents["test"].tasks == 189
    with contextlib.closing(duckdb.connect()) as database:
        query = f"SELECT count(DISTINCT item_id) FROM ({movielens_source(folder).query})"
        assert database.execute(query).fetchone() == (1682,)
    sizes = {table.name: table.num_rows for table in records.schema.tables}
    assert 1600 < sizes.pop("item") <= 1683
    assert (sizes["genre"], sizes["gender"], sizes["occupation"]) == (20, 3, 22)
    rows = np.concatenate([records.index(split)["rows"] for split in records.splits])
    assert (rows.min(), rows.max()) == (20, 737)
