"""Issues tokens, for the login of an application and for tests."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import msgspec
from jwt import PyJWS

from ...channels import shorten
from .claims import MAX_TEXT, Claims
from .keys import Key, check_algorithms, fit, load_algorithms


def mint(
    key: Key,
    *,
    subject: str,
    roles: Iterable[str] = (),
    ttl: float = 3600.0,
    algorithm: str = "HS256",
    now: float | None = None,
    **claims: object,
) -> str:
    """A token for `subject` that is valid for `ttl` seconds from `now` (the wall clock's, if None).

    Raises `ValueError` for claims or a key that `JWTAuthenticator` would refuse.
    """
    if not 0 < ttl < math.inf:
        raise ValueError(f"ttl is {ttl!r}; it must be a number of seconds greater than 0")
    now = time.time() if now is None else now
    body = {"sub": subject, "roles": list(roles), "iat": math.floor(now), "exp": math.ceil(now + ttl), **claims}
    try:
        is_well_formed = msgspec.convert(body, Claims).is_well_formed()
    except msgspec.ValidationError as error:
        raise ValueError(f"claims of a token: {error}") from None
    if not is_well_formed:
        raise ValueError(
            f"claims of a token for {shorten(subject)}: subject, roles, account and jti must be 1 to {MAX_TEXT} "
            "printable characters, channels must be names or patterns"
        )
    ((prepared, _),) = fit([key], load_algorithms(check_algorithms([algorithm])))
    return PyJWS(algorithms=[algorithm]).encode(msgspec.json.encode(body), prepared, algorithm=algorithm)
