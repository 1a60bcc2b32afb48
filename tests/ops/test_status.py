"""What ``status`` prints, word for word, for snapshots as the runtime makes them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rsock_nf import config
from rsock_nf.config.values import format_secret
from rsock_nf.core.flows.kinds import KindJudge
from rsock_nf.native.library import NOT_BUILT, OTHER_SOURCES
from rsock_nf.ops.status import duration, render, size
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
edge  client  connected  up 1 h 02 min
  ports     10001-10010
  link      eth0, MTU 1500; 91 packets in, 62 out; 3 receive drops
  firewall  nftables; 91 packets kept from the kernel
  MTU       1452 bytes for the application's datagrams
  VPN       WireGuard: MTU = 1420; OpenVPN: mssfix 1452

  session 00000000deadbeef  203.0.113.5  cipher none  2 flows, 1 conversation
    out 1200 datagrams, 1.44 MB
    in  900 datagrams, 57.6 KB
    flow  type  state        local           remote             RTT ms  loss out  frames out   in
    1     tcp   established  10.0.0.2:40001  203.0.113.5:10001    12.3      1.2%        1200  900
    12    udp   sick         10.0.0.2:40001  203.0.113.5:10001       -    100.0%        1200    0"""


def test_a_session_of_the_original_wire_is_told_from_a_native_one() -> None:
    original = {**SNAPSHOT, "sessions": [{**SNAPSHOT["sessions"][0], "wire": "rsock"}]}
    assert "  session 00000000deadbeef  203.0.113.5  wire rsock  2 flows, 1 conversation" in render(original)
    assert "wire rsock" not in render(SNAPSHOT)


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
    lines = render({**SNAPSHOT, "ports": "80,443,10001-10010", "mtu": 1300, "wires": found}).splitlines()
    assert "  ports     10001-10010 (wire native), 80,443 (wire rsock)" in lines
    assert "  MTU       1452 (wire native), 1300 (wire rsock) bytes for the application's datagrams" in lines
    (_, unused) = wires(settings, [native], 1500, 6)
    assert (unused["mtu"], unused["mtu_computed"]) == (1429, True), "nobody speaks it"
    assert render({**SNAPSHOT, "wires": found[:1]}) == EXPECTED


def test_one_session_as_people_see_it() -> None:
    assert render(SNAPSHOT) == EXPECTED


def test_an_mtu_that_no_flow_has_measured_says_so() -> None:
    """Also an idle client has one."""
    lines = render({**SNAPSHOT, "mtu": 1432, "mtu_computed": True, "sessions": []}).splitlines()
    assert "  MTU       1432 bytes for the application's datagrams (computed: no flow)" in lines
    assert "  VPN       WireGuard: MTU = 1400; OpenVPN: mssfix 1432" in lines


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
    lines = render({**SNAPSHOT, "pump": pump, "pump_reason": why}).splitlines()
    assert lines[2] == told
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
    lines = render({**SNAPSHOT, "sessions": [{**SNAPSHOT["sessions"][0], "notes": notes}]}).splitlines()
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
    both = render({**SNAPSHOT, "type": "all", "carriers": carriers}).splitlines()
    assert "  UDP       10 sockets; 31 datagrams in, 42 out; 7 send full; 2 dropped" in both
    assert "  firewall  nftables; 91 packets kept from the kernel" in both
    link = {"device": "eth0", "up": True, "mtu": 1500, "counters": {}}
    alone = render({**SNAPSHOT, "type": "udp", "carriers": carriers, "link": link}).splitlines()
    assert "  firewall  no rules: UDP needs none" in alone
    assert "  link      eth0, MTU 1500" in alone
    anywhere = render({**SNAPSHOT, "type": "udp", "carriers": carriers, "link": {**link, "device": ""}}).splitlines()
    assert "  link      any device, MTU 1500" in anywhere


def test_rates_come_from_two_snapshots_and_their_clock() -> None:
    later = copy.deepcopy(SNAPSHOT)
    later["uptime"] += 2
    later["sessions"][0] |= {"tx_datagrams": 3200, "tx_bytes": 3_840_000, "rx_datagrams": 0}
    lines = render(later, SNAPSHOT).splitlines()
    assert "    out 3200 datagrams, 3.84 MB; now 1000 datagrams/s, 9.60 Mbit/s" in lines
    assert "    in  0 datagrams, 57.6 KB; now 0 datagrams/s, 0.00 Mbit/s" in lines, (
        "a conversation that ended counts back"
    )


def test_a_session_that_is_new_and_a_clock_that_stands_still_have_no_rates() -> None:
    assert "now" not in render(SNAPSHOT, SNAPSHOT)
    other = copy.deepcopy(SNAPSHOT)
    other["sessions"][0]["id"] = "1"
    other["uptime"] -= 1
    assert "now" not in render(SNAPSHOT, other)


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
        "edge  client  connecting  up 1 h 02 min",
        "  reason    no answer from 203.0.113.5",
        "  ports     10001-10010",
        "  link      eth0, not open",
        "  firewall  iptables; 5 packets kept from the kernel; 2 of the kernel's own segments stopped; put back 1 time",
    ]


def test_a_target_that_nobody_serves_is_named() -> None:
    dead = {**SNAPSHOT, "refused_by": {"127.0.0.1:9999": 3}}
    assert render(dead).splitlines()[1] == "  target    127.0.0.1:9999: nobody listens there: refused 3 times"


def test_a_device_that_is_down_is_told() -> None:
    down = {**SNAPSHOT, "link": {**SNAPSHOT["link"], "up": False}}
    assert "  link      eth0, MTU 1500, down; 91 packets in" in render(down)


def test_strangers_are_told() -> None:
    lines = render({**SNAPSHOT, "counters": {"payloads from strangers": 21}}).splitlines()
    assert lines[1] == "  strangers 21 payloads that do not authenticate (another secret, or a scan)"
    lines = render({**SNAPSHOT, "type": "all", "counters": {"payloads from strangers": 1}}).splitlines()
    who = "another secret, a scan, or over UDP a client whose address has changed"
    assert lines[1] == f"  strangers 1 payload that does not authenticate ({who})"


def test_many_flows_are_cut_short() -> None:
    many = copy.deepcopy(SNAPSHOT)
    many["sessions"][0]["flows"] = [FLOW] * 40
    assert render(many).splitlines()[-1] == "    and 8 more"


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
    assert text.startswith("edge  answers what this version of rsock-nf cannot read: rsock-nf down --name edge")
    assert "\n" not in text
