"""The command line: secrets, tokens, arguments, and failures that are reported in one line."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analytics_hub import __version__
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.cli import main
from analytics_hub.cli.bearer import token_source
from analytics_hub.cli.secret import (
    ENVIRONMENT,
    SecretError,
    configured_secret,
    demo_secret,
    make_demo_secret,
    read_private,
)
from analytics_hub.client.target import Address
from analytics_hub.contracts import Handshake
from analytics_hub.identity import Identity

SECRET = "s" * 32
posix_only = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state folder for the test, and no secrets in the environment; returns the path of the secret of the demo."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.delenv("ANALYTICS_HUB_TOKEN", raising=False)
    return tmp_path / "state" / "analytics-hub" / "demo-secret"


def write_secret(path: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def identity(token: str, secret: str = SECRET) -> Identity:
    found = JWTAuthenticator(secret, algorithms=["HS256"])(Handshake(token=token))
    assert isinstance(found, Identity)
    return found


class TestSecretOfTheDemo:
    def test_it_is_created_once_with_access_for_its_owner_only(self, state: Path) -> None:
        assert demo_secret() is None

        made = make_demo_secret()

        assert made == demo_secret() == make_demo_secret() == (made[0], state)
        assert len(made[0]) >= 32
        assert list(state.parent.iterdir()) == [state], "no draft is left"
        if os.name == "posix":
            assert stat.S_IMODE(state.stat().st_mode) == 0o600
            assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700

    def test_each_secret_is_random(self, state: Path) -> None:
        first, _ = make_demo_secret()
        state.unlink()

        assert make_demo_secret()[0] != first

    def test_without_a_state_folder_it_is_in_the_home_folder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")

        assert make_demo_secret()[1] == tmp_path / ".local/state/analytics-hub/demo-secret"

    def test_if_the_state_folder_cannot_be_written_it_is_in_a_temporary_one(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))

        secret, path = make_demo_secret()

        assert path.parent.parent == tmp_path
        assert re.fullmatch(r"analytics-hub-[0-9]+", path.parent.name)
        assert demo_secret() == (secret, path)

    def test_if_no_folder_can_be_written_an_exception_says_so(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))

        assert demo_secret() is None
        with pytest.raises(SecretError, match=f"cannot store a secret .*; set {ENVIRONMENT}"):
            make_demo_secret()

    @posix_only
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_a_file_that_is_accessible_to_other_users_is_refused(self, state: Path, mode: int) -> None:
        write_secret(state, mode=mode)

        with pytest.raises(SecretError, match="accessible to other users"):
            demo_secret()

    @posix_only
    def test_a_file_of_another_user_is_refused(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_secret(state)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

        with pytest.raises(SecretError, match="belongs to another user"):
            demo_secret()

    @posix_only
    @pytest.mark.parametrize("exists", [True, False], ids=["link", "dangling"])
    def test_a_symbolic_link_is_refused(self, state: Path, tmp_path: Path, exists: bool) -> None:
        state.parent.mkdir(parents=True)
        state.symlink_to(write_secret(tmp_path / "elsewhere") if exists else tmp_path / "nothing")

        with pytest.raises(SecretError, match="symbolic link"):
            demo_secret()

    @posix_only
    def test_pipes_and_folders_are_refused_without_waiting(self, state: Path) -> None:
        state.parent.mkdir(parents=True)
        os.mkfifo(state, 0o600)
        with pytest.raises(SecretError, match="not an ordinary file"):
            demo_secret()

        state.unlink()
        state.mkdir(0o700)
        with pytest.raises(SecretError, match="not an ordinary file"):
            demo_secret()

    @posix_only
    def test_a_temporary_folder_that_is_accessible_to_other_users_is_refused(self, tmp_path: Path) -> None:
        folder = tmp_path / "analytics-hub-7"
        folder.mkdir()
        folder.chmod(0o755)

        with pytest.raises(SecretError, match="chmod 700"):
            read_private(folder / "demo-secret")

    @posix_only
    def test_a_temporary_folder_that_is_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(0o700)
        (tmp_path / "analytics-hub-7").symlink_to(tmp_path / "real")

        with pytest.raises(SecretError, match="not an ordinary folder"):
            read_private(tmp_path / "analytics-hub-7" / "demo-secret")

    @pytest.mark.parametrize(
        ("content", "message"),
        [("", "has 0 bytes"), ("short\n", "has 5 bytes; it must have at least 32"), ("x" * 5000, "longer than 4096")],
    )
    def test_an_invalid_secret_is_refused(self, state: Path, content: str, message: str) -> None:
        write_secret(state, content)

        with pytest.raises(SecretError, match=message):
            demo_secret()


class TestConfiguredSecret:
    def test_the_file_takes_precedence_over_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        assert configured_secret(None) is None
        monkeypatch.setenv(ENVIRONMENT, "e" * 32)

        assert configured_secret(None) == "e" * 32
        assert configured_secret(str(write_secret(tmp_path / "mine", SECRET + "\n", 0o644))) == SECRET

    def test_an_empty_variable_counts_as_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENVIRONMENT, "")

        assert configured_secret(None) is None

    def test_an_invalid_secret_is_refused_without_showing_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(ENVIRONMENT, "hidden")
        (tmp_path / "binary").write_bytes(b"\xff" * 32)

        with pytest.raises(SecretError, match=f"{ENVIRONMENT} has 6 bytes") as caught:
            configured_secret(None)
        assert "hidden" not in str(caught.value)
        with pytest.raises(SecretError, match="not text"):
            configured_secret(str(tmp_path / "binary"))
        with pytest.raises(SecretError, match=r"cannot read the secret in .*nothing: No such file"):
            configured_secret(str(tmp_path / "nothing"))


Output = Callable[[], tuple[str, str]]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    return lambda: tuple(capsys.readouterr())  # type: ignore[return-value]


class TestToken:
    def test_stdout_is_the_token_alone(self, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENVIRONMENT, SECRET)

        code = main(
            ["token", "--sub", "ann", "--role", "trader", "--role", "monitor", "--account", "A1", "--ttl", "5m"]
        )
        out, err = output()
        found = identity(out.strip())

        assert code == 0
        assert out.count("\n") == 1
        assert (found.id, found.roles, found.account) == ("ann", frozenset({"trader", "monitor"}), "A1")
        assert "for ann with trader, monitor, valid for 300 s" in err
        assert SECRET not in err

    def test_the_secret_of_the_demo_is_the_default(self, output: Output) -> None:
        secret, path = make_demo_secret()

        assert main(["token"]) == 0
        out, err = output()
        assert identity(out.strip(), secret).roles == {"admin"}
        assert str(path) in err

    def test_without_a_secret_the_message_says_what_to_do(self, output: Output) -> None:
        assert main(["token"]) == 1
        out, err = output()
        assert out == ""
        assert re.fullmatch(r"analytics-hub: no secret found: .*`analytics-hub demo`.*--secret-file\n", err)

    def test_an_invalid_claim_is_refused(self, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENVIRONMENT, SECRET)

        assert main(["token", "--sub", ""]) == 1
        assert "printable characters" in output()[1]


class TestConnectingCommands:
    """`tail` and `publish` before they connect."""

    @pytest.mark.parametrize("command", ["tail", "publish"])
    def test_an_invalid_url_is_refused_without_showing_it(self, command: str, output: Output) -> None:
        assert main([command, "ftp://localhost?token=hidden"]) == 1
        start = "http://, https://, ws:// or wss:// and name a host, like http://localhost:7999"
        assert output() == ("", f"analytics-hub: the URL must begin with {start}\n")

    def test_without_a_token_none_is_sent(self) -> None:
        assert token_source(None, Address.parse("ws://localhost:7999")) is None

    def test_the_secret_of_the_demo_is_used_for_this_machine_only(self, output: Output) -> None:
        secret, _ = make_demo_secret()
        local = token_source(None, Address.parse("ws://localhost:7999"))

        assert local is not None
        assert identity(str(local()), secret).id == "admin"
        assert output()[1] == "analytics-hub: using a token of the local demo\n"
        assert token_source(None, Address.parse("wss://hub.example")) is None

    @pytest.mark.parametrize("content", ["", "two words", "a\x00b", "ü"])
    def test_an_invalid_token_in_a_file(self, content: str, output: Output, tmp_path: Path) -> None:
        (tmp_path / "token").write_text(content)

        assert main(["tail", "ws://localhost:1", "--token-file", str(tmp_path / "token")]) == 1
        assert f"the token in {tmp_path / 'token'} is invalid" in output()[1]

    def test_a_missing_token_file(self, output: Output, tmp_path: Path) -> None:
        assert main(["tail", "ws://localhost:1", "--token-file", str(tmp_path / "token")]) == 1
        assert "cannot read the token" in output()[1]


class TestDemo:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "hub.example"])
    def test_a_public_host_requires_a_configured_secret(self, host: str, output: Output) -> None:
        make_demo_secret()

        assert main(["demo", "--host", host]) == 1
        out, err = output()
        assert out == ""
        assert err == (
            f"analytics-hub: --host {host} is reachable from other machines; "
            "set ANALYTICS_HUB_SECRET or --secret-file first\n"
        )

    def test_an_unreadable_certificate(self, output: Output) -> None:
        assert main(["demo", "--certfile", "/nowhere.pem"]) == 1
        assert output()[1] == (
            "analytics-hub: cannot read the certificate in /nowhere.pem: No such file or directory\n"
        )
        assert main(["demo", "--keyfile", "key.pem"]) == 1
        assert output()[1] == "analytics-hub: --keyfile needs --certfile\n"

    def test_a_port_in_use(self, output: Output) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

            assert main(["demo", "--port", str(port)]) == 1

        assert output()[1] == (
            f"analytics-hub: cannot listen on 127.0.0.1:{port}: address in use; another program listens there, or "
            "another process of this one, such as a second worker: stop it, or choose another place "
            "(port 0 is any free port)\n"
        )

    def test_an_address_of_another_machine(self, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENVIRONMENT, SECRET)

        assert main(["demo", "--host", "192.0.2.1", "--port", "0"]) == 1
        assert output()[1].startswith("analytics-hub: cannot listen on 192.0.2.1:0: ")

    def test_a_missing_feed(self, output: Output, tmp_path: Path) -> None:
        assert main(["demo", "--port", "0", "--feed", str(tmp_path / "nothing")]) == 1
        assert output()[1].endswith("nothing: No such file or directory\n")


class TestArguments:
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["nothing"],
            ["demo", "--port", "65536"],
            ["demo", "--port", "x"],
            ["demo", "--port", "1.5"],
            ["demo", "--rate", "0"],
            ["demo", "--rate", "20001"],
            ["demo", "--rate", "nan"],
            ["demo", "--seed", "x"],
            ["demo", "--profile", "fastest"],
            ["token", "--ttl", "0"],
            ["token", "--ttl", "1w"],
            ["token", "--ttl", "-5"],
            ["token", "--secret", SECRET],
            ["tail"],
            ["tail", "ws://localhost", "--last", "-1"],
            ["tail", "ws://localhost", "--last", "1", "--snapshot"],
            ["publish"],
        ],
        ids=" ".join,
    )
    def test_wrong_usage_exits_with_code_2(self, arguments: list[str], output: Output) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: analytics-hub" in output()[1]

    @pytest.mark.parametrize(
        "arguments", [["--help"], ["demo", "--help"], ["token", "--help"], ["tail", "--help"], ["publish", "--help"]]
    )
    def test_help(self, arguments: list[str], output: Output) -> None:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert "usage: analytics-hub" in output()[0]

    def test_the_package_runs_as_the_command(self) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "analytics_hub", "--version"], capture_output=True, text=True, check=True
        )

        assert run.stdout == f"analytics-hub {__version__}\n"
