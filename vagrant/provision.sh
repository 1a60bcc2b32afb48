#!/usr/bin/env bash
# In a guest, as root: provision.sh ROLE LAB-MAC [PYTHON-REQUIREMENT ...].  May be repeated.
# Gives the lab device its addresses, now and at every boot, whoever else manages the network; installs what the
# scenario needs, where the image does not have it and the guest has a network to get it from.
set -euo pipefail
role=$1 mac=$2
shift 2

case $role in
    client) number=11 ;;
    server) number=12 ;;
    *) echo "provision.sh: no such role: $role" >&2; exit 2 ;;
esac

device=''
for address in /sys/class/net/*/address; do
    if [[ $(<"$address") == "$mac" ]]; then
        device=$(basename "$(dirname "$address")")
    fi
done
[[ $device ]] || { echo "provision.sh: no network device has the address $mac" >&2; exit 1; }

hostnamectl hostname "$role" 2>/dev/null || hostname "$role"
grep -qw "$role" /etc/hosts || echo "127.0.1.1 $role" >>/etc/hosts
printf 'device=%s\nserver4=10.77.0.12\nserver6=fd77::12\n' "$device" >/etc/rsock-nf-lab

cat >/etc/systemd/system/rsock-nf-lab.service <<UNIT
[Unit]
Description=Addresses of the network between the two machines
Before=network-online.target
After=sys-subsystem-net-devices-$device.device
Wants=sys-subsystem-net-devices-$device.device

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link set $device up; ip address replace 10.77.0.$number/24 dev $device; ip -6 address replace fd77::$number/64 dev $device nodad'

[Install]
WantedBy=multi-user.target network-online.target
UNIT
systemctl daemon-reload
systemctl --quiet enable rsock-nf-lab.service
systemctl restart rsock-nf-lab.service

missing=()
for package in nftables iptables ethtool tcpdump iperf3 kcptun python3-venv iputils-ping wireguard-tools ppp pppoe; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [[ ${#missing[@]} -gt 0 ]]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
if [[ ! -x /opt/rsock-nf/bin/python ]]; then
    apt-get install -q -y --no-install-recommends gcc libc6-dev python3-dev # python-iptables is compiled
    python3 -m venv /opt/rsock-nf
    /opt/rsock-nf/bin/pip install --quiet --disable-pip-version-check "$@"
fi
