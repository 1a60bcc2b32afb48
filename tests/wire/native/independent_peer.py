"""A peer of rsock-nf written from ``docs/wire.md`` alone: it proves that the document is complete.

It imports nothing of rsock_nf: hashlib, hmac and the primitives of ``cryptography``, and the Noise specification.
Not fast, not robust, not for use: no timers, no bursts, IPv4 only, and it raises where it meets what it does not
expect.  Section numbers in comments are those of the document.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

NONE, AES_256_GCM, CHACHA20_POLY1305 = 0, 1, 2
DATA, OPENING, FRAGMENT, CONTROL = 0, 1, 2, 3
HELLO, ANSWER, JOIN, JOIN_ANSWER, CONFIRMATION, GONE, COOKIE = 1, 2, 3, 4, 5, 6, 7
FROM_CLIENT = {HELLO: range(95, 159), JOIN: range(50, 114), CONFIRMATION: range(61, 62)}
FROM_SERVER = {ANSWER: range(95, 96), JOIN_ANSWER: range(49, 50), GONE: range(33, 34), COOKIE: range(49, 50)}
READY, PROBE, PROBE_ANSWER, FLOW_DOWN, CLOSE_FLOW, OPENED, CLOSE_CONVERSATION, REFUSED, CLOSE_SESSION = range(1, 10)
SEEN_AS = 14
REKEY, REKEYED = 10, 11
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

Rng = Callable[[int], bytes]


class Garbage(ValueError):  # noqa: N818 - the word of the document
    """Does not parse or does not authenticate."""


# -- 3 keys


def hkdf(key: bytes, info: bytes, length: int, salt: bytes = bytes(32)) -> bytes:
    """RFC 5869 with SHA-256 and, if none is given, an empty salt."""
    pseudo_random = hmac.digest(salt, key, "sha256")
    output = block = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudo_random, block + info + bytes((number,)), "sha256")
        output += block
    return output[:length]


class Secret:
    """The five keys of the secret."""

    def __init__(self, secret: bytes) -> None:
        keys = hkdf(secret, b"rsock-nf 2 secret", 160)
        self.psk, self.mask, self.gone, self.seal, self.hint = (keys[at : at + 32] for at in range(0, 160, 32))

    # -- 4.1 envelope

    def envelope(self, kind: int, body: bytes) -> bytes:
        plain = bytes((kind,)) + body
        salt = hashlib.blake2s(plain, key=self.seal, digest_size=16).digest()
        return salt + self._masked(salt, plain)

    def open(self, payload: bytes) -> tuple[int, bytes]:
        lengths = FROM_CLIENT | FROM_SERVER
        if not any(len(payload) in sizes for sizes in lengths.values()):
            raise Garbage("length")
        plain = self._masked(payload[:16], payload[16:])
        if hashlib.blake2s(plain, key=self.seal, digest_size=16).digest() != payload[:16]:
            raise Garbage("salt")
        if len(payload) not in lengths.get(plain[0], ()):
            raise Garbage("length of this kind")
        return plain[0], plain[1:]

    # -- 4.6 hints

    def hinted(self, message: bytes, hour: int | None) -> bytes:
        """``message`` with the hint of this hour; None = the lasting one."""
        text = struct.pack("!Q", 2**64 - 1 if hour is None else hour)
        hint = hashlib.blake2s(text, key=self.hint, digest_size=4, person=b"hint").digest()
        return message + bytes(a ^ b for a, b in zip(hint, message, strict=False))

    def _masked(self, salt: bytes, data: bytes) -> bytes:
        masks = hashlib.shake_256(self.mask + salt).digest(len(data))
        return bytes(a ^ b for a, b in zip(data, masks, strict=True))


class Session:
    """The keys of a session."""

    def __init__(self, to_server: bytes, to_client: bytes) -> None:
        self.key = to_server + to_client
        self.lasting = hkdf(self.key, b"rsock-nf lasting", 32)
        keys = hkdf(self.key, b"rsock-nf session", 96)
        self.join, self.confirm = ChaCha20Poly1305(keys[:32]), ChaCha20Poly1305(keys[64:])
        self.join_answer = keys[32:64]


def next_key(session_key: bytes, epoch: int, own: bytes, theirs: bytes, publics: bytes) -> bytes:
    """3.1: the session key of ``epoch``, the next one.  ``publics``: the client's public key, then the server's."""
    shared = X25519PrivateKey.from_private_bytes(own).exchange(X25519PublicKey.from_public_bytes(theirs))
    return hkdf(shared, b"rsock-nf rekey" + struct.pack("!I", epoch) + publics, 64, session_key)


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


class Direction:
    """The keys and counters of one flow in one direction, in one epoch at a time."""

    def __init__(self, session: Session, cipher: int, flow_id: int, direction: int) -> None:
        self._info = b"rsock-nf flow\0\0\0" + struct.pack("!IB", flow_id, direction)
        self._aead = AESGCM if cipher == AES_256_GCM else ChaCha20Poly1305
        self.sealed = cipher != NONE
        lasting = hkdf(session.lasting, self._info, 20)
        self._mask = Cipher(algorithms.AES(lasting[:16]), modes.ECB())  # noqa: S305 - 5.3
        self.token = int.from_bytes(lasting[16:], "big")
        self.use(session.key, 0)
        self.counter = self.control_counter = 0

    def use(self, session_key: bytes, epoch: int) -> None:
        """From now on frames are of ``epoch``.  The counters go on."""
        keys = hkdf(session_key, self._info, 64)
        self.data, self.control = self._aead(keys[:32]), self._aead(keys[32:])
        self._epoch = epoch % 2

    # -- 5 frames

    def frame(self, kind: int, conversation: int, body: bytes) -> bytes:
        """The next data, opening or fragment frame."""
        word = kind * 16384 + len(body)
        if not self.sealed:
            return struct.pack("!HHI", word, conversation, self.token) + body
        counter = self._epoch << 31 | self.counter
        header = struct.pack("!HHI", word, conversation, counter)
        sealed = self.data.encrypt(struct.pack("!4xQ", counter), body, header)
        self.counter += 1
        return self._masked(header, sealed) + sealed

    def control_frame(self, message: bytes) -> bytes:
        counter = self._epoch << 47 | self.control_counter
        header = struct.pack("!HHI", CONTROL * 16384 + len(message), counter >> 32, counter & 0xFFFFFFFF)
        sealed = self.control.encrypt(struct.pack("!4xQ", counter), message, header)
        self.control_counter += 1
        return (self._masked(header, sealed) if self.sealed else header) + sealed

    def open_frame(self, frame: bytes) -> tuple[int, int, int, bytes]:
        """(kind, conversation, counter or token, body)."""
        if len(frame) < 8 + 16 * self.sealed:
            raise Garbage("short")
        header = self._masked(frame[:8], frame[8:]) if self.sealed else frame[:8]
        word, conversation, low = struct.unpack("!HHI", header)
        kind, length = divmod(word, 16384)
        sealed = self.sealed or kind == CONTROL
        if len(frame) != 8 + length + 16 * sealed:
            raise Garbage("length")
        if not sealed:
            if low != self.token:
                raise Garbage("token")
            return kind, conversation, low, frame[8:]
        counter = conversation << 32 | low if kind == CONTROL else low
        bits = 47 if kind == CONTROL else 31
        if counter >> bits != self._epoch:
            raise Garbage("epoch")
        try:
            key = self.control if kind == CONTROL else self.data
            body = key.decrypt(struct.pack("!4xQ", counter), frame[8:], header)
        except InvalidTag:
            raise Garbage("tag") from None
        return kind, 0 if kind == CONTROL else conversation, counter & (1 << bits) - 1, body

    def _masked(self, header: bytes, behind: bytes) -> bytes:
        mask = self._mask.encryptor().update(behind[:16])
        return bytes(a ^ b for a, b in zip(header, mask[:8], strict=True))


# -- 4.2 Noise_NNpsk0_25519_ChaChaPoly_SHA256


class Noise:
    """Both roles, as the specification's pseudo-code has it (sections 5.1 to 5.3, 9)."""

    def __init__(self, psk: bytes, ephemeral: bytes) -> None:
        self._psk = psk
        self._ephemeral = X25519PrivateKey.from_private_bytes(ephemeral)
        self._public = self._ephemeral.public_key().public_bytes_raw()
        self._remote = b""
        self._h = hashlib.sha256(b"Noise_NNpsk0_25519_ChaChaPoly_SHA256").digest()  # longer than 32: hashed
        self._ck = self._h
        self._k = b""
        self._n = 0
        self._mix_hash(b"rsock-nf 2")

    def _mix_hash(self, data: bytes) -> None:
        self._h = hashlib.sha256(self._h + data).digest()

    def _hkdf(self, material: bytes) -> list[bytes]:
        temp = hmac.digest(self._ck, material, "sha256")
        one = hmac.digest(temp, b"\1", "sha256")
        two = hmac.digest(temp, one + b"\2", "sha256")
        return [one, two, hmac.digest(temp, two + b"\3", "sha256")]

    def _mix_key(self, material: bytes) -> None:
        self._ck, self._k, _ = self._hkdf(material)
        self._n = 0

    def _psk_token(self) -> None:
        self._ck, to_hash, self._k = self._hkdf(self._psk)
        self._mix_hash(to_hash)
        self._n = 0

    def _e_token(self, public: bytes) -> None:
        self._mix_hash(public)
        self._mix_key(public)

    def _ee_token(self) -> None:
        self._mix_key(self._ephemeral.exchange(X25519PublicKey.from_public_bytes(self._remote)))

    def _nonce(self) -> bytes:
        self._n += 1
        return bytes(4) + (self._n - 1).to_bytes(8, "little")

    def _encrypt(self, plain: bytes) -> bytes:
        sealed = ChaCha20Poly1305(self._k).encrypt(self._nonce(), plain, self._h)
        self._mix_hash(sealed)
        return sealed

    def _decrypt(self, sealed: bytes) -> bytes:
        try:
            plain = ChaCha20Poly1305(self._k).decrypt(self._nonce(), sealed, self._h)
        except InvalidTag:
            raise Garbage("noise") from None
        self._mix_hash(sealed)
        return plain

    def write_first(self, payload: bytes) -> bytes:
        self._psk_token()
        self._e_token(self._public)
        return self._public + self._encrypt(payload)

    def read_first(self, message: bytes) -> bytes:
        self._psk_token()
        self._remote = message[:32]
        self._e_token(self._remote)
        return self._decrypt(message[32:])

    def write_second(self, payload: bytes) -> bytes:
        self._e_token(self._public)
        self._ee_token()
        return self._public + self._encrypt(payload)

    def read_second(self, message: bytes) -> bytes:
        self._remote = message[:32]
        self._e_token(self._remote)
        self._ee_token()
        return self._decrypt(message[32:])

    def split(self) -> Session:
        to_server, to_client, _ = self._hkdf(b"")
        return Session(to_server, to_client)


