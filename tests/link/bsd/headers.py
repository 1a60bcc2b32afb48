"""The systems' own C headers, read with the compiler of the PyPI package ``ziglang``, which ships them.

``python -m tests.link.bsd.headers`` writes ``rsock_nf/link/bsd/abi.json`` again: every key of that table is a C
expression, and its value what the headers make of it.  The test beside this file asks the same headers with
``_Static_assert``. What it is not: part of the product, which reads the table and needs no compiler.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

TABLE = Path(__file__).parents[3] / "rsock_nf/link/bsd/abi.json"

TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "freebsd": {
        "lp64": ("x86_64-freebsd", "aarch64-freebsd"),
        "i386": ("x86-freebsd",),
        "arm": ("arm-freebsd-eabihf",),
    },
    "netbsd": {"lp64": ("x86_64-netbsd", "aarch64-netbsd"), "i386": ("x86-netbsd",), "arm": ("arm-netbsd-eabihf",)},
    "openbsd": {"lp64": ("x86_64-openbsd", "aarch64-openbsd"), "i386": ("x86-openbsd",), "arm": ("arm-openbsd-eabi",)},
    "macos": {"lp64": ("x86_64-macos", "aarch64-macos")},
}
"""System → data model → the compiler's targets that have it."""

INCLUDES = """
#define __APPLE_USE_RFC_3542  // IPV6_DONTFRAG
#include <sys/types.h>
#include <sys/time.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/ioctl.h>
#include <sys/sysctl.h>
#include <net/if.h>
#include <net/if_dl.h>
#include <net/bpf.h>
#include <net/route.h>
#include <netinet/in.h>
#if __has_include(<netinet6/in6_var.h>)  // ziglang does not ship macOS's
#include <netinet6/in6_var.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
"""

_MACROS = """
    BIOCSBLEN BIOCSETF BIOCSETFNR BIOCGDLT BIOCSETIF BIOCGSTATS BIOCIMMEDIATE BIOCVERSION BIOCSHDRCMPLT
    BIOCLOCK BIOCSDIRECTION BIOCSDIRFILT BIOCSSEESENT BPF_DIRECTION_OUT
    BPF_MAXBUFSIZE BPF_MAXINSNS BPF_MAJOR_VERSION BPF_MINOR_VERSION
    DLT_NULL DLT_EN10MB DLT_LOOP DLT_RAW
    O_RDWR O_CLOEXEC
    EPERM ENOENT ENXIO EIO EACCES EBUSY ENODEV EINVAL ENOTTY EAGAIN EMSGSIZE ENETDOWN ENOBUFS ENOMEM ESRCH
    AF_INET AF_INET6 AF_LINK PF_ROUTE IFNAMSIZ IFF_UP IFF_LOOPBACK IFF_RUNNING
    CTL_NET NET_RT_FLAGS NET_RT_IFLIST RTM_VERSION SO_RERROR
    RTM_ADD RTM_DELETE RTM_CHANGE RTM_GET RTM_RESOLVE RTM_NEWADDR RTM_DELADDR RTM_IFINFO RTM_IFANNOUNCE RTM_DESYNC
    RTA_DST RTA_GATEWAY RTA_NETMASK RTA_IFP RTA_IFA
    RTF_UP RTF_GATEWAY RTF_HOST RTF_REJECT RTF_BLACKHOLE RTF_LLINFO RTF_LLDATA RTF_LOCAL
    SIOCGIFAFLAG_IN6 IN6_IFF_TENTATIVE IN6_IFF_DUPLICATED IN6_IFF_DEPRECATED IN6_IFF_TEMPORARY
    LINK_STATE_DOWN IP_DONTFRAG IPV6_DONTFRAG IP_BOUND_IF IPV6_BOUND_IF
    IP_RECVDSTADDR IP_SENDSRCADDR IP_RECVPKTINFO IP_PKTINFO
""".split()  # noqa: SIM905 - a list to read
"""Those that a system's headers do not define are not in its table."""

