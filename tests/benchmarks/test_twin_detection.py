"""Of the false incidents on the twin, those that only repeat something notify nobody."""

from benchmarks.twin_detection import Hit, incidents, notifying


def test_an_incident_of_repeats_alone_notifies_nobody() -> None:
    hour = 3600 * 1_000_000
    hits = [
        Hit("runner", 0, labelled=False, repeat=False),
        Hit("runner", hour, labelled=False, repeat=True),
        Hit("runner", 2 * hour, labelled=False, repeat=True),
        Hit("runner", 2 * hour + 1, labelled=False, repeat=False),
    ]
    found = incidents(hits)
    assert len(found) == 3
    assert notifying(found) == 2
