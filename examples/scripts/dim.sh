#!/bin/sh
# Dims the lamp to $1 percent within $2 seconds. Exit 3: somebody works at the lamp.
set -eu
[ ! -e "${LAMP_IN_USE:-/nonexistent}" ] || exit 3
# The agent tells the platform of lines like this one while the script runs.
echo "progress 50 half way to $1 %" >&2
sleep "$2"
printf '{"percent": %s}\n' "$1"
