"""Inputs that once broke something, by target. Every run of the tests repeats them."""

from __future__ import annotations

from typing import Final

REGRESSIONS: Final[dict[str, tuple[bytes, ...]]] = {
    "frames": (b"\x01\x82\xfe\x00\xc8" + bytes(4) + b"ab" * 100,),  # each piece was kept: thirty times the memory
    "commands-json": (
        b'{"action":"' + b"a" * 2000 + b'"}',  # error messages that repeated the whole input
        b'{"action":"ping","' + b"a" * 2000 + b'":1}',
        b"[" + b"1," * 5000 + b"1]",  # a third of a second for one message
    ),
    "commands-msgpack": (
        b"\xdc\x20\x00" + b"\xc0" * 0x2000,
        b"\x81\xa6action\xda\x07\xd0" + b"a" * 2000,
    ),
    "redaction": (b"eyJ" * 30_000,),  # quadratic time
    "query": (b"channel=a;" + b"b" * 2000 + b"=c",),
    "publish": (b'{"channel":"events","data":1,"' + b"a" * 2000 + b'":1}',),
    "input": (b'\0{"channel":"a","' + b"a" * 2000 + b'":1}',),
    "socket": (b"\0HTTP/1.1 503 Busy\r\nRetry-After: 97297\r\nContent-Length: 0\r\n\r\n",),  # more than a day
    "receipts": (
        b"\0\x1b[2J\r\n",  # a status line was printed unescaped
        b'\0HTTP/1.1 200 OK\r\n\r\n{"x":' + b"[" * 2000,  # RecursionError
        b'\0HTTP/1.1 400 No\r\n\r\n{"x":' + b"[" * 2000,
    ),
    "forwarded": (b"::1\n::%\x12",),  # an address with a control character in it
    "url": (b"ws://\0",),  # a host that no resolver accepts
}
