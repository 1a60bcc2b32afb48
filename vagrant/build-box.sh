#!/usr/bin/env bash
# Build the guest from Debian's packages: a qcow2 image for run-two-vm.sh, and with --box a Vagrant box for libvirt.
# For machines that cannot reach a box host, and for guests that reach nothing at all: whatever the test needs (kcptun,
# iperf3, tcpdump, rsock-nf's Python dependencies with python-iptables compiled) is in the image.
#
#   build-box.sh [--suite bookworm|trixie] [--kernel PACKAGE] [--box] [--force]
#
# Needs root, Debian's archive and PyPI (or their mirrors: MIRROR, pip's environment); no loop device, no mount, no KVM.
# Writes into the cache directory (RSOCK_NF_VM_CACHE, default ~/.cache/rsock-nf-vm) and nowhere else:
#   SUITE.qcow2, SUITE.box, SUITE.id (what it was made from), id_ed25519 (the key that opens these guests)
# Prints the image's path as its last line.  A minute or two.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=vagrant/common.sh
. "$here/common.sh"

MIRROR=${MIRROR:-http://deb.debian.org/debian}
SIZE_MB=${SIZE_MB:-3072}
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# What a run needs in a guest; the Python packages beside them are read from pyproject.toml.
GUEST_PACKAGES=(
    systemd-sysv udev dbus openssh-server sudo rsync ca-certificates netbase
    python3 python3-venv nftables iptables iproute2 iputils-ping ethtool tcpdump iperf3 kcptun procps kmod
    wireguard-tools ppp pppoe initramfs-tools zstd
)
BUILD_PACKAGES=(gcc libc6-dev python3-dev) # for python-iptables; purged again

# The cloud kernel has neither PPP nor drivers of NICs that strip VLAN tags.
suite=bookworm kernel=linux-image-amd64 box=0 force=0
while (($#)); do
    case $1 in
        --suite) suite=$2; shift ;;
        --kernel) kernel=$2; shift ;;
        --box) box=1 ;;
        --force) force=1 ;;
        *) usage "$0" ;;
    esac
    shift
done
[[ $suite == bookworm || $suite == trixie ]] || die "suite $suite is not known: bookworm or trixie"

image=$CACHE/$suite.qcow2

# What the image depends on: with another answer it is built anew.
identity() {
    { echo "$suite $kernel $SIZE_MB"; python_dependencies; cat "${BASH_SOURCE[0]}"; } | sha256sum | cut -d ' ' -f 1
}

python_dependencies() {
    python3 -c 'import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print("\n".join(project["dependencies"] + project["optional-dependencies"]["iptables"]))' "$here/../pyproject.toml"
}

