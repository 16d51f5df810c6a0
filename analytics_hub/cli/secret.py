"""The secret that signs tokens: configured by the user, or created and kept by the demo.

It is never taken from the command line, where every user of the machine can read it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..exceptions import HubError

ENVIRONMENT: Final = "ANALYTICS_HUB_SECRET"
MIN_BYTES: Final = 32
MAX_BYTES: Final = 4096


class SecretError(HubError):
    """There is no usable secret; the message says why and what to do."""


def configured_secret(path: str | None) -> str | None:
    """The secret in the file `path`, otherwise that of the environment, otherwise None."""
    if path is not None:
        try:
            with Path(path).open("rb") as file:
                return _validate(file.read(MAX_BYTES + 1), path)
        except OSError as error:
            raise SecretError(f"cannot read the secret in {path}: {error.strerror}") from None
    if value := os.environ.get(ENVIRONMENT):
        return _validate(os.fsencode(value), ENVIRONMENT)
    return None


def demo_secret() -> tuple[str, Path] | None:
    """The secret that a demo of this user has created, and its path; None if there is none yet."""
    for path in _paths():
        if (secret := read_private(path)) is not None:
            return secret, path
    return None


def make_demo_secret() -> tuple[str, Path]:
    """Create a secret where `demo_secret` finds it, or return the one that another process has just created."""
    reasons: list[str] = []
    for path in _paths():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _validate_temporary(path)
            _write_private(path, secrets.token_urlsafe(48))
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
        else:
            secret = read_private(path)
            assert secret is not None
            return secret, path
    raise SecretError(f"cannot store a secret ({'; '.join(reasons)}); set {ENVIRONMENT}")


def read_private(path: Path) -> str | None:
    """The secret in `path`, None if there is no such file. A file of another user is refused: its owner could sign."""
    try:
        _validate_temporary(path)
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if not os.path.lexists(path):
            return None
        what = "is a symbolic link, not a secret" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise SecretError(f"{path} {what}; remove it") from None
    try:
        _validate_private(path, os.fstat(descriptor), stat.S_ISREG)
        return _validate(os.read(descriptor, MAX_BYTES + 1), str(path))
    finally:
        os.close(descriptor)


def _paths() -> Iterator[Path]:
    """In the state folder of the user, then in a private folder in the temporary one."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):  # the XDG specification requires to ignore a relative one
        yield Path(state, "analytics-hub", "demo-secret")
    else:
        with contextlib.suppress(RuntimeError):  # the user may have no home
            yield Path.home() / ".local" / "state" / "analytics-hub" / "demo-secret"
    yield Path(tempfile.gettempdir(), f"analytics-hub-{_user()}", "demo-secret")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _validate_temporary(path: Path) -> None:
    """Every user may create folders in the temporary one: another user may have created this one first."""
    folder = path.parent
    if folder.parent == Path(tempfile.gettempdir()) and folder.exists():
        _validate_private(folder, folder.lstat(), stat.S_ISDIR)


def _validate_private(path: Path, found: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if not is_kind(found.st_mode):
        raise SecretError(f"{path} is not an ordinary {'file' if is_kind is stat.S_ISREG else 'folder'}; remove it")
    if os.name != "posix":
        return
    if found.st_uid != _user():
        raise SecretError(f"{path} belongs to another user and could be used to sign tokens; remove it")
    if found.st_mode & 0o077:
        mode = "600" if is_kind is stat.S_ISREG else "700"
        raise SecretError(
            f"{path} is accessible to other users; remove it, or if it has not been read: chmod {mode} {path}"
        )


def _write_private(path: Path, secret: str) -> None:
    """Create `path` atomically; an existing file is kept."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename, fails if the file exists
    finally:
        draft.unlink()


def _validate(value: bytes, source: str) -> str:
    secret = value.strip()
    if len(secret) > MAX_BYTES:
        raise SecretError(f"the secret in {source} is longer than {MAX_BYTES} bytes")
    if len(secret) < MIN_BYTES:
        raise SecretError(
            f"the secret in {source} has {len(secret)} bytes; it must have at least {MIN_BYTES}, "
            "for example from: openssl rand -base64 48"
        )
    try:
        return secret.decode()
    except UnicodeDecodeError:
        raise SecretError(f"the secret in {source} is not text; encode it, for example in Base64") from None
