"""`kubehabit bundle`: keys, and the signatures of model bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kubehabit import options as opt

app = opt.room(
    "Sign model bundles, so that a service serves only those of your training, and check signatures."
)
_MODEL = typer.Argument(
    metavar="MODEL",
    help="models:/NAME@ALIAS, models:/NAME/VERSION, or the folder of a bundle.",
    show_default=False,
)


@app.command("keygen")
def keygen(
    out: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File of the private key; FILE.pub gets the public one."),
    ],
) -> None:
    """Make a pair of Ed25519 keys. Keep the private one where models are trained, and nowhere else.

    Example:  `kubehabit bundle keygen model.key`

    Next:  `kubehabit train --signing-key model.key`, and `model.public_key: model.key.pub` in serve.yaml.
    """
    from data.signing_keys import make_keys

    public = make_keys(out)
    opt.say(f"{out}: the private key, readable by its owner only. {public}: the public one.")


@app.command("sign")
def sign(
    model: Annotated[str, _MODEL],
    key: Annotated[Path, opt.file_option("--key", "Ed25519 private key (PEM).")],
) -> None:
    """Sign a bundle that is whole: one in a folder, or a registered version, to which the signature is added.

    A service that has fetched the version already does not fetch it again: sign before it is served, or train with --signing-key.

    Example:  `kubehabit bundle sign models:/kubehabit@challenger --key model.key`

    Next:  `kubehabit bundle verify` with the public key.
    """
    from data.signing_keys import load_signing_key
    from detection import bundle as bundles
    from training.registry import add_file, opened

    private = load_signing_key(key)
    with opened(model) as folder:
        bundles.Bundle.load(folder)
        bundles.sign(folder, private)
        if not Path(model).is_dir():
            add_file(model, folder / bundles.SIGNATURE, beside=folder)
    opt.say(f"{model} is signed.")


@app.command("verify")
def verify(
    model: Annotated[str, _MODEL],
    key: Annotated[Path, opt.file_option("--key", "Ed25519 public key (PEM).")],
) -> None:
    """Check that a bundle is whole and signed with a key. Exit status 1 says that it is not.

    Example:  `kubehabit bundle verify models:/kubehabit@champion --key model.key.pub`

    Next:  `model.public_key` in serve.yaml, so that the service checks each version itself.
    """
    from data.errors import BundleError
    from data.signing_keys import load_public_key
    from detection import bundle as bundles
    from training.registry import opened

    public = load_public_key(key)
    with opened(model) as folder:
        try:
            checksum = bundles.Bundle.load(folder).checksum
            bundles.verify_signature(folder, public)
        except BundleError as error:
            opt.fail(str(error), 1)
    opt.say(f"{model} is whole and signed with this key: {checksum}")
