"""The page: items to rate on one side, what is recommended on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dash
from dash import ALL, Input, Output, State, ctx, dcc, html

from gmeta_tf.play.newcomer import Newcomer, Recommendations, Recommended
from gmeta_tf.schema import Field

__all__ = ["play_page"]

_SHOWN = 8
_LONGEST_LIST = 2000
Ratings = dict[int, float]
Stored = list[tuple[int, float]]
"""A visitor's ratings, the latest first. In an object browsers would sort the items."""


def play_page(
    newcomer: Newcomer,
    ratings: Sequence[float],
    *,
    title: str,
    values: Mapping[str, Sequence[str]] | None = None,
    top: int = 10,
) -> dash.Dash:
    """The page as an application; `.server` is its WSGI application.

    It needs no network beside the server's, and the server keeps nothing of a visitor.

    Args:
        newcomer: answers.
        ratings: the labels that an item can be given, ascending.
        title: what the model is called.
        values: field of the person -> what it can be chosen from; others are typed.
        top: how many items a list has.
    """
    app = dash.Dash(__name__, title=title, update_title="", serve_locally=True)
    app.layout = _layout(newcomer, title, values or {})
    _ratings_change(app, ratings)
    _items_to_rate(app, newcomer, ratings)
    _lists(app, newcomer, ratings, top)
    return app


def _layout(newcomer: Newcomer, title: str, values: Mapping[str, Sequence[str]]) -> html.Main:
    about = [_question(newcomer, field, values) for field in newcomer.person_fields]
    search = dcc.Input(
        id="search", type="search", placeholder="Search…", debounce=0.3, autoComplete="off"
    )
    rate = [
        html.H2("Rate what you know"),
        html.Div(
            [search, html.Button("Other items", id="others", className="quiet")], className="bar"
        ),
        html.Ul(id="items", className="items"),
    ]
    yours = [
        html.Div(
            [html.H2("Your ratings"), html.Button("Forget all", id="forget", className="quiet")],
            className="bar",
        ),
        html.Ul(id="yours", className="yours"),
    ]
    sections = [
        html.Section(rate, className="rate"),
        html.Section(id="lists", className="lists", **{"aria-live": "polite"}),
        html.Section(yours, className="rated"),
    ]
    if about:
        said = html.P("Optional: what is left out is unknown to the model.", className="note")
        sections.append(html.Section([html.H2("About you"), said, *about], className="about"))
    header = [
        html.H1("You are the cold-start user"),
        html.P(
            f"The model {title} knows nothing of you. Each rating goes through its inner loop: the "
            "list for you changes, the one for anybody does not.",
            className="note",
        ),
    ]
    stores = [dcc.Store(id="ratings", data=[]), dcc.Store(id="first", data=0)]
    return html.Main([html.Header(header), html.Div(sections, className="page"), *stores])


def _question(newcomer: Newcomer, field: Field, values: Mapping[str, Sequence[str]]) -> html.Div:
    name = {"type": "about", "field": field.name}
    said = newcomer.person.get(field.name)
    asked: Any
    if field.name in values and len(values[field.name]) <= _LONGEST_LIST:
        is_multi = field.kind == "multi"
        if is_multi and said is not None:
            said = [part.strip() for part in str(said).split(field.separator)]
        options = [{"label": value or "(empty)", "value": value} for value in values[field.name]]
        asked = dcc.Dropdown(options, said, id=name, multi=is_multi, placeholder="unknown")
    else:
        kind = "number" if field.kind == "dense" else "text"
        asked = dcc.Input(id=name, type=kind, value=said, placeholder="unknown", debounce=True)
    return html.Div([html.Label(field.name.replace("_", " ")), asked], className="question")


def _ratings_change(app: dash.Dash, labels: Sequence[float]) -> None:
    @app.callback(
        Output("ratings", "data"),
        Input({"type": "rate", "item": ALL, "label": ALL}, "n_clicks"),
        Input({"type": "forget", "item": ALL}, "n_clicks"),
        Input("forget", "n_clicks"),
        State("ratings", "data"),
        prevent_initial_call=True,
    )
    def change(_rated: Any, _forgotten: Any, _all: Any, ratings: Stored) -> Any:
        pressed: Any = ctx.triggered_id
        # Buttons that were just drawn trigger too, without a click.
        if not pressed or not any(one["value"] for one in ctx.triggered):
            return dash.no_update
        if pressed == "forget":
            return []
        item = pressed["item"]
        others = [pair for pair in ratings if pair[0] != item]
        if pressed["type"] == "forget":
            return others
        label = float(labels[pressed["label"]])
        # Pressed again, a rating is taken back.
        return others if [item, label] in map(list, ratings) else [[item, label], *others]


def _items_to_rate(app: dash.Dash, newcomer: Newcomer, labels: Sequence[float]) -> None:
    @app.callback(
        Output("first", "data"),
        Input("others", "n_clicks"),
        Input("search", "value"),
        State("first", "data"),
        prevent_initial_call=True,
    )
    def turn(_clicks: Any, search: str | None, first: int) -> int:
        if ctx.triggered_id == "search":
            return 0
        after = first + _SHOWN
        return after if after < len(newcomer.catalogue.found(search or "")) else 0

    @app.callback(
        Output("items", "children"),
        Input("first", "data"),
        Input("search", "value"),
        Input("ratings", "data"),
    )
    def show(first: int, search: str | None, ratings: Stored) -> Any:
        found = newcomer.catalogue.found(search or "")
        if not found:
            return html.Li(f"No item is called {search!r}.", className="note")
        known = _known(newcomer, ratings)
        return [
            _item(newcomer, place, labels, known.get(place))
            for place in found[first : first + _SHOWN]
        ]


