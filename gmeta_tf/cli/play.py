"""`gmeta-tf play`: a page on which a person is the cold-start user."""

from __future__ import annotations

import dataclasses
import glob
import logging
import pathlib
import signal
import socket
import threading

import numpy as np

from gmeta_tf.cli.first_checks import check_play, reader_options
from gmeta_tf.cli.options import PlayOptions
from gmeta_tf.cli.predict import read_source
from gmeta_tf.meta_io.sources.movielens import movielens_100k, movielens_items, movielens_schema
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sources import Source, files_source
from gmeta_tf.meta_io.sql import sql_name
from gmeta_tf.number_texts import number
from gmeta_tf.play.catalogue import catalogue_of, item_field
from gmeta_tf.play.newcomer import Newcomer, person_values
from gmeta_tf.saving.serving.predictor import Predictor
from gmeta_tf.schema import Schema, SideTable

__all__ = ["labels_to_give", "newcomer_of", "play"]

_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)


def play(options: PlayOptions) -> None:
    """`gmeta-tf play`, until it is interrupted.

    Raises:
        FileNotFoundError: no exported model or file of names.
        ValueError: the names or what is said of the person do not fit the model.
        ImportError: Dash is not installed.
        OSError: the port is taken.
    """
    check_play(options)
    with _listening(options.host, options.port) as listening:
        predictor = Predictor.load(options.saved_model)
        newcomer = newcomer_of(options, predictor)
        _serve(options, predictor, newcomer, listening)


def newcomer_of(options: PlayOptions, predictor: Predictor) -> Newcomer:
    """The model with its items, for a person of whom is known what the options say.

    Raises:
        FileNotFoundError: no file of names.
        ValueError: they do not fit the model.
    """
    schema = _with_tables_there(predictor)
    source = _names(options, schema)
    rows = None if source is None else read_names(source, schema, options.item, options.key)
    field = item_field(schema, rows, options.item)
    catalogue = catalogue_of(
        schema,
        field,
        rows,
        predictor.vocabulary(field.table_name),
        name_column=options.name_column,
        most=options.most,
    )
    person = person_values(predictor.request_schema, options.person or [])
    return Newcomer(predictor, catalogue, person)


def _with_tables_there(predictor: Predictor) -> Schema:
    """The schema, without tables that the model has in itself and that are gone.

    Where they are there, they tell a person about items.
    """
    needed = predictor.request_schema.tables_to_join
    kept = (one for one in predictor.schema.tables_to_join if one in needed or glob.glob(one.path))
    return dataclasses.replace(predictor.schema, tables_to_join=tuple(kept))


def read_names(
    source: Source, schema: Schema, item: str | None, key: str | None
) -> dict[str, np.ndarray]:
    """The columns of a table of names, and what the schema's tables give to its items.

    Args:
        source: the table.
        schema: the model's.
        item: the field of the items, if it is known.
        key: the table's column of the items, if it is not called as the field's.

    Raises:
        ValueError: the table cannot be read, or lacks the column.
    """
    if key is not None:
        source = _renamed(source, key, item_field(schema, None, item).column_name)
    further = tuple(table.on for table in schema.tables_to_join)
    joins: tuple[SideTable, ...] = ()
    while True:
        rows = read_source(source, dataclasses.replace(schema, tables_to_join=joins), further)
        # Tables of users are joined on what the names do not have, and have no place here.
        more = tuple(one for one in schema.tables_to_join if one.on in rows and one not in joins)
        if not more:
            return rows
        joins += more


def _renamed(source: Source, key: str, column: str) -> Source:
    if key not in source.columns:
        raise ValueError(
            f"expected --key to be a column of {source.description} ({', '.join(source.columns)}), "
            f"got {key!r}."
        )
    others = f"* EXCLUDE ({sql_name(key)})"
    query = f"SELECT {sql_name(key)} AS {sql_name(column)}, {others} FROM ({source.query})"
    return dataclasses.replace(source, query=query, format=None)


