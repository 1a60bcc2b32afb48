#!/usr/bin/env bash
# The scenario: rsock-nf between two machines that somebody else has started and provisioned.
#
#   two-vm-test.sh --ssh-config FILE --wheel FILE [--logs DIRECTORY] [--only CHECK,...]
#
# FILE of --ssh-config names two hosts, client and server, as `vagrant ssh-config` and run-two-vm.sh write it.
# Prints a table, one line as each check ends; at the first that fails, its reason, and exits 1.
# --logs: captures, daemon logs and journals of both machines are copied there.
# Rates are low and time-outs long: the machines may be emulated.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/common.sh
. "$here/common.sh"

DATAGRAMS=${DATAGRAMS:-2000}
FILE_BYTES=${FILE_BYTES:-2097152}
# Of each 2,000, beside what a machine that is too slow drops and counts.  Corruption and duplicates: none.
ALLOWED_LOSS=${ALLOWED_LOSS:-0}
UP_SECONDS=${UP_SECONDS:-180}
BOOT_SECONDS=${BOOT_SECONDS:-900}
PORTS=10001-10010
LISTEN=127.0.0.1:30000
TARGET=127.0.0.1:9999

ssh_config='' wheel='' logs='' only=''
while (($#)); do
    case $1 in
        --ssh-config) ssh_config=$2; shift ;;
        --wheel) wheel=$2; shift ;;
        --logs) logs=$2; shift ;;
        --only) only=$2; shift ;;
        *) usage "$0" ;;
    esac
    shift
done
[[ -r $ssh_config && -r $wheel ]] || usage "$0"

work=$(mktemp -d)
# A short path: it becomes the name of a UNIX socket.
ssh_options=(-F "$ssh_config" -o ControlMaster=auto -o "ControlPath=$work/%n" -o ControlPersist=yes
    -o ServerAliveInterval=15 -o ServerAliveCountMax=8 -o ConnectTimeout=60)
exec 3>&1 # the table: the standard output of a check is its row's text
finish() {
    local status=$? role
    trap - EXIT
    if [[ $status -ne 0 && ! -e $work/failed ]]; then
        printf '\nFAILED: %s: %s\n' "$current" "$(tail -qn 5 "$work/out" "$work/err" 2>/dev/null | paste -sd ' ')" >&3
    fi
    [[ -z $logs ]] || collect || true
    for role in client server; do
        ssh "${ssh_options[@]}" -O exit "$role" 2>/dev/null || true
    done
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT

# -- tools

# on ROLE COMMAND: as root, in a shell there; its standard input is ours.
on() {
    local role=$1
    shift
    # shellcheck disable=SC2029 # the command is meant to be expanded here
    ssh "${ssh_options[@]}" "$role" "sudo bash -euo pipefail -c $(printf %q "export PATH=\$PATH:/usr/sbin:/sbin; $*")"
}

# both COMMAND: on the two at once; fails if either does.
both() {
    local status=0 client
    on client "$@" </dev/null >"$work/both.client" &
    client=$!
    on server "$@" </dev/null >"$work/both.server" || status=$?
    wait "$client" || status=$?
    return "$status"
}

put() { on "$1" "install -D -m ${3:-0600} /dev/stdin $2"; }

fail() {
    touch "$work/failed"
    printf '\nFAILED: %s: %s\n' "$current" "$*" >&3
    exit 1
}

# expect WHAT ACTUAL OPERATOR WANTED: numbers.
expect() {
    local what=$1 actual=$2 operator=$3 wanted=$4
    test "$actual" "$operator" "$wanted" || fail "$what is $actual, not $operator $wanted"
}

# status ROLE PYTHON-EXPRESSION: of the snapshot s.
status() {
    on "$1" "rsock-nf status --json --name vm" </dev/null | python3 -c "import json, sys
s = json.load(sys.stdin)
flows = [flow for session in s['sessions'] for flow in session['flows']]
print($2)"
}

background() { # ROLE NAME COMMAND: a transient unit
    on "$1" "systemctl stop $2.service 2>/dev/null || true; systemctl reset-failed $2.service 2>/dev/null || true;
        systemd-run --quiet --collect --unit=$2 $3" </dev/null
}

# await SECONDS WHAT COMMAND ...: until it succeeds.
await() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>"$work/await"; do
        ((SECONDS < end)) || fail "$what: not in time ($(tail -qn 1 "$work/await"))"
        sleep 2
    done
}

