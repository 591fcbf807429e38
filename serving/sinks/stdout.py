"""stdout: one JSON object a line, for collectors of container output."""

from __future__ import annotations

from typing import Literal

import msgspec

from serving.sinks.base import SinkSettings, UnavailableError, Update


class StdoutSettings(SinkSettings):
    """Alerts on standard output."""

    type: Literal["stdout"]

    def open(self) -> StdoutSink:
        """The sink."""
        return StdoutSink()


class StdoutSink:
    """Writes to standard output."""

    def send(self, update: Update) -> None:
        """Write one line."""
        try:
            print(msgspec.json.encode(update.document()).decode(), flush=True)
        except (OSError, ValueError) as error:
            raise UnavailableError(f"stdout cannot be written ({type(error).__name__})") from error

    def close(self) -> None:
        """Nothing to release."""
