"""Words for actions, and the lexicon that holds them: `configs/explain.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from string import Template

from pydantic import BaseModel, ConfigDict, Field

from data.actions.attributes import HOURS
from data.actions.breadth import SPANS
from serving.schemas import Action, EventSummary, Novelty, ObjectReference, clean

MANY = ("list", "watch", "deletecollection")
REFUSED = (401, 403)
_NOT_FOUND = 404
_FIRST_ERROR = 400
SERVICE_ACCOUNT = "system:serviceaccount:"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class VerbWords(_Strict):
    """A verb in the infinitive and in the past tense."""

    do: str
    did: str


class Word(_Strict):
    """A resource in the singular and in the plural; `cluster`: it belongs to no namespace."""

    one: str
    many: str
    cluster: bool = False


class When(_Strict):
    """Conditions on an action; those that are empty hold."""

    verb: list[str] = []
    resource: list[str] = []
    namespace: list[str] = []
    code: list[int] = []
    kind: list[str] = []
    traits: list[str] = []
    new: list[str] = []
    impersonates: list[bool] = []
    contradiction: list[str] = []


class PhraseWords(_Strict):
    """Words for actions that meet a condition, in the place of verb and object."""

    when: When
    do: str
    did: str


class NoveltyWords(_Strict):
    """A novelty after "has never", and on its own."""

    never: str
    also: str


class Tactic(_Strict):
    """An ATT&CK technique."""

    name: str
    tactic: str


class CheckWords(_Strict):
    """A next step for a person; `when` narrows that of its rule."""

    kind: str = Field(pattern="^(look|contain)$")
    when: When = When()
    text: str
    command: str | None = None


class PhraseRule(_Strict):
    """Techniques and next steps for actions that meet a condition."""

    when: When
    techniques: list[str] = []
    checks: list[CheckWords] = []


class Lexicon(_Strict):
    """Content of `explain.yaml`."""

    verbs: dict[str, VerbWords]
    phrases: list[PhraseWords]
    resources: dict[str, Word]
    traits: dict[str, str]
    novelties: dict[str, NoveltyWords]
    fields: dict[str, str]
    techniques: dict[str, Tactic]
    rules: list[PhraseRule]
    always: list[CheckWords]
    glossary: dict[str, str]
    contradictions: dict[str, str] = {}
    evidence: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class ActionPhrase:
    """The part of an action that words and rules need."""

    verb: str
    ref: ObjectReference | None
    path: str | None
    code: int | None
    impersonates: str | None
    traits: Sequence[str] = field(default_factory=tuple)
    proxy: str | None = None
    contradiction: str = ""

    @classmethod
    def from_summary(cls, action: EventSummary) -> ActionPhrase:
        """The phrase of a request."""
        status, other = action.response_status, action.impersonated_user
        return cls(
            action.verb,
            action.object_ref,
            action.request_path,
            None if status is None else status.code,
            None if other is None else other.username,
            action.traits,
            action.proxy,
            action.contradiction.outcome if isinstance(action, Action) and action.contradiction else "",
        )


def holds(when: When, action: ActionPhrase, *, kind: str = "", new: Sequence[str] = ()) -> bool:
    """Whether an action of a kind of principal, new in these attributes, meets a condition."""
    return (
        _acts_on(when, action.verb, resource_name(action.ref))
        and (not when.namespace or (action.ref is not None and action.ref.namespace in when.namespace))
        and (not when.code or action.code in when.code)
        and (not when.kind or kind in when.kind)
        and (not when.traits or _matches(action.traits, when.traits))
        and (not when.new or any(name in when.new for name in new))
        and (not when.impersonates or (action.impersonates is not None) in when.impersonates)
        and (not when.contradiction or action.contradiction in when.contradiction)
    )


def _acts_on(when: When, verb: str, resource: str) -> bool:
    _, slash, subresource = resource.partition("/")
    every = f"*/{subresource}" if slash else resource
    return (not when.verb or verb in when.verb) and (
        not when.resource or resource in when.resource or every in when.resource
    )


def _matches(values: Sequence[str], wanted: Sequence[str]) -> bool:
    return any(
        value == one or (one.endswith("=") and value.startswith(one)) for value in values for one in wanted
    )


def _word(name: str) -> Word:
    """Singular and plural of a resource that the lexicon does not know."""
    if name.endswith("ies"):
        return Word(one=name[:-3] + "y", many=name)
    plural = "es" if name.endswith(("sses", "xes", "ches", "shes")) else "s"
    return Word(one=name.removesuffix(plural), many=name)


def resource_name(ref: ObjectReference | None) -> str:
    """A resource with its subresource: `pods/exec`."""
    if ref is None:
        return ""
    return f"{ref.resource}/{ref.subresource}" if ref.subresource else ref.resource


def count_of(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many}"


def joined(parts: Sequence[str]) -> str:
    """Parts as an enumeration: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def span_words(length: timedelta) -> str:
    """A time span as people say it."""
    seconds = length.total_seconds()
    if seconds < 90:  # beyond that, people count minutes
        return count_of(max(1, round(seconds)), "second", "seconds")
    if seconds < 5400:  # and beyond that, hours
        return count_of(round(seconds / 60), "minute", "minutes")
    return count_of(round(seconds / 3600), "hour", "hours")


