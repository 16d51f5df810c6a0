"""TLS between the bytes of a socket and those of the protocol over it; no I/O of its own.

`ssl.SSLSocket` reads on for as long as there are records without data: 100,000 key updates, 2.7 MB of a peer without a
token, kept one `recv` of it busy for 2.7 s, and every other client with it. So OpenSSL never sees the socket here. It
gets what one `recv` of ours has brought and is called until it has no more, and its own records wait behind the frames.
No decrypted data is ever left inside, where no selector would report it, and no read waits until it may write. A frame
of 4 KiB costs 1 µs more that way, beside 5 of `SSLSocket.send`.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final

RECORD: Final = 4096
"""Bytes put in one record. A memory BIO keeps the room that it has once needed: with 16 KiB, the most a record may
have, every client would hold 15 KiB more for good."""
LONGEST_RECORD: Final = 16 * 1024
MAX_HELLO: Final = 16 * 1024
"""OpenSSL takes 128 KiB and allocates what was declared at once: 100 KiB for the 10 bytes that declare it. Real ones
have 300 bytes to 4 KiB."""
_HEADERS: Final = 9  # of the record, 5 bytes, and of the message in it
_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 1


class NotTLS(Exception):
    """The first bytes of the peer are not those of a TLS handshake."""


def is_hello_complete(data: bytes) -> bool:
    """Whether `data`, the first bytes of a peer, holds the first record of a handshake to its end.

    Until then OpenSSL is not called, and a peer that sends half of it costs the bytes it has sent.
    Raises `NotTLS`, also for a hello that no client sends: longer than `MAX_HELLO`, or split into tiny records.
    """
    if data and data[0] != _HANDSHAKE:
        raise NotTLS
    if len(data) < _HEADERS:
        return False
    size, declared = int.from_bytes(data[3:5], "big"), int.from_bytes(data[6:9], "big")
    if data[5] != _CLIENT_HELLO or declared > MAX_HELLO or not _HEADERS - 5 <= size <= LONGEST_RECORD:
        raise NotTLS
    return len(data) >= 5 + size


class TLS:
    """The server's side of one connection. After each call that was fed, send what `take_answers` returns.

    What OpenSSL does not accept raises `ssl.SSLError`, after which only `take_answers` makes sense.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "has_ended", "unsent")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.has_ended = False
        """Whether the peer has announced that nothing more comes, or has closed without doing so."""
        self.unsent = 0
        """Bytes of answers that wait for the peer: maintained by the owner."""

    @property
    def is_fed(self) -> bool:
        """Whether bytes of the peer wait for `decrypt`: after a handshake, what came with its end."""
        return self._incoming.pending > 0

    def do_handshake(self, data: bytes) -> bool:
        """Continue the handshake; whether it is done."""
        self._incoming.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def feed(self, data: bytes) -> None:
        """What the socket has brought; empty for its end."""
        if data:
            self._incoming.write(data)
        else:
            self.has_ended = True

    def decrypt(self) -> bytes:
        """The data in what was fed, which may be empty."""
        parts: list[bytes] = []
        with suppress(ssl.SSLWantReadError):
            while part := self._object.read(LONGEST_RECORD):
                parts.append(part)
            self.has_ended = True
        return b"".join(parts)

    def encrypt(self, data: bytes) -> bytes:
        """`data` as records. Raises `SSLWantReadError` if the peer wants to renegotiate, which is not allowed."""
        write, read = self._object.write, self._outgoing.read
        if len(data) <= RECORD:
            write(data)
            return read()
        view = memoryview(data)
        records: list[bytes] = []
        for start in range(0, len(view), RECORD):
            write(view[start : start + RECORD])
            records.append(read())
        return b"".join(records)

    def take_answers(self) -> bytes:
        """The records of TLS itself, to be sent: a part of the handshake, an answer to a key update, an alert."""
        return self._outgoing.read()

    def shutdown(self) -> None:
        """End (close_notify), without waiting for the peer's. Only `take_answers` makes sense afterwards."""
        with suppress(OSError):  # it wants to wait for that, or the handshake was never finished
            self._object.unwrap()
