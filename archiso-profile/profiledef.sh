#!/usr/bin/env bash
# What this OS is, in archiso's words. mkarchiso reads all of it, imgtool only
# iso_name, arch, pacman_conf and file_permissions.
# shellcheck disable=SC2034

iso_name="cairn-edge"
iso_label="CAIRN_EDGE"
iso_publisher="Cairn"
iso_application="Cairn edge OS"
iso_version="$(date --date="@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y.%m.%d)"
install_dir="arch"
buildmodes=('bootstrap')
bootmodes=()
arch="x86_64"
pacman_conf="pacman.conf"
airootfs_image_type="erofs"
airootfs_image_tool_options=('-zlz4hc' -E 'ztailpacking')
bootstrap_tarball_compression=('zstd' '-c' '-T0' '-8')
file_permissions=(
  ["/etc/ssh/sshd_config.d/10-cairn.conf"]="0:0:600"
)
