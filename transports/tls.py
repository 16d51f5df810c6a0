"""Certificates for `websocket` and `tcp`: from files, and again from the files when they have been renewed."""

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
    """Files that are no certificate and its key; the message is a sentence that says which and why."""


class Certificate:
    """A certificate and its key, from files in PEM; give it to `serve` as `ssl_context`.

    `certfile` holds the server's certificate and after it those that signed it (`fullchain.pem`), and may hold the key
    as well. Clients need TLS 1.2 or later, and nobody may renegotiate. One object may serve several transports.
    Raises `CertificateError`.
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
        """Who is told of reloads: kept by whoever serves with it."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.certfile!r}, {self.keyfile!r})"

    @property
    def context(self) -> ssl.SSLContext:
        """What new handshakes use. Settings that are changed in it last until the next reload."""
        return self._context

    def reload(self) -> bool:
        """Read the files again: for new handshakes, while who is connected stays so.

        If they cannot be used, what was loaded before stays, a warning is logged, and it returns False. Whoever serves
        with it counts `certificate-reloaded` or `certificate-failed`. To be called in the thread of the event loop,
        which waits for the files.
        """
        return self._use(self._try())

    async def reload_on_hangup(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Reload at each SIGHUP until cancelled, without waiting for the files; once for each process, main thread.

        Start it with `await tasks.start(certificate.reload_on_hangup)`: without a receiver SIGHUP ends a process.
        Raises `CertificateError` where there is no such signal.
        """
        if not hasattr(signal, "SIGHUP"):
            raise CertificateError("this system has no SIGHUP; call `reload` instead")
        with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
            task_status.started()
            async for _ in hangups:
                self._use(await anyio.to_thread.run_sync(self._try))

    # --- loading ---

    def _try(self) -> ssl.SSLContext | CertificateError:
        try:
            return self._load()
        except CertificateError as error:
            return error

    def _use(self, outcome: ssl.SSLContext | CertificateError) -> bool:
        if isinstance(outcome, ssl.SSLContext):
            self._context = outcome
            logger.info("the certificate in %s was loaded again", self.certfile)
        else:
            logger.warning("the certificate was not loaded again, the one before stays: %s", outcome)
        is_good = outcome is self._context
        for count in dict.fromkeys(self.counts):
            count("certificate-reloaded" if is_good else "certificate-failed")
        return is_good

    def _load(self) -> ssl.SSLContext:
        for path, what in ((self.certfile, "certificate"), (self.keyfile, "key")):
            try:  # OpenSSL does not say which file it cannot read
                Path(path).open("rb").close()
            except OSError as error:
                raise CertificateError(f"cannot read the {what} in {path}: {error.strerror}") from None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        refuse_renegotiation(context)
        passwords: list[str] = []

        def tell_password() -> str:
            if self._password is None:  # OpenSSL would ask on the terminal, and wait
                raise CertificateError(f"the key in {self.keyfile} is encrypted; give its password, or one without")
            passwords.append(self._password)
            return self._password

        try:
            context.load_cert_chain(self.certfile, self.keyfile, tell_password)
        except (OSError, ValueError) as error:
            raise CertificateError(self._explain(getattr(error, "reason", None), was_asked=bool(passwords))) from None
        return context

    def _explain(self, reason: str | None, *, was_asked: bool) -> str:
        """Why OpenSSL has not taken the files, of which it says little."""
        if reason in _MISMATCHES:
            return f"the key in {self.keyfile} is not that of the certificate in {self.certfile}"
        if not _holds_certificates(self.certfile):
            return f"{self.certfile} is no certificate in PEM, or not whole"
        if was_asked:
            return f"the password does not open the key in {self.keyfile}"
        if reason is None:
            return f"{self.keyfile} is no private key in PEM, or not whole"
        sentence = reason.lower().replace("_", " ")  # such as EE_KEY_TOO_SMALL
        return f"OpenSSL takes neither {self.certfile} nor its key: {sentence}"


def _holds_certificates(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except OSError:
        return False
    return True


Security: TypeAlias = ssl.SSLContext | Certificate


@contextmanager
def using(source: Security | None, count: Callable[[str], None]) -> Iterator[None]:
    """Serve with `source`; `count` is told of its reloads, once however many servers it has.

    Raises `TypeError` or `ValueError` for what no server can use. Switches renegotiation off in a context.
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
        raise TypeError(f"ssl_context must be an SSLContext or a Certificate, not {source!r}")
    if source.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl_context is one for clients; make it with `create_default_context(Purpose.CLIENT_AUTH)`")


def refuse_renegotiation(context: ssl.SSLContext) -> None:
    """A handshake costs a server far more than a client, who could ask for one after the other."""
    context.options |= ssl.OP_NO_RENEGOTIATION


__all__ = ["Certificate", "CertificateError"]
