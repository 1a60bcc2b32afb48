# shellcheck shell=bash
# What the scripts here share: where things are kept, how they complain.  Sourced, not run.

CACHE=${RSOCK_NF_VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rsock-nf-vm}

say() { printf '%(%H:%M:%S)T %s\n' -1 "$*" >&2; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# usage SCRIPT: the comment at its top.
usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$1" >&2
    exit 2
}

# require PROGRAM:PACKAGE ...: all of them, or one line that says what to install.
require() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [[ ${#missing[@]} -eq 0 ]] || die "missing programs: apt-get install --no-install-recommends ${missing[*]}"
}

# work_directory: sets `work` to a new directory in the cache, locked while this process or a child lives, and removed at
# its end; first removes what processes left that were killed.
work_directory() {
    local left
    mkdir -p "$CACHE"
    for left in "$CACHE"/work.*; do
        [[ ! -d $left ]] || flock --nonblock "$left" rm -rf --one-file-system "$left" || true
    done
    work=$(mktemp -d "$CACHE/work.XXXXXX")
    exec 9<"$work"
    flock 9
    trap 'rm -rf --one-file-system "$work"' EXIT
}

# driver: kvm or qemu.  /dev/kvm alone is not enough: without vmx or svm in the CPU's flags (a paravirtual nested KVM)
# stock guest kernels crawl or abort.
driver() {
    if [[ ${RSOCK_NF_DRIVER:-} ]]; then
        echo "$RSOCK_NF_DRIVER"
    elif [[ -w /dev/kvm ]] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
        echo kvm
    else
        echo qemu
    fi
}

# lab_mac ROLE: of the network device between the two; the Vagrantfile says the same.
lab_mac() {
    case $1 in
        client) echo 52:54:00:6e:66:01 ;;
        server) echo 52:54:00:6e:66:02 ;;
        *) die "no such machine: $1" ;;
    esac
}

# second_mac ROLE: of the second device on the same network, for the bond and the VLAN; the Vagrantfile says the same.
second_mac() {
    case $1 in
        client) echo 52:54:00:6e:66:21 ;;
        server) echo 52:54:00:6e:66:22 ;;
        *) die "no such machine: $1" ;;
    esac
}

# build_wheel CHECKOUT DIRECTORY: its path.  With the checkout's environment nothing is downloaded.
build_wheel() {
    local checkout=$1 directory=$2 python=$1/.venv/bin/python pip
    pip=("$python" -m pip --quiet --disable-pip-version-check wheel --no-deps --no-cache-dir --wheel-dir "$directory")
    [[ -x $python ]] || die "$checkout/.venv is missing: make venv"
    "$python" -c 'import hatchling' 2>/dev/null && pip+=(--no-build-isolation)
    "${pip[@]}" "$checkout" >&2
    echo "$directory"/rsock_nf-*.whl
}