def _filled(template: str, **values: str) -> str:
    return Template(template).safe_substitute(values)


class Phrases:
    """Turns parts of an action into words."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self._phrases = lru_cache(4096)(self._phrases_for)

    def _phrases_for(self, verb: str, resource: str) -> list[PhraseWords]:
        """The phrases of which this verb and resource fulfil their part."""
        return [phrase for phrase in self.lexicon.phrases if _acts_on(phrase.when, verb, resource)]

    def who(self, principal: str, kind: str) -> str:
        """A principal in words: "ci-deployer (service account in web)"."""
        name = clean(principal)
        if principal.startswith(SERVICE_ACCOUNT):
            namespace, _, account = name[len(SERVICE_ACCOUNT) :].partition(":")
            what = "built-in controller" if kind == "controller" else "service account"
            return f"{account or '?'} ({what} in {namespace})"
        if kind == "anonymous":
            return "An anonymous caller"
        if kind == "node":
            return f"{name.removeprefix('system:node:')} (the identity of a node)"
        if kind == "component":
            return f"{name.removeprefix('system:')} (a part of the control plane)"
        return f"{name} (a person)"

    def credential(self, principal: str, kind: str) -> str:
        """The credential that was used, as far as the log says."""
        if principal.startswith(SERVICE_ACCOUNT):
            return f"a token of the service account {self.who(principal, kind).partition(' (')[0]}"
        if kind == "anonymous":
            return "none"
        if kind in ("node", "component"):
            return f"the client certificate of {clean(principal)}"
        return f"the credential of {clean(principal)} (certificate, token or single sign-on: the log does not say)"

    def word_for(self, resource: str) -> Word:
        """The words for a resource."""
        return self.lexicon.resources.get(resource) or _word(resource)

    def place(self, ref: ObjectReference | None, verb: str) -> str:
        """Where: "in payments", "in all namespaces", or nothing for what belongs to no namespace."""
        if ref is None:
            return ""
        known = self.lexicon.resources.get(ref.resource)
        if known is not None and known.cluster:
            return ""
        if ref.namespace:
            return f"in {ref.namespace}"
        return "in all namespaces" if verb in MANY and known is not None else ""

    def object(self, ref: ObjectReference, verb: str) -> str:
        """An object with its place: "Secret db in payments"."""
        word = self.word_for(ref.resource)
        if verb in MANY:
            text = word.many
        elif ref.name:
            text = f"{word.one} {ref.name}"
        else:
            text = f"{'an' if word.one[0] in 'AEIOUaeiou' else 'a'} {word.one}"
        return f"{text} {self.place(ref, verb)}".rstrip()

    def target(self, action: ActionPhrase) -> str:
        """What an action was about: its object or its path."""
        if action.ref is None:
            return f"the path {action.path or '/'}"
        return self.object(action.ref, action.verb)

    def render(self, action: ActionPhrase, what: str) -> tuple[str, str]:
        """("to <do>", "has <did>") of an action, with `what` in the place of its object."""
        verb = self.lexicon.verbs.get(action.verb) or VerbWords(
            do=f"use '{action.verb}' on", did=f"used '{action.verb}' on"
        )
        if action.ref is None:
            return f"{verb.do} {what}", f"{verb.did} {what}"
        for phrase in self._phrases(action.verb, resource_name(action.ref)):
            if holds(phrase.when, action):
                return _filled(phrase.do, object=what), _filled(phrase.did, object=what)
        part = f"the {action.ref.subresource} of " if action.ref.subresource else ""
        return f"{verb.do} {part}{what}", f"{verb.did} {part}{what}"

    def describe(self, action: ActionPhrase) -> str:
        """An action in the past tense, with its outcome: "tried to list Secrets in payments and was refused (403)"."""
        do, did = self.render(action, self.target(action))
        traits = self.trait_words(action.traits)
        extra = f", with {joined(traits)}" if traits else ""
        if action.impersonates is not None:
            extra += f", acting as {self.acted_as(action.impersonates)}"
        if action.proxy is not None:
            extra += f", through the proxy {self.acted_as(action.proxy)}"
        code = action.code or 0
        if code in REFUSED:
            return f"tried to {do}{extra} and was refused ({code})"
        if code == _NOT_FOUND:
            return f"tried to {do}{extra}, which does not exist (404)"
        if code >= _FIRST_ERROR:
            return f"tried to {do}{extra}, which failed ({code})"
        return did + extra

    def acted_as(self, username: str) -> str:
        """The user that a request was made as."""
        is_account = username.startswith(SERVICE_ACCOUNT)
        return self.who(username, "serviceaccount") if is_account else clean(username)

    def trait_words(self, traits: Sequence[str]) -> list[str]:
        """Words for those traits of a request body that deserve one."""
        words = []
        for trait in traits:
            key, equals, value = trait.partition("=")
            text = self.lexicon.traits.get(trait) or (self.lexicon.traits.get(f"{key}=") if equals else None)
            if text is not None:
                words.append(_filled(text, value="anything" if value == "*" else clean(value, 80)))
        return words

    def novelty_words(self, novelty: Novelty, action: ActionPhrase) -> tuple[str, str]:
        """(<never>, <also>) of a novelty."""
        news = self.lexicon.novelties.get(novelty.attribute) or NoveltyWords(
            never=f"done this ({novelty.attribute})", also=novelty.attribute
        )
        ref = action.ref
        path = Word(one="path", many=f"the path {action.path or '/'}")
        word = self.word_for(ref.resource) if ref is not None else path
        value = novelty.value.rpartition(" ")[2] if novelty.attribute == "uri" else novelty.value
        if novelty.attribute == "binding":  # "<resource> ClusterRoleBinding <name>"
            value = value.partition(" ")[2] or value
        if novelty.attribute in SPANS:  # "<verb> <resource> <count> or more"
            value = value.split(" ", 2)[-1]
        if novelty.attribute == HOURS:  # "weekday 03"
            kind, _, hour = value.partition(" ")
            value = f"{hour}:00 UTC on {kind}s"
        if novelty.attribute in ("impersonates", "impersonation"):
            value = self.acted_as(value)
        values = {
            "did_kind": self.render(action, word.many)[1],
            "one": word.one.removesuffix(" of"),
            "many": word.many,
            "in_namespace": self.place(ref, action.verb) or "on objects of the whole cluster",
            "value": value,
        }
        return _filled(news.never, **values), _filled(news.also, **values)
