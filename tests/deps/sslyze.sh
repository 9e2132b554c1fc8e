#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Puts the TLS scanner of the tests into .cache/sslyze; nothing to do where it is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."

place=.cache/sslyze
pins=tests/deps/sslyze.txt
if cmp --silent "$pins" "$place/pins.txt"; then
    exit 0
fi
rm -rf "$place"
"${PYTHON:-python3}" -m venv "$place"
if ! "$place/bin/python" -m pip install --quiet --disable-pip-version-check -r "$pins"; then
    echo "deps: sslyze does not install here: the TLS scan is skipped" >&2
    rm -rf "$place"
    exit 0
fi
cp "$pins" "$place/pins.txt"
