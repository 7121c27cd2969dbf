#!/bin/bash
# dracut: what the cairn module needs in the image.

check() {
    require_binaries /usr/lib/cairn/cairn-initramfs-hook || return 1
    # Only when asked for: --add cairn.
    return 255
}

depends() {
    echo base
}

installkernel() {
    instmods loop dm_verity erofs squashfs overlay ext4 vfat nls_cp437 nls_ascii \
        crc32c_generic "=drivers/watchdog"
}

install() {
    inst /usr/lib/cairn/cairn-initramfs-hook
    inst_simple /etc/cairn/trust.dsse.json
    inst_simple /etc/cairn/hook.json
    # shellcheck disable=SC2154 # set by dracut
    inst_hook cmdline 95 "$moddir/cairn-cmdline.sh"
    inst_hook mount 50 "$moddir/cairn-mount.sh"
}
