"""A flow from SYN to FIN as we build it: a golden capture, with tshark as the judge of it.

``PYTHONPATH=. python tests/golden/test_flow_capture.py`` writes the capture anew, after a change that is meant.
"""

import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.utils import RawPcapReader, RawPcapWriter

from rsock_nf.core.tcp.segment import ACK, FIN, PSH, HeaderTemplate, SynOptions, build_syn, build_syn_ack
from rsock_nf.core.types import FlowKey
from rsock_nf.link.segmentation import complete

CAPTURE = Path(__file__).with_name("flow.pcap")
LINKTYPE_RAW = 101
FAMILIES = [("192.0.2.1", "198.51.100.7", 1460), ("2001:db8::1", "2001:db8::2", 1440)]


def flow(client: str, server: str, mss: int) -> list[bytes]:
    """Handshake, data both ways (one segment, a run of three, one of odd size), FIN from the client."""
    key = FlowKey(ip_address(client).packed, 40000, ip_address(server).packed, 10001)
    sides = {key: HeaderTemplate(key, 0x1235), key.reversed(): HeaderTemplate(key.reversed(), 0xFFFF)}
    position = {key: 0xFFFF_FF00, key.reversed(): 0x0102_0304}  # the client's wraps on the way
    done = []

    def send(sender: FlowKey, flags: int, payload: bytes = b"") -> None:
        headers = sides[sender].build(position[sender], position[sender.reversed()], flags, 512, len(payload))
        done.append(complete(headers, payload))
        position[sender] = (position[sender] + len(payload) + bool(flags & FIN)) & 0xFFFF_FFFF

    done.append(complete(build_syn(key, position[key], mss, 7, 0x1234), b""))
    position[key] += 1
    offer = SynOptions(mss, 7, sack_permitted=True)
    done.append(complete(build_syn_ack(key.reversed(), position[key.reversed()], position[key], offer), b""))
    position[key.reversed()] += 1
    send(key, ACK)
    send(key, ACK | PSH, bytes(range(200)))
    for i in range(3):
        send(key, ACK | PSH if i == 2 else ACK, bytes([i]) * 1208)
    send(key.reversed(), ACK)
    send(key.reversed(), ACK | PSH, b"\xff" * 777)
    send(key, FIN | ACK)
    send(key.reversed(), FIN | ACK)
    send(key, ACK)
    return done


def all_packets() -> list[bytes]:
    return [data for family in FAMILIES for data in flow(*family)]


def write(packets: list[bytes]) -> None:
    with RawPcapWriter(str(CAPTURE), linktype=LINKTYPE_RAW) as writer:
        writer.write_header(None)
        for i, data in enumerate(packets):
            writer.write_packet(data, sec=0, usec=i * 1000)


def tshark(*fields: str) -> list[list[str]]:
    arguments = ["tshark", "-r", str(CAPTURE), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    arguments += ["-T", "fields", *(word for field in fields for word in ("-e", field))]
    output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in output.splitlines()]


def test_capture_is_what_we_build() -> None:
    with RawPcapReader(str(CAPTURE)) as reader:
        assert [data.hex() for data, _ in reader] == [data.hex() for data in all_packets()]


def test_tshark_finds_nothing_wrong() -> None:
    rows = tshark("ip.version", "ip.checksum.status", "tcp.checksum.status", "_ws.malformed", "_ws.expert.severity")
    assert len(rows) == len(all_packets())
    chat = {"", "2097152", "2097152,4194304"}  # "connection establish request" and "finish": what chat and note say
    for version, ip_status, tcp_status, malformed, severity in rows:
        assert (ip_status, tcp_status, malformed) == ("1" if version == "4" else "", "1", "")
        assert severity in chat


@pytest.mark.parametrize(
    "analysis", ["retransmission", "lost_segment", "out_of_order", "ack_lost_segment", "zero_window"]
)
def test_tshark_follows_the_stream(analysis: str) -> None:
    assert all(row == [""] for row in tshark(f"tcp.analysis.{analysis}"))
    assert {int(row[0]) for row in tshark("tcp.stream")} == {0, 1}


def test_tshark_reads_the_offer() -> None:
    rows = tshark("tcp.flags.syn", "tcp.options.mss_val", "tcp.options.wscale.shift", "tcp.options.sack_perm")
    offers = [row[1:] for row in rows if row[0] in {"1", "True"}]
    assert [offer[:2] for offer in offers] == [["1460", "7"]] * 2 + [["1440", "7"]] * 2
    assert all(offer[2] for offer in offers)


if __name__ == "__main__":
    write(all_packets())
