#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings the definitions of the custom resources that the chart makes, from the modules of their
# projects (pinned in go/crds), and prints the files. They are kept where go.sh keeps its programs.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder="$root/tests/deps/go/crds"

if [ -n "${ANTIPHON_CI_CACHE:-}" ]; then
	share="$ANTIPHON_CI_CACHE/share/crds"
elif [ -n "${HOME:-}" ]; then
	share="$HOME/.cache/antiphon-ci/share/crds"
else
	share="$root/.cache/share/crds"
	export GOPATH="$root/.cache/go"
fi
files=(
	github.com/cert-manager/cert-manager:deploy/crds/cert-manager.io_certificates.yaml
	github.com/prometheus-operator/prometheus-operator:example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
)
pins=$(cat "$folder"/* "$0" | sha256sum | cut -d' ' -f1)

if [ "$(cat "$share/.pins" 2>/dev/null)" != "$pins" ]; then
	command -v go >/dev/null || { echo "deps: go is missing: install Go 1.26 or newer" >&2; exit 1; }
	mkdir -p "$share"
	for one in "${files[@]}"; do
		place=$(cd "$folder" && GOWORK=off GOFLAGS=-mod=mod go mod download -json "${one%%:*}" |
			sed -nE 's/^\s*"Dir": "(.*)",?$/\1/p')
		[ -n "$place" ] || { echo "deps: ${one%%:*} cannot be fetched" >&2; exit 1; }
		install -m 644 "$place/${one#*:}" "$share/.new"
		mv -f "$share/.new" "$share/$(basename "${one#*:}")"
	done
	echo "$pins" >"$share/.pins"
fi
for one in "${files[@]}"; do echo "$share/$(basename "${one#*:}")"; done
