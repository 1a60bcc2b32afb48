"""How ports, endpoints, names and keys are written in a configuration file.

Every ``parse_*`` takes what JSON gave and raises ``ValueError`` with a message that makes sense behind "file: field: ".
No name is resolved here, and no file is read.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Literal, NamedTuple

from rsock_nf.core.types import IPAddress, IPNetwork, PortRange, TransportAddress
from rsock_nf.printable import printable
from rsock_nf.shares import MOST_WORKERS

SECRET_BYTES = 32
MIN_RATE, MAX_RATE = 8_000.0, 100e9
"""Bits a second."""
MAX_SECRETS = 2
"""Of one client at a time."""
MAX_RANGES = 256
"""A classic BPF program has room for 4,096 instructions (BPF_MAXINSNS) and needs at most five for a range."""

MIN_FLOW_AGE, MAX_FLOW_AGE = 60.0, 86400.0
"""Seconds.  The source port of a flow that has ended is not used again for a minute."""

_SHOWN = 60
"""The most characters of a key or a value in a message."""
_AGE = re.compile(r"(\d{1,6})([smh])")
_RATE = re.compile(r"(\d{1,12})([kMG]?)")
_BITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_UNITS = {"s": 1, "m": 60, "h": 3600}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_DEVICE = re.compile(r"[^\s/%:\"\\\x00-\x1f]{1,15}")  # IFNAMSIZ 16 with its zero; dev_valid_name(), net/core/dev.c
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,30}\$?")  # useradd(8), and what directories add
_RANGE = re.compile(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")


class HostPort(NamedTuple):
    """A host as written, not resolved yet, and a port."""

    host: str
    port: int


def parse_workers(value: object) -> int | Literal["auto"]:
    """How many processes an instance is."""
    if value == "auto":
        return "auto"
    if type(value) is int and 1 <= value <= MOST_WORKERS:
        return value
    raise ValueError(f'{shown(value)} is neither a number of processes (1-{MOST_WORKERS}) nor "auto"')


def parse_name(value: object) -> str:
    """The name of an instance: it becomes part of a directory's and of a firewall table's name."""
    return _parse_name(value, "an instance")


def parse_client_name(value: object) -> str:
    """The name of a client: it stands in log lines and in ``status``."""
    return _parse_name(value, "a client")


def _parse_name(value: object, what: str) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    raise ValueError(f"{shown(value)} cannot name {what}: 1 to 64 letters, digits, '_', '-' or '.' are wanted")


def parse_device(value: object) -> str:
    """The name of a network device; whether it exists is seen when the tunnel starts."""
    if isinstance(value, str) and value.isprintable() and _DEVICE.fullmatch(value) and value not in {".", ".."}:
        return value
    raise ValueError(f"{shown(value)} is not the name of a network device")


def parse_user(value: object) -> str:
    """The name of a system user; whether it exists is seen when the tunnel starts."""
    if isinstance(value, str) and _USER.fullmatch(value):
        return value
    raise ValueError(f"{shown(value)} is not the name of a system user")


def parse_mark(value: object) -> int:
    """A firewall mark: a number, or text such as ``"0xca6c"``, as ip-rule(8) and wg(8) write it."""
    number = value
    if isinstance(value, str):
        try:
            number = int(value, 0)
        except ValueError:
            number = None
    if type(number) is int and 1 <= number <= 0xFFFFFFFF:
        return number
    raise ValueError(f'{shown(value)} is not a mark: a number from 1 to 4294967295, or text such as "0xca6c"')


def parse_flow_age(value: object) -> float:
    """``3600``, ``"3600s"``, ``"60m"`` or ``"1h"``, in seconds; 0 = flows are not renewed."""
    found = _AGE.fullmatch(value) if isinstance(value, str) else None
    age = int(found[1]) * _UNITS[found[2]] if found else value
    if isinstance(age, int | float) and not isinstance(age, bool) and (age == 0 or MIN_FLOW_AGE <= age <= MAX_FLOW_AGE):
        return float(age)
    wanted = f'0, or {MIN_FLOW_AGE:g} to {MAX_FLOW_AGE:g} seconds, also as "90m" or "1h"'
    raise ValueError(f"must be {wanted}, not {shown(value)}")


def parse_ports(value: object) -> tuple[PortRange, ...]:
    """``"10001-10010,12000"``, a number, or a list of either: disjoint ranges, ascending, adjacent ones joined."""
    items = value if isinstance(value, list) else [value]
    ranges = sorted(found for item in items for found in _ranges(item))
    if not ranges:
        raise ValueError("no ports are given")
    joined = ranges[:1]
    for ports in ranges[1:]:
        last = joined[-1]
        if ports.first <= last.last:
            raise ValueError(f"{last} and {ports} overlap")
        if ports.first == last.last + 1:
            joined[-1] = PortRange(last.first, ports.last)
        else:
            joined.append(ports)
    if len(joined) > MAX_RANGES:
        raise ValueError(f"{len(joined)} separate ranges are too many: at most {MAX_RANGES}")
    return tuple(joined)


def count_ports(ranges: tuple[PortRange, ...] | list[PortRange]) -> int:
    """How many ports disjoint ranges hold."""
    return sum(map(len, ranges))


def _ranges(item: object) -> Iterator[PortRange]:
    if isinstance(item, int) and not isinstance(item, bool):
        yield PortRange(_port(item), item)
        return
    if not isinstance(item, str):
        raise ValueError(f'{shown(item)} is not a port or a range (want "10001-10010,12000")')  # noqa: TRY004
    for part in item.split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise ValueError(f'{shown(part.strip())} is not a port or a range (want "10001-10010,12000")')
        first, last = _port(int(match[1])), _port(int(match[2] or match[1]))
        if first > last:
            raise ValueError(f'"{part.strip()}" ends before it begins')
        yield PortRange(first, last)


def _port(number: int) -> int:
    if not 1 <= number <= 65535:
        raise ValueError(f"port {number} is not within 1-65535")
    return number


def parse_address(value: object) -> IPAddress:
    """A literal IPv4 or IPv6 address without a zone."""
    address, zone = split_zone(value) if isinstance(value, str) else (None, "")
    if address is None:
        raise ValueError(f"{shown(value)} is not an IP address")
    if zone:
        raise ValueError(f'{shown(value)}: give the device of a link-local address as "device", not behind a "%"')
    return address


def parse_network(value: object) -> IPNetwork:
    """A network, as ``"192.0.2.0/24"``, or a literal address."""
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        pass
    try:
        inside = ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise ValueError(f'{shown(value)} is not a network; write it as "192.0.2.0/24"') from None
    raise ValueError(f'{shown(value)}: the address has bits behind its prefix; the network is "{inside}"')


def split_zone(text: str) -> tuple[IPAddress | None, str]:
    """``"fe80::1%eth0"`` → the address without its zone, and the zone; None when it is not a literal address."""
    bare, _, zone = text.partition("%")
    try:
        address = ip_address(bare)
    except (AddressValueError, ValueError):
        return None, ""
    if zone and not (isinstance(address, IPv6Address) and address.is_link_local and _DEVICE.fullmatch(zone)):
        return None, ""
    if "%" in text and not zone:
        return None, ""
    return address, zone


def parse_host(value: object) -> str:
    """A literal address (perhaps with a zone) or a host name."""
    if isinstance(value, str):
        if split_zone(value)[0] is not None:
            return value
        # What consists of digits and dots was meant to be an address: resolvers would read "10.1" as 10.0.0.1.
        if _HOST.fullmatch(value) and not re.fullmatch(r"[0-9.]+", value):
            return value
    raise ValueError(f"{shown(value)} is neither an IP address nor a host name{_host_hint(value)}")


def _host_hint(value: object) -> str:
    """What is too much: brackets or a port."""
    host, port = value.strip() if isinstance(value, str) else "", ""
    if match := re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]+):([0-9,-]+)", host):
        host, port = match[1], match[2]
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare == value or (split_zone(bare)[0] is None and not _HOST.fullmatch(bare)):
        return ""
    return f': write "{bare}"' + (f', and the port as "ports": "{port}"' if port else "")


def parse_host_port(value: object) -> HostPort:
    """``"127.0.0.1:9999"``, ``"[::1]:9999"``, ``"host.example:9999"``."""
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]]+)):(\d{1,5})", value) if isinstance(value, str) else None
    if not match:
        port = re.fullmatch(r":?(\d{1,5})", str(value)) if type(value) in (int, str) else None
        here = f': for this host write "127.0.0.1:{port[1]}"' if port else ' (want "127.0.0.1:9999" or "[::1]:9999")'
        raise ValueError(f"{shown(value)} is not an address with a port{here}")
    host = match[1] or match[2]
    literal = split_zone(host)[0]
    if match[1] and (literal is None or literal.version != 6):
        raise ValueError(f"{shown(value)}: only an IPv6 address stands in brackets")
    return HostPort(parse_host(host), _port(int(match[3])))


def parse_endpoint(value: object) -> TransportAddress:
    """As ``parse_host_port``, but the host must be a literal address."""
    host, port = parse_host_port(value)
    address, zone = split_zone(host)
    if address is None:
        raise ValueError(f"{shown(value)}: a literal IP address is wanted, not a host name")
    return TransportAddress(address, port, zone)


def parse_listen(value: object) -> TransportAddress | Path:
    """As ``parse_endpoint``, or ``"unix:/path"``: the path of a Unix-domain datagram socket, as written."""
    if not (isinstance(value, str) and value.startswith("unix:")):
        return parse_endpoint(value)
    text = value.removeprefix("unix:")
    if not text or "\0" in text or text.endswith("/"):
        raise ValueError(f'{shown(value)} is not the path of a socket (want "unix:/run/rsock.sock")')
    return Path(text)


def parse_metrics(value: object) -> TransportAddress | Path:
    """As ``parse_listen``, but an address must be a loopback one: there is no authentication."""
    where = parse_listen(value)
    if isinstance(where, TransportAddress) and not where.address.is_loopback:
        raise ValueError(
            f"{where}: only this host may ask: a loopback address is wanted, as 127.0.0.1:{where.port}, or unix:/path"
        )
    return where


def parse_hash(value: object) -> str:
    """The key of the original's wire: any text without a zero character, even an empty one."""
    if isinstance(value, str) and "\0" not in value and value.isprintable():
        return value
    raise ValueError("not a key of the original: printable text is wanted")