# One datagram, there and back.
revived() { on client "timeout 60 python3 /opt/traffic.py exchange $LISTEN --count 1" </dev/null; }

# -- the table

row() { printf '%-20s %6s  %s\n' "$1" "$3" "$2" >&3; }

# check NAME FUNCTION GROUP,...: runs it; what it prints is the row's text.  Its first failing command ends the test: it is
# called where `set -e` holds, so not behind `if`, `||` or `&&`.
check() {
    local started=$SECONDS
    current=$1
    if [[ $only ]] && ! wanted "$3"; then return; fi
    "$2" >"$work/out" 2>"$work/err"
    row "$1" "$(paste -sd ' ' "$work/out")" "$((SECONDS - started)) s"
}

# wanted GROUP,...: whether --only names one of them.
wanted() {
    local group
    for group in ${1//,/ }; do
        [[ ",$only,always," != *",$group,"* ]] || return 0
    done
    return 1
}

# -- configuration

# configure BACKEND VERSION CIPHER [ADDRESS TYPE]: both files, and a target to talk to.  With ADDRESS, the server's, it
# takes packets from every device.
configure() {
    local backend=$1 version=$2 cipher=$3 address=${4:-} type=${5:-tcp} where
    device=$(on server "sed -n s/^device=//p /etc/rsock-nf-lab" </dev/null)
    where="\"addresses\": [\"$address\"], "
    if [[ ! $address ]]; then
        address=$(on server "sed -n s/^server$version=//p /etc/rsock-nf-lab" </dev/null)
        where="\"device\": \"$device\", "
    fi
    put server /etc/rsock-nf/vm.json <<JSON
{"role": "server", "target": "$TARGET", "ports": "$PORTS", "secret": "$secret", "type": "$type",
 $where"backend": "$backend", "cipher": "$cipher"}
JSON
    put client /etc/rsock-nf/vm.json <<JSON
{"role": "client", "server": "$address", "listen": "$LISTEN", "ports": "$PORTS", "secret": "$secret", "type": "$type",
 "backend": "$backend", "cipher": "$cipher"}
JSON
    background server vm-target "python3 /opt/traffic.py target $TARGET"
}

up() {
    local role
    for role in server client; do # a client's up waits for the server
        on "$role" "rsock-nf up --config /etc/rsock-nf/vm.json --timeout $UP_SECONDS" </dev/null >/dev/null
    done
}

# Everything of a host that rsock-nf may have changed, and nothing that moves by itself.
host_state() {
    cat <<'COMMANDS'
nft list ruleset
for tables in iptables-legacy-save ip6tables-legacy-save; do $tables -t raw | grep -v "^#\|^:\|^\*\|^COMMIT" || true; done
find /run/rsock-nf -type f ! -name "log*" 2>/dev/null || true # the log is kept on purpose
ss -Hanp -0 | grep -E "python|rsock-nf" || true
pgrep -fa "__main__[.]py up|bin/rsock-n[f] up" || true # [.]: not this command itself
COMMANDS
}

remember() {
    both "$(host_state)"
    cp "$work/both.client" "$work/before.client"
    cp "$work/both.server" "$work/before.server"
    on server "uname -r; . /etc/os-release; echo \"\$PRETTY_NAME\"; nft --version; iptables-legacy --version" </dev/null
}

# down on both, then compare with what was before.
down_clean() {
    both "rsock-nf down"
    both "$(host_state)"
    local role
    for role in client server; do
        cmp -s "$work/before.$role" "$work/both.$role" ||
            fail "$role: down left something: $(diff "$work/before.$role" "$work/both.$role" | grep '^[<>]' | head -n 1)"
    done
}

# -- captures: on each machine's own device, so that what a kernel sends is seen where it leaves, and where it arrives

capture_start() {
    local role
    for role in "$@"; do
        on "$role" "rm -f /run/vm.pcap; modprobe af_packet 2>/dev/null || true" </dev/null
        # -s 128: headers; -B: a burst on a slow machine must not push packets out.
        background "$role" vm-capture "tcpdump -i $device -s 128 -B 16384 -U --immediate-mode -Z root -w /run/vm.pcap tcp portrange $PORTS"
        await 60 "tcpdump on $role" on "$role" "test -s /run/vm.pcap"
    done
}

# captured ROLE FILTER: how many packets of the capture.
captured() { on "$1" "tcpdump -n -r /run/vm.pcap $(printf %q "$2") 2>/dev/null | wc -l" </dev/null; }
RESETS='(tcp[13] & 4 != 0) or (ip6 and ip6[6] = 6 and ip6[53] & 4 != 0)'

kernel_resets() { # RSTs that this kernel's TCP has sent since boot (RFC 4022 tcpOutRsts)
    on "$1" "awk '/^Tcp:/ { if (n++) print \$15 }' /proc/net/snmp" </dev/null
}

captures_without_resets() {
    local role
    for role in "$@"; do
        expect "packets in the capture on $role" "$(captured "$role" tcp)" -gt 0
        expect "RSTs in the capture on $role" "$(captured "$role" "$RESETS")" -eq 0
    done
}

no_resets() {
    local role
    captures_without_resets "$@"
    for role in "$@"; do
        expect "RSTs that the kernel of $role sent" "$(kernel_resets "$role")" -eq "${resets[$role]}"
    done
}

count_resets() {
    local role
    for role in "$@"; do
        resets[$role]=$(kernel_resets "$role")
    done
}

# -- checks

# shellcheck source=vagrant/devices.sh
. "$here/devices.sh"
# shellcheck source=vagrant/systemd.sh
. "$here/systemd.sh"

declare -A resets=()
device='' current=start secret=''

install_it() {
    local role name
    name=$(basename "$wheel")
    for role in client server; do
        put "$role" "/opt/$name" 0644 <"$wheel"
        put "$role" /opt/traffic.py 0644 <"$here/traffic.py"
    done
    both "/opt/rsock-nf/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall /opt/$name
        ln -sf /opt/rsock-nf/bin/rsock-nf /usr/local/bin/; rsock-nf install-service >/dev/null
        rsock-nf --version; uname -r"
    secret=$(on client "rsock-nf genkey" </dev/null)
    paste -sd , "$work/both.server"
}

offloads_are_on() {
    local role
    device=$(on client "sed -n s/^device=//p /etc/rsock-nf-lab" </dev/null)
    for role in client server; do
        on "$role" "ethtool -k $device" </dev/null >"$work/offloads"
        for feature in tcp-segmentation-offload generic-segmentation-offload generic-receive-offload; do
            grep -q "^$feature: on" "$work/offloads" || fail "$role: $device has $(grep "^$feature" "$work/offloads")"
        done
    done
    on server "ethtool -i $device | sed -n 's/^driver: //p'" </dev/null
    echo "$device: TSO, GSO, GRO on"
}

# Without rules a kernel answers: if this one is not seen, the later zeros prove nothing.
a_reset_would_be_seen() {
    local found server4
    server4=$(on server "sed -n s/^server4=//p /etc/rsock-nf-lab" </dev/null)
    capture_start client server
    count_resets server
    on client "timeout 30 bash -c '</dev/tcp/$server4/10001' 2>/dev/null || true" </dev/null
    await 30 "the RST in the capture" test_captured_resets
    found=$(captured client "$RESETS")
    expect "RSTs that the server's kernel counts" "$(kernel_resets server)" -gt "${resets[server]}"
    echo "RST from the server's kernel: in the captures of client ($found) and server, and counted"
    both "systemctl stop vm-capture"
}
test_captured_resets() { [[ $(captured client "$RESETS") -gt 0 && $(captured server "$RESETS") -gt 0 ]]; }

tunnel_up() {
    configure auto 4 none
    both "rsock-nf doctor --local --config /etc/rsock-nf/vm.json" ||
        fail "doctor: $(grep -h FAIL "$work/both.client" "$work/both.server" | head -n 1)"
    count_resets client server
    capture_start client server
    up
    for role in client server; do
        printf '%s: %s, ' "$role" "$(status "$role" "s['firewall']['backend'] + ', %d flows, MTU %s' % (len(flows), s['mtu'])")"
    done
}

echo_both_ways() {
    exchange "$DATAGRAMS" "$ALLOWED_LOSS"
    python3 - "$work/exchange" <<'PYTHON'
import json, sys
found = json.load(open(sys.argv[1]))
ways = ", ".join("%s %d" % (name, found[key]["arrived"]) for name, key in
                 (("to target", "at_target"), ("echoed", "echoed"), ("from target", "from_target")))
print(f"of {found['sent']}: {ways}; hashes equal; lost {found['lost']}")
PYTHON
}

# exchange COUNT ALLOWED: datagrams both ways, each known by its hash.  So many may be lost, and beyond that what a
# machine that is too slow has dropped because it waited too long, as status tells.
exchange() {
    local before lost excused
    before=$(late)
    on client "python3 /opt/traffic.py exchange $LISTEN --count $1 --allowed-loss $1" </dev/null >"$work/exchange" ||
        fail "$(cat "$work/exchange")"
    lost=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["lost"])' "$work/exchange")
    if ((lost > $2)); then
        excused=$(($(late) - before))
        ((lost <= $2 + excused)) || fail "lost $lost, of which $excused waited too long: $(cat "$work/exchange")"
        echo "a machine was too slow;"
    fi
}

