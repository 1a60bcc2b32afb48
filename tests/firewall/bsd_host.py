"""Simulated hosts with pf or ipfw, which do what pfctl(8), ipfw(8) and sysctl(8) say that theirs do.

A host is a ``command.Run``: it takes the argument lists that the backends run, keeps rulesets, anchors, references
and counters, answers in the tools' words, and can be asked what becomes of a packet.  Every argument list that is
not known here fails the test.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from rsock_firewall import PortRange
from rsock_firewall.command import Done
from rsock_firewall.policy import IPAddress
from tests.firewall.bsd_grammar import Packet, Rule, SyntaxRefused, parse_ipfw_rule, parse_pf, parse_pf_main

NOISE = "No ALTQ support in kernel\nALTQ related functions disabled\n"
SERVICES = {443: "https"}


@dataclass
class Counted:
    """A rule, and what it counted."""

    rule: Rule
    packets: int = 0
    octets: int = 0


class Host:
    """What both have: a user, and eyes that look after every command."""

    user = "root"
    """``root``, ``nobody``, or ``secured``: root where the securelevel forbids changes."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.after_each: Callable[[], None] = lambda: None
        self.fails: str | None = None
        """Commands with this word in them fail."""

    def __call__(self, arguments: Sequence[str], text: str) -> Done:
        self.commands.append(list(arguments))
        if self.fails and self.fails in arguments:
            return Done(1, "", f"{arguments[0].rpartition('/')[2]}: DIOCXCOMMIT: Device busy\n")
        done = self.answer(list(arguments), text)
        self.after_each()
        return done

    def answer(self, arguments: list[str], text: str) -> Done:
        raise NotImplementedError


@dataclass
class Pf:
    """The state of the packet filter in the kernel."""

    enabled: bool = False
    main: list[str] = field(default_factory=list)
    nat: list[str] = field(default_factory=list)
    anchors: dict[str, list[Counted]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)