# -- 4.2 to 4.4 the messages


@dataclass(frozen=True)
class Answer:
    status: int
    cipher: int
    session_id: int
    challenge: bytes
    targets: int
    shard: tuple[int, int] = (0, 1)


def offer(cipher: int, mss: int, scale: int | None) -> bytes:
    return struct.pack("!BBHB", 2, cipher, mss, 255 if scale is None else scale)


def hello(
    secret: Secret,
    offered: bytes,
    ephemeral: bytes,
    padding: int,
    again: tuple[bytes, int, int] = (bytes(16), 0, 0),
) -> tuple[bytes, Noise]:
    """``again``: the server's cookie, and what was sent and received on this flow before."""
    noise = Noise(secret.psk, ephemeral)
    head = struct.pack("!16sHH", *again)
    return secret.envelope(HELLO, head + noise.write_first(offered + bytes(5 + padding))), noise


def read_cookie(secret: Secret, hello_payload: bytes, payload: bytes) -> bytes:
    kind, body = secret.open(payload)
    if kind != COOKIE or body[:16] != hello_payload[:16]:
        raise Garbage(f"kind {kind}")
    return body[16:]


def read_answer(secret: Secret, noise: Noise, payload: bytes) -> tuple[Answer, Session]:
    kind, body = secret.open(payload)
    if kind != ANSWER:
        raise Garbage(f"kind {kind}")
    status, cipher, session_id, targets, *shard = struct.unpack("!BBQHBB", noise.read_second(body[16:]))
    return Answer(status, cipher, session_id, body[:16], targets, (shard[0], shard[1])), noise.split()


