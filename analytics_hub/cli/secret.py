"""Where the commands find the secret that signs tokens: the user's own, or one that the demo makes and keeps.

Never from the command line, where every user of the machine can read it.
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
    """There is no secret that may be used; the message says why and what to do."""


def given_secret(path: str | None) -> str | None:
    """The secret in the file `path`, else that of the environment, else None."""
    if path is not None:
        try:
            with Path(path).open("rb") as file:
                return _check(file.read(MAX_BYTES + 1), path)
        except OSError as error:
            raise SecretError(f"cannot read the secret in {path}: {error.strerror}") from None
    if value := os.environ.get(ENVIRONMENT):
        return _check(os.fsencode(value), ENVIRONMENT)
    return None


def demo_secret() -> tuple[str, Path] | None:
    """The secret that a demo of this user has left, and where; None if there was none yet."""
    for path in _places():
        if (secret := read_private(path)) is not None:
            return secret, path
    return None


def make_demo_secret() -> tuple[str, Path]:
    """Make a secret where `demo_secret` finds it. Where another process was faster, it is that one's."""
    reasons: list[str] = []
    for path in _places():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_temporary(path)
            _write_private(path, secrets.token_urlsafe(48))
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
        else:
            secret = read_private(path)
            assert secret is not None
            return secret, path
    raise SecretError(f"no place for a secret ({'; '.join(reasons)}); set {ENVIRONMENT}")


def read_private(path: Path) -> str | None:
    """The secret in `path`, None if there is no such file. Anyone else's file is refused: who wrote it can sign."""
    try:
        _check_temporary(path)
        # Without waiting for a writer, should somebody have put a pipe there.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if not os.path.lexists(path):
            return None
        what = "is a symbolic link, not a secret" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise SecretError(f"{path} {what}; remove it") from None
    try:
        _check_private(path, os.fstat(descriptor), stat.S_ISREG)
        return _check(os.read(descriptor, MAX_BYTES + 1), str(path))
    finally:
        os.close(descriptor)


def _places() -> Iterator[Path]:
    """The state folder of the user, then a folder of the user's in the temporary one."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if state.startswith("/"):  # a relative one is to be ignored, says the XDG specification
        yield Path(state, "analytics-hub", "demo-secret")
    else:
        with contextlib.suppress(RuntimeError):  # there may be no home at all
            yield Path.home() / ".local" / "state" / "analytics-hub" / "demo-secret"
    yield Path(tempfile.gettempdir(), f"analytics-hub-{_user()}", "demo-secret")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _check_temporary(path: Path) -> None:
    """Where everyone may create folders, somebody else may have created this one first."""
    folder = path.parent
    if folder.parent == Path(tempfile.gettempdir()) and folder.exists():
        _check_private(folder, folder.lstat(), stat.S_ISDIR)


def _check_private(path: Path, found: os.stat_result, is_right: Callable[[int], bool]) -> None:
    if not is_right(found.st_mode):
        raise SecretError(f"{path} is no ordinary {'file' if is_right is stat.S_ISREG else 'folder'}; remove it")
    if os.name != "posix":
        return
    if found.st_uid != _user():
        raise SecretError(f"{path} belongs to another user, who could sign tokens with it; remove it")
    if found.st_mode & 0o077:
        right = "600" if is_right is stat.S_ISREG else "700"
        raise SecretError(f"{path} is open to other users; remove it, or if nobody has read it: chmod {right} {path}")


def _write_private(path: Path, secret: str) -> None:
    """Create `path` whole or not at all; a file that is there already stays."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secret + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename, fails if somebody else was faster
    finally:
        draft.unlink()


def _check(value: bytes, source: str) -> str:
    secret = value.strip()
    if len(secret) > MAX_BYTES:
        raise SecretError(f"the secret in {source} is longer than {MAX_BYTES} bytes; that is no secret")
    if len(secret) < MIN_BYTES:
        raise SecretError(
            f"the secret in {source} has {len(secret)} bytes; it needs at least {MIN_BYTES}, "
            "for example from: openssl rand -base64 48"
        )
    try:
        return secret.decode()
    except UnicodeDecodeError:
        raise SecretError(f"the secret in {source} is not text; encode it, for example in Base64") from None