def parse_secret(text: object) -> bytes:
    """What ``genkey`` printed: 32 bytes in base64.  No message contains the text itself."""
    try:
        key = base64.b64decode(text.strip(), validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != SECRET_BYTES:
        raise ValueError('not a key: 44 characters are wanted, as "rsock-nf genkey" prints them')
    if len(set(key)) < SECRET_BYTES // 4:  # 32 random bytes with fewer than 8 values: never
        raise ValueError('too regular to be a random key: make one with "rsock-nf genkey"')
    return key


def parse_rate(value: object) -> float:
    """Bits a second: a number, or text as ``"20M"``."""
    if isinstance(value, str) and (match := _RATE.fullmatch(value)):
        value = int(match[1]) * _BITS[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool) and MIN_RATE <= value <= MAX_RATE:
        return float(value)
    raise ValueError(f'{shown(value)} is not a rate: bits a second are wanted, from 8k to 100G, as "20M"')


def parse_secrets(value: object) -> tuple[bytes, ...]:
    """One secret, or a list of two."""
    items = value if isinstance(value, list) else [value]
    if not 1 <= len(items) <= MAX_SECRETS:
        raise ValueError(f"{len(items)} secrets: one is wanted, or two while one replaces the other")
    found = tuple(parse_secret(item) for item in items)
    if len(set(found)) != len(found):
        raise ValueError("both secrets are the same")
    return found


def is_secret(text: str) -> bool:
    """Whether ``parse_secret`` reads it."""
    try:
        parse_secret(text)
    except ValueError:
        return False
    return True


def format_secret(key: bytes) -> str:
    """The text that ``parse_secret`` reads."""
    return base64.b64encode(key).decode("ascii")


def shown(value: object) -> str:
    """A value from the file as JSON writes it, cut short and on one line, for an error message.

    What may be a secret in the wrong place, or contain one, is not shown.
    """
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | list) for item in value)):
        return "an object" if isinstance(value, dict) else "a list of objects"
    if any(isinstance(item, str) and is_secret(item) for item in (value if isinstance(value, list) else [value])):
        return "a secret"
    return _short(" ".join(json.dumps(value, ensure_ascii=False).split()))


def named(key: str) -> str:
    """A key from the file, cut short and on one line, for an error message."""
    return _short(key)


def _short(text: str) -> str:
    text = printable(text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
