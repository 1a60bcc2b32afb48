"""What is fuzzed: every function that takes bytes from outside, each with inputs that it accepts.

Here: what strangers can say.  ``insider``: what a holder of the secret can say.  ``files``: what comes from this host.
``whole``: sequences, to both ends of a tunnel.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scapy.utils import RawPcapReader

from rsock_nf.config.values import parse_secret
from rsock_nf.core import messages
from rsock_nf.core.parameters import Cipher
from rsock_nf.core.protocols import Kind
from rsock_nf.core.pump.fragments import parse_fragment, split
from rsock_nf.core.tcp.icmp import parse_too_big
from rsock_nf.core.tcp.segment import parse_segment, parse_syn_options
from rsock_nf.core.types import Checksum, Packet
from rsock_nf.wire.native import hints
from rsock_nf.wire.native.control import parse_control
from rsock_nf.wire.native.epochs import KeyRing
from rsock_nf.wire.native.frames import flow_codec
from rsock_nf.wire.native.handshake import NativeHandshake, _build_offer, _parse_offer
from rsock_nf.wire.native.hints import Form, Hinted, no_clock
from rsock_nf.wire.native.holders import Holders
from rsock_nf.wire.native.noise import NNpsk0
from rsock_nf.wire.native.opening import HelloMessage, Offer
from rsock_nf.wire.parameters import KnownClient, NativeParameters
from rsock_nf.wire.rsock.frames import KeepAliveRequest, RsockFormat
from tests.fuzz import files, insider, whole
from tests.fuzz.insider import control_seeds
from tests.fuzz.target import Target

GOLDEN = Path(__file__).parent.parent / "golden"
SECRET = bytes(range(32))


def as_packet(data: bytes) -> Packet:
    """The first byte chooses what is known of the checksum; the rest is the IP packet."""
    return Packet(memoryview(data)[1:], 0, Checksum((data[0] if data else 0) % 3), b"")


def captured(*names: str) -> list[bytes]:
    """Golden IP packets, each with its checksums to be verified and not."""
    found: list[bytes] = []
    for name in names:
        with RawPcapReader(str(GOLDEN / name)) as reader:
            found += [frame[14:] for frame, _ in reader]
    return [bytes((state,)) + data for data in found for state in (Checksum.VERIFY, Checksum.VALID)]


def run_segment(data: bytes) -> object:
    return parse_syn_options(parse_segment(as_packet(data)).options)


def run_too_big(data: bytes) -> object:
    return parse_too_big(as_packet(data))


def run_secret(data: bytes) -> object:
    """Not from the network: it says ``ValueError``, which ``Malformed`` is one of, without quoting the secret."""
    text = data.decode("latin-1")
    line = ""
    try:
        return parse_secret(text)
    except ValueError as error:
        line = str(error)
    assert "genkey" in line
    assert len(line) < 100
    return None


def fresh(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def codec_seeds(cipher: Cipher) -> list[bytes]:
    """Payloads of a run of three frames, one frame, and a control frame; the first two bytes are the segment size."""
    codec = flow_codec(cipher, KeyRing(cipher, SECRET), 1, initiator=True)
    run = b"".join(codec.pack(Kind.DATA, 7, 5, b"", [b"a" * 40, b"b" * 40, b"c" * 9]))
    one = b"".join(codec.pack(Kind.OPENING, 8, 9, b"\0\0", [b"d" * 100]))
    control = codec.pack_control(3, messages.Probe(5))
    return [size.to_bytes(2, "big") + payload for payload in (run, one, control, run + control) for size in (0, 48, 64)]


def run_codec(cipher: Cipher, data: bytes) -> object:
    codec = flow_codec(cipher, KeyRing(cipher, SECRET), 1, initiator=False)
    return codec.unpack(memoryview(data)[2:], int.from_bytes(data[:2], "big"))


def rsock_seeds() -> list[bytes]:
    """Payloads of both versions: one frame, three merged, a keepalive; the first two bytes are the segment size."""
    found: list[bytes] = []
    for version, size in ((1, 67), (2, 71)):
        codec = RsockFormat(SECRET).keys(1, version).codec(2, initiator=True)
        one = b"".join(codec.pack(Kind.DATA, 7, 0, b"", [b"a" * 40]))
        control = codec.pack_control(0, KeepAliveRequest(5))
        found += [bytes(2) + one, size.to_bytes(2, "big") + one * 3, bytes(2) + control]
    return found


def run_rsock(data: bytes) -> object:
    """As a stranger's, and as a known flow's of either version, with what its control frames say."""
    form, payload, size = RsockFormat(SECRET), memoryview(data)[2:], int.from_bytes(data[:2], "big")
    for version in (1, 2):
        codec = form.keys(1, version).codec(2, initiator=False)
        for frames in codec.unpack(payload, size)[0]:
            if frames.kind == Kind.CONTROL:
                codec.read_control(frames.datagrams[0])
    return form.read_untrusted(payload if not size else payload[:size])


def run_hello(data: bytes) -> object:
    handshake = NativeHandshake(SECRET)
    message = handshake.read_untrusted(data)
    return handshake.read_hello(message, fresh(2)) if isinstance(message, HelloMessage) else message


def hello_seeds() -> list[bytes]:
    handshake = NativeHandshake(SECRET)
    return [handshake.hello(Offer(Cipher.NONE, 1460, scale), fresh(i))[0] for i, scale in enumerate((None, 7))]


HOLDERS = Holders(
    NativeParameters(SECRET, clients=tuple(KnownClient(f"c{n}", (bytes([n]) * 32,)) for n in range(3))), no_clock
)


def hinted_seeds() -> list[bytes]:
    """Of clients that have secrets of their own, and of those that have the server's, with each form of hint."""
    found = []
    for at, secret in enumerate((SECRET, bytes([1]) * 32)):
        for form in Form:
            handshake, hinted = NativeHandshake(secret), Hinted(form)
            hello, _ = handshake.hello(Offer(Cipher.NONE, 1460, 7), fresh(at), hinted=hinted)
            found += [hello, hello[: -hints.SIZE]] if secret == SECRET else [hello]
    return found