def labels_to_give(options: PlayOptions, schema: Schema) -> tuple[float, ...]:
    """What an item can be rated with, ascending.

    >>> from gmeta_tf.schema import Field
    >>> labels_to_give(PlayOptions(saved_model="m"), Schema((Field("item"),), "liked", "user"))
    (0.0, 1.0)
    """
    if options.ratings is not None:
        return tuple(sorted(map(float, options.ratings)))
    if is_movielens(schema):
        return _STARS
    if schema.positive_from is not None:
        return schema.positive_from - 1, schema.positive_from
    return 0.0, 1.0


def is_movielens(schema: Schema) -> bool:
    """Whether a model was trained on what `gmeta-tf prepare --movielens` makes."""
    facts = [
        (one.label, one.task, [(field.name, field.kind, field.column_name) for field in one.fields])
        for one in (schema, movielens_schema())
    ]
    return facts[0] == facts[1]


def _names(options: PlayOptions, schema: Schema) -> Source | None:
    if options.names is not None:
        return files_source(options.names, options=reader_options(options))
    if options.movielens is None and not is_movielens(schema):
        return _joined_names(schema, options.item)
    if options.movielens in (None, "download"):
        return movielens_items(movielens_100k())
    return movielens_items(str(options.movielens))


def _joined_names(schema: Schema, item: str | None) -> Source | None:
    """The table that the schema joins to the items, where it still is: names are often in it."""
    if not schema.tables_to_join:
        return None
    column = item_field(schema, None, item).column_name
    for table in schema.tables_to_join:
        if table.on == column and table.many is None and glob.glob(table.path):
            source = files_source(table.path, options=ReaderOptions.from_json(dict(table.read)))
            is_named = table.key_column == column
            return source if is_named else _renamed(source, table.key_column, column)
    return None


def _serve(
    options: PlayOptions, predictor: Predictor, newcomer: Newcomer, listening: socket.socket
) -> None:
    # Dash is no dependency of the commands beside this one.
    from werkzeug.serving import make_server

    from gmeta_tf.play.page import play_page

    values = {
        field.name: _in_order(found)
        for field in newcomer.person_fields
        if field.kind != "dense" and (found := predictor.vocabulary(field.table_name)) is not None
    }
    labels = labels_to_give(options, predictor.schema)
    folder = pathlib.Path(options.saved_model).resolve()
    title = folder.name if folder.name != "saved_model" else f"{folder.parent.name}/{folder.name}"
    page = play_page(newcomer, labels, title=title, values=values, top=options.top)
    # Given a port, Werkzeug ends the process where it is taken.
    server = make_server(options.host, 0, page.server, threaded=True, fd=listening.fileno())
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    _tell(newcomer, f"http://{options.host}:{listening.getsockname()[1]}/")
    try:
        ended.wait()
    finally:
        server.shutdown()


def _in_order(values: list[str]) -> list[str]:
    """Texts as people look them up: by number, where all are numbers.

    >>> _in_order(["30", "9"]), _in_order(["b", "a"])
    (['9', '30'], ['a', 'b'])
    """
    try:
        return sorted(values, key=number)
    except ValueError:
        return sorted(values)


def _tell(newcomer: Newcomer, address: str) -> None:
    catalogue = newcomer.catalogue
    beside = [
        f"{count:,} {what}"
        for count, what in (
            (catalogue.num_unknown, "more of the names were not in the training rows"),
            (catalogue.num_beyond, "rarer ones are beyond --most"),
        )
        if count
    ]
    told = f" ({'; '.join(beside)})" if beside else ""
    print(f"{len(catalogue):,} items of {catalogue.field.name!r}{told}", flush=True)
    print(f"open {address} and rate; Ctrl-C ends it", flush=True)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise OSError(
            error.errno,
            f"expected a free --port on --host {host}: {error.strerror or error}. Choose another "
            "one",
            f"{host}:{port}",
        ) from error
