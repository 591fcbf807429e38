"""Reads the Ed25519 keys with which ledgers and model bundles are signed and checked."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from data.errors import KubehabitError


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 private key in PEM.

    Raises:
        KubehabitError: the file cannot be read or holds something else.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KubehabitError(
            f"Cannot read the signing key {path}: {error}. Make one with: openssl genpkey -algorithm ed25519 -out {path}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KubehabitError(
            f"{path} is no Ed25519 key. Make one with: openssl genpkey -algorithm ed25519 -out {path}"
        )
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM.

    Raises:
        KubehabitError: the file cannot be read or holds something else.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KubehabitError(
            f"Cannot read the public key {path}: {error}. Make it with: openssl pkey -in KEY -pubout -out {path}"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KubehabitError(f"{path} is no Ed25519 public key.")
    return key
