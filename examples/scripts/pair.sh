#!/bin/sh
# Pairs a remote control by its name. The request is on standard input, too: one JSON object with typed parameters.
set -eu
[ "$1" != "--" ] || shift
printf '{"paired": "%s", "asked": %s}\n' "$1" "$(cat)"