# customize ROOT: everything that is done to the unpacked system.
customize() {
    local root=$1
    printf '/dev/vda1 / ext4 defaults,noatime 0 1\n' >"$root/etc/fstab"
    echo rsock-nf-vm >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 rsock-nf-vm\n' >"$root/etc/hosts"
    cp /etc/resolv.conf "$root/etc/resolv.conf" # for the downloads that follow
    accounts "$root"
    network "$root"
    python_environment "$root"
    boot "$root"
    rm -f "$root/etc/resolv.conf" "$root"/var/cache/apt/archives/*.deb
}

accounts() {
    local root=$1
    chroot "$root" useradd --create-home --shell /bin/bash vagrant
    chroot "$root" passwd --lock root >/dev/null
    echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
    install -d -m 0700 "$root/home/vagrant/.ssh"
    install -m 0600 "$CACHE/id_ed25519.pub" "$root/home/vagrant/.ssh/authorized_keys"
    chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
    printf 'UseDNS no\nPasswordAuthentication no\n' >"$root/etc/ssh/sshd_config.d/test.conf"
    # A known secret in a throw-away guest: pam_systemd and friends cost seconds at each login under emulation.
    sed -i '/pam_systemd/d;/pam_motd/d;/pam_mail/d' "$root"/etc/pam.d/common-session "$root"/etc/pam.d/sshd
}

# eth0 is the management network and asks for its address; the lab device is given its by provision.sh.
network() {
    local root=$1
    cat >"$root/etc/systemd/network/10-management.network" <<'NETWORK'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
NETWORK
    # Loaded by the scenario, so that eth0 and eth1 are the first two.
    echo 'blacklist e1000e' >"$root/etc/modprobe.d/test.conf"
    chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service
    chroot "$root" systemctl --quiet mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer getty@tty1.service \
        serial-getty@ttyS0.service
}

python_environment() {
    local root=$1
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/tmp/ca.crt" # a mirror's own authority, if there is one
    python_dependencies >"$root/tmp/requirements"
    chroot "$root" apt-get install -q -y --no-install-recommends "${BUILD_PACKAGES[@]}"
    chroot "$root" python3 -m venv /opt/rsock-nf
    chroot "$root" env -u PIP_FIND_LINKS PIP_CERT=/tmp/ca.crt REQUESTS_CA_BUNDLE=/tmp/ca.crt \
        /opt/rsock-nf/bin/pip install --quiet \
        --disable-pip-version-check --no-cache-dir -r /tmp/requirements
    chroot "$root" apt-get purge -q -y --autoremove "${BUILD_PACKAGES[@]}"
    rm -rf "$root/tmp/ca.crt" "$root/tmp/requirements"
}

boot() {
    local root=$1
    printf 'MODULES=list\nCOMPRESS=zstd\nRESUME=none\n' >"$root/etc/initramfs-tools/conf.d/test"
    printf 'virtio_pci\nvirtio_blk\next4\n' >>"$root/etc/initramfs-tools/modules"
    chroot "$root" apt-get install -q -y --no-install-recommends "$kernel"
    install -d "$root/boot/grub"
    cat >"$root/boot/grub/grub.cfg" <<'GRUB'
set timeout=0
linux /vmlinuz root=/dev/vda1 ro net.ifnames=0 console=ttyS0 loglevel=4 mitigations=off
initrd /initrd.img
boot
GRUB
}

# to_disk ROOT RAW: an MS-DOS label, one ext4 partition at 1 MiB, GRUB in the gap before it.
to_disk() {
    local root=$1 raw=$2 directory=/usr/lib/grub/i386-pc
    truncate -s "${SIZE_MB}M" "$raw"
    mke2fs -q -F -t ext4 -L root -O ^metadata_csum_seed -E offset=1048576 -d "$root" "$raw" "$((SIZE_MB - 1))M"
    printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk --quiet --no-reread --no-tell-kernel "$raw" >>"$work/log" 2>&1
    echo 'set root=(hd0,msdos1)
configfile /boot/grub/grub.cfg' >"$work/early.cfg"
    grub-mkimage -O i386-pc -d "$directory" -p '(hd0,msdos1)/boot/grub' -c "$work/early.cfg" -o "$work/core.img" \
        biosdisk part_msdos ext2 linux normal configfile
    dd if="$directory/boot.img" of="$raw" bs=440 count=1 conv=notrunc status=none
    dd if="$work/core.img" of="$raw" bs=512 seek=1 conv=notrunc status=none
}

make_box() {
    install -m 0600 "$CACHE/id_ed25519" "$work/id_ed25519"
    echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": '$(((SIZE_MB + 1023) / 1024))'}' >"$work/metadata.json"
    cat >"$work/Vagrantfile" <<'BOX'
Vagrant.configure("2") do |config|
  config.ssh.insert_key = false
  config.ssh.private_key_path = File.expand_path("id_ed25519", __dir__)
end
BOX
    cp --reflink=auto "$image" "$work/box.img"
    tar -C "$work" -czf "$work/box" metadata.json Vagrantfile box.img id_ed25519
    mv "$work/box" "$CACHE/$suite.box"
}

require mmdebstrap:mmdebstrap mke2fs:e2fsprogs sfdisk:fdisk grub-mkimage:grub-common qemu-img:qemu-utils \
    ssh-keygen:openssh-client
[[ -e /usr/lib/grub/i386-pc/boot.img ]] || die "no /usr/lib/grub/i386-pc: apt-get install grub-pc-bin"
[[ $EUID -eq 0 ]] || die "only root can unpack a system with its owners"

id=$(identity)
made_anew=0
if [[ $force == 1 || ! -e $image || $(cat "$CACHE/$suite.id" 2>/dev/null) != "$id" ]]; then
    work_directory
    [[ -e $CACHE/id_ed25519 ]] || ssh-keygen -q -t ed25519 -N '' -C rsock-nf-vm -f "$CACHE/id_ed25519"
    # mmdebstrap runs a program with the system's directory as its argument: the functions above, written out.
    {
        echo '#!/usr/bin/env bash'
        echo 'set -euo pipefail'
        declare -p CACHE here kernel BUILD_PACKAGES
        declare -f customize accounts network python_environment python_dependencies boot
        # shellcheck disable=SC2016 # expanded by the program that is written
        echo 'customize "$1"'
    } >"$work/customize"
    chmod 0755 "$work/customize"
    say "building $suite with $kernel (a minute or two)"
    mmdebstrap --quiet --mode=root --variant=minbase --format=directory --keyring="$KEYRING" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='Acquire::Languages "none"' \
        --include="$(IFS=,; echo "${GUEST_PACKAGES[*]}")" --skip=cleanup/tmp \
        --customize-hook="$work/customize" \
        "$suite" "$work/root" "deb $MIRROR $suite main" </dev/null >"$work/log" 2>&1 ||
        die "mmdebstrap: $(grep -E '^(E|ERROR):? ' "$work/log" | head -n 3 | paste -sd ' ')"
    to_disk "$work/root" "$work/raw"
    qemu-img convert -c -O qcow2 "$work/raw" "$work/image"
    mv "$work/image" "$image"
    echo "$id" >"$CACHE/$suite.id"
    made_anew=1
fi
if [[ $box == 1 && ($made_anew == 1 || ! -e $CACHE/$suite.box) ]]; then
    [[ ${work:-} ]] || work_directory
    say "packing $suite.box"
    make_box
fi
echo "$image"
