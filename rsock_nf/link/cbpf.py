"""The classic BPF machine: its instructions, and an assembler with labels.

Pure functions, for every system that takes classic BPF (SO_ATTACH_FILTER on Linux, BIOCSETF on the BSDs).  It knows
only those instructions that our filter uses.

Instruction set: Documentation/networking/filter.rst, include/uapi/linux/bpf_common.h, bpf(4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS on Linux; 512 on the BSDs."""

LD_W, LD_H, LD_B = 0x20, 0x28, 0x30
"""A = packet[k]"""
LD_W_X, LD_H_X, LD_B_X = 0x40, 0x48, 0x50
"""A = packet[X + k]"""
LDX_HEADER_LENGTH = 0xB1
"""X = 4 * (packet[k] & 15): the length of an IPv4 header"""
AND, LSH, MOD, ADD_X, TAX = 0x54, 0x64, 0x94, 0x0C, 0x07
GOTO, JEQ, JGT, JGE, JSET, RET = 0x05, 0x15, 0x25, 0x35, 0x45, 0x06

_MAX_BRANCH: Final = 255


class Instruction(NamedTuple):
    """struct sock_filter / struct bpf_insn."""

    code: int
    jump_true: int
    jump_false: int
    k: int


def encode(program: Iterable[Instruction]) -> bytes:
    """As the kernel takes it: 8 bytes an instruction, native byte order."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class _Statement(NamedTuple):
    code: int
    k: int
    then: str
    """Label, or "" = the next statement."""
    otherwise: str


class Assembler:
    """Statements and labels in, instructions out.  Jumps lead forward only, because the machine has no others."""

    def __init__(self) -> None:
        self._statements: list[_Statement] = []
        self._labels: dict[str, int] = {}
        self._names = 0

    def label(self, name: str) -> None:
        """Name the next statement.  Raises ``ValueError`` when the name is taken."""
        if name in self._labels:
            raise ValueError(f"label {name} is defined twice")
        self._labels[name] = len(self._statements)

    def fresh(self, hint: str) -> str:
        """A label name that is not taken yet."""
        self._names += 1
        return f"{hint} {self._names}"

    def emit(self, code: int, k: int = 0) -> None:
        """Add a load, an operation or a return."""
        self._statements.append(_Statement(code, k & 0xFFFFFFFF, "", ""))

    def branch(self, code: int, k: int, then: str = "", otherwise: str = "") -> None:
        """Add a conditional jump to labels; "" falls through to the next statement."""
        self._statements.append(_Statement(code, k, then, otherwise))

    def goto(self, label: str) -> None:
        """Add an unconditional jump."""
        self._statements.append(_Statement(GOTO, 0, label, ""))

    def assemble(self) -> list[Instruction]:
        """Resolve the labels.

        A conditional jump reaches 255 instructions; one that must go farther gets a GOTO right behind it.
        Raises ``ValueError`` for an unknown label, a jump backward, or more than ``MAX_INSTRUCTIONS``.
        """
        far: set[tuple[int, str]] = set()
        while True:
            starts = self._starts(far)
            too_far = self._too_far(starts, far)
            if not too_far:
                break
            far |= too_far  # ``far`` only grows, so the loop ends
        if starts[-1] > MAX_INSTRUCTIONS:
            raise ValueError(f"the filter has {starts[-1]} instructions, more than {MAX_INSTRUCTIONS}: merge ranges")
        return [i for n, s in enumerate(self._statements) for i in self._resolve(n, s, starts, far)]

    def _starts(self, far: set[tuple[int, str]]) -> list[int]:
        """The position of each statement's first instruction, and the end."""
        starts, position = [], 0
        for n in range(len(self._statements)):
            starts.append(position)
            position += 1 + ((n, "then") in far) + ((n, "otherwise") in far)
        return [*starts, position]

    def _target(self, n: int, label: str, starts: list[int]) -> int:
        if not label:
            return starts[n + 1]
        if label not in self._labels:
            raise ValueError(f"label {label} is not defined")
        if self._labels[label] <= n:
            raise ValueError(f"label {label} lies behind its jump")
        return starts[self._labels[label]]

    def _too_far(self, starts: list[int], far: set[tuple[int, str]]) -> set[tuple[int, str]]:
        found = set()
        for n, statement in enumerate(self._statements):
            if statement.code not in (JEQ, JGT, JGE, JSET):
                continue
            for side, label in (("then", statement.then), ("otherwise", statement.otherwise)):
                distance = self._target(n, label, starts) - starts[n] - 1
                if distance > _MAX_BRANCH and (n, side) not in far:
                    found.add((n, side))
        return found

    def _resolve(
        self, n: int, statement: _Statement, starts: list[int], far: set[tuple[int, str]]
    ) -> Iterable[Instruction]:
        here = starts[n]
        if statement.code == GOTO:
            yield Instruction(GOTO, 0, 0, self._target(n, statement.then, starts) - here - 1)
            return
        if statement.code not in (JEQ, JGT, JGE, JSET):
            yield Instruction(statement.code, 0, 0, statement.k)
            return
        distances: list[int] = []
        trampolines: list[Instruction] = []
        for side, label in (("then", statement.then), ("otherwise", statement.otherwise)):
            target = self._target(n, label, starts)
            if (n, side) in far:
                distances.append(len(trampolines))
                position = here + 1 + len(trampolines)
                trampolines.append(Instruction(GOTO, 0, 0, target - position - 1))
            else:
                distances.append(target - here - 1)
        yield Instruction(statement.code, distances[0], distances[1], statement.k)
        yield from trampolines
