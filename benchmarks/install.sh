#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings what only the benchmarks need: the plots' packages, and the rivals on Debian as root.
# Elsewhere it says what is missing; `make bench` skips the rival then.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
"$python" -c 'import matplotlib' 2>/dev/null ||
	"$python" -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt

missing=()
command -v prosody >/dev/null || missing+=(prosody)
command -v ejabberdctl >/dev/null || missing+=(ejabberd)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "benchmarks: install these packages to compare with them: ${missing[*]}" >&2
	exit 0
fi
# The packages want to start their services; the benchmarks run them by hand.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	printf '#!/bin/sh\nexit 101\n' >$policy
	chmod 755 $policy
	trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || true
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
