"""`gmeta-tf play`: items with names from files or MovieLens, and the page is there."""

import csv
import os
import re
import signal
import socket
import threading
import time
import urllib.request

import numpy as np
import pytest
from made_movielens import RECBOLE, write_files

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.cli import play as command
from gmeta_tf.cli.options import PlayOptions
from gmeta_tf.meta_io.sources.movielens import movielens_schema
from gmeta_tf.meta_io.sources.sources import files_source
from gmeta_tf.saving.serving.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(folder):
    return gm.Predictor.load(folder / "run" / "saved_model")


@pytest.fixture(scope="module")
def names(folder):
    """What people call the items: a file with `;`, whose items have another column's name."""
    path = folder / "names.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["id", "Name", "genre", "price"])
        writer.writerows([f"i{item}", f"Film {item}", "Drama|Sci Fi", 0.5] for item in range(60))
    return path


@pytest.fixture
def options(folder, names):
    return PlayOptions(
        saved_model=str(folder / "run" / "saved_model"),
        names=str(names),
        separator=";",
        item="item",
        key="id",
        person=["liked=i3"],
        port=0,
    )


def test_ratings_adapt_the_served_model(options, predictor):
    newcomer = command.newcomer_of(options, predictor)
    known = predictor.vocabulary("item")
    assert newcomer.catalogue.names == tuple(
        value.replace("i", "Film ") for value in known if value
    )
    assert 0 < newcomer.catalogue.num_unknown < 60
    assert newcomer.catalogue.num_beyond == 0
    before, after = newcomer.recommend({}), newcomer.recommend({0: 5.0, 1: 1.0})
    first = after.adapted[0]
    row = {name: values[[first.place]] for name, values in newcomer.catalogue.columns.items()}
    rated = {name: values[:2] for name, values in newcomer.catalogue.columns.items()}
    query, support = (
        {"user": ["u"] * count, "liked": ["i3"] * count, **one}
        for count, one in ((1, row), (2, rated))
    )
    support["stars"] = [5, 1]
    expected = predictor({name: np.asarray(one, object) for name, one in query.items()}, support)
    assert first.prediction == pytest.approx(float(expected[0]), rel=1e-5)
    assert before.unadapted[0].prediction != after.adapted[0].prediction
    assert [one.prediction for one in before.adapted] == [
        one.prediction for one in before.unadapted
    ]


def test_vocabularies_are_most_frequent_first(folder, predictor):
    counts = {}
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column in ("item", "liked"):
                value = row[column].strip()
                counts[value] = counts.get(value, 0) + 1
    known = predictor.vocabulary("item")
    assert {"i1", "i2"} <= set(known) <= set(counts)
    # Of the training rows alone, which are most of them.
    half = len(known) // 2
    assert sum(counts[v] for v in known[:half]) > sum(counts[v] for v in known[half:])
    with pytest.raises(KeyError):
        predictor.vocabulary("none")


def test_tables_to_join_give_what_describes_items(tmp_path):
    (tmp_path / "films.csv").write_text("film,title\na,A\nb,B\n")
    (tmp_path / "more.csv").write_text("film,year,studio\na,1999,s\nb,2001,s\n")
    (tmp_path / "studios.csv").write_text("studio,country\ns,France\n")
    (tmp_path / "users.csv").write_text("user,age\nu,3\n")
    tables = {
        "users": {"path": str(tmp_path / "users.csv"), "on": "user"},
        "studios": {"path": str(tmp_path / "studios.csv"), "on": "studio"},
        "more": {"path": str(tmp_path / "more.csv"), "on": "film"},
    }
    fields = [{"name": name} for name in ("film", "year", "country", "age")]
    schema = gm.Schema.from_json(
        {"fields": fields, "label": "liked", "task": "user", "tables_to_join": tables}
    )
    rows = command.read_names(files_source(str(tmp_path / "films.csv")), schema, None, None)
    assert rows["title"].tolist() == ["A", "B"]
    assert rows["year"].tolist() == ["1999", "2001"]
    assert rows["country"].tolist() == ["France", "France"]
    assert "age" not in rows


