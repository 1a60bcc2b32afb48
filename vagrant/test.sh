#!/usr/bin/env bash
# make vagrant-test: Vagrant and libvirt if they are installed and usable, else plain QEMU, else what to install.
# RSOCK_NF_VM=vagrant or qemu decides instead; arguments go on (--suite, --keep-logs, -- SCENARIO-OPTION ...).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/common.sh
. "$here/common.sh"

PACKAGES='qemu-system-x86 qemu-utils mmdebstrap e2fsprogs fdisk grub-common grub-pc-bin openssh-client'
VAGRANT_PACKAGES='vagrant vagrant-libvirt libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients dnsmasq-base rsync'

way=${RSOCK_NF_VM:-}
if [[ ! $way ]]; then
    if why=$("$here/run-vagrant.sh" --usable 2>&1); then
        way=vagrant
    elif command -v qemu-system-x86_64 >/dev/null; then
        say "plain QEMU, for Vagrant cannot be used: $why"
        way=qemu
    else
        die "nothing to run virtual machines with: apt-get install --no-install-recommends $PACKAGES, and for Vagrant $VAGRANT_PACKAGES"
    fi
fi
case $way in
    vagrant) exec "$here/run-vagrant.sh" "$@" ;;
    qemu) exec "$here/run-two-vm.sh" "$@" ;;
    *) die "RSOCK_NF_VM is $way, neither vagrant nor qemu" ;;
esac