_EXPRESSIONS = (
    "BPF_WORDALIGN(1)",
    "sizeof(long)",
    "sizeof(struct bpf_hdr)",
    *(f"offsetof(struct bpf_hdr, bh_{member})" for member in ("caplen", "datalen", "hdrlen")),
    "sizeof(struct bpf_program)",
    "offsetof(struct bpf_program, bf_insns)",
    "sizeof(struct bpf_insn)",
    "sizeof(struct bpf_stat)",
    "offsetof(struct bpf_stat, bs_drop)",
    "sizeof(struct ifreq)",
    "sizeof(struct rt_msghdr)",
    *(f"offsetof(struct rt_msghdr, rtm_{m})" for m in ("msglen", "version", "type", "index", "flags", "addrs", "pid", "seq", "errno")),
    "sizeof(struct if_msghdr)",
    *(f"offsetof(struct if_msghdr, ifm_{member})" for member in ("addrs", "flags", "index", "data.ifi_mtu")),
    "sizeof(((struct if_msghdr *)0)->ifm_data.ifi_mtu)",
    "sizeof(struct ifa_msghdr)",
    *(f"offsetof(struct ifa_msghdr, ifam_{member})" for member in ("addrs", "index")),
    *(f"offsetof(struct sockaddr_dl, sdl_{member})" for member in ("index", "type", "nlen", "alen", "data")),
    "sizeof(struct sockaddr_dl)",
    "sizeof(struct sockaddr_in)",
    "sizeof(struct sockaddr_in6)",
    "offsetof(struct sockaddr_in6, sin6_scope_id)",
)  # fmt: skip
_BSD = (
    "offsetof(struct if_msghdr, ifm_data.ifi_link_state)",
    "sizeof(((struct if_msghdr *)0)->ifm_data.ifi_link_state)",
    "sizeof(struct in6_ifreq)",
    "offsetof(struct in6_ifreq, ifr_addr)",
    "offsetof(struct in6_ifreq, ifr_ifru.ifru_flags6)",
)
_ONLY = {
    "freebsd": ("BPF_D_IN", *_BSD),
    "netbsd": ("BPF_D_IN", *_BSD),
    "openbsd": (
        *_BSD,
        "offsetof(struct rt_msghdr, rtm_hdrlen)",
        "offsetof(struct if_msghdr, ifm_hdrlen)",
        "offsetof(struct ifa_msghdr, ifam_hdrlen)",
    ),
    "macos": (),
}


def compile_c(target: str, source: str) -> str:
    """Assembler text of ``source`` for ``target``.  Raises ``subprocess.CalledProcessError`` with the compiler's
    words."""
    with tempfile.TemporaryDirectory() as scratch:
        code, assembler = Path(scratch, "probe.c"), Path(scratch, "probe.s")
        code.write_text(source)
        argv = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-S", "-w", "-o", str(assembler), str(code)]
        subprocess.run(argv, capture_output=True, text=True, check=True)
        return assembler.read_text()


def defined(target: str, names: Iterable[str]) -> list[str]:
    """Those macros of ``names`` that the headers define."""
    probes = "".join(f"#ifdef {name}\nchar HAS_{name};\n#endif\n" for name in names)
    assembler = compile_c(target, INCLUDES + probes)
    return [name for name in names if re.search(rf"\b_?HAS_{name}\b", assembler)]


def evaluate(target: str, expressions: Iterable[str]) -> dict[str, int]:
    """The value of each constant C expression: a low and a high 32-bit word in the object."""
    names = list(expressions)
    words = "".join(f"(unsigned)({e}), 0x5eb00b1e,\n" for e in names)
    assembler = compile_c(target, f"{INCLUDES}\nunsigned table[] = {{ {words} }};\n")
    body = assembler.partition("table:\n")[2]
    values = [int(text, 0) for text in re.findall(r"^\s+\.(?:long|word|int)\s+(\d+)", body, re.MULTILINE)]
    marked = values[: 2 * len(names)]
    if marked[1::2] != [0x5EB00B1E] * len(names):
        raise ValueError(f"{target}: the assembler text is not what was expected")
    return dict(zip(names, marked[::2], strict=True))


_WIDTHS = {"byte": 1, "short": 2, "hword": 2, "long": 4, "word": 4, "quad": 8, "xword": 8}


def initialised(target: str, definition: str, symbol: str) -> bytes:
    """The bytes of the initialised object ``symbol``, as the compiler lays it out for ``target`` (little-endian)."""
    assembler = compile_c(target, f"{INCLUDES}\n{definition}\n")
    _, found, body = assembler.partition(f"{symbol}:")
    if not found:
        raise ValueError(f"{target}: no {symbol} in the assembler text")
    made = bytearray()
    for line in body.splitlines()[1:]:
        match = re.match(r"\s+\.(\w+)\s*(.*)", line)
        if match is None or match[1] in {"size", "section", "globl", "data", "ident", "subsections_via_symbols"}:
            break
        kind, operand = match[1], re.split(r"\s+(?:#|//|;|@)", match[2])[0]
        if kind in _WIDTHS:
            made += (int(operand, 0) % (1 << 8 * _WIDTHS[kind])).to_bytes(_WIDTHS[kind], "little")
        elif kind in {"zero", "space"}:
            made += bytes(int(operand.split(",")[0]))
        elif kind in {"ascii", "asciz"}:
            made += ast.literal_eval(f"b{operand}") + bytes(kind == "asciz")
        else:
            raise ValueError(f"{target}: {line.strip()}")
    return bytes(made)


def table() -> dict[str, dict[str, dict[str, int]]]:
    """The whole table."""
    made: dict[str, dict[str, dict[str, int]]] = {}
    for system, models in TARGETS.items():
        for model, targets in models.items():
            wanted = [*defined(targets[0], _MACROS), *_EXPRESSIONS, *_ONLY[system]]
            readings = [evaluate(target, wanted) for target in targets]
            if any(reading != readings[0] for reading in readings):
                raise ValueError(f"{system}, {model}: {targets} do not agree")
            made.setdefault(system, {})[model] = readings[0]
    return made


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1) + "\n")
