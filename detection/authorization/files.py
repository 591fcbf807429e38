"""Reads RBAC objects from files: what `kubectl get clusterroles,clusterrolebindings,roles,rolebindings -A -o json` prints."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from data.errors import KubehabitError
from detection.authorization.changes import ChangeFollower
from detection.authorization.node_graph import NodeGraph
from detection.authorization.rbac import KINDS, Rbac

_SUFFIXES = (".json", ".yaml", ".yml", ".json.gz")
#: Bytes of a file, unpacked. The roles of a large cluster have some megabytes.
_LARGEST = 256 * 1024 * 1024
_DEPTH = 3
_DEEPEST = 32
_ITEMS = frozenset((*KINDS, "Pod", "PersistentVolume", "VolumeAttachment", "ResourceSlice"))


def read_rbac(path: Path, graph: NodeGraph | None = None) -> tuple[Rbac, ChangeFollower]:
    """The RBAC in a file or in all files of a folder, and what follows its changes.

    Args:
        graph: takes in pods, volumes and attachments, and follows theirs.

    Raises:
        KubehabitError: it cannot be read, or holds no role and no binding.
    """
    rbac = Rbac()
    follower = ChangeFollower(rbac, graph)
    for content in read_objects(path):
        follower.load(content)
    if not rbac.roles and not rbac.bindings:
        raise KubehabitError(
            f"{path} holds no role and no binding. Make it with: "
            "kubectl get clusterroles,clusterrolebindings,roles,rolebindings -A -o json > rbac.json"
        )
    return rbac, follower


def read_objects(path: Path) -> Iterator[Mapping[str, Any]]:
    """The Kubernetes objects in a file or in all files of a folder; a file that cannot be read raises KubehabitError."""
    for file in files_of(path):
        yield from _objects(file)


def files_of(path: Path) -> list[Path]:
    """A file, or all JSON and YAML files of a folder in the order of their names."""
    if not path.is_dir():
        return [path]
    return sorted(one for one in path.rglob("*") if one.is_file() and one.name.endswith(_SUFFIXES))


def _objects(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            raw = stream.read(_LARGEST + 1)
    except (OSError, EOFError) as error:
        raise KubehabitError(f"{file} cannot be read ({error}).") from error
    if len(raw) > _LARGEST:
        raise KubehabitError(f"{file} is larger than {_LARGEST >> 20} MiB: split it into a folder of files.")
    try:
        documents = [msgspec.json.decode(raw)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        try:
            documents = list(yaml.safe_load_all(raw))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise KubehabitError(f"{file} is neither JSON nor YAML ({type(error).__name__}).") from error
    for document in documents:
        yield from _flat(document, _DEPTH)


def objects_of_text(text: str) -> list[Mapping[str, Any]]:
    """The Kubernetes objects of a text that was pasted, in YAML or JSON.

    Raises:
        KubehabitError: it cannot be read, or has aliases, which can multiply what is in a small text.
    """
    depth = 0
    try:
        for event in yaml.parse(text):
            if isinstance(event, yaml.AliasEvent):
                raise KubehabitError("Aliases ('*name') are not read: write out what they stand for.")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise KubehabitError(f"It is nested more than {_DEEPEST} deep.")
        return [one for document in yaml.safe_load_all(text) for one in _flat(document, _DEPTH)]
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise KubehabitError(f"This is no valid YAML{where}.") from error


def _flat(document: object, depth: int) -> Iterator[Mapping[str, Any]]:
    """The objects of a document: itself, the items of a list, or of a list within it."""
    if isinstance(document, list) and depth:
        for one in document:
            yield from _flat(one, depth - 1)
    elif isinstance(document, Mapping):
        items = document.get("items")
        kind = str(document.get("kind", ""))
        if isinstance(items, list) and kind.endswith("List"):
            for one in items:
                # The items of a RoleList have no kind of their own.
                lacks_kind = isinstance(one, Mapping) and "kind" not in one and kind[:-4] in _ITEMS
                yield from _flat({**one, "kind": kind[:-4]} if lacks_kind else one, depth - 1)
        else:
            yield document