def _item(newcomer: Newcomer, place: int, labels: Sequence[float], rated: float | None) -> html.Li:
    name = newcomer.catalogue.names[place]
    buttons = []
    for index, label in enumerate(labels):
        word, chosen = _word(label, labels), label == rated
        told = {"aria-label": f"{name}: {word}", "aria-pressed": "true" if chosen else "false"}
        name_of_button = {"type": "rate", "item": place, "label": index}
        state = "chosen" if chosen else ""
        buttons.append(html.Button(word, id=name_of_button, className=state, **told))
    return html.Li([_named(newcomer, place), html.Div(buttons, className="labels")])


def _lists(app: dash.Dash, newcomer: Newcomer, labels: Sequence[float], top: int) -> None:
    @app.callback(
        Output("lists", "children"),
        Output("yours", "children"),
        Input("ratings", "data"),
        Input({"type": "about", "field": ALL}, "value"),
    )
    def show(ratings: Stored, answers: list[Any]) -> Any:
        known = _known(newcomer, ratings)
        asked = [field.name for field in newcomer.person_fields]
        about = dict(zip(asked, answers, strict=True))
        found = newcomer.recommend(known, about, top=top)
        yours = [_rated(newcomer, place, label, labels) for place, label in known.items()]
        nothing = html.Li("None yet.", className="note")
        return _two_lists(newcomer, found, labels), yours or nothing


def _two_lists(newcomer: Newcomer, found: Recommendations, labels: Sequence[float]) -> list[Any]:
    count = found.num_ratings
    told = (
        f"Adapted to {count} rating{'s' if count != 1 else ''} in {1000 * found.seconds:.0f} ms"
        if count
        else "Rate an item: this list will change, the other will not"
    )
    # One scale for both, so that bars can be compared.
    every = [one.prediction for one in (*found.adapted, *found.unadapted)]
    scale = _scale(newcomer, labels, every)
    return [
        html.Div(
            [
                html.H2("For you"),
                html.P(told, className="note", id="told"),
                html.Ol([_line(newcomer, one, scale, moves=bool(count)) for one in found.adapted]),
            ],
            className="adapted",
        ),
        html.Div(
            [
                html.H2("For anybody"),
                html.P(_meaning(newcomer, scale), className="note"),
                html.Ol([_line(newcomer, one, scale, moves=False) for one in found.unadapted]),
            ],
            className="unadapted",
        ),
    ]


def _meaning(newcomer: Newcomer, scale: tuple[float, float]) -> str:
    """What the unadapted list is, and what the numbers beside items are."""
    schema = newcomer.schema
    if scale != (0.0, 1.0):
        return f"Unadapted. Numbers: the predicted {schema.label}"
    if schema.positive_from is None:
        return f"Unadapted. Percent: the chance of {schema.label} 1"
    return f"Unadapted. Percent: the chance of {schema.label} {schema.positive_from:g} or more"


def _line(
    newcomer: Newcomer, one: Recommended, scale: tuple[float, float], *, moves: bool
) -> html.Li:
    low, high = scale
    share = min(max((one.prediction - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    is_probability = scale == (0.0, 1.0)
    told = f"{one.prediction:.0%}" if is_probability else f"{one.prediction:.2f}"
    up = one.other_rank - one.rank
    moved = f"▲ {up}" if up > 0 else f"▼ {-up}" if up < 0 else "="
    return html.Li(
        [
            html.Span(str(one.rank), className="rank"),
            _named(newcomer, one.place),
            html.Span(moved if moves else "", className="up" if up > 0 else "down"),
            html.Span(told, className="value"),
            html.Div(html.Div(style={"width": f"{100 * share:.1f}%"}), className="scale"),
        ]
    )


def _scale(
    newcomer: Newcomer, labels: Sequence[float], predictions: Sequence[float]
) -> tuple[float, float]:
    """From where to where bars go: of probabilities from 0 to 1, and else over the labels."""
    is_probability = newcomer.schema.positive_from is not None or set(labels) == {0.0, 1.0}
    if is_probability and all(0 <= one <= 1 for one in predictions):
        return 0.0, 1.0
    return min((*labels, *predictions)), max((*labels, *predictions))


def _rated(newcomer: Newcomer, place: int, label: float, labels: Sequence[float]) -> html.Li:
    name = newcomer.catalogue.names[place]
    return html.Li(
        [
            html.Span(name, className="name"),
            html.Span(_word(label, labels), className="value"),
            html.Button(
                "×",
                id={"type": "forget", "item": place},
                className="quiet",
                **{"aria-label": f"Forget {name}"},
            ),
        ]
    )


def _named(newcomer: Newcomer, place: int) -> html.Div:
    catalogue = newcomer.catalogue
    return html.Div(
        [
            html.Span(catalogue.names[place], className="name"),
            html.Span(catalogue.details[place], className="details"),
        ],
        className="named",
    )


def _known(newcomer: Newcomer, ratings: Stored) -> Ratings:
    """The ratings of a visitor's store, of the items that this model has."""
    places = range(len(newcomer.catalogue))
    return {int(item): float(label) for item, label in ratings if int(item) in places}


def _word(label: float, labels: Sequence[float]) -> str:
    if len(labels) == 2:
        return "no" if label == labels[0] else "yes"
    return f"{label:g}"
