"""The original rsock's configuration, told in our keys: its JSON files, and its command line's flags in the same form.

A file of the original looks like ``{"daemon": 1, "verbose": false, "log": "…", "param": {…}}``, with ``dev, lcapIp,
ports, ludp, taddr, duration, hash, type, keepalive, cap_timeout, unPath`` in ``param``.  It is known by its
``param``.  The original ignores what it does not know and what is of another type than it wants; so do we, and say
so.  What it would end or misbehave on is an error here.

Not here: what our keys mean (``keys``, ``assemble``).  No file is read, no name is resolved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeVar

from rsock_nf.config import values
from rsock_nf.config.values import shown
from rsock_nf.core.parameters import Kinds, ServerParameters
from rsock_nf.wire.parameters import DEFAULT_HASH, RSOCK_KEEPALIVE

T = TypeVar("T", str, int, bool)

DURATION = 30
"""Seconds, where none are given: what the original's documentation says (its 2.x releases take 600)."""
_DURATIONS = (10, 6000)
_TOP = ("daemon", "verbose", "log", "server", "name", "param")
_PARAM = (
    "dev", "lcapIp", "ports", "ludp", "taddr", "duration", "hash", "type", "keepalive", "cap_timeout", "unPath",
)  # fmt: skip
_ORIGINS = {
    "target": "param.taddr",
    "server": "param.taddr",
    "ports": "param.ports",
    "device": "param.dev",
    "addresses": "param.lcapIp",
    "hash": "param.hash",
    "log.file": "log",
}
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    int: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}


class UnusableError(ValueError):
    """One line about one field of the original."""

    def __init__(self, field: str, message: str) -> None:
        """``field``: as in the file, ``param.ports``."""
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Converted:
    """The original's configuration in our words."""

    keys: dict[str, Any]
    """What our configuration file would say."""
    understood: tuple[str, ...]
    """One line each: what a key became, or what is used where one is not given."""
    remarks: tuple[str, ...]
    """One line each: what has no meaning here, or not the one that its writer may have expected."""
    foreground: bool
    """``daemon`` is 0."""
    origins: dict[str, str]
    """Our keys, and the field of the original that each comes from: for errors that only ``assemble`` finds."""


def is_original(raw: Mapping[str, Any]) -> bool:
    """Whether a file's object is one of the original."""
    return "param" in raw


def convert(raw: Mapping[str, Any], role: str | None = None) -> Converted:
    """``role``: of which program these are the options; None = the file tells.  Raises ``UnusableError``."""
    param = raw["param"]
    if not isinstance(param, dict):
        raise UnusableError("param", f"must be an object, not {shown(param)}")
    return _Conversion(raw, param).run(role)


