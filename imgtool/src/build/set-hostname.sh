#!/bin/sh
# Fills in the site's host name pattern. Runs once at each boot, before the network.
set -eu
name=$(cat /usr/lib/cairn/hostname-pattern)
first_mac() {
    for card in /sys/class/net/*/device; do
        [ -e "$card" ] && tr -d : <"${card%/device}/address" && return
    done
    echo none
}
fill() { # placeholder, value: only what a host name may hold is kept
    value=$(printf %s "$2" | tr -cd 'A-Za-z0-9-')
    while :; do
        case $name in
            *"$1"*) name=${name%%"$1"*}${value:-unknown}${name#*"$1"} ;;
            *) break ;;
        esac
    done
}
fill '{machine-id}' "$(cut -c1-8 /etc/machine-id)"
fill '{serial}' "$(cat /sys/class/dmi/id/product_serial 2>/dev/null || true)"
fill '{mac}' "$(first_mac)"
printf %s "$name" | cut -c1-64 >/proc/sys/kernel/hostname