def answer(secret: Secret, payload: bytes, said: Answer, ephemeral: bytes) -> tuple[bytes, bytes, Session]:
    """Server: (answer, the offer that the hello held, the session's keys)."""
    kind, body = secret.open(payload)
    if kind != HELLO:
        raise Garbage(f"kind {kind}")
    noise = Noise(secret.psk, ephemeral)
    offered = noise.read_first(body[20:])[:5]
    plain = struct.pack("!BBQHBB", said.status, said.cipher, said.session_id, said.targets, *said.shard)
    return secret.envelope(ANSWER, said.challenge + noise.write_second(plain)), offered, noise.split()


def want_cookie(secret: Secret, hello_payload: bytes, cookie: bytes) -> bytes:
    return secret.envelope(COOKIE, hello_payload[:16] + cookie)


def _number_nonce(number: int) -> bytes:
    return bytes(8) + number.to_bytes(4, "big")


def join(secret: Secret, session: Session, session_id: int, number: int, offered: bytes, padding: int) -> bytes:
    head = struct.pack("!QI", session_id, number)
    sealed = session.join.encrypt(_number_nonce(number), offered + bytes(padding), head)
    return secret.envelope(JOIN, head + sealed)


def join_answer(secret: Secret, session: Session, number: int, challenge: bytes) -> bytes:
    return secret.envelope(JOIN_ANSWER, challenge + _join_mac(session, number, challenge))


