"""Certificates for `websocket` and `tcp`: loaded from files, and reloaded when the files have been renewed."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Final, TypeAlias

import anyio
import anyio.abc
import anyio.to_thread

from ..exceptions import HubError
from ..telemetry import logger

_MISMATCHES: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


class CertificateError(HubError):
    """The files are not a certificate and its key; the message says which file is invalid, and why."""


class Certificate:
    """A certificate and its key, from files in PEM; give it to `serve` as `ssl_context`.

    `certfile` has the server's certificate and after it those that signed it (`fullchain.pem`), and may have the key as
    well. Clients need TLS 1.2 or later, and cannot renegotiate. One object may serve several transports. Raises
    `CertificateError`.
    """

    def __init__(
        self,
        certfile: str | PathLike[str],
        keyfile: str | PathLike[str] | None = None,
        password: str | None = None,
    ) -> None:
        self.certfile: Final = fspath(certfile)
        self.keyfile: Final = self.certfile if keyfile is None else fspath(keyfile)
        self._password = password
        self._context = self._load()
        self.counts: list[Callable[[str], None]] = []
        """Functions that count reloads: maintained by the transports that serve with it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.certfile!r}, {self.keyfile!r})"

    @property
    def context(self) -> ssl.SSLContext:
        """The context of new handshakes. Settings that are changed in it last until the next reload."""
        return self._context

    def reload(self) -> bool:
        """Read the files again, for new handshakes; established connections stay open.

        If the new files are invalid, the previous certificate stays in use, a warning is logged, and `reload` returns
        False. Hubs that use it count `certificate-reloaded` or `certificate-failed`. Call it on the event loop's
        thread; it blocks the loop while the files are read.
        """
        return self._use(self._try_load())

    async def reload_on_hangup(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reload at each SIGHUP until cancelled, without blocking the event loop. One call in a process, main thread.

        Start it with `await tasks.start(certificate.reload_on_hangup)`: without a handler SIGHUP ends the process.
        Raises `CertificateError` on a system without this signal.
        """
        if not hasattr(signal, "SIGHUP"):
            raise CertificateError("this system has no SIGHUP; call `reload` instead")
        with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
            task_status.started()
            async for _ in hangups:
                self._use(await anyio.to_thread.run_sync(self._try_load))

    # --- loading

    def _try_load(self) -> ssl.SSLContext | CertificateError:
        try:
            return self._load()
        except CertificateError as error:
            return error

    def _use(self, outcome: ssl.SSLContext | CertificateError) -> bool:
        if isinstance(outcome, ssl.SSLContext):
            self._context = outcome
            logger.info("the certificate in %s was reloaded", self.certfile)
        else:
            logger.warning("the certificate was not reloaded; the previous one stays in use: %s", outcome)
        is_valid = outcome is self._context
        for count in dict.fromkeys(self.counts):
            count("certificate-reloaded" if is_valid else "certificate-failed")
        return is_valid

    def _load(self) -> ssl.SSLContext:
        for path, what in ((self.certfile, "certificate"), (self.keyfile, "key")):
            try:  # OpenSSL does not report which file it cannot read
                Path(path).open("rb").close()
            except OSError as error:
                raise CertificateError(f"cannot read the {what} in {path}: {error.strerror}") from None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        refuse_renegotiation(context)
        passwords: list[str] = []

        def get_password() -> str:
            if self._password is None:  # OpenSSL would prompt on the terminal, and wait
                raise CertificateError(f"the key in {self.keyfile} is encrypted; password is missing")
            passwords.append(self._password)
            return self._password

        try:
            context.load_cert_chain(self.certfile, self.keyfile, get_password)
        except (OSError, ValueError) as error:
            raise CertificateError(self._explain(getattr(error, "reason", None), was_asked=bool(passwords))) from None
        return context

    def _explain(self, reason: str | None, *, was_asked: bool) -> str:
        """Why OpenSSL rejects the files, from the little that it reports."""
        if reason in _MISMATCHES:
            return f"the key in {self.keyfile} does not match the certificate in {self.certfile}"
        if not _holds_certificates(self.certfile):
            return f"{self.certfile} is not a certificate in PEM, or is incomplete"
        if was_asked:
            return f"the password for the key in {self.keyfile} is wrong"
        if reason is None:
            return f"{self.keyfile} is not a private key in PEM, or is incomplete"
        text = reason.lower().replace("_", " ")  # such as EE_KEY_TOO_SMALL
        return f"OpenSSL rejects {self.certfile} or its key: {text}"


def _holds_certificates(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except OSError:
        return False
    return True


Security: TypeAlias = ssl.SSLContext | Certificate


@contextmanager
def using(source: Security | None, count: Callable[[str], None]) -> Iterator[None]:
    """Serve with `source`, and count its reloads: with each `count` once, however many servers use it.

    Raises `TypeError` or `ValueError` for an invalid source. Disables renegotiation in a context.
    """
    if isinstance(source, Certificate):
        source.counts.append(count)
    elif source is not None:
        _check(source)
        refuse_renegotiation(source)
    try:
        yield
    finally:
        if isinstance(source, Certificate):
            source.counts.remove(count)


def _check(source: object) -> None:
    if not isinstance(source, ssl.SSLContext):
        raise TypeError(f"ssl_context is {source!r}; it must be an SSLContext or a Certificate")
    if source.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl_context is for clients; create it with `create_default_context(Purpose.CLIENT_AUTH)`")


def refuse_renegotiation(context: ssl.SSLContext) -> None:
    """A handshake costs a server far more than a client, which could request one after the other."""
    context.options |= ssl.OP_NO_RENEGOTIATION


__all__ = ["Certificate", "CertificateError"]
