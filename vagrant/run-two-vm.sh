#!/usr/bin/env bash
# The two machines with plain QEMU: the image of build-box.sh twice, one isolated network, then the scenario.
#
#   run-two-vm.sh [--suite bookworm|trixie] [--fresh] [--keep-logs DIRECTORY] [--wheel FILE] [-- SCENARIO-OPTION ...]
#   run-two-vm.sh [--suite ...] --cached    exit status 0 if image and saved states are there, so that a run is short
#
# Everything runs inside network and process namespaces of its own: a bridge with four taps that lead nowhere, ssh by a
# loopback that exists only there.  When this script ends, however it ends, the kernel ends every process in them.
# The machines start from a saved state (savevm) in the cache directory, made at the first run or with --fresh: 30 s
# instead of minutes under emulation.  Root, or a host that lets users make namespaces, with /dev/net/tun.
#
# Environment: RSOCK_NF_VM_CACHE, RSOCK_NF_DRIVER (kvm or qemu; by default as common.sh says), RSOCK_NF_MEMORY (MB for
# each machine, 512).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/common.sh
. "$here/common.sh"

BOOT_SECONDS=${BOOT_SECONDS:-900}
STATE=ready
ROLES=(client server)

suite=bookworm fresh=0 cached=0 logs='' wheel=''
arguments=("$@")
while (($#)); do
    case $1 in
        --suite) suite=$2; shift ;;
        --fresh) fresh=1 ;;
        --cached) cached=1 ;;
        --keep-logs) logs=$2; shift ;;
        --wheel) wheel=$2; shift ;;
        --) shift; break ;;
        *) usage "$0" ;;
    esac
    shift
done
scenario=("$@")
image=$CACHE/$suite.qcow2

# -- outside the namespaces: image and wheel need the network and the disk, nothing else does

enter() {
    require qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils ssh:openssh-client ip:iproute2 unshare:util-linux
    [[ -e $image ]] || "$here/build-box.sh" --suite "$suite" >/dev/null
    [[ -w /dev/net/tun ]] || die "/dev/net/tun is not writable: modprobe tun, or be root"
    work_directory
    [[ $wheel ]] || wheel=$(build_wheel "$here/.." "$work")
    # The first process in the namespaces dies with unshare, and unshare with this script.
    local unshare=(setpriv --pdeathsig KILL unshare --net --pid --fork --kill-child --mount-proc)
    [[ $EUID -eq 0 ]] || unshare+=(--user --map-root-user)
    RSOCK_NF_INSIDE=$work RSOCK_NF_WHEEL=$wheel "${unshare[@]}" nice -n "${NICE:-0}" "$0" "${arguments[@]}"
}

# -- inside

network() {
    ip link set lo up
    ip link add lab type bridge mcast_snooping 0
    ip link set lab up
    local role tap
    for role in "${ROLES[@]}"; do
        for tap in "tap-$role" "tap2-$role"; do
            ip tuntap add "$tap" mode tap vnet_hdr
            ip link set "$tap" master lab up
        done
    done
}

# command ROLE DISK: the command line, one argument a line; a saved state fits this very one only.
command_line() {
    local role=$1 disk=$2 index=1
    [[ $role == server ]] && index=2
    # -cx16: QEMU 7.2 emulates cmpxchg16b wrongly now and then; Linux 6.12 panicked in its memory allocator.
    local accelerator=(-accel "tcg,thread=multi,tb-size=256" -cpu "qemu64,-cx16")
    [[ $(driver) == kvm ]] && accelerator=(-accel kvm -cpu host)
    printf '%s\n' qemu-system-x86_64 -name "$role" -nodefaults -no-user-config -machine pc "${accelerator[@]}" \
        -smp 1 -m "${RSOCK_NF_MEMORY:-512}" -display none -serial "file:$work/$role.console" \
        -qmp "unix:$work/$role.qmp,server=on,wait=off" -device virtio-rng-pci \
        -drive "file=$disk,if=none,id=disk,format=qcow2,cache=unsafe" -device virtio-blk-pci,drive=disk \
        -netdev "user,id=management,restrict=on,hostfwd=tcp:127.0.0.1:220$index-:22" \
        -device "virtio-net-pci,netdev=management,mac=52:54:00:6e:66:1$index,romfile=" \
        -netdev "tap,id=lab,ifname=tap-$role,script=no,downscript=no,vhost=off" \
        -device "virtio-net-pci,netdev=lab,mac=$(lab_mac "$role"),romfile=" \
        -netdev "tap,id=second,ifname=tap2-$role,script=no,downscript=no,vhost=off" \
        -device "e1000e,netdev=second,mac=$(second_mac "$role"),romfile="
}

start() {
    local role=$1 disk=$2 line
    shift 2
    mapfile -t line < <(command_line "$role" "$disk")
    "${line[@]}" "$@" 2>"$work/$role.qemu" &
    echo $! >"$work/$role.pid"
}

