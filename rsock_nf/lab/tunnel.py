"""A tunnel in a laboratory.  Both ends are brought up by the command line, as a user would do it.

It uses nothing of the runtime: only configuration files in a directory, and ``rsock-nf up``, ``status --json`` and
``down``.  Each end has its own state directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from rsock_nf.lab.lab import Lab
from rsock_nf.lab.netns import CommandFailed, Namespace
from rsock_nf.ops.program import program

Role: TypeAlias = Literal["client", "server"]
LISTEN = ("127.0.0.1", 30000)
"""Where the client takes the application's datagrams, unless overridden."""
TARGET = ("127.0.0.1", 9999)
"""Where the server hands them on, unless overridden."""


class Tunnel:
    """``with Tunnel(lab, directory) as tunnel:`` the tunnel is up; or call ``up`` and ``down``."""

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        *,
        version: int = 4,
        client: Mapping[str, Any] | None = None,
        server: Mapping[str, Any] | None = None,
    ) -> None:
        """``client`` and ``server`` override what the configuration files say; ``None`` as a value removes a key."""
        self.lab = lab
        self.directory = directory
        self.prefix: tuple[str, ...] = ()
        """What stands in front of each command: setpriv(1) with its options, for example."""
        self.program = program()
        """The first words of each command."""
        self.variables: dict[str, str] = {}
        """What the environment of each command has besides."""
        directory.mkdir(parents=True, exist_ok=True)
        secret = self._cli(os.environ, "genkey").stdout.strip()
        self._write("server", {"role": "server", "target": "{}:{}".format(*TARGET), "secret": secret}, server)
        host = lab.server_ip[version]
        self._write(
            "client", {"role": "client", "server": host, "listen": "{}:{}".format(*LISTEN), "secret": secret}, client
        )

    def __enter__(self) -> Self:
        try:
            self.up("server")
            self.up("client")
        except BaseException:
            self.down("client", check=False)
            self.down("server", check=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.down, "server", check=error is None)
            stack.callback(self.down, "client", check=error is None)

    def config(self, role: Role) -> Path:
        """The configuration file of one end."""
        return self.directory / f"{role}.json"

    def log(self, role: Role) -> str:
        """Whatever that end has logged so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self._run_dir(role).rglob("*log*")))

    def command(
        self, role: Role, *words: str, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """``rsock-nf WORDS`` on that end's host.  Raises ``CommandFailed`` unless ``check`` is off."""
        argv = [*self.prefix, *self.program, *words]
        return self._host(role).run(argv, check=check, timeout=timeout, env=self.environment(role))

    def environment(self, role: Role) -> dict[str, str]:
        """The environment in which that end's commands run."""
        return {**os.environ, **self.variables, "RSOCK_NF_RUN_DIR": str(self._run_dir(role))}

    def up(self, role: Role, *words: str) -> None:
        """Bring that end up; returns when it is up.  Raises ``CommandFailed``."""
        self.command(role, "up", "--config", str(self.config(role)), *words)

    def down(self, role: Role, *, check: bool = True) -> None:
        """Stop that end."""
        self.command(role, "down", "--config", str(self.config(role)), check=check)

    def status(self, role: Role) -> dict[str, Any]:
        """``status --json`` of that end's one instance."""
        found: Any = json.loads(self.command(role, "status", "--json").stdout)
        if isinstance(found, list):
            (found,) = found
        if not isinstance(found, dict):
            raise CommandFailed(f"status --json of the {role}: not an object: {found!r}")
        return found

    def pids(self, role: Role) -> list[int]:
        """The processes of that end, found by its state directory in their environment."""
        marker = f"RSOCK_NF_RUN_DIR={self._run_dir(role)}".encode()
        found = []
        for pid in self._host(role).pids():
            with contextlib.suppress(OSError):
                if marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def rewrite(self, role: Role, **changes: Any) -> None:
        """Change keys of that end's configuration file."""
        self._write(role, json.loads(self.config(role).read_text()), changes)

    def _host(self, role: Role) -> Namespace:
        return self.lab.client if role == "client" else self.lab.server

    def _run_dir(self, role: Role) -> Path:
        return self.directory / f"run-{role}"

    def _write(self, role: Role, base: Mapping[str, Any], changes: Mapping[str, Any] | None) -> None:
        merged = {key: value for key, value in {**base, **(changes or {})}.items() if value is not None}
        path = self.config(role)
        path.write_text(json.dumps(merged, indent=2) + "\n")
        path.chmod(0o600)  # it holds the secret

    @staticmethod
    def _cli(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*program(), *words]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment, check=False)
        if result.returncode != 0:
            raise CommandFailed(f"{' '.join(argv)}: exit {result.returncode}: {result.stderr.strip()}")
        return result