# late: how many datagrams both sides have dropped because they waited too long.  Of a packet that the kernel had merged
# from many, they count one: it holds at most 64.
late() {
    both "rsock-nf status --json --name vm"
    python3 -c 'import json, sys
sides = [json.load(open(name)) for name in sys.argv[1:]]
print(sum(s["sockets"]["late"] + s["carriers"].get("late", 0) + 64 * s["link"]["counters"]["late"] for s in sides))' \
        "$work/both.client" "$work/both.server"
}

# merged ROLE: packets and frames received, before and after.
snapshot_counts() { status "$1" "s['link']['counters']['received_packets'], s['link']['counters']['sent_packets'], s['link']['counters']['sent_segments'], sum(flow['rx_frames'] for flow in flows)"; }

# Segments cut by the sending side, merged on the way, and split again by us: as counted, and as seen in the capture.
merged_and_split() {
    local role packets sent segments frames large
    for role in client server; do
        read -r packets sent segments frames < <(snapshot_counts "$role" | tr -d '(),')
        large=$(captured "$role" "greater 1515")
        expect "segments sent by $role beyond its packets" "$((segments - sent))" -gt 0
        expect "frames received by $role beyond its packets" "$((frames - packets))" -gt 0
        expect "packets above the MTU in the capture on $role" "$large" -gt 0
        echo "$role: $sent bursts out = $segments segments, $packets packets in = $frames frames, $large above the MTU;"
    done
}

