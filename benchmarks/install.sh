#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings what only the benchmarks need: the plots' packages, and on Debian as root the rivals.
# Elsewhere it says what is missing; `make bench` skips the rival then.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
"$python" -c 'import matplotlib' 2>/dev/null ||
	"$python" -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt ||
	echo "benchmarks: no plots, since their packages cannot be installed" >&2

missing=()
command -v prosody >/dev/null || missing+=(prosody)
command -v ejabberdctl >/dev/null || missing+=(ejabberd)
command -v openssl >/dev/null || missing+=(openssl)
command -v taskset >/dev/null && command -v setpriv >/dev/null || missing+=(util-linux)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "benchmarks: install these packages for a comparison: ${missing[*]}" >&2
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
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
	echo "benchmarks: not installed: ${missing[*]}" >&2
