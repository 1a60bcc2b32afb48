"""What the packets look like to those who know TCP, and what packets that nobody sent do."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from rsock_nf.lab.lab import DEVICE
from rsock_nf.lab.tunnel import Role
from tests.netns.conftest import Build, Site
from tests.netns.forge import Forger
from tests.netns.judges import Capture, flood, tracked_flows, wait_until

OVERHEAD = {4: 20 + 20 + 8, 6: 40 + 20 + 8}
"""IP and TCP header and the frame's, cipher none."""
TAG = 16
TARGET_INDEX = 2


def no_offloads(site: Site) -> None:
    """Every segment a packet of its own, with a checksum in it, at both senders."""
    for host in (site.lab.client, site.lab.server):
        site.lab.offload(host, tso=False, tx=False, gro=False)


def flow_counters(site: Site, role: Role, name: str) -> int:
    return sum(flow[name] for session in site.tunnel.status(role)["sessions"] for flow in session["flows"])


@pytest.mark.parametrize("toward", ["client", "server"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_segment_far_ahead_does_not_move_the_acknowledgements(share: Build, version: int, toward: Role) -> None:
    """The tracker has not seen it: whoever acknowledged it would be INVALID from then on."""
    site = share(version=version)
    application = site.application()
    site.target()
    before = site.all_flows()

    def noticed() -> int:
        return flow_counters(site, toward, "bad_frames") + flow_counters(site, toward, "out_of_window")

    with Forger(site.lab, toward=toward) as forger, site.watch() as wires:
        application.exchange(500)
        already = noticed()
        forger.send(forger.last_seen(), ahead=20_000, flags="PA", payload=os.urandom(400))
        wait_until(lambda: noticed() > already, "the forged segment to be noticed")
        found = application.exchange(5000)
    assert (found.lost, found.corrupted) == (0, 0)
    site.no_offence()
    assert wires.resets() == 0
    assert tracked_flows(site.lab) == before


@pytest.mark.parametrize("toward", ["client", "server"])
@pytest.mark.parametrize("flags", ["R", "FA"])
def test_a_blind_reset_or_fin_changes_nothing(shared_site: Site, toward: str, flags: str) -> None:
    site = shared_site
    application = site.application()
    site.target()
    with Forger(site.lab, toward=toward) as forger:
        application.exchange(500)
        before = {flow["id"] for flow in site.tunnel.status("client")["sessions"][0]["flows"]}
        forger.send(forger.last_seen(), ahead=5_000, flags=flags)
        found = application.exchange(5000)
    assert found.lost == 0
    assert {flow["id"] for flow in site.tunnel.status("client")["sessions"][0]["flows"]} >= before
    site.no_offence()


@pytest.mark.parametrize("toward", ["client", "server"])
def test_a_reset_in_sequence_costs_one_flow_and_no_traffic(site: Site, toward: str) -> None:
    """A middlebox that believes it forgets the flow: it is replaced before that matters."""
    application = site.application()
    site.target()
    with Forger(site.lab, toward=toward) as forger:
        site.all_flows()

        def flows() -> dict[int, int]:
            described = site.tunnel.status("client")["sessions"][0]["flows"]
            return {flow["id"]: int(flow["remote"].rpartition(":")[2]) for flow in described if flow["state"] != "sick"}

        before = flows()
        application.exchange(500)
        seen = forger.last_seen()
        forger.send(seen, ahead=0, flags="R")
        wait_until(lambda: set(before) - set(flows()) != set(), "the flow to be given up")
        wait_until(lambda: len(flows()) == len(before), "its replacement")
        found = application.exchange(5000)
    assert found.lost == 0
    assert seen.server_port in flows().values()
    assert site.lab.invalid() == 0


@pytest.mark.parametrize("cipher", ["none", "aes-256-gcm"])
@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_around_the_mtu_with_segmentation_in_software(
    build: Build, tmp_path: Path, version: int, cipher: str
) -> None:
    site = build(version=version, up=False, client={"cipher": cipher}, server={"cipher": cipher})
    no_offloads(site)
    ends = site.lab.client, site.lab.server
    with site.tunnel:
        application = site.application()
        target = site.target()
        largest = site.tunnel.status("client")["mtu"]
        assert largest == 1500 - OVERHEAD[version] - (0 if cipher == "none" else TAG)
        around = range(largest - TARGET_INDEX - 1, largest + 2)  # what fits an opening frame, and what fits a plain one
        sizes = [*around, 2 * largest, 9000, 4]
        with Capture(ends[0], tmp_path / "c.pcap") as sent, Capture(ends[1], tmp_path / "s.pcap") as returned:
            found = application.exchange(600, sizes=itertools.cycle(sizes), window=16)
            alone = application.exchange(60, sizes=itertools.cycle(sizes), window=1)
    assert (found.lost, found.corrupted, alone.lost) == (0, 0, 0)
    assert (target.corrupted, target.duplicates) == (0, 0)
    for capture in (sent, returned):
        assert capture.count("greater 1515") == 0
        assert capture.count("len == 1514") > 0
        assert capture.count("ip[6:2] & 0x3fff != 0 or ip6[6] == 44") == 0  # no IP fragment
    site.no_offence()


@pytest.mark.alone
def test_segments_merged_by_gro_are_told_apart(build: Build, tmp_path: Path) -> None:
    """Single packets on the wire, merged by the receiving kernel as a hardware NIC's driver would."""
    site = build(None, up=False)
    sender, receiver = site.lab.client, site.lab.server
    site.lab.offload(sender, tso=False)
    site.lab.offload(receiver, gro=True)
    knobs = f"/sys/class/net/{DEVICE}"
    receiver.run(["sh", "-c", f"echo 50000 > {knobs}/gro_flush_timeout; echo 2 > {knobs}/napi_defer_hard_irqs"])
    with site.tunnel, Capture(receiver, tmp_path / "merged.pcap", "inbound and greater 1600") as merged:
        found = flood(site.lab, 2, rate=5_000)
        application = site.application()
        site.target()
        judged = application.exchange(5000)
    assert merged.count() > 100
    assert found.lost < 0.01
    assert found.duplicates == 0
    assert (judged.lost, judged.corrupted) == (0, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_tshark_finds_nothing_to_object_to(build: Build, tmp_path: Path, version: int) -> None:
    site = build(version=version, up=False)
    no_offloads(site)
    with Capture(site.lab.server, tmp_path / "all.pcap", "tcp or (ip6 and ip6[6] == 6)") as capture, site.tunnel:
        application = site.application()
        site.target()
        assert application.exchange(3000).lost == 0
    verify = ("tcp.check_checksum:TRUE", "ip.check_checksum:TRUE")
    assert capture.tshark("tcp.flags.syn == 1", "frame.number", options=verify)
    # A checksum of 0 is written as 0xffff, as UDP must: skb_checksum_help() in net/core/dev.c does it for TCP too.
    wrong = "(tcp.checksum.status == 0 && tcp.checksum != 0xffff) || ip.checksum.status == 0 || _ws.malformed || tcp.flags.reset == 1"
    assert capture.tshark(wrong, "frame.number", options=verify) == []
    trouble = ("lost_segment", "ack_lost_segment", "out_of_order", "retransmission", "zero_window", "window_full")
    anomalies = " || ".join(f"tcp.analysis.{name}" for name in trouble)
    assert capture.tshark(anomalies, "frame.number", "_ws.expert.message", options=verify) == []
    syns = capture.tshark(
        "tcp.flags.syn == 1", "tcp.options.mss_val", "tcp.options.wscale.shift", "tcp.options.sack_perm"
    )
    assert {(mss, scale) for mss, scale, _ in syns} == {(str(1500 - OVERHEAD[version] + 8), "7")}
    assert len(syns) == 20  # ten flows, SYN and SYN-ACK
