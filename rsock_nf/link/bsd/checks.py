"""Whether a BSD or macOS host has what a tunnel needs.  It reads, and opens a device for a moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from rsock_nf.link.bsd.abi import Abi
from rsock_nf.link.bsd.bpf_descriptor import NO_LOCK, BpfDescriptor, SystemCalls
from rsock_nf.link.bsd.routes import find_interface, is_up
from rsock_nf.link.bsd.routing import RouteSocket
from rsock_nf.link.checks import Finding, Verdict
from rsock_nf.link.protocol import LinkError


def examine_host(abi: Abi) -> list[Finding]:
    """See ``System.examine_host``."""
    return [
        Finding(
            Verdict.OK, "kernel", f"{os.uname().sysname} {os.uname().release}: the layouts of {abi.system} are used"
        )
    ]


def examine_device(abi: Abi, calls: SystemCalls, kernel: RouteSocket, device: str, *, tap: bool) -> Iterator[Finding]:
    """See ``System.examine_device``."""
    try:
        interface = find_interface(kernel, device)
    except LinkError as error:
        yield Finding(Verdict.FAIL, "device", str(error))
        return
    if not is_up(kernel, interface):
        yield Finding(Verdict.FAIL, "device", f"{device} is down, or has no carrier: ifconfig {device} up")
        return
    if interface.mtu < 1280:
        text = f"{device}, MTU {interface.mtu}: IPv6 wants 1280: ifconfig {device} mtu 1280"
        yield Finding(Verdict.WARN, "device", text)
    else:
        yield Finding(Verdict.OK, "device", f"{device}, MTU {interface.mtu}")
    if tap:
        yield _bpf(abi, calls, device)


def _bpf(abi: Abi, calls: SystemCalls, device: str) -> Finding:
    """Open a bpf device on the interface as ``up`` would; it captures nothing."""
    try:
        bpf = BpfDescriptor(device, None, abi, calls, abi["BPF_MAXBUFSIZE"])
    except LinkError as error:
        return Finding(Verdict.FAIL, "bpf", str(error))
    with contextlib.closing(bpf):
        if not bpf.sends:
            return Finding(Verdict.FAIL, "bpf", receives_only(device))
        if "BIOCLOCK" in abi:
            bpf.lock()
        text = f"can be attached to {device}, with two buffers of {bpf.buffer_bytes >> 10} KiB"
        return Finding(Verdict.OK, "bpf", f"{text}; {NO_LOCK}" if bpf.lacks_lock else text)


def receives_only(device: str) -> str:
    """Why fake TCP cannot be sent on ``device``."""
    return f'{device}: this system\'s bpf(4) sends on Ethernet only: take an Ethernet "device", or "type": "udp"'
