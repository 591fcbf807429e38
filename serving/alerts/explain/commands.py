"""Commands of next steps: placeholders filled in and quoted for a shell. kubehabit never runs them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from string import Template
from typing import NamedTuple

from serving.alerts.explain.phrases import MANY, SERVICE_ACCOUNT
from serving.schemas import Action, Effect, clean

_LOOKS = frozenset(
    (
        "get",
        "describe",
        "logs",
        "top",
        "explain",
        "diff",
        "events",
        "auth can-i",
        "rollout history",
        "rollout status",
    )
)
#: What is lost with these goes on without them: the rest of what can be deleted runs, or lets something run.
_NOTHING_RUNS = frozenset(
    (
        *("roles", "rolebindings", "clusterroles", "clusterrolebindings", "networkpolicies"),
        *("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
    )
)
_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/=-]*")


class Values(NamedTuple):
    """What placeholders stand for.

    Attributes:
        plain: for texts.
        quoted: for commands, quoted for a shell; None where no safe value exists.
    """

    plain: dict[str, str]
    quoted: dict[str, str | None]

    @classmethod
    def from_action(cls, principal: str, action: Action, what: str, *, cluster: bool) -> Values:
        """The values of an action; `what`: its object in words; `cluster`: its object belongs to no namespace."""
        ref = action.object_ref
        namespace = ref.namespace if ref is not None else ""
        name = ref.name if ref is not None and action.verb not in MANY else ""
        plain = {
            "object": what,
            "principal": clean(principal),
            "namespace": namespace,
            "name": name,
            "address": action.source_ips[0] if action.source_ips else "",
            "auditID": action.audit_id,
        }
        # "-A" and a name exclude each other.
        everywhere = "" if cluster or ref is None or name else "-A"
        is_account = principal.startswith(SERVICE_ACCOUNT)
        account_namespace, _, account = principal.removeprefix(SERVICE_ACCOUNT).partition(":")
        quoted = {
            "principal": _quoted(principal),
            "name": _quoted(name),
            "namespace": _quoted(namespace),
            "resource": _quoted(ref.resource) if ref is not None else None,
            "scope": _option(namespace) if namespace and not cluster else everywhere,
            "list_scope": _option(namespace) if namespace and not cluster else "",
            "as": _as(principal),
            "token_as": _as(f"{SERVICE_ACCOUNT}{namespace}:{name}"),
            "account": _quoted(account) if is_account else None,
            "account_scope": _option(account_namespace) if is_account else None,
        }
        return cls(plain, quoted)


def effect_of(command: str) -> Effect:
    """What a kubectl command does to the cluster; one that is not known to look only is taken to change something."""
    words = command.split()[1:]
    verb, what = words[0], words[1] if len(words) > 1 else ""
    if verb in _LOOKS or f"{verb} {what}" in _LOOKS:
        return "looks"
    ends = verb == "drain" or "--replicas=0" in words or '"suspend":true' in command
    return "stops" if ends or (verb == "delete" and what not in _NOTHING_RUNS) else "changes"


def fill(template: str | None, values: Mapping[str, str | None]) -> str | None:
    """A command, or None if a value is missing or could be misread by a shell."""
    if template is None:
        return None
    used = Template(template).get_identifiers()
    if any(name in values and values[name] is None for name in used):
        return None
    # What changes something needs a name: without one, kubectl would do it to everything. Logs are of one Pod.
    by_name = effect_of(template) != "looks" or template.startswith("kubectl logs ")
    if by_name and "name" in used and not values["name"]:
        return None
    filled = Template(template).safe_substitute({name: text or "" for name, text in values.items()})
    return re.sub(r"  +", " ", filled).strip()


def _quoted(text: str) -> str | None:
    """A value safe inside a shell command, or None: control characters, or a leading dash that kubectl would obey."""
    if not text:
        return ""
    if not text.isprintable() or text.startswith("-"):
        return None
    return text if _PLAIN_WORD.fullmatch(text) else shlex.quote(text)


def _as(user: str) -> str | None:
    """The options that ask kubectl as a user, with the groups that every such user has."""
    quoted = _quoted(user)
    if not quoted:
        return None
    groups = ["system:authenticated"]
    if user.startswith(SERVICE_ACCOUNT):
        namespace = user.removeprefix(SERVICE_ACCOUNT).partition(":")[0]
        groups += ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    return " ".join((f"--as={quoted}", *(f"--as-group={shlex.quote(group)}" for group in groups)))


def _option(namespace: str) -> str | None:
    """The kubectl option for a namespace."""
    quoted = _quoted(namespace)
    return None if quoted is None else f"-n {quoted}"
