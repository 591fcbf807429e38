"""Explains alerts: what is new about them, what the model expected, what they look like, and what to do next.

Novelties, which can be counted in the log, come first; then what the model expected, for actions that are known in every part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from pydantic import ValidationError

from data.errors import KubehabitError
from serving.alerts.explain.phrases import (
    REFUSED,
    ActionPhrase,
    Lexicon,
    Phrases,
    count_of,
    joined,
    resource_name,
    span_words,
)
from serving.alerts.explain.rules import Rules
from serving.schemas import Action, Alert, Alternative, Contributor, EventSummary, Novelty
from serving.settings import read_yaml

_MAX_NEWS = 3
_MAX_OTHER_DEEDS = 3
_IMPLIES: Mapping[str, frozenset[str]] = {
    "verb_resource": frozenset(
        {
            "resource_namespace",
            "verb_resource_namespace",
            "object",
            "image_of",
            "code",
            "traits",
            "uri",
            "binding",
        }
    ),
    "namespace": frozenset({"resource_namespace", "verb_resource_namespace", "object", "image_of"}),
    "resource_namespace": frozenset({"verb_resource_namespace", "object", "image_of"}),
    "verb_resource_namespace": frozenset({"object", "image_of"}),
    "object": frozenset({"image_of"}),
    "images": frozenset({"image_of"}),
}

_ORDER = {
    name: index
    for index, name in enumerate(
        (
            "impersonates",
            "verb_resource",
            "namespace",
            "resource_namespace",
            "verb_resource_namespace",
            "images",
            "image_of",
            "traits",
            "client",
            "place",
            "object",
            "uri",
            "code",
            "binding",
        )
    )
}
_DETAILS = frozenset(("object", "uri", "code", "binding", "image_of"))
_FIRST, _BEFORE_DETAILS = 0, 5
_HARM = ("routine", "of little use to an attacker", "of use to an attacker", "what an attacker wants most")
_NEWNESS = {
    1: "its peers do such things",
    2: "some of it none of its peers has done before",
    3: "some of it nobody in the cluster has done before",
}
_MANY, _SOME = 5, 3
_MAX_EXPECTED = 3
_LEAST = 0.01  # "0%" tells nobody anything
_NO_NEWS = 99
_MAX_REASONS = 5
_PRONOUNS = {"human": ("this person", "their"), "anonymous": ("such a caller", "its")}
_NOTHING = "-"  # the value of a field that an action does not have
_SPECIAL = re.compile(r"<[a-z]+>")  # lexicon tokens such as <unknown>; paces such as <10ms are none


def _tells(novelty: Novelty) -> bool:
    """Whether a novelty means something to a person: the absence of an image or of a permission does not."""
    return novelty.value.rpartition(" ")[2] != _NOTHING or novelty.attribute in (
        "namespace",
        "resource_namespace",
    )


def _options(value: str, expected: Sequence[Alternative]) -> str:
    """At most two values that were expected instead, with their probabilities; empty if there are none to name."""
    others = [
        option
        for option in expected
        if option.value not in (value, _NOTHING)
        and not _SPECIAL.fullmatch(option.value)
        and option.probability >= _LEAST
    ]
    return " or ".join(f"{option.value} ({option.probability:.0%})" for option in others[:2])


def _is_news(novelty: Novelty) -> bool:
    return not novelty.times_before and _tells(novelty)


def _level(novelty: Novelty) -> int:
    """For whom it is new: 1 the principal, 2 its peers as well, 3 everyone."""
    return 1 if novelty.peers_with else 2 if novelty.anyone_with else 3


def _rank(novelty: Novelty, kind: str) -> tuple[int, int]:
    """Sort key within a session: rarer first; of equals what was done before how it was done."""
    order = _ORDER.get(novelty.attribute, len(_ORDER))
    if novelty.attribute in _DETAILS:
        return _BEFORE_DETAILS + 1 + (3 - _level(novelty)), order
    # A program neither moves nor changes its client by itself.
    if kind in ("serviceaccount", "controller", "node", "component") and novelty.attribute in (
        "client",
        "place",
    ):
        return _FIRST, order
    return _FIRST + 1 + (3 - _level(novelty)), order


def _what(one: EventSummary) -> tuple[str, str]:
    """Key of an action's object or path."""
    ref = one.object_ref
    return (ref.namespace, ref.name) if ref is not None else ("", one.request_path or "")