# qmp ROLE COMMAND: one line of the human monitor, and its answer.
qmp() {
    python3 - "$work/$1.qmp" "$2" <<'PYTHON'
import json, socket, sys

with socket.socket(socket.AF_UNIX) as monitor:
    monitor.connect(sys.argv[1])
    lines = monitor.makefile("rw")

    def ask(name, **arguments):
        lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        lines.flush()
        while True:
            answer = json.loads(lines.readline())
            if "return" in answer or "error" in answer:
                return answer

    lines.readline()  # the greeting
    ask("qmp_capabilities")
    answer = ask("human-monitor-command", **{"command-line": sys.argv[2]})
    text = answer.get("return", answer).strip() if isinstance(answer.get("return"), str) else str(answer)
    sys.exit(text or None)
PYTHON
}

ssh_config() {
    local role index=1
    for role in "${ROLES[@]}"; do
        cat <<CONFIG
Host $role
  HostName 127.0.0.1
  Port 220$index
  User vagrant
  IdentityFile $CACHE/id_ed25519
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
CONFIG
        index=$((index + 1))
    done
}

# reach ROLE: wait until it answers by ssh.
reach() {
    local role=$1 end=$((SECONDS + BOOT_SECONDS)) pid
    pid=$(<"$work/$role.pid")
    until ssh -F "$work/ssh_config" -o ConnectTimeout=20 "$role" true 2>"$work/$role.ssh"; do
        [[ -e /proc/$pid ]] || die "$role: QEMU ended: $(tail -n 1 "$work/$role.qemu")"
        ! grep -qs 'Kernel panic' "$work/$role.console" || die "$role: $(grep -m 1 'Kernel panic' "$work/$role.console")"
        ((SECONDS < end)) || die "$role: no ssh within $BOOT_SECONDS s: $(tail -n 1 "$work/$role.ssh")"
        sleep 1
    done
}

stop() {
    local role pid
    for role in "${ROLES[@]}"; do
        pid=$(<"$work/$role.pid")
        kill "$pid"
        wait "$pid" || true # it says how it ended, and that is by this signal
    done
}

# A saved state belongs to one image, QEMU, command line and provisioning.
state_directory() {
    local work=WORK id
    id=$({ cat "$CACHE/$suite.id" "$here/provision.sh"; qemu-system-x86_64 --version; command_line client D; } |
        sha256sum | cut -c 1-16)
    echo "$CACHE/state-$suite-$id"
}

make_state() {
    local directory=$1 role
    say "booting both machines once for a saved state (minutes under emulation)"
    for role in "${ROLES[@]}"; do
        qemu-img create -q -f qcow2 -F qcow2 -b "$image" "$work/$role.qcow2"
        start "$role" "$work/$role.qcow2"
    done
    for role in "${ROLES[@]}"; do
        reach "$role"
        ssh -F "$work/ssh_config" "$role" "sudo bash -s $role $(lab_mac "$role")" <"$here/provision.sh"
        ssh -F "$work/ssh_config" "$role" sync
        qmp "$role" "savevm $STATE" || die "$role: the state was not saved"
        say "$role: saved after $SECONDS s"
    done
    stop
    mkdir "$work/state"
    mv "$work/client.qcow2" "$work/server.qcow2" "$work/state"
    rm -rf --one-file-system "$CACHE/state-$suite-"* # of earlier images too
    mv "$work/state" "$directory"
}

resume() {
    local directory=$1 role
    for role in "${ROLES[@]}"; do
        cp --reflink=auto --sparse=always "$directory/$role.qcow2" "$work/$role.qcow2"
        start "$role" "$work/$role.qcow2" -loadvm "$STATE"
    done
    for role in "${ROLES[@]}"; do
        reach "$role"
        ssh -F "$work/ssh_config" "$role" "sudo date -s @$(date +%s)" >/dev/null # it was saved with the state
    done
    say "both machines answer after $SECONDS s"
}

inside() {
    work=$RSOCK_NF_INSIDE
    network
    ssh_config >"$work/ssh_config"
    local states
    states=$(state_directory)
    [[ $fresh == 0 && -e $states/server.qcow2 ]] || make_state "$states"
    resume "$states"
    local status=0
    "$here/two-vm-test.sh" --ssh-config "$work/ssh_config" --wheel "$RSOCK_NF_WHEEL" \
        ${logs:+--logs "$logs"} "${scenario[@]}" || status=$?
    if [[ $logs ]]; then cp "$work"/*.console "$work"/*.qemu "$logs"; fi
    return "$status"
}

if [[ $cached == 1 ]]; then
    command -v qemu-system-x86_64 >/dev/null && [[ -e $image && -e $(state_directory)/server.qcow2 ]]
elif [[ ${RSOCK_NF_INSIDE:-} ]]; then
    inside
else
    enter
fi
exit # so that nothing of a file that changed meanwhile is read
