"""T: TLS that is ill meant, or none at all, or begun and not finished; and certificates that are renewed."""

from __future__ import annotations

import json
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..transports.certificates import write_certificate
from ..transports.forger import OldForger, old_hello
from ..transports.test_tls import Client
from ..transports.test_tls_attacks import first_flight
from .attack import Peer, crowd, trickle, upgrade
from .target import PLAIN, TLS, Target
from .watch import targets

house = targets(*TLS, "tcp-trio-tls")


@contextmanager
def let_in(target: Target) -> Iterator[Peer]:
    """A client that has its `$hello`."""
    with target.dial() if target.is_tcp else target.open() as peer:
        if target.is_tcp:
            peer.send(json.dumps(target.credentials()).encode() + b"\n")
        while b'"$hello"' not in peer.buffer:
            assert peer.fill()
        yield peer


def is_answered(target: Target, peer: Peer) -> bool:
    peer.buffer.clear()
    peer.send(b'{"action":"ping"}\n') if target.is_tcp else peer.say({"action": "ping"})
    while b'"$pong"' not in peer.buffer and peer.fill():
        pass
    return b'"$pong"' in peer.buffer


def refused(target: Target, peer: Peer) -> tuple[int, str]:
    """The code and the sentence with which a connection was ended that never was one."""
    if not target.is_tcp:
        answer = peer.read_answer()
        return answer.status, answer.body.decode().strip()
    (close,) = json.loads(peer.read_end())
    assert close["type"] == "$close"
    return close["code"], close["reason"]


# --- T01


def test_t01_who_speaks_in_the_clear_is_told_in_the_clear(target: Target) -> None:
    with target.dial_plain() as peer:
        peer.send(json.dumps(target.credentials()).encode() + b"\n" if target.is_tcp else upgrade())

        code, sentence = refused(target, peer)
        assert code == (1002 if target.is_tcp else 400)
        assert sentence.startswith("this port speaks TLS")
    with target.dial_plain() as peer:
        peer.send(b"\0\1\2\3")

        assert peer.read_end() == b""
    target.wait_counted("tls-refused", 2)


@pytest.mark.parametrize("house", [*PLAIN, "tcp"], indirect=True)
def test_t01_tls_to_the_plain_port_is_told_so(target: Target) -> None:
    with target.dial_plain() as peer:
        peer.send(first_flight(ssl.create_default_context()))

        code, sentence = refused(target, peer)
        assert code == (1002 if target.is_tcp else 400)
        assert sentence
    target.wait_counted("protocol-fault" if target.is_tcp else "refused-request")


def test_t01_handshakes_that_stall_are_ended(target: Target) -> None:
    """The timer runs from accept, before TLS, and on after it: silent, slow, and stopped at each step."""
    hello = first_flight(target.trust)
    dials = [target.dial_plain] * 4 + [target.dial]
    with crowd(dial() for dial in dials) as (silent, slow, begun, halted, shaken):
        halted.send(hello)
        shaken.send(b"" if target.is_tcp else b"G")
        nothing = [b""] * 200
        assert trickle({silent: nothing, begun: [hello[:100], *nothing], slow: [bytes([byte]) for byte in hello[:200]]})

        for peer in (silent, slow, begun):
            assert peer.read_end() == b""
        assert halted.read_end().startswith(b"\x16"), "it has got the server's half"
        assert b"408" in shaken.read_end(), "it is told why"
    target.wait_counted("handshake-timeout", 4 if target.is_tcp else 5)
    if target.is_tcp:
        target.wait_counted("closed-4408")  # it was let in, to send its token


# --- T02


def test_t02_old_versions_are_refused_and_told_so(target: Target, subtests: pytest.Subtests) -> None:
    handshake_failure, protocol_version = b"\x28", b"\x46"
    versions = {
        "SSL 3": (0x0300, handshake_failure),
        "TLS 1.0": (0x0301, protocol_version),
        "TLS 1.1": (0x0302, protocol_version),
    }
    for name, (version, reason) in versions.items():
        with subtests.test(name), target.dial_plain() as peer:
            peer.send(old_hello(version))

            alert = peer.read_end()
            assert (alert[:1], alert[5:]) == (b"\x15", b"\x02" + reason)  # an alert, and fatal
    target.wait_counted("tls-refused", len(versions))


