"""The pages of rights and of rules in a browser: sound, with the keyboard alone, on a phone and in the dark."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.console.browser import Visitor, needs_chromium
from tests.console.conftest import Console

pytestmark = [pytest.mark.slow, needs_chromium]

_PHONE = (390, 844)
_GROUP = "/console/rights/subject?" + urlencode({"group": "corp:devs", "days": "all"})


def test_pages_of_rights_and_rules_are_sound_on_a_phone_in_the_dark(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url, theme="dark", size=_PHONE)
    visitor.sign_in(console.reader)
    for path in (
        "/console/rights?days=all",
        _GROUP,
        "/console/rights/who-can?verb=list&resource=secrets",
        "/console/rules/service-external-ips",
    ):
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
    visitor.check()
    keys.press("j")
    keys.press("Enter")
    page.wait_for_url("**/console/rights/subject?**")
    assert page.get_by_role("heading", level=1).inner_text() == "corp:devs"
    picture = page.get_by_role("group", name="Whom it can become")
    assert picture.get_by_text("everything in the cluster", exact=True).is_visible()
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
    visitor.go("/console/rights/what-if")
    page.get_by_label("Roles and bindings to take out, a line each").fill("clusterrolebindings/gitops-all")
    page.get_by_label("Compared with what was done in the last").select_option("all")
    page.get_by_role("button", name="Try it").focus()
    keys.press("Enter")
    page.get_by_role("heading", name=re.compile("It would have denied [0-9,]+ request")).wait_for()
    visitor.check()
    visitor.close()


def test_a_command_at_the_side_of_a_rule_is_seen_as_a_whole(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url)
    visitor.sign_in(console.reader)
    page = visitor.go("/console/rules/service-external-ips")
    commands = page.locator("aside .command pre")
    assert commands.count() == 2
    assert commands.evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth).length") == 0
    visitor.close()