# The same with the sender's TSO off: real segments on the wire, merged by the receiver's GRO alone.
gro_alone() {
    local role before after
    both "ethtool -K $device tso off gso on"
    before=$(snapshot_counts server | tr -d '(),')
    echo_both_ways >/dev/null
    after=$(snapshot_counts server | tr -d '(),')
    both "ethtool -K $device tso on"
    read -r -a before <<<"$before"
    read -r -a after <<<"$after"
    expect "frames received by server beyond its packets" \
        "$((after[3] - before[3] - (after[0] - before[0])))" -gt 0
    echo "server: $((after[0] - before[0])) packets in = $((after[3] - before[3])) frames"
}

# kcptun takes the target's place.
kcptun_file() {
    local options='--key vm --crypt xor --mode fast --nocomp --mtu 1200'
    on server "systemctl stop vm-target" </dev/null
    background server vm-store "python3 /opt/traffic.py store 127.0.0.1:5201"
    background server vm-kcptun "kcptun-server -l $TARGET -t 127.0.0.1:5201 $options"
    background client vm-kcptun "kcptun-client -l 127.0.0.1:12948 -r $LISTEN $options"
    await 60 "kcptun-client" on client "ss -Hltn 'sport = :12948' | grep -q ."
    await 60 "kcptun-server" on server "ss -Hlun 'sport = :${TARGET#*:}' | grep -q ."
    on client "python3 /opt/traffic.py file 127.0.0.1:12948 $FILE_BYTES" </dev/null >"$work/file" || fail "$(cat "$work/file")"
    python3 -c 'import json, sys
found = json.load(open(sys.argv[1]))
print("%d bytes there and back in %s s, sha256 %s... equal;" % (found["bytes"], found["seconds"], found["sha256"][:12]))' "$work/file"
    on client "systemctl stop vm-kcptun" </dev/null
    on server "systemctl stop vm-kcptun vm-store" </dev/null
    background server vm-target "python3 /opt/traffic.py target $TARGET"
    captures_without_resets client server # kcptun's own TCP may end by RST, which the kernels count
    echo "no RST on the wire"
}

