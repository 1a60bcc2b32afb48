"""The largest datagram as it is computed, beside what the codecs need, and the tables of the documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rsock_nf.core.parameters import Cipher, Common, Kinds
from rsock_nf.wire.largest import largest_datagram
from rsock_nf.wire.native.frames import PlainCodec, SealedCodec
from rsock_nf.wire.native.limits import OVERHEAD, TAG
from rsock_nf.wire.parameters import NativeParameters, RsockParameters
from rsock_nf.wire.rsock import limits as rsock
from rsock_nf.wire.rsock.frames import LAYOUTS
from rsock_nf.words import OPENVPN, WIREGUARD

ROOT = Path(__file__).parents[2]
NATIVE = NativeParameters(bytes(32))
COLUMNS = [(4, Cipher.NONE), (4, Cipher.AES_256_GCM), (6, Cipher.NONE), (6, Cipher.AES_256_GCM)]
"""Of the tables: IPv4 or IPv6, encrypted or not."""


def largest(version: int, cipher: Cipher, kinds: Kinds = Kinds.TCP, mtu: int = 1500) -> int:
    return largest_datagram(mtu, version, Common(kinds=kinds, cipher=cipher), NATIVE)


def test_it_knows_what_the_codecs_add() -> None:
    assert PlainCodec.overhead == OVERHEAD
    assert SealedCodec.overhead == OVERHEAD + TAG
    assert {version: layout.head.size for version, layout in LAYOUTS.items()} == rsock.OVERHEAD


@pytest.mark.parametrize(
    ("version", "cipher", "kinds", "expected"),
    [
        (4, Cipher.NONE, Kinds.TCP, 1452),
        (6, Cipher.NONE, Kinds.ALL, 1432),
        (4, Cipher.CHACHA20_POLY1305, Kinds.TCP, 1436),
        (4, Cipher.NONE, Kinds.UDP, 1464),
        (6, Cipher.AES_256_GCM, Kinds.UDP, 1428),
    ],
)
def test_on_ethernet(version: int, cipher: Cipher, kinds: Kinds, expected: int) -> None:
    assert largest(version, cipher, kinds) == expected
    assert largest(version, cipher, kinds, mtu=1492) == expected - 8
    assert largest(version, cipher, kinds, mtu=9) == 0


@pytest.mark.parametrize(("version", "expected"), [(1, 1433), (2, 1429)])
def test_on_the_wire_of_the_original(version: int, expected: int) -> None:
    """It has IPv4 only, and a buffer of 1,500 bytes."""
    for served in (4, 6):
        assert largest_datagram(1500, served, Common(), RsockParameters(version=version)) == expected
    assert largest_datagram(9000, 4, Common(), RsockParameters(version=version)) == 1468 - rsock.OVERHEAD[version]


def rows(document: str) -> dict[str, list[int]]:
    """First cell → the last number in each other cell, of every row of four numbers."""
    found = {}
    for line in (ROOT / document).read_text().splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        numbers = [re.findall(r"\d+", cell) for cell in cells[1:]]
        if line.startswith("|") and len(numbers) == 4 and all(numbers):
            found[cells[0]] = [int(each[-1]) for each in numbers]
    return found


@pytest.mark.parametrize(
    ("document", "row", "kinds", "less"),
    [
        ("README.md", "WireGuard: `MTU =`", Kinds.TCP, WIREGUARD),
        ("README.md", "OpenVPN: `mssfix`", Kinds.TCP, 0),
        ("README.md", "kcptun: `--mtu`", Kinds.TCP, 0),
        ("README.md", "others: largest UDP datagram", Kinds.TCP, 0),
        ("docs/recipes.md", "WireGuard `MTU`, `type` `tcp` or `all`", Kinds.TCP, WIREGUARD),
        ("docs/recipes.md", "WireGuard `MTU`, `type` `udp`", Kinds.UDP, WIREGUARD),
        ("docs/recipes.md", "OpenVPN `mssfix`, `type` `tcp` or `all`", Kinds.TCP, 0),
        ("docs/recipes.md", "OpenVPN `mssfix`, `type` `udp`", Kinds.UDP, 0),
        ("docs/recipes.md", "OpenVPN `tun-mtu`, `type` `tcp` or `all`", Kinds.TCP, OPENVPN),
        ("docs/recipes.md", "OpenVPN `tun-mtu`, `type` `udp`", Kinds.UDP, OPENVPN),
        ("docs/recipes.md", "kcptun, `type` `tcp` or `all`", Kinds.TCP, 0),
        ("docs/recipes.md", "kcptun, `type` `udp`", Kinds.UDP, 0),
    ],
)
def test_the_tables_of_the_documents(document: str, row: str, kinds: Kinds, less: int) -> None:
    assert rows(document)[row] == [largest(version, cipher, kinds) - less for version, cipher in COLUMNS]
