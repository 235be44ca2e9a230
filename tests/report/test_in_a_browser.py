"""The page in a real browser: on a desktop and on a phone."""

import pytest
from browser import browser, open_page, overflow
from made_run import write_run

from gmeta_tf.cli import main as cli

pytestmark = pytest.mark.slow

WIDTHS = "[...document.images].map(one => [one.naturalWidth, one.getBoundingClientRect().width])"
TABLES = "[...document.querySelectorAll('.scroll')].map(one => one.getBoundingClientRect().right)"


def test_the_page_on_a_desktop_and_on_a_phone(tmp_path):
    run = write_run(tmp_path / "run", model="melu")
    cli.main(["report", "--no-measure", "--run", str(run)])
    with browser() as started:
        address = (run / "report.html").as_uri()
        for width, least, most in ((1280, 416, 640), (390, 330, 390)):
            with open_page(started, address, width=width) as (page, troubles):
                pictures = page.evaluate(WIDTHS)
                assert len(pictures) >= 3
                # Loaded, neither tiny nor, where one stands alone, as wide as the page.
                assert all(natural > 0 and least <= shown <= most for natural, shown in pictures)
                assert (troubles, overflow(page)) == ([], 0)
                assert max(page.evaluate(TABLES)) <= width  # wide tables scroll by themselves
                assert page.locator("summary").count() == 1
                options = page.locator("details table")
                assert not options.is_visible()
                page.locator("summary").click()
                assert options.is_visible()
                assert overflow(page) == 0
