# shellcheck shell=bash
# An instance as a service of systemd: the unit of install-service, its state, reload, journal and watchdog; the service
# after a kill, a reboot and a crash; a VPN that starts behind it.  Sourced by two-vm-test.sh, whose tools it uses.

# shellcheck disable=SC2154 # work, resets: of two-vm-test.sh

UNIT=rsock-nf@vm.service
# Without a sign of life for so long, systemd ends the instance: the unit's 60 s are half of it.
WATCHDOG_SECONDS=30
# In which a start fails that is to fail.
SHORT_SECONDS=20

# -- tools

# shown ROLE PROPERTY [UNIT]
shown() { on "$1" "systemctl show --property $2 --value ${3:-$UNIT}" </dev/null; }

# journal_has ROLE PATTERN [OPTION ...]: a line of the unit's.
journal_has() {
    local role=$1 pattern=$2
    shift 2
    on "$role" "test -n \"\$(journalctl --quiet --unit $UNIT $* --grep $(printf %q "$pattern"))\"" </dev/null
}

connected() { [[ $(status client "s['state']") == connected ]]; }

restarted() { # PID: of the server's instance before
    on server "pid=\$(systemctl show --property MainPID --value $UNIT); test \$pid -gt 0; test \$pid -ne $1" </dev/null
}

active() { on "$1" "systemctl is-active --quiet ${2:-$UNIT}" </dev/null; }

# -- checks

# `systemctl start` returns when the tunnel stands: the client's unit is active, and connected.
units_up() {
    local role said
    configure auto 4 none
    # Emulated machines are slow.
    for role in client server; do
        put "$role" "/etc/systemd/system/$UNIT.d/slow.conf" 0644 <<<"[Service]
TimeoutStartSec=$UP_SECONDS
WatchdogSec=$WATCHDOG_SECONDS"
    done
    both "systemctl daemon-reload; systemd-analyze verify $UNIT 2>&1 | grep rsock-nf@ || true
        systemctl enable --now --quiet $UNIT"
    [[ ! -s $work/both.server ]] || fail "systemd-analyze: $(head -n 1 "$work/both.server")"
    connected || fail "the client's unit is active, but the tunnel does not stand"
    for role in client server; do
        said=$(on "$role" "ps -o user= -p $(shown "$role" MainPID)" </dev/null)
        [[ $said == rsock-nf ]] || fail "$role runs as user $said"
        said=$(shown "$role" StatusText)
        [[ $said == connected* || $said == serving* ]] || fail "$role: systemctl shows the state '$said'"
        echo "$role: $said;"
    done
    said=$(on server "systemd-analyze security --no-pager $UNIT 2>/dev/null | tail -n 1" </dev/null)
    echo "systemd-analyze: ${said##*: };"
    echo_both_ways
}

# `systemctl reload` follows the file, SIGHUP too where the instance's user may read it; a wrong file changes nothing.
# What comes of each is in the journal, with its priority.
reloaded() {
    local role pid said file=/etc/rsock-nf/vm.json
    for role in client server; do
        pid=$(shown "$role" MainPID)
        on "$role" "sed -i '1s/{/{\"log\": {\"level\": \"debug\"}, /' $file; systemctl reload $UNIT" </dev/null
        await 60 "the reload in the journal of $role" journal_has "$role" '^reload: log level debug; changed: log'
        on "$role" "echo nonsense >>$file; if systemctl reload $UNIT 2>/dev/null; then exit 1; fi; sed -i '\$d' $file" </dev/null ||
            fail "$role: systemctl reload takes a wrong file"
        await 60 "the fault of the file in the journal of $role" journal_has "$role" "vm.json.*line"
        on "$role" "systemctl kill --kill-whom main --signal HUP $UNIT" </dev/null
        await 60 "the error in the journal of $role" journal_has "$role" '^SIGHUP: nothing changed: ' --priority err
        on "$role" "chgrp rsock-nf $file; chmod 0640 $file; systemctl kill --kill-whom main --signal HUP $UNIT" </dev/null
        await 60 "SIGHUP in the journal of $role" journal_has "$role" '^SIGHUP: log level debug; '
        await 60 "the unit of $role after its reload" active "$role"
        ! journal_has "$role" '^(reload|SIGHUP): log level' --priority warning || fail "$role: priorities are wrong"
        said=$(on "$role" "journalctl --quiet --unit $UNIT -o cat | grep -E '^(<|20[0-9][0-9]-)' | head -n 1 || true" </dev/null)
        [[ ! $said ]] || fail "$role: priority or time stand in a line of the journal: $said"
        expect_same "the process of $role" "$(shown "$role" MainPID)" "$pid"
    done
    connected || fail "after the reloads the client is $(status client "s['state']")"
    echo "followed by reload and SIGHUP; a wrong file, and one that is root's alone, change nothing; same processes"
}

# The process stands still, so that it gives no sign of life.
watchdog_bites() {
    local pid started=$SECONDS
    capture_start client server
    count_resets client server
    pid=$(shown server MainPID)
    on server "kill -STOP $pid" </dev/null
    await "$((WATCHDOG_SECONDS + UP_SECONDS))" "systemd's restart" restarted "$pid"
    journal_has server 'Watchdog timeout' || fail "the instance was started anew, but not by the watchdog"
    await "$UP_SECONDS" "the server's unit" active server
    await "$UP_SECONDS" "the tunnel" revived
    printf 'tunnel after %d s; ' "$((SECONDS - started))"
    echo_both_ways
    no_resets client server
    echo "no RST"
}