def _join_mac(session: Session, number: int, challenge: bytes) -> bytes:
    text = struct.pack("!I", number) + challenge
    return hashlib.blake2s(text, key=session.join_answer, digest_size=16).digest()


def gone(secret: Secret, join_payload: bytes) -> bytes:
    return secret.envelope(GONE, _gone(secret, join_payload))


def _gone(secret: Secret, join_payload: bytes) -> bytes:
    return hashlib.blake2s(secret.open(join_payload)[1], key=secret.gone, digest_size=16).digest()


def read_join_answer(
    secret: Secret, session: Session, number: int, join_payload: bytes, payload: bytes
) -> bytes | None:
    """The challenge; None = the session is gone."""
    kind, body = secret.open(payload)
    if kind == GONE and body == _gone(secret, join_payload):
        return None
    if kind != JOIN_ANSWER or body[16:] != _join_mac(session, number, body[:16]):
        raise Garbage(f"kind {kind}")
    return body[:16]


def confirmation(secret: Secret, session: Session, session_id: int, number: int, challenge: bytes) -> bytes:
    head = struct.pack("!QI", session_id, number)
    return secret.envelope(CONFIRMATION, head + session.confirm.encrypt(_number_nonce(number), challenge, head))


# -- 2 the outside


def checksum(data: bytes) -> int:
    """RFC 1071; 0 over data that contains a right one."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass(frozen=True)
class Segment:
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    payload: bytes


def build_ipv4(
    source: bytes, destination: bytes, ports: tuple[int, int], identification: int, segment: Segment
) -> bytes:
    offset = (20 + len(segment.options)) // 4
    tcp = struct.pack("!HHIIBBHHH", *ports, segment.seq, segment.ack, offset << 4, segment.flags, segment.window, 0, 0)
    tcp += segment.options + segment.payload
    value = checksum(source + destination + struct.pack("!HH", 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", value) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), identification, 0x4000, 64, 6, 0) + source + destination
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp


def parse_ipv4(packet: bytes) -> tuple[tuple[int, int], Segment]:
    """(source and destination port, segment); checks what section 2.1 says of the header."""
    first, dscp, total, _, fragment, ttl, protocol, _, source, destination = struct.unpack("!BBHHHBBH4s4s", packet[:20])
    if (first, dscp, total, fragment, ttl, protocol) != (0x45, 0, len(packet), 0x4000, 64, 6):
        raise Garbage("IP header")
    if checksum(packet[:20]) or checksum(source + destination + struct.pack("!HH", 6, total - 20) + packet[20:]):
        raise Garbage("checksum")
    sport, dport, seq, ack, offset, flags, window = struct.unpack("!HHIIBBH", packet[20:36])
    start = 20 + (offset >> 4) * 4
    return (sport, dport), Segment(seq, ack, flags, window, packet[40:start], packet[start:])


@dataclass
class Flow:
    """A client's flow: the outside of section 2, then frames."""

    local: bytes
    remote: bytes
    ports: tuple[int, int]
    next_seq: int
    """The ISN, to begin with."""
    identification: int = 0
    received: int = 0
    mss: int = 0
    scale: int | None = None
    flow_id: int = 0
    sending: Direction | None = None
    receiving: Direction | None = None
    received_frames: int = 0
    controls: list[bytes] = field(default_factory=list)
    """Control messages received, opened."""
    datagrams: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(kind, conversation, body) of everything else."""
    fin: bool = False

    def syn(self, mss: int = 1460) -> bytes:
        options = struct.pack("!BBH", 2, 4, mss) + bytes.fromhex("0101 0402 0103 0307")
        packet = self._packet(SYN, b"", options, 65535 // mss * mss)
        self.next_seq = self.next_seq + 1 & 0xFFFFFFFF
        return packet

    def segment(self, payload: bytes = b"", flags: int = ACK) -> bytes:
        packet = self._packet(flags | (PSH if payload else 0), payload, b"", 65535)
        self.next_seq = self.next_seq + len(payload) + bool(flags & FIN) & 0xFFFFFFFF
        return packet

    def _packet(self, flags: int, payload: bytes, options: bytes, window: int) -> bytes:
        self.identification = self.identification + 1 & 0xFFFF
        segment = Segment(self.next_seq, self.received if flags & ACK else 0, flags, window, options, payload)
        return build_ipv4(self.local, self.remote, self.ports, self.identification, segment)

    def syn_ack(self, segment: Segment) -> None:
        """Take the SYN-ACK, which has exactly the options of section 2.2."""
        kind, length, self.mss = struct.unpack("!BBH", segment.options[:4])
        rest = segment.options[4:].hex()
        if (kind, length) != (2, 4) or rest not in {"0101040201030307", "01010402", "01030307", ""}:
            raise Garbage("options")
        if segment.flags != SYN | ACK or segment.ack != self.next_seq or segment.window != 65535 // self.mss * self.mss:
            raise Garbage("SYN-ACK")
        self.scale = 7 if rest.endswith("01030307") else None
        self.received = segment.seq + 1 & 0xFFFFFFFF

    def handshake_payload(self, segment: Segment) -> bytes:
        """The next handshake message of the server, in sequence."""
        if segment.flags != PSH | ACK or (segment.seq, segment.ack) != (self.received, self.next_seq):
            raise Garbage("out of sequence")
        self.received = segment.seq + len(segment.payload) & 0xFFFFFFFF
        return segment.payload

    def stand(self, session: Session, cipher: int, flow_id: int) -> None:
        """The keys of the flow."""
        self.flow_id = flow_id
        self.sending = Direction(session, cipher, flow_id, 0)
        self.receiving = Direction(session, cipher, flow_id, 1)

    def take(self, segment: Segment) -> None:
        """A segment of a flow that stands; its frame moves ``received``, only forward."""
        if segment.window != 65535 or not segment.flags & ACK or segment.options:
            raise Garbage("header")
        if segment.payload:
            if self.receiving is None:
                raise Garbage("frame before the flow stands")
            kind, conversation, _, body = self.receiving.open_frame(segment.payload)
            self.received_frames += 1
            if kind == CONTROL:
                self.controls.append(body)
            else:
                self.datagrams.append((kind, conversation, body))
        end = segment.seq + len(segment.payload) & 0xFFFFFFFF
        if segment.flags & FIN and (segment.payload or end == self.received):
            self.fin = True
            end = end + 1 & 0xFFFFFFFF
        elif not segment.payload:
            return
        if end - self.received & 0xFFFFFFFF < 1 << 31:
            self.received = end

    def control(self, message: bytes, flags: int = ACK) -> bytes:
        """A packet with one control frame."""
        if self.sending is None:
            raise Garbage("frame before the flow stands")
        return self.segment(self.sending.control_frame(message), flags)

    def data(self, kind: int, conversation: int, body: bytes) -> bytes:
        """A packet with one other frame."""
        if self.sending is None:
            raise Garbage("frame before the flow stands")
        return self.segment(self.sending.frame(kind, conversation, body))


def seen_as(address: bytes, port: int) -> bytes:
    """Control message 14, as section 6 has it: IPv4 is mapped into IPv6."""
    return bytes((SEEN_AS,)) + (b"\0" * 10 + b"\xff" * 2 + address)[-16:] + struct.pack("!H", port)
