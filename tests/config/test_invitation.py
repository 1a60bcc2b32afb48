"""The line that goes from ``init`` to ``join``."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.config.invitation import Invitation, InvitationError, parse, write
from rsock_nf.core.parameters import Cipher, Kinds, Spread
from rsock_nf.core.types import PortRange

SECRET = bytes(range(200, 232))
INVITATION = Invitation(
    SECRET, ("203.0.113.5",), (PortRange(10001, 10010),), Kinds.TCP, Cipher.NONE, application="wireguard", name="wg"
)
LINE = (
    "rsock-nf://yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc@203.0.113.5/1"
    "?check=7314aba7&ports=10001-10010&type=tcp&app=wireguard&cipher=none#wg"
)
UNCHECKED = LINE.replace("check=7314aba7&", "")
"""As somebody may change it by hand."""

hosts = st.one_of(
    st.builds(str, st.builds(IPv4Address, st.integers(0, 2**32 - 1))),
    st.builds(str, st.builds(IPv6Address, st.integers(0, 2**128 - 1))),
    st.sampled_from(["vpn.example.org", "a", "fe80::1%eth0"]),
)
ports = st.sets(st.integers(0, 10_000), min_size=1, max_size=5).map(
    lambda firsts: tuple(PortRange(6 * first + 1, 6 * first + 1 + first % 3) for first in sorted(firsts))
)
invitations = st.builds(
    Invitation,
    secret=st.binary(min_size=32, max_size=32).filter(lambda key: len(set(key)) >= 8),
    servers=st.lists(hosts, min_size=1, max_size=4).map(tuple),
    ports=ports,
    kinds=st.sampled_from(Kinds),
    cipher=st.sampled_from(Cipher),
    spread=st.sampled_from(Spread),
    application=st.sampled_from(["wireguard", "custom", "a-later-one"]),
    name=st.sampled_from(["", "wg", "a.b-c_1"]),
)


def test_the_line_is_the_one_of_the_document() -> None:
    assert write(INVITATION) == LINE
    assert parse(LINE) == INVITATION


@given(invitations)
def test_it_survives_its_line(invitation: Invitation) -> None:
    assert parse(write(invitation)) == invitation


@given(invitations)
def test_it_is_a_uri_that_others_can_read(invitation: Invitation) -> None:
    found = urlsplit(write(invitation))
    assert (found.scheme, found.path) == ("rsock-nf", "/1")
    assert base64.urlsafe_b64decode(f"{found.username}=") == invitation.secret


@pytest.mark.parametrize("pasted", [f"  {LINE}\n", f"'{LINE}'", LINE[:80] + "\n" + LINE[80:], f'"{LINE}"\r\n'])
def test_what_pasting_adds_does_not_matter(pasted: str) -> None:
    assert parse(pasted) == INVITATION


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("rsock-nf", "https", "this is no line of `rsock-nf init`: that begins with rsock-nf://"),
        ("yMnK", "", "secret: 39 characters, and 43 are wanted (letters, digits, - and _): copy the whole line"),
        ("yMnK", "y+nK", "secret: 43 characters, and 43 are wanted (letters, digits, - and _): copy the whole line"),
        ("@", "", "secret: missing: it stands before the @"),
        ("203.0.113.5", "203.0.113", 'server: "203.0.113" is neither an IP address nor a host name'),
        ("203.0.113.5", "[203.0.113.5]", 'server: "[203.0.113.5]": only an IPv6 address stands in brackets'),
        ("/1", "/2", "version: the line is of version 2, and this rsock-nf reads 1: update it here"),
        ("/1", "", "version: missing: the line is not complete: copy all of it"),
        ("10001-", "0-", "ports: port 0 is not within 1-65535"),
        ("ports=10001-10010&", "", "ports: missing: the line is not complete: copy all of it"),
        ("&cipher=none#wg", "", "cipher: missing: the line is not complete: copy all of it"),
        ("&cipher=none#wg", "&cip", "the line is not complete: copy all of it"),
        ("none", "rot13", 'cipher: "rot13" is none of "none", "aes-256-gcm", "chacha20-poly1305"'),
        ("tcp", "tcp&type=udp", "type: given twice"),
        ("tcp", "icmp", 'type: "icmp" is none of "tcp", "udp", "all"'),
        ("wireguard", "Wire Guard", 'app: "WireGuard" is not the name of an application'),
        ("#", "&later=1#", "later: not known here: is rsock-nf older on this side? Update it"),
        ("#wg", "#..", "name: \"..\" cannot name an instance: 1 to 64 letters, digits, '_', '-' or '.' are wanted"),
        ("wg", "wg" * 3000, "longer than 4096 characters: this is no line of `rsock-nf init`"),
    ],
)
def test_what_is_wrong_is_told_by_its_field(old: str, new: str, expected: str) -> None:
    with pytest.raises(InvitationError) as caught:
        parse(UNCHECKED.replace(old, new, 1) if old != "wg" else UNCHECKED[: -len("wg")] + new)
    assert str(caught.value) == expected


DAMAGED = "it is damaged (a character is wrong or missing): copy all of it again"


@given(invitations, st.data())
def test_any_one_wrong_character_is_told_and_nothing_else_is_blamed(
    invitation: Invitation, data: st.DataObject
) -> None:
    line = write(invitation)
    at = data.draw(st.integers(len("rsock-nf://"), len(line) - 1))
    wrong = data.draw(st.sampled_from("aZ09-_@/?&=#,.[]%:").filter(lambda one: one != line[at]))
    with pytest.raises(InvitationError) as caught:
        parse(line[:at] + wrong + line[at + 1 :])
    behind = line.index("?check=") + len("?check=")
    if not behind - len("?check=") <= at < behind + len("7314aba7&"):  # the sum itself is no longer one
        assert str(caught.value) == DAMAGED


@pytest.mark.parametrize(
    "damaged",
    [LINE.replace("yMnK", "yMnk"), LINE.replace("yMnK", ""), LINE.replace("yMnK", "ynMK"), LINE[:-3], LINE[:-20],
     LINE.replace("check=731", "check=000"), LINE.replace("5uc@", "5uc"), LINE.replace("203.0.113.5", "203.0.113.6")],
)  # fmt: skip
def test_a_damaged_line_is_to_be_copied_again(damaged: str) -> None:
    with pytest.raises(InvitationError) as caught:
        parse(damaged)
    assert str(caught.value) == DAMAGED


def test_a_line_without_the_sum_may_be_changed_by_hand() -> None:
    assert parse(UNCHECKED) == INVITATION
    assert parse(UNCHECKED.replace("203.0.113.5", "203.0.113.6")).servers == ("203.0.113.6",)


@given(st.text(max_size=300), st.integers(0, 120), st.integers(0, 120))
def test_whatever_is_pasted_is_read_or_refused_in_one_line_without_the_secret(text: str, at: int, end: int) -> None:
    try:
        parse(LINE[:at] + text + LINE[end:])
    except InvitationError as error:
        said = str(error)
        assert "\n" not in said
        secret = LINE.removeprefix("rsock-nf://").partition("@")[0]
        assert not any(secret[first : first + 20] in said for first in range(len(secret) - 19)), said


def test_the_secret_is_not_in_what_is_shown_of_it() -> None:
    assert "secret" not in repr(INVITATION)
