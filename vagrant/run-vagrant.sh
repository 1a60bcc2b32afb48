#!/usr/bin/env bash
# The two machines with Vagrant and libvirt: vagrant up, the scenario, vagrant destroy.
#
#   run-vagrant.sh [--suite bookworm|trixie] [--keep-logs DIRECTORY] [--wheel FILE] [-- SCENARIO-OPTION ...]
#   run-vagrant.sh --usable      exit status 0 if Vagrant and a libvirt daemon can be used here, else why not
#
# Uses the box of build-box.sh, whose guests need no network: none of the networks made here leads anywhere.  With
# RSOCK_NF_BOX set, that box instead, on networks as its provider makes them.
# A libvirt daemon that runs is used as it is, and what was defined there is removed afterwards.  Where none runs, root
# starts one in namespaces of its own (network, processes, mounts), and nothing of it is left whatever happens.
#
# Environment: RSOCK_NF_VM_CACHE, RSOCK_NF_BOX, RSOCK_NF_DRIVER, RSOCK_NF_MEMORY, BOOT_SECONDS.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/common.sh
. "$here/common.sh"

export LIBVIRT_DEFAULT_URI=qemu:///system
MANAGEMENT=rsock-nf-management

suite=bookworm logs='' wheel='' usable=0
arguments=("$@")
while (($#)); do
    case $1 in
        --suite) suite=$2; shift ;;
        --keep-logs) logs=$2; shift ;;
        --wheel) wheel=$2; shift ;;
        --usable) usable=1 ;;
        --) shift; break ;;
        *) usage "$0" ;;
    esac
    shift
done
scenario=("$@")

a_daemon_runs() { timeout 30 virsh --quiet version >/dev/null 2>&1; }

is_usable() {
    require vagrant:vagrant virsh:libvirt-clients qemu-system-x86_64:qemu-system-x86 dnsmasq:dnsmasq-base
    vagrant plugin list 2>/dev/null | grep -q vagrant-libvirt || [[ -d /usr/share/doc/vagrant-libvirt ]] ||
        die "vagrant has no libvirt provider: apt-get install --no-install-recommends vagrant-libvirt"
    a_daemon_runs || [[ $EUID -eq 0 && -x /usr/sbin/libvirtd ]] ||
        die "no libvirt daemon answers, and only root can start one: systemctl start libvirtd"
}

# -- a daemon of our own

# enter: this script again, in namespaces that die with it.
enter() {
    local status=0
    # The first process in the namespaces dies with unshare, and unshare with this script.
    RSOCK_NF_INSIDE=$work RSOCK_NF_WHEEL=$wheel setpriv --pdeathsig KILL unshare --net --pid --mount --fork --kill-child --mount-proc \
        nice -n "${NICE:-0}" "$0" "${arguments[@]}" || status=$?
    return "$status"
}

private_daemon() {
    ip link set lo up
    local directory
    for directory in etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt run; do
        install -d -m 0755 "$work/root/$directory"
    done
    cp -a /etc/libvirt/. "$work/root/etc/libvirt"
    rm -rf "$work"/root/etc/libvirt/qemu/networks/autostart
    cat >>"$work/root/etc/libvirt/qemu.conf" <<'CONF'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
CONF
    for directory in etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt run; do
        mount --bind "$work/root/$directory" "/$directory"
    done
    install -d /var/lib/libvirt/images
    /usr/sbin/libvirtd --daemon --pid-file "$work/libvirtd.pid"
    local end=$((SECONDS + 120))
    until a_daemon_runs; do
        ((SECONDS < end)) || die "libvirtd does not answer: $(tail -n 1 /var/log/libvirt/libvirtd.log 2>/dev/null)"
    done
}

# -- the machines

management_network() {
    cat >"$work/management.xml" <<XML
<network>
  <name>$MANAGEMENT</name>
  <bridge name="rsock-nf-m0" stp="off"/>
  <dns enable="no"/>
  <ip address="192.168.77.1" netmask="255.255.255.0"><dhcp><range start="192.168.77.100" end="192.168.77.200"/></dhcp></ip>
</network>
XML
    virsh --quiet net-define "$work/management.xml" >/dev/null
    virsh --quiet net-start "$MANAGEMENT" >/dev/null
}

undo() {
    local volume
    (cd "$here/.." && vagrant destroy --force >/dev/null 2>&1) || true
    if [[ $RSOCK_NF_ISOLATED == 1 ]]; then
        virsh --quiet net-destroy "$MANAGEMENT" >/dev/null 2>&1 || true
        virsh --quiet net-undefine "$MANAGEMENT" >/dev/null 2>&1 || true
        # vagrant destroy leaves the base volume
        for volume in $(virsh --quiet vol-list default 2>/dev/null | awk '/rsock-nf-.*box/ { print $1 }'); do
            virsh --quiet vol-delete "$volume" default >/dev/null 2>&1 || true
        done
    fi
}

machines() {
    trap 'undo; rm -rf --one-file-system "$work"' EXIT
    export VAGRANT_DOTFILE_PATH=$work/vagrant VAGRANT_HOME=$CACHE/vagrant.d VAGRANT_CHECKPOINT_DISABLE=1
    export RSOCK_NF_DRIVER BOOT_SECONDS=${BOOT_SECONDS:-1800}
    RSOCK_NF_DRIVER=$(driver)
    cd "$here/.."
    if [[ $RSOCK_NF_ISOLATED == 1 ]]; then
        management_network
        vagrant box add --force --name "$RSOCK_NF_BOX" "$CACHE/$suite.box" >"$work/box.log" 2>&1 ||
            die "vagrant box add: $(tail -n 1 "$work/box.log")"
    fi
    say "vagrant up ($RSOCK_NF_DRIVER; up to ten minutes under emulation)"
    vagrant up --provider=libvirt --no-tty >"$work/up.log" 2>&1 || {
        tail -n 30 "$work/up.log" >&2
        die "vagrant up failed"
    }
    say "both machines are up and provisioned after $SECONDS s"
    vagrant ssh-config >"$work/ssh_config" 2>/dev/null
    # Not exec: the trap takes the machines down.
    "$here/two-vm-test.sh" --ssh-config "$work/ssh_config" --wheel "$wheel" ${logs:+--logs "$logs"} "${scenario[@]}"
}

if [[ $usable == 1 ]]; then
    is_usable
    exit 0
fi
if [[ ${RSOCK_NF_INSIDE:-} ]]; then
    work=$RSOCK_NF_INSIDE wheel=$RSOCK_NF_WHEEL
    private_daemon
    machines
    exit
fi
is_usable
export RSOCK_NF_ISOLATED=0
if [[ ! ${RSOCK_NF_BOX:-} ]]; then
    "$here/build-box.sh" --suite "$suite" --box >/dev/null
    export RSOCK_NF_ISOLATED=1 RSOCK_NF_BOX=rsock-nf-$suite
fi
work_directory
[[ $wheel ]] || wheel=$(build_wheel "$here/.." "$work")
if a_daemon_runs; then machines; else enter; fi
