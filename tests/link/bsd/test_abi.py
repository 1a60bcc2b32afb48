"""The table of numbers and layouts, held against the systems' own headers by their own compiler's static assertions."""

from __future__ import annotations

import json
import subprocess

import pytest

from rsock_nf.link.bsd.abi import aligned, load
from rsock_nf.link.bsd.system import Bsd
from tests.link.bsd.headers import INCLUDES, TABLE, TARGETS, compile_c, table

TABLES = json.loads(TABLE.read_text())
EVERY = [
    (system, model, target)
    for system, models in TARGETS.items()
    for model, targets in models.items()
    for target in targets
]


def assertions(numbers: dict[str, int]) -> str:
    lines = [f'_Static_assert((unsigned)({name}) == {value}u, "{name}");' for name, value in numbers.items()]
    return "\n".join([INCLUDES, *lines, ""])


@pytest.mark.parametrize(("system", "model", "target"), EVERY)
def test_the_headers_agree(system: str, model: str, target: str) -> None:
    compile_c(target, assertions(TABLES[system][model]))


def test_a_wrong_number_does_not_compile() -> None:
    wrong = {**TABLES["netbsd"]["lp64"], "BIOCSETIF": TABLES["freebsd"]["lp64"]["BIOCSETIF"]}
    with pytest.raises(subprocess.CalledProcessError) as refused:
        compile_c("x86_64-netbsd", assertions(wrong))
    assert "BIOCSETIF" in refused.value.stderr


@pytest.mark.parametrize("target", sorted({target for _, _, target in EVERY}))
def test_the_longest_path_of_a_socket(target: str) -> None:
    size = "sizeof(((struct sockaddr_un *)0)->sun_path)"
    compile_c(target, f'#include <sys/un.h>\n_Static_assert({size} - 1 == {Bsd.socket_path_bytes}, "");\n')


def test_the_table_is_what_its_generator_writes() -> None:
    assert table() == TABLES


@pytest.mark.parametrize(("system", "hdrlen"), [("freebsd", 26), ("netbsd", 34), ("openbsd", 30), ("macos", 18)])
def test_word_alignment_gives_the_header_lengths_that_kernels_show(system: str, hdrlen: int) -> None:
    """bh_hdrlen on Ethernet, as seen on real kernels (FreeBSD, NetBSD) or in their sources: 14 + it is aligned."""
    unit = load(system)["BPF_WORDALIGN(1)"]
    assert (hdrlen + 14) % unit == 0
    assert [aligned(size, unit) for size in (0, 1, unit, unit + 1)] == [0, unit, unit, 2 * unit]
