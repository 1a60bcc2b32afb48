"""Routing messages, laid out by each system's own compiler and headers, and taken apart again."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsock_nf.link.bsd.abi import Abi, load
from rsock_nf.link.bsd.pf_route import LinkAddress, Message, Messages
from tests.link.bsd.headers import TARGETS, initialised

EVERY = [
    (system, model, target)
    for system, models in TARGETS.items()
    for model, targets in models.items()
    for target in targets
]
MAC = bytes.fromhex("020000000a01")

DEFINITIONS = """
#ifdef __APPLE__
#define UNIT 4
#elif defined(__NetBSD__)
#define UNIT 8
#else
#define UNIT sizeof(long)
#endif
/* A sockaddr and its padding; the kernels put the first right behind the header, aligned or not. */
#define SA(type, name) struct type name; char pad_##name[-sizeof(struct type) & (UNIT - 1)]
#define PACKED __attribute__((packed))
#ifdef __OpenBSD__
#define HDRLEN(prefix, type) .prefix##_hdrlen = sizeof(type),
#else
#define HDRLEN(prefix, type)
#endif
#define IN(a, b, c, d) { .sin_len = sizeof(struct sockaddr_in), .sin_family = AF_INET, \\
    .sin_addr = { .s_addr = a | b << 8 | c << 16 | (unsigned)d << 24 } }
#define DL(n, ...) { .sdl_len = sizeof(struct sockaddr_dl), .sdl_family = AF_LINK, .sdl_index = n, .sdl_nlen = 3, \\
    .sdl_alen = 6, .sdl_data = { 'e', 'm', '0', 2, 0, 0, 0, 10, 1 } }
#define IN6(hi, scope, last) { .sin6_len = sizeof(struct sockaddr_in6), .sin6_family = AF_INET6, \\
    .sin6_addr = { { { hi >> 8, hi & 255, 0, scope, [15] = last } } } }

struct { struct rt_msghdr h; SA(sockaddr_in, dst); SA(sockaddr_in, gateway); char mask[UNIT];
         SA(sockaddr_dl, ifp); SA(sockaddr_in, ifa); } PACKED route = {
    { .rtm_msglen = sizeof(route), .rtm_version = RTM_VERSION, .rtm_type = RTM_GET, .rtm_index = 3, HDRLEN(rtm, struct rt_msghdr)
      .rtm_flags = RTF_UP | RTF_GATEWAY, .rtm_addrs = RTA_DST | RTA_GATEWAY | RTA_NETMASK | RTA_IFP | RTA_IFA,
      .rtm_pid = 4711, .rtm_seq = 8, .rtm_errno = 0 },
    .dst = IN(198, 51, 100, 7), .gateway = IN(192, 0, 2, 1), .ifp = DL(3), .ifa = IN(192, 0, 2, 10) };

struct { struct if_msghdr h; SA(sockaddr_dl, ifp); } PACKED interface = {
    { .ifm_msglen = sizeof(interface), .ifm_version = RTM_VERSION, .ifm_type = RTM_IFINFO, .ifm_addrs = RTA_IFP,
      HDRLEN(ifm, struct if_msghdr) .ifm_flags = IFF_UP | IFF_RUNNING, .ifm_index = 3,
#ifndef __APPLE__
      .ifm_data.ifi_link_state = LINK_STATE_DOWN,
#endif
      .ifm_data.ifi_mtu = 9000 }, .ifp = DL(3) };

struct { struct ifa_msghdr h; SA(sockaddr_in, mask); SA(sockaddr_in, ifa); SA(sockaddr_in, brd); } PACKED address = {
    { .ifam_msglen = sizeof(address), .ifam_version = RTM_VERSION, .ifam_type = RTM_NEWADDR, HDRLEN(ifam, struct ifa_msghdr)
      .ifam_addrs = RTA_NETMASK | RTA_IFA | RTA_BRD, .ifam_index = 3 },
    .mask = IN(255, 255, 255, 0), .ifa = IN(192, 0, 2, 10), .brd = IN(192, 0, 2, 255) };

struct { struct rt_msghdr h; SA(sockaddr_in6, dst); SA(sockaddr_dl, gateway); } PACKED neighbour = {
    { .rtm_msglen = sizeof(neighbour), .rtm_version = RTM_VERSION, .rtm_type = RTM_GET, .rtm_index = 3,
      HDRLEN(rtm, struct rt_msghdr) .rtm_flags = RTF_UP | RTF_HOST, .rtm_addrs = RTA_DST | RTA_GATEWAY },
    .dst = IN6(0xfe80, 3, 1), .gateway = DL(3) };
