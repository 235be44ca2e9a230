"""The page: its logic through Dash's own requests, and the whole in a real browser."""

import json
import threading

import numpy as np
import pytest
from browser import browser, open_page, overflow

import gmeta_tf as gm
from gmeta_tf.play.catalogue import catalogue_of
from gmeta_tf.play.newcomer import Newcomer

pytest.importorskip("dash", reason="Dash is not installed")

SCHEMA = gm.Schema(
    (gm.Field("item"), gm.Field("genre"), gm.Field("age"), gm.Field("size", "dense", missing=0.0)),
    "stars",
    "user",
    positive_from=4.0,
)
LABELS = (1.0, 2.0, 3.0, 4.0, 5.0)
NUM_ITEMS = 20


# Of each text, input and button with its own background or that of what it is in.
CONTRASTS = """
() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = channels(colour).slice(0, 3).map(one => one / 255)
      .map(one => one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = one => {
    const colour = getComputedStyle(one).backgroundColor;
    const isClear = colour === "transparent" || channels(colour)[3] === 0;
    return isClear && one.parentElement ? behind(one.parentElement) : colour;
  };
  const found = [...document.querySelectorAll("h1, h2, p, label, span, button, input")];
  return found.map(one => {
    const pair = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  });
}
"""


class Model:
    """Likes what shares a genre with items that were rated well, and else what is frequent."""

    schema = request_schema = SCHEMA

    def __call__(self, query, support):
        liked = {"Drama": 0.0, "War": 0.0}
        for genre, stars in zip(support["genre"], support["stars"], strict=True):
            liked[genre] += float(stars) - 3
        frequent = np.arange(len(query["item"]), 0, -1) / 100
        old = 0.1 * (query["age"][0] == "90") * (query["genre"] == "War")
        from_genre = [0.1 * liked[genre] for genre in query["genre"]]
        return np.clip(0.5 + frequent + from_genre + old, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def app():
    from gmeta_tf.play.page import play_page

    keys = np.array([f"i{place}" for place in range(NUM_ITEMS)], object)
    rows = {
        "item": keys,
        "title": np.array([f"Film {place:02d}" for place in range(NUM_ITEMS)], object),
        "genre": np.array(["Drama", "War"] * (NUM_ITEMS // 2), object),
    }
    catalogue = catalogue_of(SCHEMA, SCHEMA.fields[0], rows, keys.tolist())
    newcomer = Newcomer(Model(), catalogue)
    return play_page(newcomer, LABELS, title="films", values={"age": ["20", "90"]}, top=5)


def asked(app, output, inputs, state=(), changed=None):
    """What a callback answers to the request that Dash's page would send."""
    (name, known) = next(
        (name, one)
        for name, one in app.callback_map.items()
        if output in name.strip(".").split("...")
    )
    outputs = [
        dict(zip(("id", "property"), one.rsplit(".", 1), strict=True))
        for one in name.strip(".").split("...")
    ]
    body = {
        "output": name,
        "outputs": outputs if name.startswith("..") else outputs[0],
        "inputs": inputs,
        "changedPropIds": [changed] if changed else [],
        "state": list(state),
    }
    assert known["callback"]
    answer = app.server.test_client().post("/_dash-update-component", json=body)
    assert answer.status_code in (200, 204), answer.text
    return answer.json["response"] if answer.status_code == 200 else None  # nothing changes


def changed_ratings(app, ratings, pressed, clicks=1):
    """The store after a button was pressed."""
    name = pressed if isinstance(pressed, str) else json.dumps(pressed, separators=(",", ":"))
    of = {"rate": [], "forget": []}
    if not isinstance(pressed, str):
        of[pressed["type"]] = [{"id": pressed, "property": "n_clicks", "value": clicks}]
    all_clicks = clicks if pressed == "forget" else None
    inputs = [
        of["rate"],
        of["forget"],
        {"id": "forget", "property": "n_clicks", "value": all_clicks},
    ]
    state = [{"id": "ratings", "property": "data", "value": ratings}]
    answer = asked(app, "ratings.data", inputs, state, f"{name}.n_clicks")
    return answer["ratings"]["data"] if answer else None


def rate(item, label):
    return {"item": item, "label": label, "type": "rate"}


def test_buttons_change_the_ratings(app):
    assert changed_ratings(app, [], rate(3, 4)) == [[3, 5.0]]
    assert changed_ratings(app, [[3, 5.0]], rate(3, 0)) == [[3, 1.0]]
    two = [[3, 1.0], [4, 2.0]]
    assert changed_ratings(app, two, rate(3, 0)) == [[4, 2.0]]
    assert changed_ratings(app, two, rate(1, 0)) == [[1, 1.0], *two]  # the latest first
    assert changed_ratings(app, two, {"item": 4, "type": "forget"}) == [[3, 1.0]]
    assert changed_ratings(app, [[3, 1.0]], "forget") == []
    # Drawn anew, a button reports itself without a click.
    assert changed_ratings(app, [[3, 1.0]], rate(3, 4), clicks=None) is None


def shown_items(app, first, search, ratings):
    inputs = [
        {"id": "first", "property": "data", "value": first},
        {"id": "search", "property": "value", "value": search},
        {"id": "ratings", "property": "data", "value": ratings},
    ]
    return json.dumps(asked(app, "items.children", inputs)["items"]["children"])


def test_items_to_rate(app):
    first = shown_items(app, 0, None, [[1, 4.0]])
    assert ["Film 00" in first, "Film 07" in first, "Film 08" in first] == [True, True, False]
    assert first.count('"chosen"') == 1
    assert first.count('"aria-pressed": "true"') == 1
    assert "Film 15" in shown_items(app, 8, "", [])
    assert "Film 19" in shown_items(app, 0, "film 19", [])
    assert "No item is called 'x'." in shown_items(app, 0, "x", [])


def turned(app, first, search, changed):
    inputs = [
        {"id": "others", "property": "n_clicks", "value": 1},
        {"id": "search", "property": "value", "value": search},
    ]
    state = [{"id": "first", "property": "data", "value": first}]
    return asked(app, "first.data", inputs, state, changed)["first"]["data"]


def test_other_items_come_and_begin_again(app):
    assert turned(app, 0, None, "others.n_clicks") == 8
    assert turned(app, 16, None, "others.n_clicks") == 0
    assert turned(app, 0, "Film 0", "others.n_clicks") == 8
    assert turned(app, 16, "Film", "search.value") == 0


def lists(app, ratings, age=None, size=None):
    inputs = [
        {"id": "ratings", "property": "data", "value": ratings},
        [
            {"id": {"field": "age", "type": "about"}, "property": "value", "value": age},
            {"id": {"field": "size", "type": "about"}, "property": "value", "value": size},
        ],
    ]
    answer = asked(app, "lists.children", inputs)
    adapted, unadapted = (json.dumps(one) for one in answer["lists"]["children"])
    return adapted, unadapted, json.dumps(answer["yours"]["children"])


def test_lists_follow_the_ratings(app):
    adapted, unadapted, yours = lists(app, [])
    assert "this list will change" in adapted
    assert "the chance of stars 4 or more" in unadapted
    assert "None yet." in yours
    adapted, unadapted, yours = lists(app, [[1, 5.0], [0, 1.0]])
    assert "Adapted to 2 ratings in" in adapted
    assert ["Film 03" in adapted, "Film 02" in adapted] == [True, False]
    assert ["Film 03" in unadapted, "Film 02" in unadapted] == [True, True]
    assert ["Film 00" in unadapted, "Film 01" in unadapted] == [False, False]  # rated
    assert 0 < yours.index("Film 01") < yours.index("Film 00")  # as they were given
    # A place that the catalogue does not have, of a page of another model, is passed over.
    assert "Adapted to 1 rating in" in lists(app, [[1, 5.0], [99, 5.0]])[0]


def test_what_one_says_of_oneself_changes_both(app):
    before, after = lists(app, []), lists(app, [], age="90", size=1.5)
    assert before[1] != after[1]
    assert "Film 09" in after[1]


@pytest.mark.slow
def test_in_a_browser(app):
    from werkzeug.serving import make_server

    with browser() as started:
        server = make_server("127.0.0.1", 0, app.server, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/"
            for width, scheme in ((1280, "light"), (390, "light"), (1280, "dark")):
                shown = open_page(started, address, width=width, color_scheme=scheme)
                with shown as (page, troubles):
                    _use(page)
                    assert (troubles, overflow(page)) == ([], 0)
                    assert min(page.evaluate(CONTRASTS)) >= 4.5  # WCAG's for text
        finally:
            server.shutdown()


def _use(page):
    """What a person does: rates, looks, searches, takes back, answers, forgets."""
    adapted, unadapted = page.locator(".adapted .name"), page.locator(".unadapted .name")
    adapted.nth(4).wait_for()
    assert adapted.all_inner_texts() == unadapted.all_inner_texts()
    page.get_by_role("button", name="Film 01: 5").click()
    page.get_by_text("Adapted to 1 rating in").wait_for()
    assert adapted.first.inner_text() == "Film 03"
    assert unadapted.first.inner_text() == "Film 00"
    assert page.locator(".adapted .up").first.inner_text() == "▲ 2"
    page.locator("#search").fill("film 19")
    page.get_by_role("button", name="Film 19: 1").click()
    page.get_by_text("Adapted to 2 ratings in").wait_for()
    assert page.locator(".items li").count() == 1
    page.get_by_role("button", name="Forget Film 19").click()
    page.get_by_text("Adapted to 1 rating in").wait_for()
    page.locator("#search").fill("")
    page.get_by_role("button", name="Film 07: 1").wait_for()
    page.get_by_role("button", name="Other items").click()
    page.get_by_role("button", name="Film 08: 1").wait_for()
    page.get_by_role("button", name="Forget all").click()
    page.get_by_text("this list will change").wait_for()
    assert page.locator(".yours").inner_text() == "None yet."