class _Conversion:
    """One object on its way; methods in the order of the result's keys."""

    def __init__(self, raw: Mapping[str, Any], param: Mapping[str, Any]) -> None:
        self._given = {key: value for key, value in raw.items() if key != "param"}
        self._given |= {f"param.{key}": value for key, value in param.items()}
        self._keys: dict[str, Any] = {}
        self._origins = dict(_ORIGINS)
        self._understood: list[str] = []
        self._remarks: list[str] = []

    def run(self, role: str | None) -> Converted:
        role = role or self._role()
        if "name" in self._given:
            self._keys["name"] = self._given["name"]
        self._keys |= {"role": role, "wire": "rsock"}
        if role == "client":
            self._client()
        else:
            self._server()
        self._flows()
        self._host()
        foreground = self._process()
        self._unknown()
        return Converted(self._keys, tuple(self._understood), tuple(self._remarks), foreground, self._origins)

    def _role(self) -> str:
        """The original has a program for each; a file that it wrote itself says which, other files only by ``ludp``."""
        server = self._value("server", bool)
        if server is None:
            server = self._given.get("param.ludp", "") == ""
        return "server" if server else "client"

    def _client(self) -> None:
        address = self._wanted("param.taddr", 'the server\'s address, as "203.0.113.5"')
        literal, _ = values.split_zone(address)
        if literal is not None and literal.version != 4:
            raise UnusableError("param.taddr", f"{shown(address)} is not an IPv4 address")
        host, _, port = address.partition(":")
        self._checked("param.taddr", values.parse_host, host)
        self._keys["server"] = host
        self._understand("param.taddr", f"the server is {host}")
        if port:
            self._remark(
                "param.taddr",
                f"the port, {shown(port)}, has no meaning at a client: the ports are those of param.ports",
            )
        listen = []
        path = self._text("param.unPath")
        if not path or self._text("param.ludp"):
            udp = self._wanted("param.ludp", 'where the application sends its datagrams, as "127.0.0.1:30000"')
            self._checked("param.ludp", values.parse_endpoint, udp)
            listen.append(udp)
            self._understand("param.ludp", f"the application sends to {udp}")
        if path:
            listen.append(f"unix:{path}")
            self._understand(
                "param.unPath", "a Unix-domain datagram socket there; the original names it and never opens it"
            )
        self._keys["listen"] = listen[0] if len(listen) == 1 else listen
        given = (listen[0] != f"unix:{path}", bool(path))
        self._origins["listen"] = ", ".join(compress(("param.ludp", "param.unPath"), given))

    def _server(self) -> None:
        target = self._wanted("param.taddr", 'where datagrams go, as "127.0.0.1:9999"')
        try:
            values.parse_host_port(target)
        except ValueError as error:
            hint = "" if ":" in target else "; is this a client's? Its param.ludp is missing"
            raise UnusableError("param.taddr", f"{error}{hint}") from None
        self._keys["target"] = target
        self._understand("param.taddr", f"datagrams go to {target}")
        for field in ("param.ludp", "param.unPath"):
            if self._given.get(field):
                self._remark(field, "has no meaning at a server")

    def _flows(self) -> None:
        ports = self._text("param.ports")
        if ports:
            self._checked("param.ports", values.parse_ports, ports)
            self._keys["ports"] = ports
        default = ",".join(map(str, ServerParameters().ports))
        self._understand("param.ports", f"the server's ports are {ports or default}", given=bool(ports))
        self._carriers()
        key = self._value("param.hash", str)
        if key is not None:
            self._checked("param.hash", values.parse_hash, key)
            self._keys["hash"] = key
        self._understand(
            "param.hash",
            "the key of the frames" if key is not None else f'the key is "{DEFAULT_HASH}"',
            given=key is not None,
        )
        duration = self._value("param.duration", int)
        if duration is not None and not _DURATIONS[0] <= duration <= _DURATIONS[1]:
            raise UnusableError("param.duration", f"must be {_DURATIONS[0]} to {_DURATIONS[1]} seconds, not {duration}")
        self._keys["duration"] = DURATION if duration is None else duration
        self._understand(
            "param.duration", f"a silent conversation lives {self._keys['duration']} s", given=duration is not None
        )
        keepalive = self._value("param.keepalive", int)
        if keepalive is not None:
            if not 1 <= keepalive <= 3600:
                raise UnusableError("param.keepalive", f"must be 1 to 3600 seconds, not {keepalive}")
            self._keys["keepalive"] = keepalive
        self._understand(
            "param.keepalive", f"flows are probed every {keepalive or RSOCK_KEEPALIVE:g} s", given=keepalive is not None
        )

    def _carriers(self) -> None:
        kind = self._value("param.type", str)
        if kind is None:
            self._understand("param.type", 'flows are "tcp"', given=False)
            return
        if kind not in {kind.value for kind in Kinds}:
            self._remark("param.type", f'{shown(kind)} is taken as "tcp", as the original does')
            kind = Kinds.TCP.value
        else:
            self._understand("param.type", f'flows are "{kind}"')
        if kind != Kinds.TCP.value:
            self._remark("param.type", "UDP works, but not with a server of the original's 2.x releases: it aborts")
        self._keys["type"] = kind

    def _host(self) -> None:
        device = self._text("param.dev")
        if device:
            self._checked("param.dev", values.parse_device, device)
            self._keys["device"] = device
            self._understand("param.dev", f"the device is {device}")
        address = self._text("param.lcapIp")
        if address:
            if self._checked("param.lcapIp", values.parse_address, address).version != 4:
                raise UnusableError("param.lcapIp", f"{shown(address)} is not an IPv4 address")
            self._keys["addresses"] = address
            self._understand("param.lcapIp", f"the local address is {address}")
        if "param.cap_timeout" in self._given:
            self._remark("param.cap_timeout", "has no meaning here: nothing is captured with libpcap")

    def _process(self) -> bool:
        log: dict[str, str] = {}
        if self._value("verbose", bool):
            log["level"] = "debug"
            self._understand("verbose", 'log lines from "debug" on')
        file = self._text("log")
        if file:
            log["file"] = file + "rsock.log" if file.endswith("/") else file
            inside = "" if file.endswith("/") else ", or if that is a directory, to rsock.log in it"
            self._understand("log", f"log lines go to {log['file']}{inside}; nothing rolls it: SIGHUP opens it anew")
        else:
            self._understand("log", "log lines go to the instance's directory in /run/rsock-nf", given=False)
        if log:
            self._keys["log"] = log
        return self._value("daemon", int) == 0

    def _unknown(self) -> None:
        known = {key: key for key in _TOP} | {key: f"param.{key}" for key in _PARAM}
        for field in self._given:
            if field not in known.values():
                import difflib  # seldom needed

                close = difflib.get_close_matches(field.removeprefix("param."), known, n=1)
                hint = f' (did you mean "{known[close[0]]}"?)' if close else ""
                self._remark(field, f"unknown: ignored, as the original does{hint}")

    # -- reading one field

    def _value(self, field: str, kind: type[T]) -> T | None:
        """The field, if it is there and of the type that the original looks for; a number without its fraction."""
        if field not in self._given:
            return None
        value = self._given[field]
        types, wanted = _KINDS[kind]
        if type(value) not in types:
            self._remark(field, f"{shown(value)} is not {wanted}: ignored, as the original does")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            raise UnusableError(field, "is no number that anyone meant")
        return kind(value)

    def _text(self, field: str) -> str:
        """A text of which an empty one says as little as none."""
        return self._value(field, str) or ""

    def _wanted(self, field: str, what: str) -> str:
        value = self._given.get(field, "")
        if not isinstance(value, str):
            raise UnusableError(field, f"must be text, not {shown(value)}: {what}")
        if not value:
            raise UnusableError(field, f"missing: {what}")
        return value

    @staticmethod
    def _checked(field: str, parse: Callable[[object], Any], text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise UnusableError(field, str(error)) from None

    def _understand(self, field: str, text: str, *, given: bool = True) -> None:
        self._understood.append(_one_line(f"{field}: {text}" if given else f"{field}: not given: {text}"))

    def _remark(self, field: str, text: str) -> None:
        self._remarks.append(_one_line(f"{field}: {text}"))


def _one_line(text: str) -> str:
    return " ".join(text.split())
