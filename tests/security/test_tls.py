"""T: hostile TLS, plain text to a TLS port, unfinished handshakes; and renewed certificates."""

from __future__ import annotations

import json
import signal
import socket
import ssl
from pathlib import Path

import pytest

from ..transports.certificates import write_certificate
from ..transports.forger import OldForger, old_hello
from ..transports.test_tls import Client
from ..transports.test_tls_attacks import first_flight
from .client import Peer, connections, trickle, upgrade
from .environment import assert_recovers, targets
from .exchanges import is_served
from .target import PLAIN, TLS, Target, choose

environment = targets(*TLS, "tcp-trio-tls")


def refused(target: Target, peer: Peer) -> tuple[int, str]:
    """The code and the text of a refused connection."""
    if not target.is_tcp:
        answer = peer.read_last_response()
        return answer.status, answer.body.decode().strip()
    (close,) = json.loads(peer.read_end())
    assert close["type"] == "$close"
    return close["code"], close["reason"]


# --- T01


def test_t01_plain_text_to_a_tls_port_is_answered_in_plain_text(target: Target) -> None:
    with target.connect_plain() as peer:
        peer.send(json.dumps(target.auth_command()).encode() + b"\n" if target.is_tcp else upgrade())

        code, text = refused(target, peer)
        assert code == (1002 if target.is_tcp else 400)
        assert text.startswith("this port requires TLS")
    with target.connect_plain() as peer:
        peer.send(b"\0\1\2\3")

        assert peer.read_end() == b""
    target.assert_counted("tls-refused", 2)


@pytest.mark.parametrize("environment", choose((*PLAIN, "tcp")), indirect=True)
def test_t01_tls_to_a_plain_port_is_answered(target: Target) -> None:
    with target.connect_plain() as peer:
        peer.send(first_flight(ssl.create_default_context()))

        code, text = refused(target, peer)
        assert code == (1002 if target.is_tcp else 400)
        assert text
    target.assert_counted("protocol-fault" if target.is_tcp else "refused-request")


def test_t01_stalled_handshakes_time_out(target: Target) -> None:
    """One timer runs from accept, through TLS and the HTTP request: silent, slow, and stopped at each step."""
    hello = first_flight(target.trust)
    dials = [target.connect_plain] * 4 + [target.connect]
    with connections(dial() for dial in dials) as (silent, slow, begun, halted, established):
        halted.send(hello)
        established.send(b"" if target.is_tcp else b"G")
        nothing = [b""] * 200
        assert trickle({silent: nothing, begun: [hello[:100], *nothing], slow: [bytes([byte]) for byte in hello[:200]]})

        for peer in (silent, slow, begun):
            assert peer.read_end() == b""
        assert halted.read_end().startswith(b"\x16"), "it has the hello of the server"
        assert b"408" in established.read_end(), "it gets a reason"
    target.assert_counted("handshake-timeout", 4 if target.is_tcp else 5)
    if target.is_tcp:
        target.assert_counted("closed-4408")  # it was admitted to send its token


# --- T02


def test_t02_old_versions_are_refused_with_an_alert(target: Target, subtests: pytest.Subtests) -> None:
    handshake_failure, protocol_version = b"\x28", b"\x46"
    versions = {
        "SSL 3": (0x0300, handshake_failure),
        "TLS 1.0": (0x0301, protocol_version),
        "TLS 1.1": (0x0302, protocol_version),
    }
    for name, (version, reason) in versions.items():
        with subtests.test(name), target.connect_plain() as peer:
            peer.send(old_hello(version))

            alert = peer.read_end()
            assert (alert[:1], alert[5:]) == (b"\x15", b"\x02" + reason)  # an alert, and fatal
    target.assert_counted("tls-refused", len(versions))


WEAK = {
    "SHA-1": "ECDHE-ECDSA-AES256-SHA",
    "no encryption": "ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0",
    "no certificate": "AECDH-AES256-SHA:@SECLEVEL=0",
    "no forward secrecy": "AES256-GCM-SHA384",
}


def test_t02_weak_suites_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    for name, suites in WEAK.items():
        with subtests.test(name), pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            Peer(target.port, tls=offering(target, suites)).close()
    target.assert_counted("tls-refused", len(WEAK))

    Peer(target.port, tls=offering(target, "ECDHE-ECDSA-AES128-GCM-SHA256")).close()


def offering(target: Target, suites: str) -> ssl.SSLContext:
    """A client of TLS 1.2 that offers only these suites."""
    context = ssl.create_default_context(cafile=str(target.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suites)
    return context


# --- T03


def test_t03_a_new_certificate_is_used_for_new_handshakes_only(target: Target, tmp_path: Path) -> None:
    """An invalid file changes nothing; connected clients stay connected."""
    renewed = write_certificate(tmp_path / "renewed.pem")
    old, new = target.certificate.read_bytes(), renewed.read_bytes()
    trust = ssl.create_default_context(cafile=str(renewed))
    with target.open() as peer:
        peer.next_item("$hello")
        try:
            reload(target, b"broken")
            target.assert_counted("certificate-failed")
            target.connect().close()

            reload(target, new)
            target.assert_counted("certificate-reloaded")
            Peer(target.port, tls=trust).close()
            with pytest.raises(ssl.SSLCertVerificationError):
                target.connect()
            assert is_served(peer)
        finally:
            reload(target, old)  # which all other tests trust
            target.assert_counted("certificate-reloaded", 2)
        assert is_served(peer)


def reload(target: Target, pem: bytes) -> None:
    """Write the certificate and send SIGHUP, as an operator does."""
    target.certificate.write_bytes(pem)
    target.process.signal(signal.SIGHUP)


# --- T04


def test_t04_an_end_without_close_notify_is_a_disconnect(target: Target) -> None:
    for data in (b"", b"\x17\x03\x03\x40\x00half a record", b"\x17\x03\x03\x00\x20" + bytes(32)):
        with target.open() as peer:
            peer.next_item("$hello")
            with socket.socket(fileno=peer.sock.detach()) as raw:
                raw.sendall(data)
    target.assert_counted("disconnected", 3)


def test_t04_renegotiation_is_refused(target: Target, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(target.certificate))
    forger, client = OldForger(context, tmp_path / "keys"), Client(context)
    with target.connect_plain() as peer:
        hello, received, reply = client.handshake(), b"", b""
        peer.send(hello)
        while not reply:
            received += (part := receive(peer))
            reply = client.handshake(part)
        forger.learn(hello, received)

        peer.send(reply + forger.renegotiation())

        with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
            receive_all(client, peer)


def receive_all(client: Client, peer: Peer) -> None:
    while part := receive(peer):
        client.receive(part)


def receive(peer: Peer) -> bytes:
    """The next bytes; empty at the end."""
    peer.fill()
    part = bytes(peer.buffer)
    peer.buffer.clear()
    return part


def test_t04_aborted_handshakes_leave_nothing(target: Target) -> None:
    """300, with no hello, half a hello and half a handshake; ended by a close and by a reset."""
    hello = first_flight(target.trust)
    for _ in range(50):
        with connections(target.connect_plain() for _ in range(6)) as peers:
            for number, peer in enumerate(peers):
                peer.send([b"", hello[:100], hello][number // 2])
                if number % 2:
                    peer.reset()
    assert_recovers(target)