def run_noise_first(data: bytes) -> object:
    return NNpsk0(initiator=False, psk=SECRET, prologue=b"", rng_key=fresh(1)(32)).read_message(data)


def noise_pair() -> tuple[NNpsk0, bytes]:
    """An initiator that waits for the answer, and that answer."""
    initiator = NNpsk0(initiator=True, psk=SECRET, prologue=b"", rng_key=fresh(3)(32))
    responder = NNpsk0(initiator=False, psk=SECRET, prologue=b"", rng_key=fresh(4)(32))
    responder.read_message(initiator.write_message(b"hello"))
    return initiator, responder.write_message(b"welcome")


def run_noise_second(data: bytes) -> object:
    return noise_pair()[0].read_message(data)


TARGETS: dict[str, Target] = {
    "segment": Target(run_segment, partial(captured, "linux-handshake.pcap")),
    "syn_options": Target(
        parse_syn_options, lambda: [bytes.fromhex("020405b40101040201030307"), bytes.fromhex("0402080a" + "00" * 8)]
    ),
    "too_big": Target(run_too_big, partial(captured, "linux-too-big.pcap")),
    "fragment": Target(parse_fragment, lambda: split(bytes(300), 108, 9, 0) or []),
    "control": Target(parse_control, control_seeds),
    "frames_plain": Target(partial(run_codec, Cipher.NONE), partial(codec_seeds, Cipher.NONE)),
    "frames_aes": Target(partial(run_codec, Cipher.AES_256_GCM), partial(codec_seeds, Cipher.AES_256_GCM)),
    "frames_rsock": Target(run_rsock, rsock_seeds),
    "hello": Target(run_hello, hello_seeds),
    "hinted": Target(HOLDERS.read_untrusted, hinted_seeds),
    "offer": Target(  # behind the seal of a hello: what only someone who has the secret can say
        _parse_offer, lambda: [_build_offer(Offer(Cipher.NONE, 1460, scale)) for scale in (None, 7)]
    ),
    "noise_first": Target(
        run_noise_first,
        lambda: [NNpsk0(initiator=True, psk=SECRET, prologue=b"", rng_key=fresh(3)(32)).write_message(b"hello")],
    ),
    "noise_second": Target(run_noise_second, lambda: [noise_pair()[1]]),
    "secret": Target(run_secret, lambda: [b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]),
    **insider.TARGETS,
    **files.TARGETS,
    **whole.TARGETS,
}
