"""Certificates from files: their errors, and reloading them."""

from __future__ import annotations

import os
import signal
import ssl
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest

from analytics_hub.exceptions import HubError
from analytics_hub.transports import tcp, websocket
from analytics_hub.transports.tls import Certificate, CertificateError, using

from .certificates import encode_key, make_key, sign, write_certificate
from .fake_gateway import FakeGateway, FakeHub
from .peer import PING, PONG, Peer, Received, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key = make_key()
    (tmp_path / "cert.pem").write_bytes(sign(key))
    (tmp_path / "key.pem").write_bytes(encode_key(key))
    (tmp_path / "locked.pem").write_bytes(encode_key(key, "open sesame"))
    (tmp_path / "other.pem").write_bytes(encode_key(make_key()))
    (tmp_path / "cut.pem").write_bytes(sign(key)[:200])
    (tmp_path / "cut-key.pem").write_bytes(encode_key(key)[:100])
    (tmp_path / "empty.pem").write_bytes(b"")
    return tmp_path


def test_a_certificate_and_its_context(folder: Path) -> None:
    certificate = Certificate(folder / "cert.pem", folder / "locked.pem", password="open sesame")

    assert tcp.Certificate is websocket.Certificate is Certificate
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert certificate.context.options & ssl.OP_NO_RENEGOTIATION
    assert "sesame" not in repr(certificate)
    assert str(folder / "cert.pem") in repr(certificate)


@pytest.mark.parametrize(
    ("certfile", "keyfile", "password", "message"),
    [
        ("none.pem", None, None, "cannot read the certificate in F/none.pem: No such file or directory"),
        ("cert.pem", "none.pem", None, "cannot read the key in F/none.pem: No such file or directory"),
        ("", None, None, "cannot read the certificate in F/: Is a directory"),
        ("cut.pem", "key.pem", None, "F/cut.pem is not a certificate in PEM, or is incomplete"),
        ("empty.pem", "key.pem", None, "F/empty.pem is not a certificate in PEM, or is incomplete"),
        ("key.pem", "key.pem", None, "F/key.pem is not a certificate in PEM, or is incomplete"),
        ("cert.pem", None, None, "F/cert.pem is not a private key in PEM, or is incomplete"),
        ("cert.pem", "cut-key.pem", None, "F/cut-key.pem is not a private key in PEM, or is incomplete"),
        ("cert.pem", "other.pem", None, "the key in F/other.pem does not match the certificate in F/cert.pem"),
        ("cert.pem", "locked.pem", None, "the key in F/locked.pem is encrypted; password is missing"),
        ("cert.pem", "locked.pem", "swordfish", "the password for the key in F/locked.pem is wrong"),
        ("cert.pem", "locked.pem", "x" * 2000, "the password for the key in F/locked.pem is wrong"),
    ],
)
def test_the_message_says_which_file_is_invalid_and_why(
    folder: Path, certfile: str, keyfile: str | None, password: str | None, message: str
) -> None:
    with pytest.raises(CertificateError) as caught:
        Certificate(f"{folder}/{certfile}", keyfile and f"{folder}/{keyfile}", password=password)

    assert str(caught.value) == message.replace("F/", f"{folder}/")
    assert isinstance(caught.value, HubError)


def test_a_failed_reload_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate = Certificate(folder / "cert.pem", folder / "key.pem")
    before, counted = certificate.context, Counter[str]()

    def count(name: str) -> None:
        counted[name] += 1

    with using(certificate, count), using(certificate, count):  # two transports of one hub
        for broken in ("cut.pem", "empty.pem", "other.pem"):
            (folder / broken).replace(folder / ("key.pem" if broken == "other.pem" else "cert.pem"))
            assert not certificate.reload()
        (folder / "cert.pem").unlink()
        assert not certificate.reload()

        assert certificate.context is before
        assert counted == {"certificate-failed": 4}
        assert len(caplog.records) == 4
        assert "the previous one stays in use: cannot read the certificate in " in caplog.text
        assert "Traceback" not in caplog.text

        key = make_key()
        (folder / "cert.pem").write_bytes(sign(key))
        (folder / "key.pem").write_bytes(encode_key(key))
        assert certificate.reload()
        assert certificate.context is not before
        assert counted["certificate-reloaded"] == 1
    certificate.reload()
    assert counted["certificate-reloaded"] == 1


async def test_an_invalid_ssl_context_is_an_error_of_serve(client_side: ssl.SSLContext) -> None:
    with pytest.raises(TypeError, match=r"ssl_context is 'cert\.pem'; it must be an SSLContext"):
        await websocket.serve(FakeHub(), ssl_context="cert.pem")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ssl_context is for clients"):
        await tcp.serve(FakeHub(), ssl_context=client_side)  # type: ignore[arg-type]


async def test_renegotiation_is_disabled_in_a_context_of_the_user(server_side: ssl.SSLContext) -> None:
    async with serving(FakeGateway(), ssl_context=server_side):
        assert server_side.options & ssl.OP_NO_RENEGOTIATION


# --- while serving


def trusting(path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(path))


async def is_alive(peer: Peer) -> bool:
    await peer.send_frame(PING, b"?")
    return await peer.read_frame() == Received(PONG, b"?")


async def test_a_reload_is_used_by_new_handshakes_and_keeps_established_connections(tmp_path: Path) -> None:
    path = write_certificate(tmp_path / "localhost.pem")
    gateway, certificate, old = FakeGateway(), Certificate(path), trusting(path)
    async with (
        serving(gateway, ssl_context=certificate) as port,
        await Peer.open(port, tls=old) as early,
    ):
        write_certificate(path)
        certificate.reload()

        assert await is_alive(early)
        async with await Peer.open(port, tls=trusting(path)) as late:
            assert await is_alive(late)
        with pytest.raises(ssl.SSLCertVerificationError):
            await Peer.open(port, tls=old)
        await gateway.until(lambda: gateway.counters["tls-refused"] == 1)  # the client has sent an alert


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGHUP")
async def test_sighup_reloads(tmp_path: Path) -> None:
    path = write_certificate(tmp_path / "localhost.pem")
    gateway, certificate = FakeGateway(), Certificate(path)
    async with serving(gateway, ssl_context=certificate) as port, anyio.create_task_group() as tasks:
        await tasks.start(certificate.reload_on_hangup)
        async with await Peer.open(port, tls=trusting(path)) as early:
            write_certificate(path)
            os.kill(os.getpid(), signal.SIGHUP)
            await gateway.until(lambda: gateway.counters["certificate-reloaded"] == 1)
            async with await Peer.open(port, tls=trusting(path)) as late:
                assert await is_alive(late)
                assert await is_alive(early)

            path.unlink()
            os.kill(os.getpid(), signal.SIGHUP)
            await gateway.until(lambda: gateway.counters["certificate-failed"] == 1)
            assert await is_alive(early)
        tasks.cancel_scope.cancel()


async def test_reloading_by_signal_needs_sighup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGHUP", raising=False)

    with pytest.raises(CertificateError, match="this system has no SIGHUP"):
        await Certificate(folder / "cert.pem", folder / "key.pem").reload_on_hangup()
