"""Who may do something: every user and group that a binding allows it."""

from __future__ import annotations

from dataclasses import dataclass

from detection.authorization.authorizer import MASTERS
from detection.authorization.rbac import BindingGrant, Rbac
from detection.authorization.requests import AccessRequest


@dataclass(frozen=True, slots=True)
class AllowedSubject:
    """A user or group that may do something.

    Attributes:
        kind: User or Group; empty if the log did not say whom a binding names.
        grant: by which binding; None for `system:masters`.
        sure: whether it is known what the binding gives.
    """

    kind: str
    name: str
    grant: BindingGrant | None
    sure: bool


def subjects_who_may(rbac: Rbac, request: AccessRequest) -> list[AllowedSubject]:
    """Who may make a request, by every binding that allows it."""
    found = [AllowedSubject("Group", MASTERS, None, True)]
    for key in sorted(rbac.bindings):
        binding = rbac.bindings[key]
        if binding.role is None or key.namespace not in ("", request.namespace):
            continue
        granted = rbac.grants(grant := BindingGrant(key, binding.role), request)
        if granted is False:
            continue
        subjects = [("User", one) for one in sorted(binding.users or ())]
        subjects += [("Group", one) for one in sorted(binding.groups or ())]
        for kind, name in subjects or [("", "unknown")]:
            found.append(AllowedSubject(kind, name, grant, granted is True))
    return found
