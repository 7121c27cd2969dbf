#!/usr/bin/env bash
# The OS of the tests' nodes. It is laid over tests/profile.
# shellcheck disable=SC2034

iso_name="cairn-node"
arch="x86_64"
pacman_conf="pacman.conf"
file_permissions=(
  ["/usr/local/bin/cairn-up"]="0:0:755"
  ["/usr/local/bin/check-service"]="0:0:755"
)
