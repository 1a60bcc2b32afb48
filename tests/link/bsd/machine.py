"""The classic BPF machine as bpf(4) describes it, written a second time: the simulated kernel's, not the product's.

It knows the whole instruction set, and refuses what the kernels' ``bpf_validate`` refuses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

MAX_INSTRUCTIONS = 512
_WORD, _HALF, _BYTE = 0x00, 0x08, 0x10
_SIZES = {_WORD: 4, _HALF: 2, _BYTE: 1}
_U32 = 0xFFFFFFFF
_ALU: dict[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x30: lambda a, b: a // b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << b,
    0x70: lambda a, b: a >> b,
    0x80: lambda a, _: -a,
}
_JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: a & b != 0,
}


class Insn(NamedTuple):
    """struct bpf_insn."""

    code: int
    jt: int
    jf: int
    k: int


def decode(raw: bytes) -> list[Insn]:
    return [Insn(*fields) for fields in struct.iter_unpack("=HBBI", raw)]


def valid(program: list[Insn]) -> bool:
    """Jumps stay inside and the last instruction is a return."""
    if not 0 < len(program) <= MAX_INSTRUCTIONS or program[-1].code & 7 != 0x06:
        return False
    for at, insn in enumerate(program):
        if insn.code & 7 == 0x05:
            farthest = insn.k if insn.code & 0xF0 == 0 else max(insn.jt, insn.jf)
            if at + 1 + farthest >= len(program):
                return False
    return True


def run(program: list[Insn], packet: bytes) -> int:
    """Bytes to keep; 0 = reject."""
    a = x = at = 0
    memory = [0] * 16
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind, operand = code & 7, x if code & 0x08 else k
        if kind in {0x00, 0x01}:
            loaded = _load(code, k, x, packet, memory)
            if loaded is None:
                return 0
            a, x = (loaded, x) if kind == 0x00 else (a, loaded)
        elif kind == 0x02:
            memory[k] = a
        elif kind == 0x03:
            memory[k] = x
        elif kind == 0x04:
            if code & 0xF0 == 0x30 and operand == 0:
                return 0
            a = _ALU[code & 0xF0](a, operand) & _U32
        elif kind == 0x05:
            at += k if code & 0xF0 == 0 else jt if _JUMPS[code & 0xF0](a, operand) else jf
        elif kind == 0x06:
            return a if code & 0x18 == 0x10 else k
        elif code & 0xF8 == 0:
            x = a
        else:
            a = x


def _load(code: int, k: int, x: int, packet: bytes, memory: list[int]) -> int | None:
    mode, size = code & 0xE0, _SIZES.get(code & 0x18, 4)
    if mode == 0x00:
        return k
    if mode == 0x60:
        return memory[k]
    if mode == 0x80:
        return len(packet)
    if mode == 0xA0:  # BPF_MSH
        return 4 * (packet[k] & 15) if k < len(packet) else None
    start = k + (x if mode == 0x40 else 0)
    return int.from_bytes(packet[start : start + size]) if start + size <= len(packet) else None
