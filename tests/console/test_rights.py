"""The pages of rights and of rules in a browser: sound, with the keyboard alone, on a phone and in the dark."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.console.browser import WIDE, Visitor, needs_chromium
from tests.console.conftest import Console

pytestmark = [pytest.mark.slow, needs_chromium]

_PHONE = (390, 844)
_GROUP = "/console/rights/subject?" + urlencode({"group": "corp:devs", "days": "all"})


@pytest.mark.parametrize(
    ("theme", "size", "pages"),
    [
        ("light", WIDE, ("/console/rights?by=bindings&days=all", "/console/rules?days=90")),
        (
            *("dark", _PHONE),
            (
                "/console/rights?days=all",
                _GROUP,
                "/console/rights/who-can?verb=list&resource=secrets",
                "/console/rights/what-if?remove=clusterrolebindings/sre-admin",
                "/console/rights/binding?binding=gitops-all&days=all",
                "/console/rules/service-external-ips",
            ),
        ),
    ],
)
def test_pages_of_rights_and_rules_are_sound(
    console: Console, browser: Any, theme: str, size: tuple[int, int], pages: tuple[str, ...]
) -> None:
    visitor = Visitor(browser, console.url, theme=theme, size=size)
    visitor.sign_in(console.reader)
    for path in pages:
        page = visitor.go(path)
        page.evaluate("document.querySelectorAll('main details').forEach((one) => { one.open = true; })")
        visitor.check()
    visitor.close()


def test_from_a_group_over_the_picture_to_a_change_with_the_keyboard_alone(
    console: Console, browser: Any
) -> None:
    visitor = Visitor(browser, console.url)
    visitor.sign_in(console.reader)
    page, keys = visitor.page, visitor.page.keyboard
    keys.press("g")
    keys.press("r")
    page.wait_for_url("**/console/rights")
    visitor.go("/console/rights?by=groups&days=all&q=corp:devs")
    keys.press("j")
    keys.press("Enter")
    page.wait_for_url("**/console/rights/subject?**")
    assert page.get_by_role("heading", level=1).inner_text() == "corp:devs"
    picture = page.get_by_role("group", name="Whom it can become")
    assert picture.get_by_text("everything in the cluster").is_visible()
    # Every text of the picture is in its box.
    beyond = picture.locator("g.box").evaluate_all(
        "boxes => boxes.filter(box => [...box.querySelectorAll('text')].some(text =>"
        " text.getComputedTextLength() > box.querySelector('svg').width.baseVal.value + 1)).length"
    )
    assert beyond == 0
    account = picture.get_by_role("link").first
    account.focus()
    keys.press("Enter")
    page.wait_for_url("**/console/rights/subject?user=**")
    visitor.check()
    page.get_by_role("link", name="Who can…").or_(page.get_by_role("link", name="Rights").first).first.focus()
    visitor.go("/console/rights/what-if")
    page.get_by_label("Roles and bindings to take out, a line each").fill("clusterrolebindings/gitops-all")
    page.get_by_label("Compared with what was done in the last").select_option("all")
    page.get_by_role("button", name="Try it").focus()
    keys.press("Enter")
    page.get_by_role("heading", name="It would have denied").wait_for()
    visitor.check()
    visitor.close()
