"""Reads the Ed25519 keys with which ledgers and model bundles are signed and checked."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from data.errors import KubehabitError


def make_keys(path: Path) -> Path:
    """Write a new private key, readable by its owner only, and beside it the public one, whose path is returned.

    Raises:
        KubehabitError: one of the files exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    public = path.with_name(path.name + ".pub")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        for file, content, mode in ((public, shown, 0o644), (path, pem, 0o600)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                out.write(content)
    except OSError as error:
        raise KubehabitError(
            f"Cannot write the key {error.filename}: {error.strerror}. Name another file: keys are never overwritten."
        ) from error
    return public


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