"""


@pytest.mark.parametrize(("system", "model", "target"), EVERY)
def test_messages_of_the_systems_own_headers(system: str, model: str, target: str) -> None:
    abi = load(system, model)
    messages = Messages(abi)

    def only(symbol: str) -> Message:
        data = initialised(target, DEFINITIONS, symbol)
        assert struct.unpack_from("<H", data) == (len(data),)
        (message,) = messages.parse(data)
        return message

    em0 = LinkAddress(3, "em0", MAC)
    route = only("route")
    assert (route.kind, route.index, route.pid, route.sequence, route.error) == (abi["RTM_GET"], 3, 4711, 8, 0)
    assert route.flags == abi["RTF_UP"] | abi["RTF_GATEWAY"]
    assert route.addresses == {
        abi["RTA_DST"]: ip_address("198.51.100.7"),
        abi["RTA_GATEWAY"]: ip_address("192.0.2.1"),
        abi["RTA_IFP"]: em0,
        abi["RTA_IFA"]: ip_address("192.0.2.10"),
    }
    interface = only("interface")
    assert (interface.kind, interface.index, interface.mtu) == (abi["RTM_IFINFO"], 3, 9000)
    assert interface.flags == abi["IFF_UP"] | abi["IFF_RUNNING"]
    assert interface.link_state == abi.numbers.get("LINK_STATE_DOWN" if system != "macos" else "", 0)
    assert interface.addresses == {abi["RTA_IFP"]: em0}
    address = only("address")
    assert (address.kind, address.index) == (abi["RTM_NEWADDR"], 3)
    assert address.addresses[abi["RTA_IFA"]] == ip_address("192.0.2.10")
    neighbour = only("neighbour")
    assert neighbour.addresses == {abi["RTA_DST"]: IPv6Address("fe80::1%3"), abi["RTA_GATEWAY"]: em0}


REQUEST = """
struct { struct rt_msghdr h; SA(%s, dst); SA(sockaddr_dl, ifp); } PACKED request = {
    { .rtm_msglen = sizeof(request), .rtm_version = RTM_VERSION, .rtm_type = RTM_GET, HDRLEN(rtm, struct rt_msghdr)
      .rtm_flags = RTF_UP | RTF_HOST, .rtm_addrs = RTA_DST | RTA_IFP, .rtm_pid = 4711, .rtm_seq = 8 },
    .dst = %s, .ifp = { .sdl_len = sizeof(struct sockaddr_dl), .sdl_family = AF_LINK } };
"""


@pytest.mark.parametrize(("system", "model", "target"), EVERY)
def test_the_request_is_the_one_that_c_would_make(system: str, model: str, target: str) -> None:
    messages = Messages(load(system, model))
    ipv4 = initialised(target, DEFINITIONS + REQUEST % ("sockaddr_in", "IN(198, 51, 100, 7)"), "request")
    assert messages.get(ip_address("198.51.100.7"), 4711, 8) == ipv4
    ipv6 = initialised(target, DEFINITIONS + REQUEST % ("sockaddr_in6", "IN6(0x2001, 0, 7)"), "request")
    assert messages.get(ip_address("2001::7"), 4711, 8) == ipv6
    scoped = initialised(target, DEFINITIONS + REQUEST % ("sockaddr_in6", "IN6(0xfe80, 3, 7)"), "request")
    asked = bytearray(messages.get(IPv6Address("fe80::7%3"), 4711, 8))
    if system == "freebsd":
        at = messages.abi["sizeof(struct rt_msghdr)"] + messages.abi["offsetof(struct sockaddr_in6, sin6_scope_id)"]
        assert asked[at] == 3
        asked[at] = 0
    assert asked == scoped


ABIS = st.sampled_from([load(system) for system in TARGETS])


@given(ABIS, st.binary(max_size=400))
def test_any_bytes_are_messages_or_nothing(abi: Abi, data: bytes) -> None:
    list(Messages(abi).parse(data))


@given(ABIS, st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=300))
def test_any_sockaddrs_behind_a_good_header(abi: Abi, kind: int, bits: int, body: bytes) -> None:
    size = abi["sizeof(struct rt_msghdr)"]
    header = bytearray(size)
    struct.pack_into("=HBB", header, 0, size + len(body), abi["RTM_VERSION"], kind)
    struct.pack_into("=I", header, abi["offsetof(struct rt_msghdr, rtm_addrs)"], bits)
    if "offsetof(struct rt_msghdr, rtm_hdrlen)" in abi:
        struct.pack_into("=H", header, abi["offsetof(struct rt_msghdr, rtm_hdrlen)"], size)
    assert len(list(Messages(abi).parse(bytes(header) + body))) <= 1


def test_a_message_of_another_version_is_skipped_and_a_short_one_ends_the_read() -> None:
    messages = Messages(load("freebsd"))
    good = messages.get(ip_address("192.0.2.1"), 1, 1)
    other = good[:2] + b"\x03" + good[3:]
    assert len(list(messages.parse(other + good + good[:-1]))) == 1
