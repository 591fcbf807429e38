"""Merkle trees over records, as in Certificate Transparency (RFC 6962, section 2.1), so that a single record can be proved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

#: Leaves of a block. A power of two, so that the root of every block is a node of the tree over all leaves.
BLOCK = 256
EMPTY = sha256(b"").digest()


def leaf_of(content: bytes) -> bytes:
    """Hash of one record."""
    return sha256(b"\0" + content).digest()


def _parent(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def _above(level: Sequence[bytes]) -> list[bytes]:
    """The next level; an odd last node moves up as it is: the right edge of RFC 6962's tree."""
    pairs = zip(level[::2], level[1::2], strict=False)
    return [_parent(left, right) for left, right in pairs] + list(level[len(level) & ~1 :])


def root_of(nodes: Sequence[bytes]) -> bytes:
    """Root of the tree over leaves, or over the roots of full blocks of leaves (the last block may be short)."""
    if not nodes:
        return EMPTY
    while len(nodes) > 1:
        nodes = _above(nodes)
    return nodes[0]


def blocks_of(leaves: Sequence[bytes]) -> list[bytes]:
    """Roots of the blocks of leaves, in order."""
    return [root_of(leaves[start : start + BLOCK]) for start in range(0, len(leaves), BLOCK)]


def path_in(nodes: Sequence[bytes], index: int) -> list[tuple[str, bytes]]:
    """Audit path of node `index`: the siblings ("left" | "right", hash) up to the root."""
    path: list[tuple[str, bytes]] = []
    for level in _levels(tuple(nodes)):
        beside = index ^ 1
        if beside < len(level):
            path.append(("left" if beside < index else "right", level[beside]))
        index //= 2
    return path


@lru_cache(maxsize=64)
def _levels(nodes: tuple[bytes, ...]) -> list[Sequence[bytes]]:
    """All levels of a tree below its root; an export asks for the paths of thousands of nodes of the same few trees."""
    levels: list[Sequence[bytes]] = [nodes]
    while len(levels[-1]) > 2:
        levels.append(_above(levels[-1]))
    return levels if len(nodes) > 1 else []


def climb(leaf: bytes, path: Sequence[tuple[str, bytes]]) -> bytes:
    """Root that a leaf and its path lead to."""
    node = leaf
    for side, beside in path:
        node = _parent(beside, node) if side == "left" else _parent(node, beside)
    return node
