"""Explains alerts: what is new about them, what the model expected, what they look like, and what to do next.

Novelties, which can be counted in the log, come first; then what the model expected, for actions that are known in every part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from data.actions.attributes import HOURS
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
from serving.schemas import (
    SEVERITIES,
    Action,
    Alert,
    Alternative,
    Contradiction,
    Contributor,
    EventSummary,
    Novelty,
    RuleMatch,
)
from serving.settings import read_yaml

_MAX_NEWS = 3
_MAX_RULES = 2
_MAX_OTHER_ACTIONS = 3

#: What a novelty makes no news: who has never been in a namespace has never touched an object in it.
_OF_OBJECT = frozenset(("object", "image_of"))
_IMPLIES: Mapping[str, frozenset[str]] = {
    "verb_resource": _OF_OBJECT
    | {"resource_namespace", "verb_resource_namespace", "code", "traits", "uri", "binding"},
    "namespace": _OF_OBJECT | {"resource_namespace", "verb_resource_namespace"},
    "resource_namespace": _OF_OBJECT | {"verb_resource_namespace"},
    "verb_resource_namespace": _OF_OBJECT,
    "object": frozenset(("image_of",)),
    "images": frozenset(("image_of",)),
    "burst": frozenset(("spread",)),
}

_ATTRIBUTES = (
    *("impersonates", "verb_resource", "namespace", "resource_namespace", "verb_resource_namespace"),
    *(
        "burst",
        "spread",
        HOURS,
        "images",
        "image_of",
        "traits",
        "client",
        "place",
        "object",
        "uri",
        "code",
        "binding",
    ),
)
_ORDER = {name: index for index, name in enumerate(_ATTRIBUTES)}
_DETAILS = frozenset(("object", "uri", "code", "binding", "image_of", HOURS))
_FIRST, _BEFORE_DETAILS = 0, 5
_PROGRAMS = ("serviceaccount", "controller", "node", "component")
_HARM = ("routine", "of little use to an attacker", "of use to an attacker", "what an attacker wants most")
_NEWNESS = {
    1: "its peers do such things",
    2: "some of it none of its peers has done before",
    3: "some of it nobody in the cluster has done before",
}
_MANY, _SOME = 5, 3
_MAX_EXPECTED = 3
_LEAST = 0.01  # "0%" says nothing
_NO_NEWS = 99
_MAX_REASONS = 5
_PRONOUNS = {"human": ("this person", "their"), "anonymous": ("such a caller", "its")}
_NOTHING = "-"  # the value of a field that an action does not have
_SPECIAL = re.compile(r"<[a-z]+>")  # lexicon tokens such as <unknown>; paces such as <10ms are none


def _tells(novelty: Novelty) -> bool:
    """Whether a novelty means something to a person: the absence of an image or of a permission does not."""
    places = ("namespace", "resource_namespace")
    return novelty.value.rpartition(" ")[2] != _NOTHING or novelty.attribute in places


def _order(novelty: Novelty) -> int:
    return _ORDER.get(novelty.attribute, len(_ORDER))


def _covered(novelty: Novelty) -> frozenset[str]:
    """Attributes about which nothing more needs to be said after this novelty."""
    return _IMPLIES.get(novelty.attribute, frozenset()) | {novelty.attribute}


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
    # A program neither moves nor changes its client by itself.
    if novelty.attribute in ("client", "place") and kind in _PROGRAMS:
        return _FIRST, _order(novelty)
    base = _BEFORE_DETAILS if novelty.attribute in _DETAILS else _FIRST
    return base + 1 + (3 - _level(novelty)), _order(novelty)


def _what(one: EventSummary) -> tuple[str, str]:
    """Key of an action's object or path."""
    ref = one.object_ref
    return (ref.namespace, ref.name) if ref is not None else ("", one.request_path or "")


def _by_severity(matches: Sequence[RuleMatch]) -> list[RuleMatch]:
    """Rules that matched, the most severe first."""
    return sorted(matches, key=lambda one: -SEVERITIES.index(one.severity))