WEAK = {
    "SHA-1": "ECDHE-ECDSA-AES256-SHA",
    "no encryption": "ECDHE-ECDSA-NULL-SHA:@SECLEVEL=0",
    "no certificate": "AECDH-AES256-SHA:@SECLEVEL=0",
    "no forward secrecy": "AES256-GCM-SHA384",
}


def test_t02_weak_suites_are_refused(target: Target, subtests: pytest.Subtests) -> None:
    for name, suites in WEAK.items():
        with subtests.test(name), pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            Peer(target.port, tls=speaking(target, suites)).close()
    target.wait_counted("tls-refused", len(WEAK))

    Peer(target.port, tls=speaking(target, "ECDHE-ECDSA-AES128-GCM-SHA256")).close()


def speaking(target: Target, suites: str) -> ssl.SSLContext:
    """A client of TLS 1.2 that knows only these."""
    context = ssl.create_default_context(cafile=str(target.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suites)
    return context


# --- T03


def test_t03_a_new_certificate_is_for_new_handshakes_only(target: Target, tmp_path: Path) -> None:
    """Broken files change nothing; who is connected stays so, whatever happens."""
    renewed = write_certificate(tmp_path / "renewed.pem")
    old, new = target.certificate.read_bytes(), renewed.read_bytes()
    trust = ssl.create_default_context(cafile=str(renewed))
    with let_in(target) as peer:
        try:
            hang_up(target, b"broken")
            target.wait_counted("certificate-failed")
            target.dial().close()

            hang_up(target, new)
            target.wait_counted("certificate-reloaded")
            Peer(target.port, tls=trust).close()
            with pytest.raises(ssl.SSLCertVerificationError):
                target.dial()
            assert is_answered(target, peer)
        finally:
            hang_up(target, old)  # the one that all other tests trust
            target.wait_counted("certificate-reloaded", 2)
        assert is_answered(target, peer)


def hang_up(target: Target, pem: bytes) -> None:
    """What an operator does who has renewed a certificate."""
    target.certificate.write_bytes(pem)
    target.process.send_signal(signal.SIGHUP)


# --- T04


def test_t04_an_end_without_a_goodbye_is_a_hang_up(target: Target) -> None:
    for say in (b"", b"\x17\x03\x03\x40\x00half a record", b"\x17\x03\x03\x00\x20" + bytes(32)):
        with let_in(target) as peer, socket.socket(fileno=peer.sock.detach()) as raw:
            raw.sendall(say)
    target.wait_counted("disconnected", 3)


def test_t04_renegotiation_is_refused(target: Target, tmp_path: Path) -> None:
    context = ssl.create_default_context(cafile=str(target.certificate))
    forger, client = OldForger(context, tmp_path / "keys"), Client(context)
    with target.dial_plain() as peer:
        hello, heard, reply = client.shake_hands(), b"", b""
        peer.send(hello)
        while not reply:
            heard += (part := hear(peer))
            reply = client.shake_hands(part)
        forger.learn(hello, heard)

        peer.send(reply + forger.renegotiation())

        with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
            hear_out(client, peer)


def hear_out(client: Client, peer: Peer) -> None:
    while part := hear(peer):
        client.hear(part)


def hear(peer: Peer) -> bytes:
    """What comes next; nothing at the end."""
    peer.fill()
    part = bytes(peer.buffer)
    peer.buffer.clear()
    return part


def test_t04_halves_of_handshakes_leave_nothing(target: Target) -> None:
    """300 of them, with no hello, half a hello and half a handshake; ended by a close and by a reset."""
    hello = first_flight(target.trust)
    for _ in range(50):
        with crowd(target.dial_plain() for _ in range(6)) as peers:
            for number, peer in enumerate(peers):
                peer.send([b"", hello[:100], hello][number // 2])
                if number % 2:
                    peer.reset()