drop_rules_count() {
    # The held ports listen behind a filter that refuses everything: they are no connections.
    local role dropped rules
    for role in client server; do
        dropped=$(status "$role" "s['firewall']['dropped']")
        rules=$(on "$role" "nft list table inet rsock_nf_vm | sed -n 's/.*counter packets \([0-9]*\) .*/\1/p' | awk '{ n += \$1 } END { print n }'" </dev/null)
        expect "packets that the drop rules of $role kept from its kernel" "$dropped" -gt 0
        expect "what nft counts on $role" "$rules" -ge "$dropped"
        expect "the kernel's own segments stopped on $role" "$(status "$role" "s['firewall']['guarded']")" -eq 0
        on "$role" "! ss -Htan | grep -E ':100(0[1-9]|10)' | grep -qv '^LISTEN'" </dev/null || fail "$role: the kernel has a TCP connection"
        echo "$role: $dropped dropped;"
    done
    no_resets client server
    echo "no RST in either capture or kernel counter"
}

back_to_nothing() {
    down_clean
    both "systemctl stop vm-capture"
    echo "rules, packet sockets, processes and /run (but for the log) as before up, on both"
}

# variant BACKEND VERSION CIPHER: up, echo, no RST, down.
variant() {
    configure "$1" "$2" "$3"
    capture_start client server
    count_resets client server
    up
    [[ $1 != iptables ]] || legacy_rules
    echo_both_ways
    no_resets client server
    for role in client server; do
        expect "packets dropped on $role" "$(status "$role" "s['firewall']['dropped']")" -gt 0
        echo "$(status "$role" "s['firewall']['backend']"),"
    done
    down_clean
    both "systemctl stop vm-capture"
}
legacy_rules() {
    local role
    for role in client server; do
        on "$role" "iptables-legacy --wait 60 -t raw -S" </dev/null >"$work/legacy"
        grep -q -- '-j DROP' "$work/legacy" || fail "$role: iptables has no drop rule: $(paste -sd ';' "$work/legacy")"
        on "$role" "nft list tables" </dev/null >"$work/tables"
        ! grep -q rsock_nf "$work/tables" || fail "$role: nftables has rules too"
    done
}
iptables_backend() { variant iptables 4 none; }
ipv6_sealed() { variant auto 6 aes-256-gcm; }

collect() {
    local role
    mkdir -p "$logs"
    for role in client server; do
        on "$role" "cat /run/vm.pcap 2>/dev/null || true" </dev/null >"$logs/$role.pcap"
        on "$role" "journalctl --no-pager -n 400; cat /run/rsock-nf/vm/log 2>/dev/null; rsock-nf status --json 2>&1 || true
            nft list ruleset" </dev/null >"$logs/$role.log" 2>&1
    done
}

row CHECK RESULT TIME
check 'machines' remember always
check 'install' install_it always
check 'offloads' offloads_are_on always
check 'a RST would be seen' a_reset_would_be_seen control
check 'up' tunnel_up base
check 'UDP echo, both ways' echo_both_ways base
check 'merged and split' merged_and_split base
check 'GRO alone (TSO off)' gro_alone base
check 'drop rules, no RST' drop_rules_count base
check 'kcptun, a file' kcptun_file base
check 'down' back_to_nothing base
check 'systemd units' units_up systemd,vpn
check 'reload, journal' reloaded systemd
check 'watchdog' watchdog_bites systemd
check 'server kill -9' server_killed systemd
check 'server rebooted' server_reboots systemd
check 'server crashed' server_crashes systemd
check 'VPN behind the unit' vpn_behind systemd,vpn
check 'units stopped' units_down systemd,vpn
check 'iptables backend' iptables_backend iptables
check 'IPv6, aes-256-gcm' ipv6_sealed ipv6
check 'up, any device' devices_up devices,vlan,bond,ppp,wireguard
check 'VLAN' over_vlan devices,vlan
check 'bond, one link cut' over_bond devices,bond
check 'PPP, dialled twice' over_ppp devices,ppp
check 'kernel WireGuard' under_wireguard devices,wireguard
check 'down' devices_down devices,vlan,bond,ppp,wireguard
echo
echo 'all passed'
