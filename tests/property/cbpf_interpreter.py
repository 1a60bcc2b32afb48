"""An interpreter of classic BPF: a judge of the assembler and of the filter, not part of the product.

It runs the instructions that ``rsock_nf.link.cbpf`` names, and no others.  ``tests/link/bsd/machine.py`` is a second
one: it knows the whole instruction set, and belongs to the simulated kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from rsock_nf.link.cbpf import (
    ADD_X,
    AND,
    GOTO,
    JEQ,
    JGE,
    JGT,
    JSET,
    LD_B,
    LD_B_X,
    LD_H,
    LD_H_X,
    LD_W,
    LD_W_X,
    LDX_HEADER_LENGTH,
    LSH,
    MOD,
    RET,
    TAX,
    Instruction,
)

NO_ANCILLARY: Final[Mapping[int, int]] = {}


def interpret(program: Sequence[Instruction], packet: bytes, ancillary: Mapping[int, int] = NO_ANCILLARY) -> int:
    """Run ``program`` over ``packet`` as the kernel would: bytes to keep, 0 = reject.

    ``ancillary``: what Linux knows about the packet, by the offset (32 bits) at which a program loads it.

    All of the instructions that ``rsock_nf.link.cbpf`` names; loads outside of the packet reject it.
    Raises ``ValueError`` for any other instruction.
    """
    a = x = 0
    at = 0
    while True:
        code, jump_true, jump_false, k = program[at]
        at += 1
        if code in _LOADS:
            size, indirect = _LOADS[code]
            start = k + x if indirect else k
            if start in ancillary:
                a = ancillary[start]
                continue
            if start + size > len(packet):
                return 0
            a = int.from_bytes(packet[start : start + size], "big")
        elif code in _BRANCHES:
            at += jump_true if _BRANCHES[code](a, k) else jump_false
        elif code == GOTO:
            at += k
        elif code == LDX_HEADER_LENGTH:
            if k >= len(packet):
                return 0
            x = 4 * (packet[k] & 15)
        elif code in _ARITHMETIC:
            a = _ARITHMETIC[code](a, k, x) & 0xFFFFFFFF
        elif code == TAX:
            x = a
        elif code == RET:
            return k
        else:
            raise ValueError(f"unknown instruction {code:#x} at {at - 1}")


_LOADS: Final = {
    LD_W: (4, False),
    LD_H: (2, False),
    LD_B: (1, False),
    LD_W_X: (4, True),
    LD_H_X: (2, True),
    LD_B_X: (1, True),
}
_ARITHMETIC: Final[dict[int, Callable[[int, int, int], int]]] = {
    AND: lambda a, k, _: a & k,
    LSH: lambda a, k, _: a << k,
    MOD: lambda a, k, _: a % k,
    ADD_X: lambda a, _, x: a + x,
}
_BRANCHES: Final[dict[int, Callable[[int, int], bool]]] = {
    JEQ: int.__eq__,
    JGT: int.__gt__,
    JGE: int.__ge__,
    JSET: lambda a, k: bool(a & k),
}
