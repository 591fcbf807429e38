"""Rights in numbers, a row for each user, group or binding: granted, used, never used, risky, and how far they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detection.authorization.escalation import Escalation, RightsHolder
from detection.authorization.rbac import BindingGrant, ObjectKey
from detection.authorization.right_index import RightIndex, RightsTotal

RightsBy = Literal["users", "groups", "bindings"]


@dataclass(frozen=True, slots=True)
class RightsRow:
    """A user, a group or a binding.

    Attributes:
        name: of it.
        total: its rights in numbers.
        steps: to everything, by RBAC alone; None if it cannot come there.
        binding: which, if it is one.
        subjects: users and groups that a binding names; users of a group that acted.
        acted: whether it did anything in the span, or for a group or binding one of its users.
    """

    name: str
    total: RightsTotal
    steps: int | None
    binding: ObjectKey | None = None
    subjects: int = 0
    acted: bool = False


def rights_rows(index: RightIndex, escalation: Escalation, by: RightsBy) -> list[RightsRow]:
    """All of them, those with most rights that lead further and were never used first."""
    made = {"users": _users, "groups": _groups, "bindings": _bindings}[by](index, escalation)
    made.sort(
        key=lambda one: (
            -one.total.risky_unused,
            one.steps or 99,
            one.total.used - one.total.granted,
            one.name,
        )
    )
    return made


def _users(index: RightIndex, escalation: Escalation) -> list[RightsRow]:
    names = dict.fromkeys((*escalation.users, *index.usage))
    steps = escalation.steps_to_admin
    return [
        RightsRow(
            name,
            index.total_of_user(name, escalation.groups_of(name)),
            steps.get(RightsHolder("user", name)),
            acted=name in index.usage,
        )
        for name in names
    ]


def _groups(index: RightIndex, escalation: Escalation) -> list[RightsRow]:
    found = []
    for group in escalation.groups:
        members = index.members(group)
        total = index.total(index.rbac.all_bindings_of("", (group,)), members)
        steps = escalation.steps_to_admin.get(RightsHolder("group", group))
        found.append(RightsRow(group, total, steps, subjects=len(members), acted=bool(members)))
    return found


def _bindings(index: RightIndex, escalation: Escalation) -> list[RightsRow]:
    found = []
    for key, binding in index.rbac.bindings.items():
        users = index.bound(binding)
        grants: Sequence[BindingGrant] = [] if binding.role is None else [BindingGrant(key, binding.role)]
        total = index.total(grants, users)
        subjects = len(binding.users or ()) + len(binding.groups or ())
        row = RightsRow(str(key), total, escalation.steps_of_binding(key), key, subjects, bool(users))
        found.append(row)
    return found
