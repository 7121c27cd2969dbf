#!/bin/sh
# dracut, at `cmdline`: says where DATA is, and that there is a root to wait for.

cairn_device="$(getarg cairn.device=)" || cairn_device="$(getarg cairn.data=)"
case "$cairn_device" in
    PARTUUID=*) cairn_device="/dev/disk/by-partuuid/${cairn_device#PARTUUID=}" ;;
esac

if [ -n "$cairn_device" ]; then
    # shellcheck disable=SC2034 # both are read by dracut
    root=cairn rootok=1
    wait_for_dev "$cairn_device"
    # A hang from here on ends in a reset.
    modprobe -q -a i6300esb iTCO_wdt || :
    [ -e /dev/watchdog ] || modprobe -q softdog || :
fi
