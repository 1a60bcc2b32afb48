"""What ``status`` prints, word for word, for snapshots as the runtime makes them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config.values import format_secret
from rsock_nf.core.flows.kinds import KindJudge
from rsock_nf.native.library import NOT_BUILT, OTHER_SOURCES
from rsock_nf.ops.status import duration, render, size
from rsock_nf.ops.status.sessions import shown
from rsock_nf.runtime.reports.snapshot import wires
from rsock_nf.words import missing_kind

FLOW = {
    "id": 1,
    "type": "tcp",
    "state": "established",
    "local": "10.0.0.2:40001",
    "remote": "203.0.113.5:10001",
    "rtt_ms": 12.345,
    "loss_out": 0.0125,
    "tx_frames": 1200,
    "rx_frames": 900,
}
SNAPSHOT: dict[str, Any] = {
    "name": "edge",
    "role": "client",
    "uptime": 3725.5,
    "state": "connected",
    "reason": "",
    "ports": "10001-10010",
    "mtu": 1452,
    "sessions": [
        {
            "id": "00000000deadbeef",
            "peer": "203.0.113.5",
            "wire": "native",
            "cipher": "none",
            "heard_ago": 3.25,
            "flows": [
                FLOW,
                {**FLOW, "id": 12, "type": "udp", "state": "sick", "rtt_ms": None, "loss_out": 1.0, "rx_frames": 0},
            ],
            "conversations": 1,
            "tx_datagrams": 1200,
            "tx_bytes": 1_440_000,
            "rx_datagrams": 900,
            "rx_bytes": 57_600,
        }
    ],
    "link": {
        "device": "eth0",
        "mtu": 1500,
        "counters": {"received_packets": 91, "sent_packets": 62, "receive_drops": 3, "truncated": 0},
    },
    "firewall": {"backend": "nftables", "dropped": 91, "guarded": 0, "repairs": 0},
}

EXPECTED = """\
edge: client, connected, up 1 h 02 min
  totals    1 of 2 flows, 1 conversation; out 1.44 MB, in 57.6 KB
  MTU       1452 bytes; WireGuard: MTU = 1420; OpenVPN: mssfix 1452
  link      eth0, MTU 1500; 91 packets in, 62 out; 3 receive drops

  session   address      flows   loss  RTT ms     out      in  seen
  00000000  203.0.113.5    1/2  50.6%    12.3  1.44MB  57.6KB    3s"""

EXPECTED_FLOWS = """\
edge: client, connected, up 1 h 02 min
  totals    1 of 2 flows, 1 conversation; out 1.44 MB, in 57.6 KB
  MTU       1452 bytes; WireGuard: MTU = 1420; OpenVPN: mssfix 1452
  ports     10001-10010
  link      eth0, MTU 1500; 91 packets in, 62 out; 3 receive drops
  firewall  nftables; 91 packets kept from the kernel

  session 00000000deadbeef  203.0.113.5
    cipher none; 2 flows, 1 conversation
    out 1200 datagrams, 1.44 MB
    in  900 datagrams, 57.6 KB
    flow  type  state  local           remote             RTT ms  loss  frames out   in
    1     tcp   up     10.0.0.2:40001  203.0.113.5:10001    12.3  1.2%        1200  900
    12    udp   sick   10.0.0.2:40001  203.0.113.5:10001       -  100%        1200    0"""


def test_a_session_of_the_original_wire_is_told_from_a_native_one() -> None:
    original = {**SNAPSHOT, "sessions": [{**SNAPSHOT["sessions"][0], "wire": "rsock"}]}
    assert "    wire rsock; 2 flows, 1 conversation" in render(original, each_flow=True).splitlines()
    assert "wire rsock" not in render(SNAPSHOT, each_flow=True)
    assert "  00000000  203.0.113.5  rsock    1/2" in render(original)


def test_a_server_of_two_wires_has_ports_and_an_mtu_for_each(tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    keys = {
        "role": "server",
        "target": "127.0.0.1:9",
        "secret": format_secret(b"0123456789abcdefghijklmnopqrstuv"),
        "ports": "10001-10010",
    }
    path.write_text(json.dumps(keys | {"rsock": {"ports": "80,443", "type": "all"}}))
    path.chmod(0o600)
    settings = config.load(path).settings
    native, original = {"wire": "native", "mtu": 1452}, {"wire": "rsock", "mtu": 1429}
    found = wires(settings, [native, original, {**original, "mtu": 1300}, {**original, "mtu": None}], 1500, 4)
    assert found == [
        {"wire": "native", "ports": "10001-10010", "type": "tcp", "mtu": 1452, "mtu_computed": False},
        {"wire": "rsock", "ports": "80,443", "type": "all", "mtu": 1300, "mtu_computed": False},
    ]
    lines = render(
        {**SNAPSHOT, "ports": "80,443,10001-10010", "mtu": 1300, "wires": found}, each_flow=True
    ).splitlines()
    assert "  ports     10001-10010 (wire native), 80,443 (wire rsock)" in lines
    assert "  MTU       1452 (wire native), 1300 (wire rsock) bytes; WireGuard: MTU = 1268;" in lines
    (_, unused) = wires(settings, [native], 1500, 6)
    assert (unused["mtu"], unused["mtu_computed"]) == (1429, True), "nobody speaks it"
    assert render({**SNAPSHOT, "wires": found[:1]}) == EXPECTED


def test_one_session_as_people_see_it() -> None:
    assert render(SNAPSHOT) == EXPECTED


def test_a_workers_session_wants_its_part_of_the_flows_alone() -> None:
    session = {**SNAPSHOT["sessions"][0], "worker": 1, "flows_wanted": 2}
    (found,) = shown({**SNAPSHOT, "flows_wanted": 12, "sessions": [session]})
    assert found.wanted == 2


def test_each_flow_as_people_see_it() -> None:
    assert render(SNAPSHOT, each_flow=True, width=100) == EXPECTED_FLOWS


def test_where_addresses_have_no_room_the_flows_show_their_ports() -> None:
    lines = render(SNAPSHOT, each_flow=True).splitlines()
    assert lines[-4:] == [
        "    from 10.0.0.2 to 203.0.113.5",
        "    flow  type  state  local   remote  RTT ms  loss  frames out   in",
        "    1     tcp   up     :40001  :10001    12.3  1.2%        1200  900",
        "    12    udp   sick   :40001  :10001       -  100%        1200    0",
    ]
    elsewhere = copy.deepcopy(SNAPSHOT)
    elsewhere["sessions"][0]["flows"][0]["local"] = LONG
    shown = render(elsewhere, each_flow=True)
    assert re.search(r" \[\w*…:65535 +203\S*…:10001 ", shown), "where they differ, each is cut, and the port stays"


LONG = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
BUSY: dict[str, Any] = {
    **SNAPSHOT["sessions"][0],
    "peer": LONG,
    "name": "a-client-with-a-name-that-is-as-long-as-a-name-may-be-64-letters",
    "oversized": 9825,
    "largest_oversized": 1464,
    "fragments": True,
    "notes": ["no flow over UDP: blocked, or not served there; TCP carries alone"],
    "tx_bytes": 999_400_000_000,
    "flows": [{**FLOW, "state": "established", "local": LONG, "remote": LONG, "tx_frames": 10**15}] * 12,
}
FULL: dict[str, Any] = {
    **SNAPSHOT,
    "name": "n" * 64,
    "role": "server",
    "state": "serving",
    "type": "all",
    "reason": "packets for our ports reach the kernel's TCP, " * 4,
    "notes": ["w" * 200],
    "refused_by": {LONG: 10**9},
    "targets": [{"target": LONG, "refused": 10**9, "refused_ago": 250.0}],
    "counters": {"payloads from strangers": 10**12},
    "strangers": [{"address": LONG, "payloads": 10**9}] * 5,
    "strangers_ago": 12.0,
    "carriers": {"sockets": 10, "received": 10**12, "sent": 10**12, "dropped": 10**9},
    "pump": "python",
    "pump_reason": NOT_BUILT,
    "firewall": {"backend": "nftables", "dropped": 10**15, "guarded": 10**9, "repairs": 3},
    "sessions": [{**BUSY, "id": f"{number:016x}"} for number in range(50)],
}


@pytest.mark.parametrize("each_flow", [False, True])
@pytest.mark.parametrize("paint", [False, True])
@pytest.mark.parametrize("width", [40, 60, 79, 80, 132])
def test_no_line_is_wider_than_the_terminal(width: int, *, each_flow: bool, paint: bool) -> None:
    later = {**FULL, "uptime": FULL["uptime"] + 1}
    for before in (None, FULL):
        text = render(later, before, width=width, each_flow=each_flow, paint=paint)
        assert max(len(re.sub(r"\x1b\[\d+m", "", line)) for line in text.splitlines()) <= width


def test_fifty_clients_are_a_line_each_and_what_is_in_trouble_stands_above() -> None:
    well = {**SNAPSHOT["sessions"][0], "flows": [FLOW] * 10}
    clients = [{**well, "id": f"{number:016x}", "name": f"client{number}", "tx_bytes": number} for number in range(50)]
    clients[7] |= {"flows": [FLOW] * 9 + [{**FLOW, "state": "sick"}]}
    clients[9] |= {"flows": []}
    lines = render({**SNAPSHOT, "role": "server", "state": "serving", "sessions": clients}).splitlines()
    assert lines[1] == "  totals    50 sessions (1 in trouble, 1 without a flow), 489 of 490 flows, 50"
    assert [line.split()[0] for line in lines[6:]] == ["session", "client7", *(
        f"client{number}" for number in range(49, -1, -1) if number not in (7, 9)), "client9"]  # fmt: skip


def test_an_idle_client_says_what_wakes_it() -> None:
    lines = render({**SNAPSHOT, "state": "idle", "idle_timeout": 60.0, "sessions": []}).splitlines()
    assert lines[:2] == [
        "edge: client, idle, up 1 h 02 min",
        "  idle      no traffic for 60 s; the next datagram dials",
    ]


def test_a_client_whose_flows_are_not_all_up_is_in_trouble() -> None:
    wanting = {**SNAPSHOT, "flows_wanted": 10}
    assert "  totals    1 of 10 flows, 1 conversation; out 1.44 MB, in 57.6 KB" in render(wanting).splitlines()
    assert "   1/10  " in render(wanting)


def test_states_have_colours() -> None:
    assert render(SNAPSHOT, paint=True).startswith("\x1b[1medge\x1b[0m: client, \x1b[32mconnected\x1b[0m, up")
    assert "\x1b[33m  00000000  203.0.113.5    1/2" in render(SNAPSHOT, paint=True)
    assert "\x1b" not in render(SNAPSHOT)


def test_notes_stand_below_the_sessions_and_are_not_endless() -> None:
    lines = render(FULL).splitlines()
    assert lines[-1] == "    … 92 more notes: --flows"
    (one,) = [BUSY]
    alone = render({**FULL, "sessions": [one]}).splitlines()
    assert alone[-1] == "    no flow over UDP: blocked, or not served there; TCP carries alone"


def test_an_mtu_that_no_flow_has_measured_says_so() -> None:
    """Also an idle client has one."""
    lines = render({**SNAPSHOT, "mtu": 1432, "mtu_computed": True, "sessions": []}).splitlines()
    assert "  MTU       1432 bytes (computed: no flow); WireGuard: MTU = 1400; OpenVPN:" in lines
    both = {**SNAPSHOT, "mtu": 1432, "mtu_computed": True, "mtu_ipv4": 1452, "sessions": []}
    said = " ".join(render(both).split())
    assert "mssfix 1432; over IPv4 alone 1452 bytes; WireGuard: MTU = 1420; OpenVPN: mssfix 1452" in said


@pytest.mark.parametrize(
    ("pump", "why", "told"),
    [
        ("native", "", "  pump      native"),
        ("python", '"pump" is "python"', '  pump      python: "pump" is "python"'),
        ("python", NOT_BUILT, f"  pump      python: {NOT_BUILT}"),
        ("python", OTHER_SOURCES, f"  pump      python: {OTHER_SOURCES}"),
    ],
)
def test_which_data_path_it_has_and_why(pump: str, why: str, told: str) -> None:
    lines = render({**SNAPSHOT, "pump": pump, "pump_reason": why}, each_flow=True).splitlines()
    assert lines[4] == told
    assert told not in render({**SNAPSHOT, "pump": pump, "pump_reason": why})
    assert len(told) <= 80


@pytest.mark.parametrize(("fragments", "happens"), [(True, "cut"), (False, "dropped")])
def test_datagrams_that_do_not_fit_are_counted(*, fragments: bool, happens: str) -> None:
    (session,) = SNAPSHOT["sessions"]
    large = {**session, "oversized": 9825, "largest_oversized": 1464, "fragments": fragments}
    lines = render({**SNAPSHOT, "sessions": [large]}).splitlines()
    assert f"    9825 datagrams {happens}: above the MTU, the largest 1464 bytes" in lines
    assert max(map(len, [line for line in lines if "datagrams" in line])) <= 80


def test_a_kind_that_rests_or_is_missing_is_told_in_the_session() -> None:
    """The longest notes fit 80 columns."""
    judge = KindJudge()
    judge.resting, judge.why, judge.due = True, "their RTT is 1210 ms, TCP flows 120 ms", 700.0
    notes = [judge.text(100.0), judge.text(701.0), missing_kind(udp=True)]
    judge.carriers = 128
    notes.append(judge.text(701.0))
    lines = render({**SNAPSHOT, "sessions": [{**SNAPSHOT["sessions"][0], "notes": notes}]}, each_flow=True).splitlines()
    begin = lines.index("    in  900 datagrams, 57.6 KB") + 1
    told = lines[begin : begin + 4]
    assert told[:2] == [
        "    UDP flows rest: their RTT is 1210 ms, TCP flows 120 ms; next try in 600 s",
        "    UDP flows rest: their RTT is 1210 ms, TCP flows 120 ms; next try when clean",
    ]
    assert told[2] == "    no flow over UDP: blocked, or not served there; TCP carries alone"
    assert all(len(line) <= 80 for line in told)


def test_udp_carriers_beside_and_instead_of_fake_tcp() -> None:
    carriers = {"sockets": 10, "received": 31, "sent": 42, "too_big": 0, "send_full": 7, "dropped": 2}
    both = render({**SNAPSHOT, "type": "all", "carriers": carriers}, each_flow=True).splitlines()
    assert "  UDP       10 sockets; 31 datagrams in, 42 out; 7 send full; 2 dropped" in both
    assert "  firewall  nftables; 91 packets kept from the kernel" in both
    few = {**carriers, "send_full": 0, "dropped": 0}
    assert "  UDP  " in render({**SNAPSHOT, "type": "all", "carriers": carriers}), "something is dropped"
    assert "  UDP  " not in render({**SNAPSHOT, "type": "all", "carriers": few})
    link = {"device": "eth0", "up": True, "mtu": 1500, "counters": {}}
    alone = render({**SNAPSHOT, "type": "udp", "carriers": carriers, "link": link}, each_flow=True).splitlines()
    assert "  firewall  no rules: UDP needs none" in alone
    assert "  link      eth0, MTU 1500" in alone
    anywhere = render({**SNAPSHOT, "type": "udp", "carriers": carriers, "link": {**link, "device": ""}}, each_flow=True)
    assert "  link      any device, MTU 1500" in anywhere.splitlines()


def test_rates_come_from_two_snapshots_and_their_clock() -> None:
    later = copy.deepcopy(SNAPSHOT)
    later["uptime"] += 2
    later["sessions"][0] |= {"tx_datagrams": 3200, "tx_bytes": 3_840_000, "rx_datagrams": 0}
    lines = render(later, SNAPSHOT, each_flow=True).splitlines()
    assert "    out 3200 datagrams, 3.84 MB; now 1000 datagrams/s, 9.60 Mbit/s" in lines
    assert "    in  0 datagrams, 57.6 KB; now 0 datagrams/s, 0.00 Mbit/s" in lines, (
        "an instance of before, whose conversations that ended count back"
    )
    lines = render(later, SNAPSHOT).splitlines()
    assert lines[2] == "  now       out 9.60, in 0.00 Mbit/s"
    assert lines[-2:] == [
        "  session   address      flows   loss  RTT ms  Mbit/s out    in  seen",
        "  00000000  203.0.113.5    1/2  50.6%    12.3        9.60  0.00    3s",
    ]


def test_a_session_that_is_new_and_a_clock_that_stands_still_have_no_rates() -> None:
    assert "now" not in render(SNAPSHOT, SNAPSHOT, each_flow=True)
    other = copy.deepcopy(SNAPSHOT)
    other["sessions"][0]["id"] = "1"
    other["uptime"] -= 1
    assert "now" not in render(SNAPSHOT, other, each_flow=True)


def test_a_tunnel_that_carries_nothing_says_why() -> None:
    starting = {
        **SNAPSHOT,
        "state": "connecting",
        "reason": "no answer from 203.0.113.5",
        "mtu": None,
        "sessions": [],
        "link": {"device": "eth0", "mtu": None, "counters": {}},
        "firewall": {"backend": "iptables", "dropped": 5, "guarded": 2, "repairs": 1},
    }
    assert render(starting).splitlines() == [
        "edge: client, connecting, up 1 h 02 min",
        "  reason    no answer from 203.0.113.5",
        "  totals    0 flows, 0 conversations; out 0 B, in 0 B",
        "  link      eth0, not open",
        "  firewall  iptables; 5 packets kept from the kernel; 2 of the kernel's own",
        "            segments stopped; put back 1 time",
    ]


def test_a_target_that_nobody_serves_is_named() -> None:
    dead = {**SNAPSHOT, "refused_by": {"127.0.0.1:9999": 3}}
    assert render(dead).splitlines()[1] == "  target    127.0.0.1:9999: nobody listens there: refused 3 times"
    (target, times) = ("127.0.0.1:9999", "refused 3 times")
    lately = {**dead, "targets": [{"target": target, "refused": 3, "refused_ago": 2.5}]}
    assert render(lately).splitlines()[1] == f"  target    {target}: nobody listens there: {times}, last 2 s ago"
    once = {**dead, "targets": [{"target": target, "refused": 3, "refused_ago": 250.0}]}
    assert render(once).splitlines()[1] == f"  target    {target}: {times}, last 4 min ago"


def test_a_device_that_is_down_is_told() -> None:
    down = {**SNAPSHOT, "link": {**SNAPSHOT["link"], "up": False}}
    assert "  link      eth0, MTU 1500, down; 91 packets in" in render(down)


def test_strangers_are_told() -> None:
    lines = render({**SNAPSHOT, "counters": {"payloads from strangers": 21}}).splitlines()
    assert lines[1] == "  strangers 21 payloads that do not authenticate (another secret, or a scan)"
    lines = render({**SNAPSHOT, "type": "all", "counters": {"payloads from strangers": 1}}).splitlines()
    who = "another secret, a scan, or over UDP a client whose address has changed"
    assert " ".join(" ".join(lines[1:3]).split()) == f"strangers 1 payload that does not authenticate ({who})"


def test_strangers_are_named_and_forgotten() -> None:
    known = {
        **SNAPSHOT,
        "counters": {"payloads from strangers": 21},
        "strangers": [{"address": "192.0.2.1", "payloads": 14}, {"address": "2001:db8::1", "payloads": 3}],
        "strangers_ago": 240.0,
    }
    assert render(known).splitlines()[1:3] == [
        "  strangers 21 payloads that do not authenticate (another secret, or a scan),",
        "            the last 4 min ago; most from 192.0.2.1 (14), 2001:db8::1 (3)",
    ]
    old = {**known, "strangers_ago": 4000.0}
    assert "strangers" not in render(old)
    assert "strangers" in render(old, each_flow=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (725, "12 min 05 s"),
        (11220, "3 h 07 min"),
        (183600, "2 d 03 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (57_600, "57.6 KB"), (999_700, "1.00 MB"), (1.5e14, "150 TB"), (2e18, "2000 PB")],
)  # fmt: skip
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize("change", [{"uptime": "x"}, {"sessions": None}, {"link": {}}, {"sessions": [{"id": "ab"}]}])
def test_an_answer_of_another_version_is_one_line(change: dict[str, Any]) -> None:
    text = render({**SNAPSHOT, **change})
    assert " ".join(text.split()).startswith(
        "edge: answers what this version of rsock-nf cannot read: rsock-nf down --name edge"
    )
    assert len(text.splitlines()) == 2
