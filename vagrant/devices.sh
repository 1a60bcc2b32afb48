# shellcheck shell=bash
# The devices that people have: a VLAN, a bond, PPP, and the kernel's WireGuard on top.  Sourced by two-vm-test.sh,
# whose tools it uses.
#
# One tunnel stays up.  The addresses of its ends move from device to device, as they do when a host is set up anew.
# Each check sends DEVICE_DATAGRAMS each way and wants: none lost, doubled or changed; no packet taken twice (a tap that
# sees a packet on two devices shows as replayed frames); no RST; no segment of the kernel's own TCP.

# shellcheck disable=SC2154 # work, device: of two-vm-test.sh

DEVICE_DATAGRAMS=${DEVICE_DATAGRAMS:-200}
# How many of them may be lost while a link of the bond is cut: what is under way.
CUT_LOSS=64
THERE=10.78.0.12 HERE=10.78.0.11
# Dialled anew, the client gets another address.
PPP_HERE=10.78.0.21 PPP_HERE_AGAIN=10.78.0.22
INNER_THERE=10.99.0.1 INNER_HERE=10.99.0.2
declare -A number=([client]=11 [server]=12) second=()

# -- tools

# addresses DEVICE: the tunnel's, on both.
addresses() {
    local role
    for role in client server; do
        on "$role" "ip link set $1 up; ip address replace 10.78.0.${number[$role]}/24 dev $1" </dev/null
    done
}

# second_devices: the second network card of each machine.  The image does not load its driver by itself, so that the
# names of the first two are always the same.
second_devices() {
    local role mac
    for role in client server; do
        mac=$(second_mac "$role")
        on "$role" "modprobe e1000e; udevadm settle" </dev/null
        second[$role]=$(on "$role" "grep -lx $mac /sys/class/net/*/address | head -n 1 | cut -d / -f 5" </dev/null)
        [[ ${second[$role]} ]] || fail "$role has no network device with the address $mac"
        on "$role" "ip link set ${second[$role]} up" </dev/null
    done
    expect_same "the second network device" "${second[client]}" "${second[server]}"
}

expect_same() { [[ $2 == "$3" ]] || fail "$1: $2 is not $3"; }

