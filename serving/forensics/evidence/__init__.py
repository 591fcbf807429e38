"""Evidence: an export of events with the proof of them, as a JSON file and as a page of HTML."""