# The rules outlive the daemon: owned tables on Linux 6.9 and later, plain ones before.
server_killed() {
    local pid started=$SECONDS
    capture_start client server
    count_resets client server
    pid=$(shown server MainPID)
    # Traffic goes on meanwhile; what it loses is no matter here.
    on client "timeout 120 python3 /opt/traffic.py exchange $LISTEN --count 400 --allowed-loss 400" </dev/null >"$work/meanwhile" &
    await 60 "traffic" on client "pgrep -f 'traffic.p[y] exchange'"
    on server "kill -KILL $pid" </dev/null
    await "$UP_SECONDS" "systemd's restart" restarted "$pid"
    wait $! || true # it may be told that the target is gone
    await "$UP_SECONDS" "the tunnel" revived
    printf 'tunnel after %d s; ' "$((SECONDS - started))"
    echo_both_ways
    no_resets client server
    echo "no RST"
}

# Orderly: the unit is stopped, and its flows are closed.
server_reboots() { comes_back "systemctl reboot"; }
# Not so: the client finds out by probes that nobody answers, then by RSTs of a kernel that knows nothing.
server_crashes() { comes_back "sync; echo 1 >/proc/sys/kernel/sysrq; echo b >/proc/sysrq-trigger"; }

# comes_back COMMAND: that takes the server down.
comes_back() {
    local boot started
    boot=$(on server "cat /proc/sys/kernel/random/boot_id" </dev/null)
    capture_start client
    count_resets client
    # The connection dies with the machine, or is not closed at all.
    (on server "systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms bash -c $(printf %q "$1")" </dev/null) || true
    ssh "${ssh_options[@]}" -O exit server 2>/dev/null || true
    started=$SECONDS
    await "$BOOT_SECONDS" "the server after its reboot" rebooted "$boot"
    printf 'back after %d s; ' "$((SECONDS - started))"
    await "$UP_SECONDS" "the server's unit" on server "systemctl is-active --quiet $UNIT && rsock-nf status --name vm"
    background server vm-target "python3 /opt/traffic.py target $TARGET"
    await "$UP_SECONDS" "the tunnel" revived
    printf 'tunnel after %d s; ' "$((SECONDS - started))"
    expect "RSTs from the client's kernel" "$(kernel_resets client)" -eq "${resets[client]}"
    printf '%d RSTs from the server while no unit ran; ' "$(captured client "$RESETS")"
    on client "systemctl stop vm-capture" </dev/null
    capture_start client server
    count_resets client server
    echo_both_ways
    no_resets client server
}
# By a connection of its own: one that the machine took down with it would be waited for.
rebooted() {
    local now
    now=$(timeout 60 ssh "${ssh_options[@]}" -o ControlPath=none server cat /proc/sys/kernel/random/boot_id </dev/null) || return 1
    [[ $now != "$1" ]]
}

# The client's wg-quick@wg0 pulls its tunnel up and waits for it; where no server answers, it starts all the same.
vpn_behind() {
    local here_dropins=/etc/systemd/system/wg-quick@wg0.service.d up started
    wireguard_files
    on server "systemctl stop vm-target; wg-quick up wg0 2>&1" </dev/null >"$work/wg-quick"
    sed 's/%i/vm/g' "$here/../contrib/systemd/wg-quick@.service.d/rsock-nf.conf" | put client "$here_dropins/rsock-nf.conf" 0644
    on client "systemctl daemon-reload; systemctl stop $UNIT; systemctl start wg-quick@wg0" </dev/null
    connected || fail "wg-quick has started, but the tunnel does not stand"
    up=$(shown client ActiveEnterTimestampMonotonic)
    started=$(shown client ExecMainStartTimestampMonotonic wg-quick@wg0)
    expect "the start of wg-quick (us)" "$started" -ge "$up"
    await "$UP_SECONDS" "a ping through wg0" ping_inner
    printf 'wg-quick %d ms behind the tunnel; ' "$(((started - up) / 1000))"
    on client "systemctl stop wg-quick@wg0" </dev/null
    active client || fail "the tunnel ended with the VPN"

    on server "systemctl stop $UNIT" </dev/null
    put client "/etc/systemd/system/$UNIT.d/unanswered.conf" 0644 <<<"[Service]
TimeoutStartSec=$SHORT_SECONDS"
    on client "systemctl daemon-reload; systemctl stop $UNIT; systemctl start wg-quick@wg0" </dev/null
    ! active client || fail "the client's unit is active without a server"
    active client wg-quick@wg0 || fail "wg-quick has not started without the tunnel"
    on client "rm /etc/systemd/system/$UNIT.d/unanswered.conf; systemctl daemon-reload" </dev/null
    on server "systemctl start $UNIT" </dev/null
    await "$UP_SECONDS" "a ping through wg0, started before its tunnel" ping_inner
    await "$UP_SECONDS" "the client's unit" active client
    echo "without a server it starts all the same, and carries once there is one"

    on client "systemctl stop wg-quick@wg0; rm -r $here_dropins; systemctl daemon-reload" </dev/null
    on server "wg-quick down wg0 2>&1" </dev/null >"$work/wg-quick"
    background server vm-target "python3 /opt/traffic.py target $TARGET"
}
ping_inner() { on client "ping -n -q -c 1 -W 5 $INNER_THERE" </dev/null; }

# After all of this nothing is failed, and nothing is left.
units_down() {
    both "systemctl disable --now --quiet $UNIT
        rm -r /etc/systemd/system/$UNIT.d; systemctl stop vm-capture 2>/dev/null || true # of some checks only
        ! systemctl is-failed --quiet $UNIT"
    down_clean
    echo "systemctl stop left nothing either"
}