# carried DEVICE [SERVERS]: the tunnel is back, carries everything once, and uses this device on both.  SERVERS: a pattern
# for the server's, where it may be another one.
carried() {
    local role replayed guarded used
    local -A wanted=([client]=$1 [server]=${2:-$1})
    await "$UP_SECONDS" "the tunnel over $1" revived
    DATAGRAMS=$DEVICE_DATAGRAMS echo_both_ways >"$work/echo"
    both "rsock-nf status --json --name vm"
    for role in client server; do
        read -r used replayed guarded < <(python3 -c 'import json, sys
s = json.load(open(sys.argv[1]))
flows = [flow for session in s["sessions"] for flow in session["flows"]]
print(s["link"]["device"], sum(flow["replayed"] for flow in flows), s["firewall"]["guarded"])' "$work/both.$role")
        expect "frames that $role has taken twice over $1" "$replayed" -eq 0
        expect "the kernel's own segments stopped on $role" "$guarded" -eq 0
        # shellcheck disable=SC2053 # a pattern
        [[ $used == ${wanted[$role]} ]] || fail "the device that $role uses is $used, not ${wanted[$role]}"
    done
    echo "$1;"
}

# -- checks

devices_up() {
    second_devices
    addresses "$device"
    configure auto 4 none "$THERE" all
    client_type tcp
    device=any capture_start client server
    count_resets client server
    up
    status client "'%d flows, MTU %s' % (len(flows), s['mtu'])"
    both "ip address flush dev $device to 10.78.0.0/24"
}
# The server takes both kinds, the client is told one.
client_type() { on client "sed -i 's/\"type\": \"[a-z]*\"/\"type\": \"$1\"/' /etc/rsock-nf/vm.json" </dev/null; }

# Over a card that leaves the tag in the packet, and over one that takes it out, or does not.
over_vlan() {
    local card=${second[client]} setting
    # With a queue, as a shaper brings it: behind that the kernel drops what it cannot cut and says nothing.
    both "ip link add link $device name $device.100 type vlan id 100; tc qdisc replace dev $device.100 root fq_codel"
    addresses "$device.100"
    carried "$device.100"
    both "ip link delete $device.100; ip link add link $card name $card.100 type vlan id 100"
    addresses "$card.100"
    for setting in on off; do
        both "ethtool -K $card rx-vlan-offload $setting; ethtool -k $card | grep -q '^rx-vlan-offload: $setting'"
        carried "$card.100"
        echo "rx-vlan-offload $setting;"
    done
    both "ethtool -K $card rx-vlan-offload on; ip link delete $card.100"
    no_resets client server
}

# One of the two links is cut under traffic, on one side.
over_bond() {
    local card=${second[client]}
    both "modprobe bonding max_bonds=0; ip link add bond0 type bond mode active-backup miimon 100
        for port in $device $card; do ip link set \$port down; ip link set \$port master bond0; done"
    addresses bond0
    await "$UP_SECONDS" "the tunnel over bond0" revived
    on client "python3 /opt/traffic.py exchange $LISTEN --count $DEVICE_DATAGRAMS --allowed-loss $CUT_LOSS" </dev/null >"$work/cut" &
    await 60 "traffic" on client "pgrep -f 'traffic.p[y] exchange'"
    active=$(on client "cat /sys/class/net/bond0/bonding/active_slave" </dev/null)
    on client "ip link set $active down" </dev/null
    wait $! || fail "while $active was cut: $(cat "$work/cut")"
    await 30 "the other port" other_port "$active"
    carried bond0
    echo "$active cut, went on by $(on client "cat /sys/class/net/bond0/bonding/active_slave" </dev/null)"
    both "ip link delete bond0; ip link set $card down; systemctl restart rsock-nf-lab.service"
    no_resets client server
}
other_port() { on client "grep -qvx '$1' /sys/class/net/bond0/bonding/active_slave && grep -q . /sys/class/net/bond0/bonding/active_slave" </dev/null; }

# PPPoE over the first card, dialled twice.
over_ppp() {
    local options='noauth ipcp-accept-remote noipv6 mtu 1492 mru 1492 lcp-echo-interval 5 lcp-echo-failure 3'
    both "modprobe -a ppp_generic pppoe"
    on server "tr ' ' '\\n' >/etc/ppp/rsock-nf-lab" <<<"$options"
    background server vm-pppoe "pppoe-server -F -I $device -L $THERE -R $PPP_HERE -N 4 -O /etc/ppp/rsock-nf-lab"
    dial "$PPP_HERE"
    carried ppp0
    on client "systemctl stop vm-ppp" </dev/null
    dial "$PPP_HERE_AGAIN"
    carried ppp0 'ppp[01]' # the server's first one may not have ended yet
    expect_same "the client's address" \
        "$(status server "','.join(sorted({flow['remote'].rpartition(':')[0] for flow in flows}))")" "$PPP_HERE_AGAIN"
    echo "MTU $(on client "cat /sys/class/net/ppp0/mtu" </dev/null), dialled again with another address"
    on client "systemctl stop vm-ppp" </dev/null
    on server "systemctl stop vm-pppoe" </dev/null
    no_resets client server
}
dial() { # ADDRESS
    background client vm-ppp "pppd plugin rp-pppoe.so nic-$device nodetach noauth noipdefault nodefaultroute noipv6 mtu 1492 mru 1492 $1:$THERE"
    await 60 "ppp0" on client "ip -4 address show dev ppp0 | grep -q 'inet $1 '"
}

# The client's default route leads to the server, then wg-quick takes it.
under_wireguard() {
    local said
    on server "ip address replace $THERE/24 dev $device; systemctl stop vm-target" </dev/null
    on client "ip address replace $HERE/32 dev $device; ip route replace default via $THERE dev $device onlink metric 1" </dev/null
    wireguard_up
    expect_same "the device that the route leads into" \
        "$(on client "ip route get $THERE | sed -n 's/.* dev \([^ ]*\).*/\1/p'" </dev/null)" wg0
    pings_pass "started before the VPN"
    for kind in udp tcp; do
        on client "rsock-nf down" </dev/null >/dev/null
        client_type "$kind"
        on client "rsock-nf up --config /etc/rsock-nf/vm.json --timeout $UP_SECONDS" </dev/null >/dev/null
        pings_pass "$kind started under it"
    done
    both "wg-quick down wg0 2>&1; ip address flush dev $device to 10.78.0.0/24"
    background server vm-target "python3 /opt/traffic.py target $TARGET"
    no_resets client server
}

wireguard_up() {
    local role
    wireguard_files
    for role in server client; do
        on "$role" "wg-quick up wg0 2>&1" </dev/null >"$work/wg-quick" || fail "wg-quick on $role: $(tail -n 1 "$work/wg-quick")"
    done
}

# wireguard_files: /etc/wireguard/wg0.conf on both, with new keys.
wireguard_files() {
    local role other
    declare -A private=() public=() interface=() peer=()
    for role in client server; do
        private[$role]=$(on "$role" "wg genkey" </dev/null)
        public[$role]=$(on "$role" "wg pubkey" <<<"${private[$role]}")
    done
    interface=([client]="Address = $INNER_HERE/24" [server]="Address = $INNER_THERE/24
ListenPort = ${TARGET#*:}")
    peer=([client]="Endpoint = $LISTEN
AllowedIPs = 0.0.0.0/0
PersistentKeepalive = 5" [server]="AllowedIPs = $INNER_HERE/32")
    for role in server client; do
        other=client
        [[ $role == server ]] || other=server
        put "$role" /etc/wireguard/wg0.conf <<CONF
[Interface]
PrivateKey = ${private[$role]}
MTU = 1400
${interface[$role]}
[Peer]
PublicKey = ${public[$other]}
${peer[$role]}
CONF
    done
}

# pings_pass WHEN: small ones and large ones, and status says how the tunnel goes around the VPN.
pings_pass() {
    local size said
    await "$UP_SECONDS" "a ping through wg0, $1" on client "ping -n -q -c 1 -W 5 $INNER_THERE"
    for size in 56 1372; do
        said=$(on client "ping -n -q -c 5 -i 0.3 -W 10 -M do -s $size $INNER_THERE || true" </dev/null)
        grep -q ' 5 received' <<<"$said" || fail "pings of $size bytes, $1: $(grep received <<<"$said")"
    done
    said=$(status client "'; '.join(s['notes'])")
    expect_same "the note of status, $1" "$said" \
        "the route to $THERE leads into wg0, which runs over this tunnel: $device is used instead"
    echo "$1: 10 of 10 pings;"
}

devices_down() {
    local role
    for role in client server; do
        expect "the kernel's own segments stopped on $role" "$(status "$role" "s['firewall']['guarded']")" -eq 0
    done
    down_clean
    both "systemctl stop vm-capture"
    echo "rules, packet sockets and processes as before up, on both"
}