class PfHost(Host):
    """``system``: freebsd, openbsd or macos."""

    def __init__(self, system: str) -> None:
        super().__init__()
        self.system = system
        self.loaded = True
        self.lingers = False
        """Whether an anchor stays when its last rule goes."""
        self.pf = Pf()
        self._tokens = map(str, itertools.count(17434587318862413845))
        if system == "macos":
            self.pf.main = ['scrub-anchor "com.apple/*" all fragment reassemble', 'anchor "com.apple/*" all']

    def drops(self, packet: Packet, octets: int = 60) -> bool:
        """Whether pf drops it; the rule that does counts it."""
        if not self.pf.enabled:
            return False
        for line in self.pf.main:
            decided = _decides(line, packet)
            if decided is not None:
                return decided
            called = re.fullmatch(r'anchor "(.*)/\*"( quick)? all', line)
            for path in sorted(self.pf.anchors) if called else ():
                if called and path.rpartition("/")[0] == called[1] and self._hits(path, packet, octets):
                    return True
        return False

    def _hits(self, path: str, packet: Packet, octets: int) -> bool:
        for counted in self.pf.anchors[path]:
            if counted.rule.matches(packet):
                counted.packets += 1
                counted.octets += octets
                return True
        return False

    def flush_all(self) -> None:
        """What an administrator's ``pfctl -F all`` does: no rules are left, ours neither; pf stays enabled."""
        self.pf.main, self.pf.nat, self.pf.anchors, self.pf.skipped = [], [], {}, set()

    def switch_off(self) -> None:
        """What an administrator's ``pfctl -d`` does: every token becomes invalid."""
        self.pf.enabled = False
        self.pf.tokens.clear()

    def answer(self, arguments: list[str], text: str) -> Done:
        assert arguments.pop(0) == "/sbin/pfctl"
        if not self.loaded:
            return Done(1, "", "pfctl: /dev/pf: No such file or directory\n")
        if self.user == "nobody":
            return Done(1, "", "pfctl: /dev/pf: Permission denied\n")
        noise = "" if self.system == "openbsd" else NOISE
        anchor = arguments[1] if arguments[0] == "-a" else ""
        done = self._act(anchor, arguments[2:] if anchor else arguments, text)
        return done._replace(errors=noise + done.errors)

    def _act(self, anchor: str, arguments: list[str], text: str) -> Done:
        match arguments:
            case ["-s", what]:
                return self._show(anchor, what)
            case ["-v", "-s", "Interfaces"]:
                return Done(
                    0, "".join(f"{n} (skip)\n" if n in self.pf.skipped else f"{n}\n" for n in ("em0", "lo", "lo0")), ""
                )
        if self.user == "secured":
            return Done(1, "", "pfctl: DIOCXBEGIN: Operation not permitted\n")
        match arguments:
            case ["-f", "-"]:
                return self._load(anchor, text)
            case ["-R", "-f", "-"] if self.system == "freebsd":
                return self._load(anchor, text, filter_only=True)
            case ["-F", "rules"]:
                self._keep(anchor, [])
                return Done(0, "", "rules cleared\n")
        return self._switch(arguments)

    def _switch(self, arguments: list[str]) -> Done:
        match arguments:
            case ["-e"]:
                if self.pf.enabled:
                    return Done(1, "", "pfctl: pf already enabled\n")
                self.pf.enabled = True
                return Done(0, "", "pf enabled\n")
            case ["-d"]:
                if not self.pf.enabled:
                    return Done(1, "", "pfctl: pf not enabled\n")
                self.switch_off()
                return Done(0, "", "pf disabled\n")
            case ["-E"] if self.system == "macos":
                self.pf.enabled = True
                self.pf.tokens.add(token := next(self._tokens))
                return Done(0, "", f"pf enabled\nToken : {token}\n")
            case ["-X", token] if self.system == "macos":
                if token not in self.pf.tokens:
                    return Done(1, "", "pfctl: pf not enabled\n")
                self.pf.tokens.remove(token)
                self.pf.enabled = bool(self.pf.tokens)
                return Done(0, "", f"disable request successful. {len(self.pf.tokens)} more\n")
        raise AssertionError(f"pfctl of {self.system} has no {arguments}")

    def _show(self, anchor: str, what: str) -> Done:
        if what == "info":
            return Done(
                0, f"Status: {'Enabled' if self.pf.enabled else 'Disabled'} for 0 days 00:01:02   Debug: Urgent\n", ""
            )
        if what == "nat" and self.system == "freebsd" and not anchor:
            return Done(0, "".join(f"{line}\n" for line in self.pf.nat), "")
        if what == "rules" and not anchor:
            return Done(0, "".join(f"{line}\n" for line in self.pf.main), "")
        if what == "Anchors":
            children = [path for path in sorted(self.pf.anchors) if path.startswith(anchor + "/")]
            if not children:
                return Done(0, "", f"Anchor '{anchor}' not found.\n")
            return Done(0, "".join(f"  {path}\n" for path in children), "")
        if what not in ("rules", "labels"):
            raise AssertionError(f"pfctl of {self.system} shows no {what}")
        if anchor not in self.pf.anchors:
            said = "Anchor does not exist" if self.system == "openbsd" else "DIOCGETRULES: Invalid argument"
            return Done(1, "", f"pfctl: {said}\n")
        if what == "rules":
            return Done(0, "".join(f"{_as_pfctl(counted.rule)}\n" for counted in self.pf.anchors[anchor]), "")
        # of macOS without the number of states; packets and bytes are then split into in and out
        rest = "" if self.system == "macos" else " 0"
        return Done(
            0,
            "".join(
                f"{c.rule.label} 999 {c.packets} {c.octets} {c.packets} {c.octets} 0 0{rest}\n"
                for c in self.pf.anchors[anchor]
            ),
            "",
        )

    def _load(self, anchor: str, text: str, *, filter_only: bool = False) -> Done:
        warning = "pfctl: Use of -f option, could result in flushing of rules\n" if self.system == "macos" else ""
        try:
            if anchor:
                refused = self._too_long(anchor)
                if refused:
                    return Done(1, "", f"{warning}pfctl: {refused}: strlcpy\n")
                self._keep(anchor, [Counted(rule) for rule in parse_pf(text)])
            else:
                self.pf.main = [f'anchor "{called}" all' for called in parse_pf_main(text)]
                if not filter_only:
                    self.pf.skipped.clear()  # pfctl_clear_interface_flags()
        except SyntaxRefused as error:
            loaded = "pfctl: Syntax error in config file: pf rules not loaded\n"
            return Done(1, "", f"{warning}stdin:1: syntax error: {error}\n{loaded}")
        return Done(0, "", warning)

    def _too_long(self, anchor: str) -> str:
        """The function of pfctl.c that refuses the anchor because pf_anchor.name has 64 bytes; "" = it fits.

        FreeBSD (seen on 15.1) and macOS copy the whole path there, OpenBSD the last component with its slash.
        """
        copied = anchor[anchor.rfind("/") :] if self.system == "openbsd" else anchor
        if len(copied) < 64:
            return ""
        return "pfctl_add_rule" if self.system == "macos" else "pfctl_rules"

    def _keep(self, anchor: str, rules: list[Counted]) -> None:
        if not anchor:
            self.pf.main = []
        elif rules or self.lingers:
            self.pf.anchors[anchor] = rules
        else:
            self.pf.anchors.pop(anchor, None)  # pf_remove_if_empty_ruleset()


_FOREIGN = re.compile(
    r"(?P<action>pass|block return|block drop)(?P<way> in| out)?(?P<quick> quick)?(?: on (?P<device>\S+))?"
    r"(?: (?P<family>inet6?))?(?: proto (?P<protocol>\S+))?"
    r" (?:all|from (?P<source>\S+) to (?P<target>\S+)(?: port (?:= (?P<port>\S+)|(?P<first>\d+):(?P<last>\d+)))?)(?: .*)?"
)
"""A rule of somebody else, as far as the tests write them."""


