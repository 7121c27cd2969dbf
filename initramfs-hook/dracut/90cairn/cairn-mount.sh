#!/bin/sh
# dracut, at `mount`: mounts DATA and lets the hook make the root from it.

cairn_device="$(getarg cairn.device=)" || cairn_device="$(getarg cairn.data=)"
case "$cairn_device" in
    PARTUUID=*) cairn_device="/dev/disk/by-partuuid/${cairn_device#PARTUUID=}" ;;
esac

cairn_mount() {
    mkdir -p /run/cairn/data
    if ! mount -o rw,noatime "$cairn_device" /run/cairn/data; then
        echo "cairn: cannot mount DATA from '$cairn_device'" >/dev/kmsg
        return 1
    fi
    /usr/lib/cairn/cairn-initramfs-hook --mounted-data /run/cairn/data --new-root "$NEWROOT" && return
    umount /run/cairn/data
    return 1
}

if [ -n "$cairn_device" ] && ! ismounted "$NEWROOT" && ! cairn_mount; then
    # No shell: each failure uses up a try of the bootloader.
    sync
    echo b >/proc/sysrq-trigger
fi
