"""`kubehabit bundle`: keys are made once, and a bundle or a registered version is signed and checked by commands."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import KubehabitError
from data.signing_keys import load_public_key, load_signing_key, make_keys
from detection.bundle import SIGNATURE, Bundle, verify_signature
from kubehabit.main import app
from tests.conftest import Trained
from training.registry import download


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bundle", *map(str, arguments)])
    return done.exit_code, done.output


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    status, _ = run("keygen", tmp_path / "a.key")
    assert status == 0
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    key, public = load_signing_key(tmp_path / "a.key"), load_public_key(tmp_path / "a.key.pub")
    public.verify(key.sign(b"x"), b"x")
    with pytest.raises(KubehabitError, match="never overwritten"):
        make_keys(tmp_path / "a.key")
    (tmp_path / "a.key").unlink()
    with pytest.raises(KubehabitError, match=r"a\.key\.pub"):
        make_keys(tmp_path / "a.key")
    assert not (tmp_path / "a.key").exists()


def test_a_bundle_in_a_folder_is_signed_and_checked(registered_before: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(registered_before / "data" / "bundle", bundle)
    make_keys(tmp_path / "a.key")
    other = make_keys(tmp_path / "b.key")
    status, said = run("verify", bundle, "--key", tmp_path / "a.key.pub")
    assert (status, "is not signed" in said) == (1, True)
    assert run("sign", bundle, "--key", tmp_path / "a.key")[0] == 0
    status, said = run("verify", bundle, "--key", tmp_path / "a.key.pub")
    assert (status, Bundle.load(bundle).checksum in said) == (0, True)
    assert run("verify", bundle, "--key", other)[0] == 1
    (bundle / "card.md").write_text("changed")
    assert run("verify", bundle, "--key", tmp_path / "a.key.pub")[0] == 1
    assert run("sign", bundle, "--key", tmp_path / "a.key")[0] != 0  # what is damaged is not signed


@pytest.mark.slow
def test_a_registered_version_is_signed_in_the_registry(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_keys(tmp_path / "a.key")
    monkeypatch.setenv("KUBEHABIT_HOME", str(trained.home))
    name = f"models:/kubehabit/{trained.version}"
    try:
        assert run("sign", name, "--key", tmp_path / "a.key")[0] == 0
        assert run("verify", "models:/kubehabit@champion", "--key", tmp_path / "a.key.pub")[0] == 0
        verify_signature(download(name), load_public_key(tmp_path / "a.key.pub"))
    finally:
        for signature in trained.home.rglob(SIGNATURE):
            signature.unlink()
    assert run("verify", name, "--key", tmp_path / "a.key.pub")[0] == 1
