"""TLS as callers meet it: real handshakes on loopback, with certificates made for the test."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from data.errors import KubehabitError
from serving.access import connection_limits, reloading_file
from serving.access.tls import ServerTls
from serving.app import create_app
from serving.scoring.engine import Engine
from serving.settings import Settings, TlsSettings
from tests.serving.api.test_api import is_problem
from tests.serving.fakes import raw_event
from tests.serving.live import Live, read_all


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading_file, "_SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


def put(folder: Path, issuer: trustme.CA, name: str = "localhost") -> TlsSettings:
    """Certificate and key of the service, written to files."""
    made = issuer.issue_cert(name, "127.0.0.1")
    files = TlsSettings(certificate=folder / "tls.crt", key=folder / "tls.key")
    assert files.certificate is not None
    assert files.key is not None
    made.private_key_pem.write_to_path(files.key)
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    return files


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> TlsSettings:
    return put(tmp_path, authority)


@contextmanager
def client(live: Live, believes: trustme.CA, shows: trustme.LeafCert | None = None) -> Iterator[httpx.Client]:
    """A caller that checks the service's certificate, and may show one."""
    context = ssl.create_default_context()
    believes.configure_trust(context)
    if shows is not None:
        shows.configure_cert(context)
    with httpx.Client(base_url=f"https://localhost:{live.port}", verify=context, timeout=30) as one:
        yield one


@pytest.fixture
def start(engine: Engine) -> Callable[..., Live]:
    def begin(**settings: Any) -> Live:
        return Live(create_app(Settings(**settings), engine))

    return begin


def issued(issuer: trustme.CA, common_name: str | None = None, uri: str | None = None) -> trustme.LeafCert:
    """A client certificate. trustme names hosts only, so a URI is put in by cryptography."""
    if uri is None:
        return issuer.issue_cert("client.example", common_name=common_name)
    return _with_uri(issuer, uri)


def key_of(issuer: trustme.CA) -> EllipticCurvePrivateKey:
    """With which an authority signs."""
    signer = load_pem_private_key(issuer.private_key_pem.bytes(), None)
    assert isinstance(signer, EllipticCurvePrivateKey)
    return signer


