#!/usr/bin/env bash
# Run a command in a copy of this host's root, as clean as after the installation of Debian:
#
#   clean_root.sh PACKAGE COMMAND ...
#
# Nothing of rsock-nf is seen there, and nothing that is done there is seen here: an overlay in namespaces of its own,
# with its own network.  PACKAGE, a file, is /package.deb there; /mnt has what differs from this host.  Standard input, output and error are the caller's.
set -euo pipefail
package=$1
shift

if [[ ${CLEAN_ROOT:-} != inside ]]; then
    CLEAN_ROOT=inside exec unshare --mount --net --uts --ipc --pid --fork --kill-child -- "$0" "$package" "$@"
fi
unset CLEAN_ROOT

mount --make-rprivate /
over=$(mktemp -d)
mount -t tmpfs tmpfs "$over"
mkdir "$over"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$over/upper,workdir=$over/work,index=off,metacopy=off" "$over/root"
cp "$package" "$over/root/package.deb"
root=$over/root
# What somebody has installed or left here beside Debian's packages.
for place in "$root"/* "$root"/usr/local "$root"/var/{tmp,log}; do
    case ${place#"$root"/} in
        bin | boot | dev | etc | lib* | mnt | proc | sbin | sys | usr | var) ;;
        *) [[ ! -d $place || -L $place ]] || mount -t tmpfs tmpfs "$place" ;;
    esac
done
mount --bind "$over/upper" "$root/mnt"
chmod 1777 "$root"/{tmp,var/tmp}
rm -rf "$root"/etc/rsock-nf "$root"/etc/systemd/system/rsock-nf*
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys" 2>/dev/null || true
mkdir -p "$root/dev"
mount --rbind /dev "$root/dev"
ip link set lo up

exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    chroot "$root" "$@"