class _Clause(NamedTuple):
    """A reason why a session stands out: its rank, what it is about, its words, and the action that shows it."""

    rank: tuple[int, int]
    attribute: str
    text: str
    description: str


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

    def news(
        self, habits: Sequence[Novelty], phrase: ActionPhrase, skip: frozenset[str] = frozenset()
    ) -> list[str]:
        """Novelties of a phrase as short clauses ("working in payments"), without those that follow from others.

        Args:
            skip: attributes that have been named already, or follow from those that were.
        """
        clauses = []
        for novelty in sorted(filter(_is_news, habits), key=_order):
            if novelty.attribute not in skip:
                clauses.append(self.novelty_words(novelty, phrase)[1])
                skip |= _covered(novelty)
        return clauses

    def rarity(self, action: Action) -> list[tuple[str, Novelty]]:
        """All counted attributes of an action as short clauses ("working in payments"); those never seen before first."""
        phrase = ActionPhrase.from_summary(action)
        seen: dict[str, Novelty] = {}
        ranked = sorted(filter(_tells, action.habits), key=lambda one: (one.times_before > 0, _order(one)))
        for novelty in ranked:
            seen.setdefault(self.novelty_words(novelty, phrase)[1], novelty)
        return list(seen.items())

    def reason(self, action: Action, kind: str) -> str:
        """Why an action is unusual: a clause and perhaps a second sentence, without a final stop."""
        if action.contradiction is not None:
            return self.contradiction(action.contradiction)
        phrase = ActionPhrase.from_summary(action)
        main = min(filter(_tells, action.habits), key=_order, default=None)
        if action.rules:
            return self._by_rules(action, None if main is None else self._counted(main, phrase, kind))
        if main is None:
            return self._misfit(action)
        text = self._counted(main, phrase, kind)
        if main.actions_before and (more := self.news(action.habits, phrase, _covered(main))):
            text += f". New as well: {joined(more[:_MAX_NEWS])}"
        return text

    def contradiction(self, found: Contradiction) -> str:
        """What in the log contradicts the cluster's own rules, and what that means, as a clause and a second sentence."""
        text = self.lexicon.contradictions.get(found.outcome, found.outcome)
        if found.recorded:
            text += f" ({found.recorded})"
        return f"{text}. That is proof that a check was passed by or that RBAC changed unseen, not a matter of habits"

    @staticmethod
    def _by_rules(action: Action, habit: str | None) -> str:
        """What rules say about an action, the most severe first, and then what is new about it."""
        ranked = _by_severity(action.rules)[:_MAX_RULES]
        reasons = "; ".join(one.reason.rstrip(".") for one in ranked)
        noun = "rule" if len(ranked) == 1 else "rules"
        text = f"{reasons} ({noun} {', '.join(one.name for one in ranked)})"
        return text if habit is None else f"{text}. Besides, {habit}"

    def _counted(self, main: Novelty, phrase: ActionPhrase, kind: str) -> str:
        """A novelty as a clause, with its counts."""
        it, its = _PRONOUNS.get(kind, ("it", "its"))
        if main.actions_before == 0:
            return f"{it} was never seen before"
        never, _ = self.novelty_words(main, phrase)
        earlier = count_of(main.actions_before, "earlier action", "earlier actions")
        if main.attribute == HOURS:
            days = count_of(main.actions_before, "earlier day", "earlier days")
            return f"{it} was hardly ever {never} before (on none or one of {days})"
        if main.times_before:
            times = count_of(main.times_before, "time", "times")
            return f"{it} has {never} only {times} before (in {earlier})"
        return f"{it} has never {never} before (0 of {earlier}){self._peers(main, its)}"

    @staticmethod
    def _peers(novelty: Novelty, its: str) -> str:
        """What peers did; empty when there are none to compare with."""
        peers, having = novelty.peers, novelty.peers_with
        if 1 < peers == having:
            return f", though all of {its} {peers:,} peers have"
        if peers == having == 1:
            return f", though {its} only peer has"
        if having:
            has = "has" if having == 1 else "have"
            if having > peers:  # some joined the group after training, which alone says how large it is
                return f", though {having:,} of {its} peers {has}"
            return f", though {having:,} of {its} {count_of(peers, 'peer', 'peers')} {has}"
        if peers <= 0:
            return "" if novelty.anyone_with else ", nor has anybody else"
        nobody = f"{its} only peer" if peers == 1 else f"any of {its} {peers:,} peers"
        return f", nor has {nobody}" + ("" if novelty.anyone_with else ", nor anybody else in the cluster")

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

        def rank(action: Action) -> int:
            return min(
                (_rank(one, alert.kind)[0] for one in filter(_is_news, action.habits)), default=_NO_NEWS
            )

        if proven := [one for one in alert.actions if one.contradiction is not None]:
            return max(proven, key=lambda one: one.weight)
        headline = alert.headline
        no_news = rank(headline) == _NO_NEWS
        others = (one for one in alert.actions if no_news or one.severity == headline.severity)
        return min((headline, *others), key=rank)

    def sentence(self, alert: Alert) -> str:
        """The alert in words, for readers new to Kubernetes."""
        action = self.telling(alert)
        text = f"{self.who(alert.principal, alert.kind)} {action.description}: {self.reason(action, alert.kind)}."
        others = alert.action_count - 1 - alert.actions_again
        if others > 0:
            span = span_words(alert.last_seen - alert.first_seen)
            noun = count_of(others, "more unusual action", "more unusual actions")
            all_within = not alert.actions_again  # else the counts are of what was done again as well
            actions = [
                one.description + (f" ({one.count} times)" if one.count > 1 and all_within else "")
                for one in sorted(alert.repeated, key=lambda one: -one.count)
                if one.description != action.description
            ]
            named = "; ".join(actions[:_MAX_OTHER_ACTIONS])
            lead = ": " if len(actions) <= _MAX_OTHER_ACTIONS else ", such as: "
            text += f" With {noun} within {span}" + (f"{lead}{named}." if actions else ", all alike.")
        if alert.times_again and alert.last_again is not None:
            times = count_of(alert.times_again, "time", "times")
            text += f" It was done again later, {times}, last on {alert.last_again:%Y-%m-%d at %H:%M} UTC."
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
        clauses: list[_Clause] = []
        seen: set[str] = set()
        news = [(novelty, one) for one in judged for novelty in one.habits if _is_news(novelty)]
        for novelty, one in sorted(news, key=lambda pair: _rank(pair[0], kind)):
            if novelty.attribute not in seen:
                seen |= _covered(novelty)
                text = self._counted(novelty, ActionPhrase.from_summary(one), kind)
                clauses.append(_Clause(_rank(novelty, kind), novelty.attribute, text, one.description))
        clauses += self._rule_clauses(judged)
        clauses += self._patterns(kind, counted, span)
        clauses.sort(key=lambda clause: clause.rank)
        who = self.who(principal, kind)
        if not clauses:
            flagged = (one for one in judged if isinstance(one, Action))
            worst = max(flagged, key=lambda one: one.weight, default=None)
            if worst is None:
                return "", [], ""
            misfit, top = self._misfit(worst), worst.fields[0].field if worst.fields else ""
            return f"{who} {worst.description}: {misfit}.", [misfit], top
        first = clauses[0]
        more = count_of(len(counted) - 1, "more action that counted", "more actions that counted")
        tail = f" With {more} within {span_words(span)}." if len(counted) > 1 else ""
        sentence = f"{who} {first.description}: {first.text}.{tail}"
        return sentence, [clause.text for clause in clauses[:_MAX_REASONS]], first.attribute

    @staticmethod
    def _rule_clauses(judged: Sequence[Action | Contributor]) -> list[_Clause]:
        """What rules say, each rule once; it is known for certain, and comes first."""
        found: dict[str, _Clause] = {}
        for one in judged:
            for match in one.rules if isinstance(one, Action) else ():
                rank = _FIRST, -SEVERITIES.index(match.severity)
                text = f"{match.reason.rstrip('.')} (rule {match.name})"
                found.setdefault(match.name, _Clause(rank, "rule", text, one.description))
        return list(found.values())

    def _patterns(self, kind: str, counted: Sequence[EventSummary], span: timedelta) -> list[_Clause]:
        """Reasons of several actions together: many alike in a short time, and refusals."""
        groups: dict[tuple[str, str], list[EventSummary]] = {}
        for one in counted:
            groups.setdefault((one.verb, resource_name(one.object_ref)), []).append(one)
        found: list[_Clause] = []
        # Without credentials there are no habits: the attempts themselves are all there is to report.
        rank = _FIRST if kind == "anonymous" else _BEFORE_DETAILS
        most = max(groups.values(), key=len, default=[])
        if kind == "anonymous" and len(counted) >= _MANY:
            most = list(counted)
        if len(most) >= _MANY:
            objects = len({_what(one) for one in most})
            on = f", on {objects:,} different objects" if objects > 1 else ""
            text = f"{len(most):,} such requests within {span_words(span)}{on}"
            found.append(_Clause((rank, 0), "pace", text, most[0].description))
        refused = [one for one in counted if one.response_status and one.response_status.code in REFUSED]
        if len(refused) >= _SOME and 2 * len(refused) >= len(counted):
            text = f"{len(refused):,} of {len(counted):,} requests were refused"
            if kind != "anonymous":
                text += ", which says that its owner would not have tried"
            found.append(_Clause((rank, 1), "refusals", text, refused[0].description))
        return found

    def severity_reasons(self, alert: Alert) -> list[str]:
        """Why an alert has its severity, as clauses."""
        worst = alert.headline
        proven = next((one for one in alert.actions if one.contradiction is not None), None)
        reasons = [] if proven is None else ["the log contradicts the cluster's own roles and bindings"]
        reasons += [
            f"the rule {one.name} gives it the severity {one.severity}"
            for one in _by_severity(worst.rules)[:_MAX_RULES]
        ]
        reasons.append(f"{worst.sensitivity_reason or 'what was touched'}: {_HARM[worst.sensitivity]}")
        if worst.binding_made is not None:
            age = span_words(worst.time - worst.binding_made)
            reasons.append(f"the binding that allowed it was made only {age} before ({worst.allowed_by})")
        levels = [_level(one) for one in worst.habits if _is_news(one)]
        if levels:
            reasons.append(_NEWNESS[max(levels)])
        mild = ""
        if alert.contributor_count:
            mild = f", and {count_of(alert.contributor_count, 'milder one', 'milder ones')} contributed"
        reasons.append(count_of(alert.action_count, "action was flagged", "actions were flagged") + mild)
        listed = len(alert.actions) + len(alert.contributors)
        if more := alert.action_count + alert.contributor_count - listed:
            reasons.append(
                f"{more:,} more of them are counted but not kept; the first and the worst are kept"
            )
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