def _decides(line: str, packet: Packet) -> bool | None:
    """What the rule makes of the packet: True = nobody answers it, False = the kernel or pf does; None = the next rule
    is asked."""
    rule = _FOREIGN.fullmatch(line)
    if rule is None or not rule["quick"]:
        return None
    ports = {name: number for number, name in SERVICES.items()}
    port = ports.get(rule["port"] or "", rule["port"])
    first, last = (port, port) if port else (rule["first"] or 0, rule["last"] or 65535)
    matches = (
        rule["way"] in (None, f" {packet.direction}")
        and rule["device"] in (None, packet.device)
        and rule["family"] in (None, {4: "inet", 6: "inet6"}[packet.source.version])
        and rule["protocol"] in (None, "tcp")
        and _is_within(packet.source, rule["source"])
        and _is_within(packet.destination, rule["target"])
        and int(first) <= packet.destination_port <= int(last)
    )
    return rule["action"] == "block drop" if matches else None


def _is_within(address: IPAddress, text: str | None) -> bool:
    return text in (None, "any") or address in ip_network(str(text))


def _as_pfctl(rule: Rule) -> str:
    """As print_rule() of pfctl_parser.c spells it: with services' names, and without quotes."""

    def end(address: object, ports: tuple[PortRange, ...] | None) -> str:
        if not ports:
            return str(address or "any")
        (found,) = ports
        single = f"port = {SERVICES.get(found.first, found.first)}"
        return f"{address or 'any'} {single if found.first == found.last else f'port {found.first}:{found.last}'}"

    words = [
        f"block drop {rule.direction} quick",
        f"on {rule.device}" if rule.device else "",
        {4: "inet", 6: "inet6", None: ""}[rule.version],
        f"proto tcp from {end(rule.source, rule.source_ports)} to {end(rule.destination, rule.destination_ports)}",
        "flags R/R" if rule.rst_only else "",
        f'label "{rule.label}"',
    ]
    return " ".join(word for word in words if word)


@dataclass
class Numbered:
    """An ipfw rule; ``rule`` is None where it is somebody else's."""

    number: int
    set: int
    body: str
    rule: Rule | None
    packets: int = 0
    octets: int = 0


class IpfwHost(Host):
    """FreeBSD with ipfw."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = True
        self.switches = {"net.inet.ip.fw.enable": "1", "net.inet6.ip6.fw.enable": "1"}
        self.rules = [Numbered(65535, 31, "allow ip from any to any", None)]

    def drops(self, packet: Packet, octets: int = 60) -> bool:
        """Whether ipfw drops it; the rule that does counts it."""
        if self.switches["net.inet.ip.fw.enable"] == "0":
            return False
        for numbered in self.rules:
            if numbered.rule is None and numbered.body.startswith("allow"):
                return False
            if numbered.rule and numbered.rule.matches(packet):
                numbered.packets += 1
                numbered.octets += octets
                return True
        return False

    def flush(self) -> None:
        """``ipfw -f flush``: all but set 31."""
        self.rules = [rule for rule in self.rules if rule.set == 31]

    def add(self, number: int, set_: int, body: str) -> None:
        rule = parse_ipfw_rule(body) if "rsock" in body else None
        # behind those of the same number; sorted() is stable
        self.rules = sorted([*self.rules, Numbered(number, set_, body, rule)], key=lambda r: r.number)

    def answer(self, arguments: list[str], text: str) -> Done:
        assert not text
        match arguments:
            case ["/sbin/sysctl", "-n", name]:
                if not self.loaded:
                    return Done(1, "", f"sysctl: unknown oid '{name}'\n")
                return Done(0, f"{self.switches[name]}\n", "")
            case ["/sbin/ipfw", *rest]:
                return self._ipfw(rest)
        raise AssertionError(arguments)

    def _ipfw(self, arguments: list[str]) -> Done:
        if self.user == "nobody":
            return Done(71, "", "ipfw: socket: Operation not permitted\n")
        if not self.loaded:
            return Done(71, "", "ipfw: retrieving config failed: Protocol not available\n")
        match arguments:
            case ["-a", "-S", "list"]:
                # FreeBSD 15.1 lists a port without the word that it was added with
                shown = [(r, r.body.replace(" dst-port ", " ")) for r in self.rules]
                lines = [f"{r.number:05} {r.packets:>9} {r.octets:>12} set {r.set} {body}\n" for r, body in shown]
                return Done(0, "".join(lines), "")
            case ["-q", "add", number, "set", set_, *body]:
                if self.user == "secured":
                    return Done(71, "", "ipfw: getsockopt(IP_FW_XADD): Operation not permitted\n")
                try:
                    self.add(int(number), int(set_), " ".join(body))
                except SyntaxRefused as error:
                    return Done(64, "", f"ipfw: unrecognised option {error}\n")
                return Done(0, "", "")
            case ["-q", "set", set_, "delete", number]:
                kept = [r for r in self.rules if (r.number, r.set) != (int(number), int(set_))]
                gone = len(kept) < len(self.rules)
                self.rules = kept
                return Done(0 if gone else 69, "", "")
        raise AssertionError(arguments)