class Explainer(Phrases):
    """Turns alerts into words, techniques and next steps."""

    @classmethod
    def load(cls, path: Path) -> Explainer:
        """Read a lexicon; raises KubehabitError if the file or a rule in it is wrong."""
        raw = read_yaml(path)
        try:
            lexicon = Lexicon.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise KubehabitError(
                f"{path}: '{where}' cannot be understood: {first['msg']}. Correct it there."
            ) from error
        unknown = {name for rule in lexicon.rules for name in rule.techniques} - set(lexicon.techniques)
        if unknown:
            raise KubehabitError(
                f"{path}: a rule names the technique {sorted(unknown)[0]}, which 'techniques' does not explain. Add it there."
            )
        return cls(lexicon)

    def news(self, habits: Sequence[Novelty], phrase: ActionPhrase) -> list[str]:
        """Novelties of a phrase as short clauses ("working in payments"), without those that follow from others."""
        skip: set[str] = set()
        clauses = []
        for novelty in sorted(filter(_tells, habits), key=lambda one: _ORDER.get(one.attribute, len(_ORDER))):
            if novelty.attribute not in skip and not novelty.times_before:
                clauses.append(self.novelty_words(novelty, phrase)[1])
                skip |= {novelty.attribute} | _IMPLIES.get(novelty.attribute, frozenset())
        return clauses

    def rarity(self, action: Action) -> list[tuple[str, Novelty]]:
        """All counted attributes of an action as short clauses ("working in payments"); those never seen before first."""
        phrase = ActionPhrase.from_summary(action)
        seen: dict[str, Novelty] = {}
        for novelty in sorted(
            filter(_tells, action.habits),
            key=lambda one: (one.times_before > 0, _ORDER.get(one.attribute, len(_ORDER))),
        ):
            seen.setdefault(self.novelty_words(novelty, phrase)[1], novelty)
        return list(seen.items())

    def reason(self, action: Action, kind: str) -> str:
        """Why an action is unusual: a clause and perhaps a second sentence, without a final stop."""
        phrase = ActionPhrase.from_summary(action)
        news = sorted(
            filter(_tells, action.habits), key=lambda novelty: _ORDER.get(novelty.attribute, len(_ORDER))
        )
        if not news:
            return self._misfit(action)
        main, *rest = news
        text = self._counted(main, phrase, kind)
        skip = {main.attribute} | _IMPLIES.get(main.attribute, frozenset())
        more: list[str] = []
        for novelty in rest:
            if novelty.attribute in skip or novelty.times_before or main.actions_before == 0:
                continue
            skip |= {novelty.attribute} | _IMPLIES.get(novelty.attribute, frozenset())
            more.append(self.novelty_words(novelty, phrase)[1])
        if more:
            text += f". New as well: {joined(more[:_MAX_NEWS])}"
        return text

    def _counted(self, main: Novelty, phrase: ActionPhrase, kind: str) -> str:
        """A novelty as a clause, with its counts."""
        it, its = _PRONOUNS.get(kind, ("it", "its"))
        if main.actions_before == 0:
            return f"{it} was never seen before"
        never, _ = self.novelty_words(main, phrase)
        earlier = count_of(main.actions_before, "earlier action", "earlier actions")
        if main.times_before:
            return (
                f"{it} has {never} only {count_of(main.times_before, 'time', 'times')} before (in {earlier})"
            )
        return f"{it} has never {never} before (0 of {earlier}){self._peers(main, its)}"

    @staticmethod
    def _peers(novelty: Novelty, its: str) -> str:
        """What peers did; empty when there are none to compare with."""
        if 1 < novelty.peers <= novelty.peers_with:
            return f", though all of {its} {novelty.peers:,} peers have"
        if novelty.peers == novelty.peers_with == 1:
            return f", though {its} only peer has"
        if novelty.peers_with:
            has = "has" if novelty.peers_with == 1 else "have"
            return (
                f", though {novelty.peers_with:,} of {its} {count_of(novelty.peers, 'peer', 'peers')} {has}"
            )
        if novelty.peers <= 0:
            return "" if novelty.anyone_with else ", nor has anybody else"
        nobody = (
            f"nor has {its} only peer"
            if novelty.peers == 1
            else f"nor has any of {its} {novelty.peers:,} peers"
        )
        return f", {nobody}" + ("" if novelty.anyone_with else ", nor anybody else in the cluster")

    def _misfit(self, action: Action) -> str:
        """For an action that is known in every part: the field that does not fit, and what would have."""
        if not action.fields:
            return "every part of it is known, but not at this point of what it usually does"
        worst = action.fields[0]
        name = self.lexicon.fields.get(worst.field, worst.field)
        text = f"every part of it is known, but {name} does not fit here"
        options = _options(worst.value, worst.expected)
        if options and worst.value not in ("", _NOTHING):
            text += f": {worst.value}, where one would expect {options}"
        return text

    def expected(self, action: Action) -> list[str]:
        """Expected values of the fields that fit worst, for this principal and for its peers."""
        lines = []
        for one in action.fields[:_MAX_EXPECTED]:
            mine, theirs = (_options(one.value, given) for given in (one.expected, one.expected_of_peers))
            if one.value in ("", _NOTHING) or not (mine or theirs):
                continue
            text = f"{self.lexicon.fields.get(one.field, one.field)} was {one.value}"
            text += f"; expected of it instead: {mine}" if mine else ""
            text += f"; of its peers: {theirs}" if theirs else ""
            lines.append(text)
        return lines

    def telling(self, alert: Alert) -> Action:
        """The action for the sentence: the most severe, unless another as severe shows better what is new."""
        headline = alert.headline
        mine = min((_rank(one, alert.kind)[0] for one in headline.habits if _is_news(one)), default=_NO_NEWS)
        best, rank = headline, mine
        for action in alert.actions:
            if mine != _NO_NEWS and action.severity != headline.severity:
                continue
            found = min(
                (_rank(one, alert.kind)[0] for one in action.habits if _is_news(one)), default=_NO_NEWS
            )
            if found < rank:
                best, rank = action, found
        return best

    def sentence(self, alert: Alert) -> str:
        """The alert in words, for readers new to Kubernetes."""
        action = self.telling(alert)
        text = f"{self.who(alert.principal, alert.kind)} {action.description}: {self.reason(action, alert.kind)}."
        others = alert.action_count - 1
        if others:
            span = span_words(alert.last_seen - alert.first_seen)
            noun = count_of(others, "more unusual action", "more unusual actions")
            deeds = [
                phrase.description + (f" ({phrase.count} times)" if phrase.count > 1 else "")
                for phrase in sorted(alert.repeated, key=lambda phrase: -phrase.count)
                if phrase.description != action.description
            ]
            told = "; ".join(deeds[:_MAX_OTHER_DEEDS])
            lead = ": " if len(deeds) <= _MAX_OTHER_DEEDS else ", such as: "
            text += f" With {noun} within {span}" + (f"{lead}{told}." if deeds else ", all alike.")
        return text

    def session(
        self,
        principal: str,
        kind: str,
        judged: Sequence[Action | Contributor],
        counted: Sequence[EventSummary],
        span: timedelta,
    ) -> tuple[str, list[str], str]:
        """What one credential did in one session, and why that stands out.

        Args:
            principal, kind: who.
            judged: actions with their novelties, by time.
            counted: all actions that were flagged or contributed.
            span: between the first and the last of them.

        Returns:
            The sentence; the reasons, most telling first; and the first one's attribute, or `pace` or `refusals`.
        """
        clauses: list[tuple[tuple[int, int], str, str, str]] = []  # rank, attribute, clause, phrase
        seen: set[str] = set()
        ranked = sorted(
            (
                (_rank(novelty, kind), at, novelty)
                for at, one in enumerate(judged)
                for novelty in one.habits
                if _is_news(novelty)
            ),
            key=lambda entry: (entry[0], entry[1]),
        )
        for rank, at, novelty in ranked:
            if novelty.attribute in seen:
                continue
            seen |= {novelty.attribute} | _IMPLIES.get(novelty.attribute, frozenset())
            one = judged[at]
            clauses.append(
                (
                    rank,
                    novelty.attribute,
                    self._counted(novelty, ActionPhrase.from_summary(one), kind),
                    one.description,
                )
            )
        clauses += self._patterns(kind, counted, span)
        clauses.sort(key=lambda entry: entry[0])
        if not clauses:
            worst = max(
                (one for one in judged if isinstance(one, Action)), key=lambda one: one.weight, default=None
            )
            if worst is None:
                return "", [], ""
            top = worst.fields[0].field if worst.fields else ""
            return (
                f"{self.who(principal, kind)} {worst.description}: {self._misfit(worst)}.",
                [self._misfit(worst)],
                top,
            )
        _, top, clause, did = clauses[0]
        more = count_of(len(counted) - 1, "more action that counted", "more actions that counted")
        tail = f" With {more} within {span_words(span)}." if len(counted) > 1 else ""
        sentence = f"{self.who(principal, kind)} {did}: {clause}.{tail}"
        return sentence, [clause for _, _, clause, _ in clauses[:_MAX_REASONS]], top

    def _patterns(
        self, kind: str, counted: Sequence[EventSummary], span: timedelta
    ) -> list[tuple[tuple[int, int], str, str, str]]:
        """Reasons of several actions together: many alike in a short time, and refusals."""
        groups: dict[tuple[str, str], list[EventSummary]] = {}
        for one in counted:
            groups.setdefault((one.verb, resource_name(one.object_ref)), []).append(one)
        found: list[tuple[tuple[int, int], str, str, str]] = []
        # Who has no credentials has no habits either: what it tries is all there is to tell.
        rank = _FIRST if kind == "anonymous" else _BEFORE_DETAILS
        most = max(groups.values(), key=len, default=[])
        if kind == "anonymous" and len(counted) >= _MANY:
            most = list(counted)
        if len(most) >= _MANY:
            objects = len({_what(one) for one in most})
            on = f", on {objects:,} different objects" if objects > 1 else ""
            found.append(
                (
                    (rank, 0),
                    "pace",
                    f"{len(most):,} such requests within {span_words(span)}{on}",
                    most[0].description,
                )
            )
        refused = [
            one for one in counted if one.response_status is not None and one.response_status.code in REFUSED
        ]
        if len(refused) >= _SOME and 2 * len(refused) >= len(counted):
            text = f"{len(refused):,} of {len(counted):,} requests were refused, which says that its owner would not have tried"
            if kind == "anonymous":
                text = f"{len(refused):,} of {len(counted):,} requests were refused"
            found.append(((rank, 1), "refusals", text, refused[0].description))
        return found

    def severity_reasons(self, alert: Alert) -> list[str]:
        """Why an alert has its severity, as clauses."""
        worst = alert.headline
        what = worst.sensitivity_reason or "what was touched"
        reasons = [f"{what}: {_HARM[worst.sensitivity]}"]
        levels = [_level(one) for one in worst.habits if _is_news(one)]
        if levels:
            reasons.append(_NEWNESS[max(levels)])
        mild = ""
        if alert.contributor_count:
            mild = f", and {count_of(alert.contributor_count, 'milder one', 'milder ones')} contributed"
        reasons.append(count_of(alert.action_count, "action was flagged", "actions were flagged") + mild)
        return reasons

    def renew(self, alert: Alert) -> None:
        """Set sentence, reasons, techniques, checks and terms of an alert."""
        rules = Rules(self)
        alert.techniques = rules.techniques(alert)
        alert.checks = rules.checks(alert)
        alert.severity_reasons = self.severity_reasons(alert)
        alert.expected = self.expected(self.telling(alert))
        alert.sentence = self.sentence(alert)
        alert.terms = {
            term: meaning
            for term, meaning in self.lexicon.glossary.items()
            if re.search(rf"\b{re.escape(term)}s?\b", alert.sentence)
        }
