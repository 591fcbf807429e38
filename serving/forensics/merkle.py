"""Merkle trees over records, as in Certificate Transparency (RFC 6962, section 2.1), so that one record can be proved alone."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

BLOCK = 256
"""Leaves of a block. A power of two, so that the root of every block is a node of the tree over all leaves."""
EMPTY = sha256(b"").digest()


def leaf_of(content: bytes) -> bytes:
    """Hash of one record."""
    return sha256(b"\0" + content).digest()


def _parent(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def root_of(nodes: Sequence[bytes]) -> bytes:
    """Root of the tree over leaves, or over the roots of full blocks of leaves (the last block may be short)."""
    if not nodes:
        return EMPTY
    level = list(nodes)
    while len(level) > 1:
        above = [_parent(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:  # the odd one moves up as it is: the right edge of RFC 6962's tree
            above.append(level[-1])
        level = above
    return level[0]


def blocks_of(leaves: Sequence[bytes]) -> list[bytes]:
    """Roots of the blocks of leaves, in order."""
    return [root_of(leaves[start : start + BLOCK]) for start in range(0, len(leaves), BLOCK)]


def path_in(nodes: Sequence[bytes], index: int) -> list[tuple[str, bytes]]:
    """What has to be hashed with node `index`, step by step, to come to the root: ("left" | "right", hash)."""
    path: list[tuple[str, bytes]] = []
    level = list(nodes)
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(("left" if beside < index else "right", level[beside]))
        above = [_parent(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level, index = above, index // 2
    return path


def climb(leaf: bytes, path: Sequence[tuple[str, bytes]]) -> bytes:
    """Root that a leaf and its path lead to."""
    node = leaf
    for side, beside in path:
        node = _parent(beside, node) if side == "left" else _parent(node, beside)
    return node
