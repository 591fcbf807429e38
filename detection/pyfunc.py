"""A bundle as an MLflow pyfunc: raw audit events in, the numbers of the scoring API out. Nothing is unpickled.

Each `predict` starts from the habits in the bundle, so equal input gives equal output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.actions.fields import FIELDS
from data.events.decode import decode_lines
from detection.bundle import Bundle
from detection.detector import Detector
from detection.reconstruction import OnnxModel


class AuditModel:
    """Scores raw audit events from the habits in a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.model = OnnxModel(str(bundle.model_path))

    def predict(
        self,
        model_input: Any,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Score events in the order given.

        Args:
            model_input: table with a column `event`, each cell one audit.k8s.io event as JSON text.
            params: unused, part of MLflow's interface.

        Returns:
            One row per event: auditID, status ("scored", "folded" or "rejected"); if scored, also principal, surprise (nats),
            evidence, flagged, severity and nll (reconstruction NLL by field); if rejected, also reason.
        """
        texts = [str(text) for text in model_input["event"]]
        rows: list[dict[str, Any]] = [{"auditID": "", "status": "folded"} for _ in texts]
        decoded = decode_lines([text.encode() for text in texts])
        for letter in decoded.dead:
            rows[letter.line - 1] = {"auditID": "", "status": "rejected", "reason": letter.reason}
        places = [line - 1 for line in decoded.lines]
        for place, event in zip(places, decoded.events, strict=True):
            rows[place]["auditID"] = event.auditID
        detector = Detector(self.bundle, model=self.model, warm=False)
        # Only the principals of this request get their context: loading that of thousands takes longer than scoring.
        detector.attach(detector.warm)
        scores = detector.score(decoded.events)
        for row, index in enumerate(scores.event.tolist()):
            rows[places[index]] |= {
                "status": "scored",
                "principal": scores.principal[row],
                "surprise": float(scores.surprise[row]),
                "evidence": float(scores.evidence[row]),
                "flagged": bool(scores.flagged[row]),
                "severity": scores.severity[row],
                "nll": dict(zip(FIELDS, map(float, scores.nll[row]), strict=True)),
            }
        return rows


def _load_pyfunc(path: str) -> AuditModel:
    """MLflow's entry point.

    Args:
        path: folder of the bundle.
    """
    return AuditModel(Bundle.load(Path(path)))
