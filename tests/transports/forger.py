"""Records forged with the keys of a client: Python's `ssl` neither updates keys nor renegotiates."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import struct
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23
_TAG: Final = 16


class Forger:
    """Continues after the handshake of a TLS 1.3 client that has sent no data (RFC 8446 §5.2, §7.2).

    `context` is the client's, `keylog` a file that does not exist yet; call `learn` once the handshake is done.
    """

    def __init__(self, context: ssl.SSLContext, keylog: Path) -> None:
        context.keylog_filename = str(keylog)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._keylog = keylog
        self._secret = b""

    def learn(self) -> None:
        (secret,) = [
            line.split()[2] for line in self._keylog.read_text().splitlines() if line.startswith("CLIENT_TRAFFIC")
        ]
        self._use(bytes.fromhex(secret))

    def _use(self, secret: bytes) -> None:
        self._secret, self._number = secret, 0
        # AES-256 and SHA-384, or AES-128 and SHA-256; OpenSSL negotiates the first with itself.
        self._cipher = AESGCM(self._expand(b"key", 32 if len(secret) == 48 else 16))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")

    def _expand(self, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = struct.pack("!HB", size, len(label)) + label + b"\0\x01"
        digest = hashlib.sha384 if len(self._secret) == 48 else hashlib.sha256
        return hmac.new(self._secret, info, digest).digest()[:size]

    def record(self, data: bytes, kind: int = APPLICATION_DATA) -> bytes:
        inner = data + bytes([kind])
        head = struct.pack("!BHH", APPLICATION_DATA, 0x0303, len(inner) + _TAG)
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._cipher.encrypt(nonce, inner, head)

    def key_update(self) -> bytes:
        """Use new keys from here on, and request that the server does too."""
        update = self.record(b"\x18\0\0\x01\x01", HANDSHAKE)
        self._use(self._expand(b"traffic upd", len(self._secret)))
        return update


class OldForger:
    """The same for TLS 1.2 with AES-GCM (RFC 5246 §5, §6.3, RFC 5288 §3)."""

    def __init__(self, context: ssl.SSLContext, keylog: Path) -> None:
        context.keylog_filename = str(keylog)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._keylog = keylog
        self._hello = b""

    def learn(self, client_flight: bytes, server_flight: bytes) -> None:
        """Derive the keys from the first flight of each side."""
        _, client_random, secret = (bytes.fromhex(word) if at else b"" for at, word in enumerate(self._log()))
        server_random = server_flight[11:43]
        keys = _expand_12(secret, b"key expansion" + server_random + client_random, 2 * 32 + 2 * 4)
        self._cipher, self._salt, self._number = AESGCM(keys[:32]), keys[64:68], 1  # 0 was the client's Finished
        self._hello = client_flight[5:]

    def _log(self) -> list[str]:
        (line,) = [line for line in self._keylog.read_text().splitlines() if line.startswith("CLIENT_RANDOM")]
        return line.split()

    def renegotiation(self) -> bytes:
        """The client's hello again."""
        number = struct.pack("!Q", self._number)
        self._number += 1
        head = struct.pack("!BHH", HANDSHAKE, 0x0303, len(self._hello))
        sealed = self._cipher.encrypt(self._salt + number, self._hello, number + head)
        return struct.pack("!BHH", HANDSHAKE, 0x0303, 8 + len(sealed)) + number + sealed


def old_hello(version: int) -> bytes:
    """The hello of a client that supports `version` at most (RFC 4346 §7.4.1.2), with the cipher suites of its time."""
    suites = b"\xc0\x0a\xc0\x09\xc0\x14\xc0\x13\x00\x2f"
    body = version.to_bytes(2, "big") + bytes(32) + b"\0" + len(suites).to_bytes(2, "big") + suites + b"\x01\0"
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def _expand_12(secret: bytes, seed: bytes, size: int) -> bytes:
    expanded, link = b"", seed
    while len(expanded) < size:
        link = hmac.digest(secret, link, "sha384")
        expanded += hmac.digest(secret, link + seed, "sha384")
    return expanded[:size]
