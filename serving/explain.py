"""Plain words for what the model saw: who did what, what is new about it, what it looks like, what to do next.

All vocabulary is in `configs/explain.yaml`. What is new (counts anybody can check) comes first; what the model expected
instead comes second, for actions whose every part is familiar.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from string import Template

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.errors import KubehabitError
from serving.alerts import (
    Action,
    Alert,
    Alternative,
    Check,
    Contributor,
    Novelty,
    ObjectReference,
    Technique,
    Told,
    clean,
)
from serving.settings import read_yaml

MANY = ("list", "watch", "deletecollection")
_MAX_TECHNIQUES = 3
_MAX_NEWS = 3
_MAX_OTHER_DEEDS = 3
_REFUSED = (401, 403)
_NOT_FOUND = 404
_FIRST_ERROR = 400
_SERVICE_ACCOUNT = "system:serviceaccount:"
_CHANGES = re.compile(r"kubectl (?:delete|scale|patch|rollout|certificate)\b")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/=-]*")
# A broader novelty makes the narrower ones go without saying.
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
"""Which novelty is told first: what was done and where, then with what and from where, then how."""

_DETAILS = frozenset(("object", "uri", "code", "binding", "image_of"))
"""Novelties that any day brings; a pace that is out of the ordinary tells more."""

_FIRST, _BEFORE_DETAILS = 0, 5
"""Ranks of reasons within a session; between them stand the novelties of what was done, three ranks of them."""

_HARM = ("routine", "of little use to an attacker", "of use to an attacker", "what an attacker wants most")
_NEWNESS = {
    1: "its peers do such things",
    2: "some of it none of its peers has done before",
    3: "some of it nobody in the cluster has done before",
}

_MANY, _SOME = 5, 3
_MAX_EXPECTED = 3
_CONTAINED = 8
_LEAST = 0.01  # "0%" tells nobody anything
_NO_NEWS = 99
_MAX_REASONS = 5

_PRONOUNS = {"human": ("this person", "their"), "anonymous": ("such a caller", "its")}
_NOTHING = "-"  # the value of a field that an action does not have
_SPECIAL = re.compile(r"<[a-z]+>")  # vocabulary tokens such as <unknown>; paces such as <10ms are none


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Verb(_Strict):
    do: str
    did: str


class _Word(_Strict):
    one: str
    many: str
    cluster: bool = False


class _When(_Strict):
    verb: list[str] = []
    resource: list[str] = []
    namespace: list[str] = []
    code: list[int] = []
    kind: list[str] = []
    traits: list[str] = []
    new: list[str] = []
    impersonates: list[bool] = []


class _Phrase(_Strict):
    when: _When
    do: str
    did: str


class _News(_Strict):
    never: str
    also: str


class _Tactic(_Strict):
    name: str
    tactic: str


class _Check(_Strict):
    kind: str = Field(pattern="^(look|contain)$")
    text: str
    command: str | None = None


class _Rule(_Strict):
    when: _When
    techniques: list[str] = []
    checks: list[_Check] = []


class Vocabulary(_Strict):
    """Content of `explain.yaml`."""

    verbs: dict[str, _Verb]
    phrases: list[_Phrase]
    resources: dict[str, _Word]
    traits: dict[str, str]
    novelties: dict[str, _News]
    fields: dict[str, str]
    techniques: dict[str, _Tactic]
    rules: list[_Rule]
    always: list[_Check]
    glossary: dict[str, str]
    evidence: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Deed:
    """What one action did, as far as words and rules need it."""

    verb: str
    ref: ObjectReference | None
    path: str | None
    code: int | None
    impersonates: str | None
    traits: Sequence[str] = field(default_factory=tuple)


def _word(name: str) -> _Word:
    """Singular and plural of a resource that the vocabulary does not know."""
    if name.endswith("ies"):
        return _Word(one=name[:-3] + "y", many=name)
    if name.endswith(("sses", "xes", "ches", "shes")):
        return _Word(one=name[:-2], many=name)
    return _Word(one=name[:-1] if name.endswith("s") else name, many=name)


def _matches(values: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(
        value == want or (want.endswith("=") and value.startswith(want))
        for value in values
        for want in wanted
    )


def _tells(novelty: Novelty) -> bool:
    """Whether a novelty says something to a person: the absence of an image or of a permission does not."""
    return novelty.value.rpartition(" ")[2] != _NOTHING or novelty.attribute in (
        "namespace",
        "resource_namespace",
    )


def _options(value: str, expected: Sequence[Alternative]) -> str:
    """At most two values that were expected instead of one, with their probabilities; empty if there are none to name."""
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
    """To whom it is new: 1 the principal, 2 its peers as well, 3 everybody."""
    return 1 if novelty.peers_with else 2 if novelty.anyone_with else 3


def _rank(novelty: Novelty, kind: str) -> tuple[int, int]:
    """Order of telling within a session, least first: the rarer first; of equals what was done before how it was done."""
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


def _what(one: Told) -> tuple[str, str]:
    """Which object an action was about, or which path."""
    ref = one.object_ref
    return (ref.namespace, ref.name) if ref is not None else ("", one.request_path or "")


def _resource(ref: ObjectReference | None) -> str:
    if ref is None:
        return ""
    return f"{ref.resource}/{ref.subresource}" if ref.subresource else ref.resource


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _span(length: timedelta) -> str:
    """A time span as people say it."""
    seconds = length.total_seconds()
    if seconds < 90:  # beyond that, people count minutes
        return _count(max(1, round(seconds)), "second", "seconds")
    if seconds < 5400:  # and beyond that, hours
        return _count(round(seconds / 60), "minute", "minutes")
    return _count(round(seconds / 3600), "hour", "hours")


class Explainer:
    """Turns actions into words, techniques and next steps."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @classmethod
    def load(cls, path: Path) -> Explainer:
        """Read a vocabulary.

        Raises:
            KubehabitError: the file cannot be read, or a rule in it cannot be understood.
        """
        raw = read_yaml(path)
        try:
            vocabulary = Vocabulary.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise KubehabitError(
                f"{path}: '{where}' cannot be understood: {first['msg']}. Correct it there."
            ) from error
        unknown = {name for rule in vocabulary.rules for name in rule.techniques} - set(vocabulary.techniques)
        if unknown:
            raise KubehabitError(
                f"{path}: a rule names the technique {sorted(unknown)[0]}, which 'techniques' does not explain. Add it there."
            )
        return cls(vocabulary)

    # -- words --------------------------------------------------------------------------------------------------

    def who(self, principal: str, kind: str) -> str:
        """A principal as people call it: "ci-deployer (service account in web)"."""
        name = clean(principal)
        if principal.startswith(_SERVICE_ACCOUNT):
            namespace, _, account = name[len(_SERVICE_ACCOUNT) :].partition(":")
            what = "built-in controller" if kind == "controller" else "service account"
            return f"{account or '?'} ({what} in {namespace})"
        if kind == "anonymous":
            return "Somebody without credentials"
        if kind == "node":
            return f"{name.removeprefix('system:node:')} (the identity of a node)"
        if kind == "component":
            return f"{name.removeprefix('system:')} (a part of the control plane)"
        return f"{name} (a person)"

    def _object_word(self, resource: str) -> _Word:
        return self.vocabulary.resources.get(resource) or _word(resource)

    def _in(self, ref: ObjectReference | None, verb: str) -> str:
        """Where: "in payments", "in all namespaces", or nothing for what belongs to no namespace."""
        if ref is None:
            return ""
        known = self.vocabulary.resources.get(ref.resource)
        if known is not None and known.cluster:
            return ""
        if ref.namespace:
            return f"in {ref.namespace}"
        return "in all namespaces" if verb in MANY and known is not None else ""

    def _object(self, ref: ObjectReference, verb: str) -> str:
        word = self._object_word(ref.resource)
        if ref.name and verb not in MANY:
            text = f"{word.one} {ref.name}"
        elif verb in MANY:
            text = word.many
        else:
            text = f"{'an' if word.one[0] in 'AEIOUaeiou' else 'a'} {word.one}"
        return f"{text} {self._in(ref, verb)}".rstrip()

    def _render(self, deed: Deed, what: str) -> tuple[str, str]:
        """("to <do>", "has <did>") of a deed, with `what` in the place of its object."""
        verb = self.vocabulary.verbs.get(deed.verb) or _Verb(
            do=f"use '{deed.verb}' on", did=f"used '{deed.verb}' on"
        )
        if deed.ref is None:
            return f"{verb.do} {what}", f"{verb.did} {what}"
        for phrase in self.vocabulary.phrases:
            if self._holds(phrase.when, deed, kind="", new=()):
                values = {"object": what}
                return Template(phrase.do).safe_substitute(values), Template(phrase.did).safe_substitute(
                    values
                )
        part = f"the {deed.ref.subresource} of " if deed.ref.subresource else ""
        return f"{verb.do} {part}{what}", f"{verb.did} {part}{what}"

    def did(self, deed: Deed) -> str:
        """An action in the past tense, with its outcome: "tried to list Secrets in payments and was refused (403)"."""
        what = f"the path {deed.path or '/'}" if deed.ref is None else self._object(deed.ref, deed.verb)
        do, did = self._render(deed, what)
        with_ = self.striking(deed.traits)
        extra = f", with {_join(with_)}" if with_ else ""
        if deed.impersonates is not None:
            extra += f", acting as {self._acted_as(deed.impersonates)}"
        code = deed.code or 0
        if code in _REFUSED:
            return f"tried to {do}{extra} and was refused ({code})"
        if code == _NOT_FOUND:
            return f"tried to {do}{extra}, which does not exist (404)"
        if code >= _FIRST_ERROR:
            return f"tried to {do}{extra}, which failed ({code})"
        return did + extra

    def _acted_as(self, username: str) -> str:
        return (
            self.who(username, "serviceaccount") if username.startswith(_SERVICE_ACCOUNT) else clean(username)
        )

    def striking(self, traits: Sequence[str]) -> list[str]:
        """Words for those traits of a request body that deserve one."""
        words = []
        for trait in traits:
            key, equals, value = trait.partition("=")
            text = self.vocabulary.traits.get(trait) or (
                self.vocabulary.traits.get(f"{key}=") if equals else None
            )
            if text is not None:
                words.append(
                    Template(text).safe_substitute(value="anything" if value == "*" else clean(value, 80))
                )
        return words

    def _news(self, novelty: Novelty, deed: Deed) -> tuple[str, str]:
        """(<never>, <also>) of a novelty."""
        news = self.vocabulary.novelties.get(novelty.attribute) or _News(
            never=f"done this ({novelty.attribute})", also=novelty.attribute
        )
        ref = deed.ref
        word = self._object_word(ref.resource) if ref is not None else _Word(one="path", many="paths")
        many = word.many if ref is not None else f"the path {deed.path or '/'}"
        value = novelty.value.rpartition(" ")[2] if novelty.attribute == "uri" else novelty.value
        if novelty.attribute == "binding":  # "<resource> ClusterRoleBinding <name>"
            value = value.partition(" ")[2] or value
        if novelty.attribute in ("impersonates", "impersonation"):
            value = self._acted_as(value)
        values = {
            "did_kind": self._render(deed, many)[1],
            "one": word.one.removesuffix(" of"),
            "many": many,
            "in_namespace": self._in(ref, deed.verb) or "on objects of the whole cluster",
            "value": value,
        }
        return Template(news.never).safe_substitute(values), Template(news.also).safe_substitute(values)

    def news(self, habits: Sequence[Novelty], deed: Deed) -> list[str]:
        """What is new about a deed, as short clauses ("working in payments"), what goes without saying left out."""
        skip: set[str] = set()
        clauses = []
        for novelty in sorted(filter(_tells, habits), key=lambda one: _ORDER.get(one.attribute, len(_ORDER))):
            if novelty.attribute not in skip and not novelty.times_before:
                clauses.append(self._news(novelty, deed)[1])
                skip |= {novelty.attribute} | _IMPLIES.get(novelty.attribute, frozenset())
        return clauses

    def rarity(self, action: Action) -> list[tuple[str, Novelty]]:
        """What was counted about an action, each as a short clause ("working in payments"); what was never done comes first."""
        deed = deed_of(action)
        told: dict[str, Novelty] = {}
        for novelty in sorted(
            filter(_tells, action.habits),
            key=lambda one: (one.times_before > 0, _ORDER.get(one.attribute, len(_ORDER))),
        ):
            told.setdefault(self._news(novelty, deed)[1], novelty)
        return list(told.items())

    def reason(self, action: Action, kind: str) -> str:
        """Why an action is unusual, as a clause and perhaps a second sentence; no final stop."""
        deed = deed_of(action)
        news = sorted(
            filter(_tells, action.habits), key=lambda novelty: _ORDER.get(novelty.attribute, len(_ORDER))
        )
        if not news:
            return self._misfit(action)
        main, *rest = news
        text = self._counted(main, deed, kind)
        skip = {main.attribute} | _IMPLIES.get(main.attribute, frozenset())
        more: list[str] = []
        for novelty in rest:
            if novelty.attribute in skip or novelty.times_before or main.actions_before == 0:
                continue
            skip |= {novelty.attribute} | _IMPLIES.get(novelty.attribute, frozenset())
            more.append(self._news(novelty, deed)[1])
        if more:
            text += f". New as well: {_join(more[:_MAX_NEWS])}"
        return text

    def _counted(self, main: Novelty, deed: Deed, kind: str) -> str:
        """A novelty as a clause, with the counts that anybody can check."""
        it, its = _PRONOUNS.get(kind, ("it", "its"))
        if main.actions_before == 0:
            return f"{it} was never seen before"
        never, _ = self._news(main, deed)
        earlier = _count(main.actions_before, "earlier action", "earlier actions")
        if main.times_before:
            return f"{it} has {never} only {_count(main.times_before, 'time', 'times')} before (in {earlier})"
        return f"{it} has never {never} before (0 of {earlier}){self._peers(main, its)}"

    @staticmethod
    def _peers(novelty: Novelty, its: str) -> str:
        """What others did; empty when there is nobody to compare with."""
        if 1 < novelty.peers <= novelty.peers_with:
            return f", though all of {its} {novelty.peers:,} peers have"
        if novelty.peers == novelty.peers_with == 1:
            return f", though {its} only peer has"
        if novelty.peers_with:
            has = "has" if novelty.peers_with == 1 else "have"
            return f", though {novelty.peers_with:,} of {its} {_count(novelty.peers, 'peer', 'peers')} {has}"
        if novelty.peers <= 0:
            return "" if novelty.anyone_with else ", nor has anybody else"
        nobody = (
            f"nor has {its} only peer"
            if novelty.peers == 1
            else f"nor has any of {its} {novelty.peers:,} peers"
        )
        return f", {nobody}" + ("" if novelty.anyone_with else ", nor anybody else in the cluster")

    def _misfit(self, action: Action) -> str:
        """For an action all of whose parts are known: which field does not fit, and what would have."""
        if not action.fields:
            return "every part of it is known, but not at this point of what it usually does"
        worst = action.fields[0]
        name = self.vocabulary.fields.get(worst.field, worst.field)
        text = f"every part of it is known, but {name} does not fit here"
        options = _options(worst.value, worst.expected)
        if options and worst.value not in ("", _NOTHING):
            text += f": {worst.value}, where one would expect {options}"
        return text

    def expected(self, action: Action) -> list[str]:
        """What the model expected instead, of this principal and of its peers, for the fields that fit worst."""
        lines = []
        for one in action.fields[:_MAX_EXPECTED]:
            mine, theirs = (_options(one.value, given) for given in (one.expected, one.expected_of_peers))
            if one.value in ("", _NOTHING) or not (mine or theirs):
                continue
            text = f"{self.vocabulary.fields.get(one.field, one.field)} was {one.value}"
            text += f"; expected of it instead: {mine}" if mine else ""
            text += f"; of its peers: {theirs}" if theirs else ""
            lines.append(text)
        return lines

    def telling(self, alert: Alert) -> Action:
        """The action that the sentence is about: the gravest, unless another as grave shows better what is new."""
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
        """The alert in words, for somebody new to Kubernetes."""
        action = self.telling(alert)
        text = f"{self.who(alert.principal, alert.kind)} {action.did}: {self.reason(action, alert.kind)}."
        others = alert.action_count - 1
        if others:
            span = _span(alert.last_seen - alert.first_seen)
            noun = _count(others, "more unusual action", "more unusual actions")
            deeds = [
                deed.did + (f" ({deed.count} times)" if deed.count > 1 else "")
                for deed in sorted(alert.did, key=lambda deed: -deed.count)
                if deed.did != action.did
            ]
            told = "; ".join(deeds[:_MAX_OTHER_DEEDS])
            lead = ": " if len(deeds) <= _MAX_OTHER_DEEDS else ", such as: "
            text += f" With {noun} within {span}" + (f"{lead}{told}." if deeds else ", all alike.")
        return text

    # -- sessions -----------------------------------------------------------------------------------------------

    def session(
        self,
        principal: str,
        kind: str,
        judged: Sequence[Action | Contributor],
        counted: Sequence[Told],
        span: timedelta,
    ) -> tuple[str, list[str], str]:
        """What one credential did in one go, in a sentence, and why that stands out.

        Args:
            principal, kind: who.
            judged: actions with what is new about them, in order of time.
            counted: all actions that were flagged or helped to add up.
            span: between the first and the last of them.

        Returns:
            The sentence; the reasons, most telling first; and what the first is about: an attribute, or `pace` or `refusals`.
        """
        clauses: list[tuple[tuple[int, int], str, str, str]] = []  # rank, attribute, clause, deed
        told: set[str] = set()
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
            if novelty.attribute in told:
                continue
            told |= {novelty.attribute} | _IMPLIES.get(novelty.attribute, frozenset())
            one = judged[at]
            clauses.append((rank, novelty.attribute, self._counted(novelty, deed_of(one), kind), one.did))
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
                f"{self.who(principal, kind)} {worst.did}: {self._misfit(worst)}.",
                [self._misfit(worst)],
                top,
            )
        _, top, clause, did = clauses[0]
        more = _count(len(counted) - 1, "more action that counted", "more actions that counted")
        tail = f" With {more} within {_span(span)}." if len(counted) > 1 else ""
        sentence = f"{self.who(principal, kind)} {did}: {clause}.{tail}"
        return sentence, [clause for _, _, clause, _ in clauses[:_MAX_REASONS]], top

    def _patterns(
        self, kind: str, counted: Sequence[Told], span: timedelta
    ) -> list[tuple[tuple[int, int], str, str, str]]:
        """Reasons that no single action has: many alike in a short time, and refusals."""
        groups: dict[tuple[str, str], list[Told]] = {}
        for one in counted:
            groups.setdefault((one.verb, _resource(one.object_ref)), []).append(one)
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
                ((rank, 0), "pace", f"{len(most):,} such requests within {_span(span)}{on}", most[0].did)
            )
        refused = [
            one for one in counted if one.response_status is not None and one.response_status.code in _REFUSED
        ]
        if len(refused) >= _SOME and 2 * len(refused) >= len(counted):
            text = f"{len(refused):,} of {len(counted):,} requests were refused, which says that its owner would not have tried"
            if kind == "anonymous":
                text = f"{len(refused):,} of {len(counted):,} requests were refused"
            found.append(((rank, 1), "refusals", text, refused[0].did))
        return found

    def credential(self, principal: str, kind: str) -> str:
        """With what somebody acted, as far as the log tells."""
        if principal.startswith(_SERVICE_ACCOUNT):
            return f"a token of the service account {self.who(principal, kind).partition(' (')[0]}"
        if kind == "anonymous":
            return "none"
        if kind in ("node", "component"):
            return f"the client certificate of {clean(principal)}"
        return f"the credential of {clean(principal)} (certificate, token or single sign-on: the log does not say)"

    def severity_reasons(self, alert: Alert) -> list[str]:
        """Why an alert is as grave as it is, as clauses."""
        worst = alert.headline
        what = worst.sensitivity_reason or "what was touched"
        reasons = [f"{what}: {_HARM[worst.sensitivity]}"]
        levels = [_level(one) for one in worst.habits if _is_news(one)]
        if levels:
            reasons.append(_NEWNESS[max(levels)])
        mild = ""
        if alert.contributor_count:
            mild = f", and {_count(alert.contributor_count, 'milder one', 'milder ones')} helped to add up"
        reasons.append(_count(alert.action_count, "action was flagged", "actions were flagged") + mild)
        return reasons

    # -- rules --------------------------------------------------------------------------------------------------

    def _holds(self, when: _When, deed: Deed, *, kind: str, new: Sequence[str]) -> bool:
        resource = _resource(deed.ref)
        _, slash, subresource = resource.partition("/")
        return (
            (not when.verb or deed.verb in when.verb)
            and (
                not when.resource
                or resource in when.resource
                or (bool(slash) and f"*/{subresource}" in when.resource)
            )
            and (not when.namespace or (deed.ref is not None and deed.ref.namespace in when.namespace))
            and (not when.code or deed.code in when.code)
            and (not when.kind or kind in when.kind)
            and (not when.traits or _matches(deed.traits, when.traits))
            and (not when.new or any(name in when.new for name in new))
            and (not when.impersonates or (deed.impersonates is not None) in when.impersonates)
        )

    def renew(self, alert: Alert) -> None:
        """Set sentence, reasons, techniques, checks and terms of an alert.

        Those of its gravest action; how to contain what else it did comes after, of each kind of deed once.
        """
        rules = self._rules(alert, alert.headline)
        names = list(dict.fromkeys(name for rule in rules for name in rule.techniques))[:_MAX_TECHNIQUES]
        alert.techniques = [
            Technique(
                id=name,
                name=self.vocabulary.techniques[name].name,
                tactic=self.vocabulary.techniques[name].tactic,
                url=f"https://attack.mitre.org/techniques/{name.replace('.', '/')}/",
            )
            for name in names
        ]
        given = self._checks(
            alert,
            alert.headline,
            [*self.vocabulary.always, *(check for rule in rules for check in rule.checks)],
        )
        others = {action.did: action for action in sorted(alert.actions, key=lambda one: one.weight)}
        for action in sorted(others.values(), key=lambda one: one.weight, reverse=True)[:_CONTAINED]:
            contain = (
                check
                for rule in self._rules(alert, action)
                for check in rule.checks
                if check.kind == "contain" and check.command is not None
            )
            for one in self._checks(alert, action, contain):
                if one.command is not None and one.command not in {other.command for other in given}:
                    given.append(one)
        alert.checks = given
        alert.severity_reasons = self.severity_reasons(alert)
        alert.expected = self.expected(self.telling(alert))
        alert.sentence = self.sentence(alert)
        alert.terms = {
            term: meaning
            for term, meaning in self.vocabulary.glossary.items()
            if re.search(rf"\b{re.escape(term)}s?\b", alert.sentence)
        }

    def _rules(self, alert: Alert, action: Action) -> list[_Rule]:
        deed = deed_of(action)
        new = [novelty.attribute for novelty in action.habits if not novelty.times_before]
        return [
            rule for rule in self.vocabulary.rules if self._holds(rule.when, deed, kind=alert.kind, new=new)
        ]

    def _checks(self, alert: Alert, action: Action, checks: Iterable[_Check]) -> list[Check]:
        """Checks with what an action was about put in; of those with the same command the first."""
        plain, quoted = self._check_values(alert, action)
        given: dict[tuple[str, str], Check] = {}
        for check in checks:
            text = Template(check.text).safe_substitute(plain)
            command = self._command(check.command, quoted)
            one = Check.model_validate({"kind": check.kind, "text": text, "command": command})
            given.setdefault((check.kind, command or text), one)
        return list(given.values())

    def _check_values(self, alert: Alert, action: Action) -> tuple[dict[str, str], dict[str, str | None]]:
        """Placeholders for texts, and for commands (quoted for a shell; None where there is nothing to put)."""
        ref = action.object_ref
        namespace = ref.namespace if ref is not None else ""
        name = ref.name if ref is not None and action.verb not in MANY else ""
        plain = {
            "object": self._object(ref, action.verb)
            if ref is not None
            else f"the path {action.request_path or '/'}",
            "principal": clean(alert.principal),
            "namespace": namespace,
            "name": name,
            "address": action.source_ips[0] if action.source_ips else "",
            "auditID": action.audit_id,
        }
        cluster = ref is not None and self._object_word(ref.resource).cluster
        # "-A" and a name exclude each other.
        everywhere = "" if cluster or ref is None or name else "-A"
        is_account = alert.principal.startswith(_SERVICE_ACCOUNT)
        account_namespace, _, account = alert.principal.removeprefix(_SERVICE_ACCOUNT).partition(":")
        quoted: dict[str, str | None] = {
            "principal": _quoted(alert.principal),
            "name": _quoted(name),
            "namespace": _quoted(namespace),
            "resource": _quoted(ref.resource) if ref is not None else None,
            "scope": _option(namespace) if namespace and not cluster else everywhere,
            "account": _quoted(account) if is_account else None,
            "account_scope": _option(account_namespace) if is_account else None,
            "token_subject": _quoted(f"{_SERVICE_ACCOUNT}{namespace}:{name}"),
        }
        return plain, quoted

    @staticmethod
    def _command(template: str | None, values: Mapping[str, str | None]) -> str | None:
        """A command, or None if it needs something that this action does not have, or that a shell could misread."""
        if template is None:
            return None
        used = Template(template).get_identifiers()
        if any(name in values and values[name] is None for name in used):
            return None
        # What changes something needs a name: without one, kubectl would be told to do it to everything.
        if _CHANGES.match(template) and "name" in used and not values["name"]:
            return None
        filled = Template(template).safe_substitute(
            {name: text for name, text in values.items() if text is not None}
        )
        return re.sub(r"  +", " ", filled).strip()


def _quoted(text: str) -> str | None:
    """A value safe inside a shell command, or None: control characters, or a leading dash that kubectl would obey."""
    if not text:
        return ""
    if not text.isprintable() or text.startswith("-"):
        return None
    return text if _PLAIN_WORD.fullmatch(text) else shlex.quote(text)


def _option(namespace: str) -> str | None:
    """The kubectl option for a namespace."""
    quoted = _quoted(namespace)
    return None if quoted is None else f"-n {quoted}"


def deed_of(action: Told) -> Deed:
    """The part of an action that words and rules need."""
    return Deed(
        verb=action.verb,
        ref=action.object_ref,
        path=action.request_path,
        code=action.response_status.code if action.response_status is not None else None,
        impersonates=action.impersonated_user.username if action.impersonated_user is not None else None,
        traits=action.traits,
    )
