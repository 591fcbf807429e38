"""ATT&CK techniques and next steps of an alert, by the rules of `configs/explain.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from string import Template

from serving.alerts.explain.commands import Values, effect_of, fill
from serving.alerts.explain.phrases import ActionPhrase, CheckWords, PhraseRule, Phrases, When, holds
from serving.schemas import Action, Alert, Check, Technique

_MAX_TECHNIQUES = 3
_CONTAINED = 8


def technique_url(name: str) -> str:
    """The page of a technique in the public catalogue."""
    return f"https://attack.mitre.org/techniques/{name.replace('.', '/')}/"


class Rules:
    """The rules of a lexicon."""

    def __init__(self, phrases: Phrases) -> None:
        self._phrases = phrases
        self._lexicon = phrases.lexicon

    def techniques(self, alert: Alert) -> list[Technique]:
        """Techniques of the most severe action of an alert."""
        rules = self._matching(alert, alert.headline)
        of_rules = [name for match in alert.headline.rules for name in match.techniques]
        of_words = [name for rule in rules for name in rule.techniques]
        return [
            self._technique(name) for name in list(dict.fromkeys([*of_rules, *of_words]))[:_MAX_TECHNIQUES]
        ]

    def _technique(self, name: str) -> Technique:
        url = technique_url(name)
        known = self._lexicon.techniques.get(name)
        if known is None:  # of a rule of one's own
            return Technique(id=name, name=name, tactic="", url=url)
        return Technique(id=name, url=url, **known.model_dump())

    def checks(self, alert: Alert) -> list[Check]:
        """Next steps for the most severe action of an alert, then how to contain its other kinds of actions."""
        rules = self._matching(alert, alert.headline)
        steps = [*self._lexicon.always, *(check for rule in rules for check in rule.checks)]
        found = self._filled(alert, alert.headline, steps)
        # The same deed from elsewhere is another kind: what is to be contained then is the credential.
        others = {
            (action.description, _is_from_elsewhere(action)): action
            for action in sorted(alert.actions, key=lambda one: one.weight)
        }
        known = {one.command or one.text for one in found}
        for action in sorted(others.values(), key=lambda one: one.weight, reverse=True)[:_CONTAINED]:
            steps = [check for rule in self._matching(alert, action) for check in rule.checks]
            for one in self._filled(alert, action, (check for check in steps if check.kind == "contain")):
                # Also where only waiting or a new key helps: a thief's worst action need not be the first with a stolen token.
                if (one.command or one.text) not in known:
                    known.add(one.command or one.text)
                    found.append(one)
        return found

    def _matching(self, alert: Alert, action: Action) -> list[PhraseRule]:
        holds_for = _conditions(alert, action)
        return [rule for rule in self._lexicon.rules if holds_for(rule.when)]

    def _filled(self, alert: Alert, action: Action, checks: Iterable[CheckWords]) -> list[Check]:
        """Checks with what an action was about put in; of those with the same command the first.

        What stops work is not proposed for an alert of low severity.
        """
        ref = action.object_ref
        what = self._phrases.target(ActionPhrase.from_summary(action))
        cluster = ref is not None and self._phrases.word_for(ref.resource).cluster
        values = Values.from_action(alert.principal, action, what, cluster=cluster)
        found: dict[tuple[str, str], Check] = {}
        holds_for = _conditions(alert, action)
        for check in checks:
            if not holds_for(check.when):
                continue
            text = Template(check.text).safe_substitute(values.plain)
            command = fill(check.command, values.quoted)
            effect = effect_of(command) if command is not None else None
            if effect == "stops" and alert.severity == "low":
                continue
            # A command that only looks contains nothing, whatever a lexicon calls it.
            kind = "look" if effect == "looks" else check.kind
            one = Check.model_validate({"kind": kind, "text": text, "command": command, "effect": effect})
            found.setdefault((kind, command or text), one)
        return list(found.values())


def _is_from_elsewhere(action: Action) -> bool:
    """Whether an action came by a client or from an address that its principal had never used."""
    return any(one.attribute in ("client", "place") and not one.times_before for one in action.habits)


def _conditions(alert: Alert, action: Action) -> Callable[[When], bool]:
    """What says whether the condition of a rule or of a next step holds for an action of an alert."""
    new = [novelty.attribute for novelty in action.habits if not novelty.times_before]
    return partial(holds, action=ActionPhrase.from_summary(action), kind=alert.kind, new=new)
