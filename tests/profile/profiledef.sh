#!/usr/bin/env bash
# The OS that the tests and the demo build from Debian's packages.
# shellcheck disable=SC2034

iso_name="cairn-test"
arch="x86_64"
pacman_conf="pacman.conf"
file_permissions=(
  ["/usr/local/bin/cairn-up"]="0:0:755"
)
