"""The pf backend: FreeBSD, OpenBSD, macOS.

Each instance has an anchor of its own, which is replaced as a whole in one transaction.  As shipped, pf's main ruleset
does not evaluate our anchors, so it has to be prepared, too:

* macOS's main ruleset calls ``com.apple/*``.  Our anchors are there, and pf is enabled by a counted reference, whose
  token is kept in the labels of our rules.
* Elsewhere, an *empty* main ruleset becomes one line that calls our anchors, while an instance has rules.  If pf was
  off, it is switched on, and off again at the end.  A second line in the main ruleset says that it was off.
* A main ruleset with rules in it belongs to the operator.  It has to call our anchors, and pf has to be enabled;
  otherwise we refuse.

pf has no owner and no events.  ``repair`` finds out that somebody removed our rules, and puts them back.

The way of a change through this room: ``text`` says what the rules are, ``backend`` when they are installed, ``pfctl``
runs pfctl(8).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

from rsock_firewall.command import NoTool, Run, run
from rsock_firewall.held import Carry, HeldRules, Why, until_exit
from rsock_firewall.pf import text
from rsock_firewall.pf.ahead import may_take
from rsock_firewall.pf.pfctl import Dialect, Main, NoPf, Pfctl
from rsock_firewall.policy import Counters, FirewallError, Held, Policy, PortRange, check_name, merged, tally


class Pf:
    """See ``policy.Firewall``.  ``running``: accept only a pf that is enabled already (another filter may be in
    use)."""

    name = "pf"

    def __init__(self, dialect: Dialect, *, run: Run = run, running: bool = False) -> None:
        self._dialect = dialect
        self._pfctl = Pfctl(dialect, run)
        self._running = running

    def probe(self) -> None:
        """Whether rules of ours would be evaluated, or could be made to.  Changes nothing."""
        enabled = self._pfctl.enabled()
        if self._running and not enabled:
            raise FirewallError("pf is disabled")
        _check(self._dialect, self._pfctl.main(), enabled=enabled)

    def hold(self, policy: Policy) -> AbstractContextManager[Held]:
        """See ``policy.Firewall.hold``.  Nothing tells whether another live daemon has the same name."""
        return until_exit(lambda: HeldRules(policy, PfRules(self._pfctl, policy)))

    def clear(self, name: str) -> bool:
        """See ``policy.Firewall.clear``."""
        with suppress(NoPf, NoTool):
            existed = self._can_have(name) and _remove(self._pfctl, _anchor(self._dialect, name))
            return _leave_main(self._pfctl) or existed
        return False

    def clear_all(self) -> list[str]:
        """See ``policy.Firewall.clear_all``."""
        with suppress(NoPf, NoTool):
            names = self._pfctl.instances()
            cleared = [name for name in names if self.clear(name)]
            _leave_main(self._pfctl)  # what an instance without rules left
            return cleared
        return []

    def left_behind(self, name: str) -> tuple[PortRange, ...]:
        """See ``policy.Firewall.left_behind``."""
        labels = self._pfctl.labels(_anchor(self._dialect, name)) if self._can_have(name) else []
        return merged(label.ports for label in labels if label.direction == "in")

    def obstacles(self, policy: Policy) -> list[str]:
        """See ``policy.Firewall.obstacles``."""
        call = self._dialect.call
        return [
            f"pf evaluates this rule before {call}, so that our packets are answered with RST: {line}; "
            "move the anchor's line up in /etc/pf.conf, then pfctl -f /etc/pf.conf"
            for line in self._pfctl.main().ahead
            if may_take(line, policy)
        ]

    def render(self, policy: Policy) -> str:
        """See ``policy.Firewall.render``."""
        return text.render(policy, _anchor(self._dialect, policy.name))

    def _can_have(self, name: str) -> bool:
        """False for a name that is too long for an anchor: such an instance has its rules in another filter."""
        return len(check_name(name)) <= self._dialect.longest_name


class PfRules:
    """See ``held.Rules``.  Raises ``FirewallError`` for a device that pf ignores."""

    def __init__(self, pfctl: Pfctl, policy: Policy) -> None:
        self._pfctl = pfctl
        self._anchor = _anchor(pfctl.dialect, policy.name)
        self._device = policy.device
        self._rules: list[str] = []
        """What pf lists of our anchor, to be compared with what it lists later."""
        self._token: str | None = None
        self._enabled_pf = False
        """While we have rules: pf was off before, so it is switched off after the last instance.  The main ruleset says
        so, too (``Main.enabled_by_us``), but somebody may flush it."""
        self._check_device(policy)

    def install(self, policy: Policy, why: Why, carry: Carry) -> None:
        """See ``held.Rules.install``.  One transaction of pf's.

        The anchor's rules are replaced last, when it is certain that they will be evaluated.  When rules that are
        there are updated, the main ruleset and pf itself are not checked.
        """
        if why is Why.START:
            self._token = next((label.token for label in self._pfctl.labels(self._anchor)), None)  # of a predecessor
        if policy.device != self._device:
            self._check_device(policy)
        wanted = bool(text.lines(policy))
        arrange = why is not Why.UPDATE or not self._rules
        token = self._arrange() if wanted and arrange else self._token
        try:
            counted = self.counted()
            if wanted:
                self._pfctl.load(self._anchor, text.render(policy, self._anchor, token))
            else:
                self._empty()
        except BaseException:
            if token and token != self._token:
                self._pfctl.release_reference(token)
            raise
        if wanted:
            self._token = token
        self._rules = self._pfctl.rules(self._anchor)
        self._device = policy.device
        carry(counted)

    def stand(self) -> bool:
        """See ``held.Rules.stand``.  Checks the anchor, the main ruleset that calls it, and that pf is enabled."""
        return self._pfctl.rules(self._anchor) == self._rules and (not self._rules or self._evaluated())

    def counted(self) -> Counters:
        """See ``held.Rules.counted``."""
        return tally(self._pfctl.labels(self._anchor))

    def remove(self) -> None:
        """See ``held.Rules.remove``."""
        enabled_pf = self._enabled_pf
        self._empty()
        _leave_main(self._pfctl, enabled_by_us=enabled_pf)

    def _arrange(self) -> str | None:
        """Make pf evaluate our anchors, and enable it.  Returns the token, on systems with tokens.

        Raises ``FirewallError``, with nothing changed, where that is not ours to do."""
        main, enabled = self._pfctl.main(), self._pfctl.enabled()
        _check(self._pfctl.dialect, main, enabled=enabled)
        if self._pfctl.dialect.tokens:
            # `pfctl -d` has made every token invalid
            return self._token if self._token and enabled else self._pfctl.take_reference()
        if not main.calls_us or (not enabled and not main.enabled_by_us):
            self._pfctl.load_main(enabled_by_us=self._enabled_pf or not enabled)
        if not enabled:
            self._pfctl.enable()
        self._enabled_pf = self._enabled_pf or main.enabled_by_us or not enabled
        return None

    def _evaluated(self) -> bool:
        return self._pfctl.enabled() and self._pfctl.main().calls_us

    def _empty(self) -> None:
        self._enabled_pf = False
        if _remove(self._pfctl, self._anchor):
            self._token = None  # it was in the labels, and ``_remove`` gave it back
        token, self._token = self._token, None
        if token:
            self._pfctl.release_reference(token)

    def _check_device(self, policy: Policy) -> None:
        if policy.device and self._pfctl.skips(policy.device):
            raise FirewallError(f'pf ignores device {policy.device}: remove its "set skip on" from /etc/pf.conf')


def _anchor(dialect: Dialect, name: str) -> str:
    text.check_anchor_name(check_name(name), dialect.longest_name)
    return dialect.prefix + name


def _check(dialect: Dialect, main: Main, *, enabled: bool) -> None:
    """Raise ``FirewallError`` that says what the operator has to do, if we must not do it."""
    ours_to_load = dialect.load_main is not None and not main.foreign
    if not main.calls_us and not ours_to_load:
        raise FirewallError(f"pf's main ruleset does not evaluate our rules: {dialect.remedy}: {dialect.call}")
    if not enabled and not dialect.tokens and not ours_to_load:
        raise FirewallError("pf is disabled and has a ruleset that is not ours to switch on; if it is meant: pfctl -e")


def _remove(pfctl: Pfctl, anchor: str) -> bool:
    """Remove an anchor's rules and give back the references that their labels name; True if there were any."""
    if not pfctl.rules(anchor):
        return False
    tokens = {label.token for label in pfctl.labels(anchor) if label.token}
    pfctl.flush(anchor)
    for token in sorted(tokens):
        pfctl.release_reference(token)
    return True


def _leave_main(pfctl: Pfctl, *, enabled_by_us: bool = False) -> bool:
    """After the last instance, remove a main ruleset that has only our lines.  True if there was one.

    ``enabled_by_us``: what a main ruleset said that somebody has flushed since.
    """
    if pfctl.dialect.load_main is None:
        return False
    main = pfctl.main()
    flushed = enabled_by_us and not main.calls_us
    if main.foreign or not (main.calls_us or flushed) or pfctl.instances():
        return False
    if main.enabled_by_us or flushed:
        pfctl.disable()
    pfctl.flush_main()
    return True
