"""An ssh server of this machine, for this test alone."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

MISSING = next(
    (f"{name} is not installed" for name, path in (("sshd", SSHD), ("ssh", shutil.which("ssh"))) if path is None), None
)
"""Why there can be no server here; None if there can."""


@dataclass(frozen=True)
class SshServer:
    """A server that lets this user log in.

    Attributes:
        host: User and address.
        port: Its port.
        config: A configuration for the client: its key, and the server's.
        other_config: One without a key that the server knows.
    """

    host: str
    port: int
    config: Path
    other_config: Path


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """Start a server on a free port of 127.0.0.1; all that it needs lies in ``folder``."""
    assert SSHD is not None
    for name in ("host", "user", "other"):
        _key(folder / name)
    port = free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "user.pub",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "yes",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root demands it
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stdout=log, stderr=log)
    try:
        _wait_for(server, port, folder / "sshd.log")
        configs = [_client_config(folder, name) for name in ("user", "other")]
        yield SshServer(f"{getpass.getuser()}@127.0.0.1", port, *configs)
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _client_config(folder: Path, key: str) -> Path:
    path = folder / f"{key}_config"
    settings = {
        "IdentityFile": folder / key,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": folder / "known_hosts",
    }
    path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    return path


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"sshd does not answer: {log.read_text()}")
