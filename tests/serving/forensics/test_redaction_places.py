"""Nothing of a secret of any documented format is left in any place of an event, however it is encoded there."""

from __future__ import annotations

import json
from urllib.parse import unquote_plus

import pytest

from serving.forensics.redaction import redact
from serving.schemas import clean
from tests.data.secret_corpus import PLACES, event_with, go_json, left, shapes


@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_a_secret_is_left_in_its_place(place: str) -> None:
    leaks = {}
    for shape in shapes(seed=2):
        kept = redact(go_json(event_with(place, shape)))
        json.loads(kept.text)
        text = kept.text.decode()
        readings = {text}
        for _ in range(2 * ("%" in text)):
            readings |= set(map(unquote_plus, readings))
        found = [part for reading in readings for secret in shape.secrets if (part := left(reading, secret))]
        if found:
            leaks[shape.label] = f"{found[0]} of {shape.text}"
    assert leaks == {}


def test_nothing_of_a_secret_is_left_in_the_texts_of_an_alert() -> None:
    leaks = [
        shape.label
        for shape in shapes(seed=3)
        if any(left(clean(shape.text, 4096), one) for one in shape.secrets)
    ]
    assert leaks == []
