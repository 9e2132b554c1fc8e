#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds programs of the tests from their Go modules, pinned in tests/deps/go, and prints where each
# is: `etcd=$(tests/deps/go.sh etcd)`. Names: etcd, etcd35, helm, kube-apiserver. What is built already for
# these pins costs nothing. They are kept outside the clone, in ANTIPHON_CI_CACHE or
# ~/.cache/antiphon-ci, below bin; without a home folder in .cache/bin.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
needed=1.26

if [ -n "${ANTIPHON_CI_CACHE:-}" ]; then
	bin="$ANTIPHON_CI_CACHE/bin"
elif [ -n "${HOME:-}" ]; then
	bin="$HOME/.cache/antiphon-ci/bin"
else
	bin="$root/.cache/bin"
	export GOPATH="$root/.cache/go" GOCACHE="$root/.cache/go-build"
fi
mkdir -p "$bin"

fail() {
	echo "deps: $*" >&2
	exit 1
}

version() { # of the Go that is there, like 1.26; nothing without one
	go env GOVERSION 2>/dev/null | sed -nE 's/^go([0-9]+\.[0-9]+).*/\1/p'
}

build() { # name, package, what the linker sets
	local folder="$root/tests/deps/go/$1" pins
	pins=$( (cat "$folder"/*; echo "${3:-}") | sha256sum | cut -d' ' -f1)
	if [ -x "$bin/$1" ] && [ "$(cat "$bin/.$1.pins" 2>/dev/null)" = "$pins" ]; then
		return
	fi
	command -v go >/dev/null || fail "go is missing: install Go $needed or newer to build $1"
	if [ "$(printf '%s\n' "$needed" "$(version)" | sort -V | head -n 1)" != "$needed" ]; then
		export GOTOOLCHAIN=auto # it fetches a newer one, from Go 1.21 on
	fi
	echo "deps: building $1 (minutes, the first time)" >&2
	# Half of the processors: the first build of each takes minutes, and others work here, too.
	(cd "$folder" && CGO_ENABLED=0 GOWORK=off GOFLAGS="-p=$((($(nproc) + 1) / 2)) -mod=readonly" \
		nice -n 15 go build -trimpath -buildvcs=false -ldflags "-s -w ${3:-}" -o "$bin/.$1.new" "$2") >&2 ||
		fail "$1 does not build here"
	mv -f "$bin/.$1.new" "$bin/$1"
	echo "$pins" >"$bin/.$1.pins"
}

[ $# -gt 0 ] || fail "usage: tests/deps/go.sh etcd | etcd35 | helm | kube-apiserver ..."
# The version of Kubernetes that Helm takes for granted, where it asks none (without it 1.20), and
# the one that the API server says it is (without it 0.0.0).
chartutil=helm.sh/helm/v3/pkg/chartutil
server=k8s.io/component-base/version
kubernetes=$(sed -nE 's/^\s*k8s.io\/kubernetes v(1\.[0-9]+\.[0-9]+)$/\1/p' "$root/tests/deps/go/kube-apiserver/go.mod")
minor=$(echo "$kubernetes" | cut -d. -f2)
for name in "$@"; do
	flags=""
	case $name in
	etcd | etcd35) package=. ;;
	kube-apiserver)
		package=.
		flags="-X $server.gitVersion=v$kubernetes -X $server.gitMajor=1 -X $server.gitMinor=$minor"
		;;
	helm)
		package=helm.sh/helm/v3/cmd/helm
		flags="-X $chartutil.k8sVersionMajor=1 -X $chartutil.k8sVersionMinor=$minor"
		;;
	*) fail "no program is called $name here: etcd, etcd35, helm, kube-apiserver" ;;
	esac
	# Two at once would build the same thing.
	(flock 9 && build "$name" "$package" "$flags") 9>"$bin/.$name.lock"
	echo "$bin/$name"
done
