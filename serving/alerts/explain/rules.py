"""ATT&CK techniques and next steps of an alert, by the rules of `configs/explain.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from string import Template

from serving.alerts.explain.commands import Values, fill
from serving.alerts.explain.phrases import ActionPhrase, CheckWords, Phrases, PhraseRule, holds
from serving.schemas import Action, Alert, Check, Technique

_MAX_TECHNIQUES = 3
_CONTAINED = 8


class Rules:
    """The rules of a lexicon.

    Args:
        phrases: words for what the rules name.
    """

    def __init__(self, phrases: Phrases) -> None:
        self._phrases = phrases
        self._lexicon = phrases.lexicon

    def techniques(self, alert: Alert) -> list[Technique]:
        """Techniques of the gravest action of an alert."""
        rules = self._matching(alert, alert.headline)
        names = list(dict.fromkeys(name for rule in rules for name in rule.techniques))[:_MAX_TECHNIQUES]
        return [
            Technique(
                id=name,
                name=self._lexicon.techniques[name].name,
                tactic=self._lexicon.techniques[name].tactic,
                url=f"https://attack.mitre.org/techniques/{name.replace('.', '/')}/",
            )
            for name in names
        ]

    def checks(self, alert: Alert) -> list[Check]:
        """Next steps for the gravest action of an alert, then how to contain its other kinds of actions."""
        rules = self._matching(alert, alert.headline)
        steps = [*self._lexicon.always, *(check for rule in rules for check in rule.checks)]
        found = self._filled(alert, alert.headline, steps)
        others = {action.description: action for action in sorted(alert.actions, key=lambda one: one.weight)}
        for action in sorted(others.values(), key=lambda one: one.weight, reverse=True)[:_CONTAINED]:
            contain = (
                check
                for rule in self._matching(alert, action)
                for check in rule.checks
                if check.kind == "contain" and check.command is not None
            )
            for one in self._filled(alert, action, contain):
                if one.command is not None and one.command not in {other.command for other in found}:
                    found.append(one)
        return found

    def _matching(self, alert: Alert, action: Action) -> list[PhraseRule]:
        phrase = ActionPhrase.from_summary(action)
        new = [novelty.attribute for novelty in action.habits if not novelty.times_before]
        return [rule for rule in self._lexicon.rules if holds(rule.when, phrase, kind=alert.kind, new=new)]

    def _filled(self, alert: Alert, action: Action, checks: Iterable[CheckWords]) -> list[Check]:
        """Checks with what an action was about put in; of those with the same command the first."""
        ref = action.object_ref
        values = Values.from_action(
            alert.principal,
            action,
            f"the path {action.request_path or '/'}"
            if ref is None
            else self._phrases.object(ref, action.verb),
            cluster=ref is not None and self._phrases.word_for(ref.resource).cluster,
        )
        found: dict[tuple[str, str], Check] = {}
        for check in checks:
            text = Template(check.text).safe_substitute(values.plain)
            command = fill(check.command, values.quoted)
            one = Check.model_validate({"kind": check.kind, "text": text, "command": command})
            found.setdefault((check.kind, command or text), one)
        return list(found.values())