def test_the_table_that_is_joined_to_items_has_their_names(tmp_path):
    """No --names and no --item: `gmeta-tf schema init log.csv goods.csv` has said all of it."""
    lines = [f"v{user};p{item};{(user + item) % 2}" for user in range(9) for item in range(4)]
    (tmp_path / "log.csv").write_text("\n".join(["visitor;goods;bought", *lines]))
    (tmp_path / "goods.csv").write_text("id;title;kind\np0;Pan;a\np1;Pot;b\np2;Lid;a\np3;Rug;b\n")
    fields = [{"name": name} for name in ("goods", "title", "kind")]
    table = {"path": str(tmp_path / "goods.csv"), "on": "goods", "key": "id"}
    table["read"] = {"separator": ";"}
    schema = gm.Schema.from_json(
        {"fields": fields, "label": "bought", "task": "visitor", "tables_to_join": {"goods": table}}
    )
    source = command._names(PlayOptions(saved_model="m"), schema)
    rows = command.read_names(source, schema, None, None)
    assert rows["goods"].tolist() == ["p0", "p1", "p2", "p3"]
    assert rows["title"].tolist() == ["Pan", "Pot", "Lid", "Rug"]
    # Of the names: the table is not joined to itself.
    assert rows["kind"].tolist() == ["a", "b", "a", "b"]
    (tmp_path / "goods.csv").unlink()
    assert command._names(PlayOptions(saved_model="m"), schema) is None


def test_movielens_has_its_films_and_stars(tmp_path):
    schema = movielens_schema()
    folder = write_files(tmp_path / "ml", RECBOLE, "utf-8")
    options = PlayOptions(saved_model="m", movielens=str(folder))
    rows = command.read_names(command._names(options, schema), schema, None, None)
    assert rows["title"].tolist() == ["Les Misérables", '"unknown"']
    assert rows["item_id"].tolist() == ["10", "20"]
    assert command.is_movielens(schema)
    assert command.labels_to_give(options, schema) == (1, 2, 3, 4, 5)
    chosen = PlayOptions(saved_model="m", ratings=[5.0, 1.0])
    assert command.labels_to_give(chosen, schema) == (1, 5)


def test_labels_of_other_data(predictor):
    options = PlayOptions(saved_model="m")
    assert not command.is_movielens(predictor.schema)
    assert command.labels_to_give(options, predictor.schema) == (2, 3)  # positive_from is 3
    assert command._names(options, predictor.schema) is None


def test_a_port_that_is_taken(options, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["play", "--saved-model", options.saved_model, "--port", str(port)]
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
        with pytest.raises(SystemExit):
            cli.main(words)
    assert "expected a free --port on --host 127.0.0.1" in capsys.readouterr().err


def test_the_page_is_served_until_the_end(options, capsys):
    pytest.importorskip("dash", reason="Dash is not installed")
    answers = []

    def visit():
        while not (found := re.search(r"open (http\S+) and", "".join(answers))):
            time.sleep(0.05)
            answers.append(capsys.readouterr().out)
        with urllib.request.urlopen(found[1] + "_dash-layout", timeout=60) as answer:
            answers.append(answer.read().decode())
        os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=visit, daemon=True)
    before = signal.getsignal(signal.SIGTERM)
    visitor.start()
    try:
        command.play(options)
    finally:
        signal.signal(signal.SIGTERM, before)
    visitor.join(60)
    assert "items of 'item' (" in "".join(answers)
    assert "You are the cold-start user" in answers[-1]


@pytest.mark.parametrize("looked_up", [{}, {"item": ["year"]}])
@pytest.mark.parametrize("is_there", [True, False])
def test_tables_that_the_model_has_in_itself_may_be_gone(looked_up, is_there, tmp_path):
    path = tmp_path / "films.csv"
    if is_there:
        path.write_text("item,year\na,1999\n")
    films = gm.SideTable("films", str(path), on="item")
    fields = (gm.Field("item"), gm.Field("year", "dense"))
    schema = gm.Schema(fields, "stars", "user", tables_to_join=(films,))
    kept = command._with_tables_there(Predictor(schema, None, looked_up)).tables_to_join
    assert kept == ((films,) if is_there or not looked_up else ())