def _with_uri(issuer: trustme.CA, uri: str) -> trustme.LeafCert:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    above = x509.load_pem_x509_certificate(issuer.cert_pem.bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(above.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(key_of(issuer), hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return trustme.LeafCert(private, made.public_bytes(serialization.Encoding.PEM), [])


def test_the_service_speaks_https_and_says_so_for_the_year(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA
) -> None:
    with start(tls=files) as live, client(live, authority) as one:
        answer = one.post("/v1/score", json=raw_event())
        assert answer.status_code == 200
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://localhost:{live.port}/healthz", timeout=30)
        with (
            pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
            client(live, trustme.CA()) as other,
        ):
            other.get("/healthz")


def test_tls_1_2_is_the_least_and_1_3_with_client_certificates(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA
) -> None:
    assert ServerTls(files).context.minimum_version == ssl.TLSVersion.TLSv1_2
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        start(tls=files) as live,
        context.wrap_socket(live.connect(), server_hostname="localhost") as secured,
    ):
        assert secured.version() == "TLSv1.2"
    with start(tls=believing(files, authority), access=ACCESS) as live:
        with live.connect() as plain, pytest.raises(OSError):  # noqa: PT011 - the alert may get lost in the closing
            context.wrap_socket(plain, server_hostname="localhost")
        context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        with context.wrap_socket(live.connect(), server_hostname="localhost") as secured:
            assert secured.version() == "TLSv1.3"


def test_a_new_certificate_is_shown_without_a_restart_and_a_bad_one_is_not(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    assert files.certificate is not None
    assert files.key is not None
    other = trustme.CA(key_type=trustme.KeyType.ECDSA)
    with start(tls=files) as live:
        with client(live, authority) as one:
            assert one.get("/healthz").status_code == 200
            put(files.certificate.parent, other)
            # The connection that is open goes on; a new one meets the new certificate.
            assert one.get("/healthz").status_code == 200
        with client(live, other) as one:
            assert one.get("/healthz").status_code == 200
        files.key.write_text("no key")
        with client(live, other) as one:
            assert "the one before stays in use" not in caplog.text
            assert 'kubehabit_access_file_refused{file="tls"} 1.0' in one.get("/metrics").text
        assert (
            "the TLS certificate, key, client authority or its revocations changed and cannot be used"
            in caplog.text
        )
        put(files.certificate.parent, authority)
        with client(live, authority) as one:
            assert 'kubehabit_access_file_refused{file="tls"} 0.0' in one.get("/metrics").text


ACCESS = {
    "certificates": [
        {"common_name": "kube-apiserver", "scopes": ["ingest"]},
        {"uri": "spiffe://cluster.local/ns/soc/sa/dashboard", "scopes": ["read"]},
    ]
}


def believing(files: TlsSettings, authority: trustme.CA) -> TlsSettings:
    assert files.certificate is not None
    path = files.certificate.parent / "clients.pem"
    authority.cert_pem.write_to_path(path)
    return files.model_copy(update={"client_ca": path})


def test_a_client_certificate_gives_the_scopes_of_its_name(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA, own_home: Path
) -> None:
    with start(tls=believing(files, authority), access=ACCESS) as live:
        with client(live, authority, issued(authority, "kube-apiserver")) as apiserver:
            assert apiserver.post("/v1/audit", json=raw_event()).status_code == 200
            is_problem(apiserver.get("/v1/alerts"), 403, "'read'", "certificate 'kube-apiserver'", "ingest")
            # A browser would present the certificate for any page that asks it to.
            foreign = apiserver.post(
                "/v1/audit", json=raw_event(1), headers={"Origin": "https://evil.example"}
            )
            is_problem(foreign, 403, "other sites")
        with client(
            live, authority, issued(authority, uri="spiffe://cluster.local/ns/soc/sa/dashboard")
        ) as one:
            assert one.get("/v1/alerts").status_code == 200
            assert one.post("/v1/audit", json=raw_event()).status_code == 403
        with client(live, authority, issued(authority, "unlisted")) as one:
            is_problem(one.get("/v1/alerts"), 403, "'unlisted'", "none")
    assert '"by": "certificate", "name": "kube-apiserver"' in (own_home / "access.jsonl").read_text()


def test_without_a_certificate_a_token_is_asked_for_and_probes_go_through(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA
) -> None:
    token = "a-token-of-sixteen-or-more"
    with (
        start(tls=believing(files, authority), access=ACCESS, token=token) as live,
        client(live, authority) as one,
    ):
        assert one.get("/healthz").status_code == 200
        is_problem(one.get("/v1/alerts"), 401)
        assert one.get("/v1/alerts", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_certificate_of_another_authority_ends_the_handshake(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA
) -> None:
    stranger = trustme.CA(key_type=trustme.KeyType.ECDSA)
    with (
        start(tls=believing(files, authority), access=ACCESS) as live,
        client(live, authority, issued(stranger, "kube-apiserver")) as one,
        pytest.raises(httpx.TransportError),
    ):
        one.post("/v1/audit", json=raw_event())


def test_an_authority_that_is_taken_away_is_believed_no_longer_without_a_restart(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA
) -> None:
    first, second = (trustme.CA(key_type=trustme.KeyType.ECDSA) for _ in range(2))
    settings = believing(files, first)
    with start(tls=settings, access=ACCESS) as live:
        with client(live, authority, issued(first, "kube-apiserver")) as old:
            assert old.post("/v1/audit", json=raw_event()).status_code == 200
            believing(files, second)
            # Also on the connection that was made while it was believed: it ends, and a new one is refused.
            answer = old.post("/v1/audit", json=raw_event(1))
            is_problem(answer, 503, "connect again")
            assert answer.headers["connection"] == "close"
            with pytest.raises(httpx.TransportError):
                old.post("/v1/audit", json=raw_event(1))
        with client(live, authority, issued(second, "kube-apiserver")) as new:
            assert new.post("/v1/audit", json=raw_event(2)).status_code == 200


def revoke(path: Path, issuer: trustme.CA, *revoked: trustme.LeafCert, days: float = 1) -> None:
    """Write an authority's list of revoked certificates, that is current for so many days."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    now = datetime.now(UTC)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_pem_x509_certificate(issuer.cert_pem.bytes()).subject)
        .last_update(now - timedelta(days=2))
        .next_update(now + timedelta(days=days))
    )
    for one in revoked:
        number = x509.load_pem_x509_certificate(one.cert_chain_pems[0].bytes()).serial_number
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
        made = made.add_revoked_certificate(entry)
    path.write_bytes(made.sign(key_of(issuer), hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def test_a_revoked_certificate_is_believed_no_longer_without_a_restart(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA, tmp_path: Path
) -> None:
    lists = tmp_path / "revoked.pem"
    stolen, good = (issued(authority, "kube-apiserver") for _ in range(2))
    revoke(lists, authority)
    settings = believing(files, authority).model_copy(update={"client_crl": lists})
    with (
        start(tls=settings, access=ACCESS) as live,
        client(live, authority, stolen) as thief,
        client(live, authority, good) as owner,
    ):
        for one in (thief, owner):
            assert one.post("/v1/audit", json=raw_event()).status_code == 200
        revoke(lists, authority, stolen)
        for one in (thief, owner):
            is_problem(one.post("/v1/audit", json=raw_event(1)), 503, "connect again")
        with pytest.raises(httpx.TransportError):
            thief.post("/v1/audit", json=raw_event(1))
        assert owner.post("/v1/audit", json=raw_event(1)).status_code == 200
        lists.write_text("nonsense")  # changes nothing
        with client(live, authority, stolen) as again, pytest.raises(httpx.TransportError):
            again.post("/v1/audit", json=raw_event(2))


def test_without_a_list_that_is_current_nobody_of_an_authority_gets_in(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA, tmp_path: Path
) -> None:
    settings = believing(files, authority).model_copy(update={"client_crl": tmp_path / "revoked.pem"})
    other = trustme.CA(key_type=trustme.KeyType.ECDSA)
    for issuer, days in ((authority, -1), (other, 1)):
        revoke(tmp_path / "revoked.pem", issuer, days=days)
        with (
            start(tls=settings, access=ACCESS) as live,
            client(live, authority, issued(authority, "kube-apiserver")) as one,
            pytest.raises(httpx.TransportError),
        ):
            one.post("/v1/audit", json=raw_event())


def test_revocations_are_lists_and_nothing_else(
    files: TlsSettings, authority: trustme.CA, tmp_path: Path
) -> None:
    lists = tmp_path / "revoked.pem"
    settings = believing(files, authority).model_copy(update={"client_crl": lists})
    with pytest.raises(KubehabitError, match="revocations"):
        ServerTls(settings)
    lists.write_text("nonsense")
    with pytest.raises(KubehabitError, match="give the authority's lists"):
        ServerTls(settings)
    revoke(lists, authority)
    with lists.open("ab") as more:
        more.write(trustme.CA().cert_pem.bytes())
    with pytest.raises(KubehabitError, match="and nothing else"):
        ServerTls(settings)
    with pytest.raises(ValueError, match="needs client_ca"):
        TlsSettings(certificate=files.certificate, client_crl=lists)


def test_sessions_with_client_certificates_are_not_resumed(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    issued(authority, "kube-apiserver").configure_cert(context)
    with start(tls=believing(files, authority), access=ACCESS) as live:
        session = None
        for _ in range(2):
            with context.wrap_socket(live.connect(), server_hostname="localhost", session=session) as secured:
                secured.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert secured.recv(65536).startswith(b"HTTP/1.1 200")
                assert secured.version() == "TLSv1.3"
                assert not secured.session_reused
                session = secured.session


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "missing.key"}, "cannot be used"),
        ({"key": "other.key"}, "belong together"),
        ({"key": "locked.key"}, "without a passphrase"),
        ({"client_ca": "other.key"}, "client authority"),
        ({"client_ca": "missing.pem"}, "client authority"),
    ],
)
def test_files_that_do_not_fit_are_reported_at_the_start(
    files: TlsSettings, authority: trustme.CA, change: dict[str, str], words: str
) -> None:
    from cryptography.hazmat.primitives import serialization

    assert files.certificate is not None
    folder = files.certificate.parent
    other = authority.issue_cert("localhost")
    other.private_key_pem.write_to_path(folder / "other.key")
    key = serialization.load_pem_private_key(other.private_key_pem.bytes(), None)
    (folder / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(KubehabitError, match=words):
        ServerTls(files.model_copy(update={name: folder / value for name, value in change.items()}))


def test_connections_that_never_shake_hands_make_room(
    start: Callable[..., Live], files: TlsSettings, authority: trustme.CA
) -> None:
    limits = {"connections": 10, "connections_per_address": 5}
    with start(tls=files, limits=limits) as live, ExitStack() as stack:
        idle = [stack.enter_context(live.connect()) for _ in range(20)]
        with client(live, authority) as one:
            assert one.get("/healthz").status_code == 200
            assert one.get("/healthz").status_code == 200
        for closed in idle[:15]:
            assert read_all(closed) == b""


def test_a_handshake_that_is_not_finished_in_time_ends_its_connection(
    start: Callable[..., Live], files: TlsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "HEAD_SECONDS", 0.3)
    with start(tls=files) as live, live.connect() as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        read_all(connection)
