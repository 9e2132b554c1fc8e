#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Brings what only the tests need: Debian packages, slixmpp's source package, the clients from
# npm, Smack's integration tests, Cassandra, etcd and Helm. What is there is skipped; what cannot be had is named
# in one line with the tests it costs. Everything of ours goes below .cache and tests/interop/node.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
cache="$root/.cache"
smack="$cache/smack"
smack_jar="$smack/smack-integration-test-4.5.0-beta5.jar"
slixmpp=1.17.0
missing=0
mkdir -p "$cache"

say() { echo "deps: $*"; }
lacks() { # what, which tests
	missing=$((missing + 1))
	say "$1 is missing: $2" >&2
}
has() { command -v "$1" >/dev/null 2>&1; }
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3
cassandra() { PYTHONPATH="$root/tests" "$python" -m support.cassandra fetch "$@"; }

# --- Debian packages ----------------------------------------------------------------------------
wanted=""
has prosody || wanted="$wanted prosody"
has java && has keytool || wanted="$wanted default-jdk-headless"
has mvn || { [ -f "$smack_jar" ] && cassandra --check; } || wanted="$wanted maven"
has node && has npm || wanted="$wanted nodejs npm"
has strace || wanted="$wanted strace"
if [ -n "$wanted" ] && has apt-get && [ "$(id -u)" = 0 ]; then
	say "installing$wanted"
	policy=/usr/sbin/policy-rc.d
	made_policy=no
	if [ ! -e "$policy" ]; then # an installed Prosody must not start as a service
		printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made_policy=yes
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq >"$cache/apt.log" 2>&1 || true
	# shellcheck disable=SC2086  # a list of packages
	apt-get install -y -qq --no-install-recommends $wanted >>"$cache/apt.log" 2>&1 ||
		say "apt-get failed; see .cache/apt.log" >&2
	if [ "$made_policy" = yes ]; then rm -f "$policy"; fi
fi
has strace || lacks strace "tests/wire/counting.py"
has prosody || lacks prosody "the check of our wire tests against another server (make test-prosody)"

# --- slixmpp's source package ---------------------------------------------------------------------
if [ ! -d "$cache/slixmpp-$slixmpp/itests" ]; then
	say "fetching slixmpp $slixmpp"
	if "$python" -m pip download --quiet --no-deps --no-binary slixmpp \
		--dest "$cache/downloads" "slixmpp==$slixmpp" >"$cache/slixmpp.log" 2>&1 ||
		[ -f "$cache/downloads/slixmpp-$slixmpp.tar.gz" ]; then
		tar -xzf "$cache/downloads/slixmpp-$slixmpp.tar.gz" -C "$cache"
	else
		lacks "slixmpp's source package" "tests/interop/test_slixmpp.py; see .cache/slixmpp.log"
	fi
fi

# --- clients from npm -------------------------------------------------------------------------------
node_dir="$root/tests/interop/node"
lock="$node_dir/package-lock.json"
stamp="$node_dir/node_modules/.installed"
if has node && has npm; then
	if [ ! -e "$stamp" ] || [ "$lock" -nt "$stamp" ]; then
		say "installing the clients from npm"
		if (cd "$node_dir" && npm ci --ignore-scripts --no-audit --no-fund >"$cache/npm.log" 2>&1); then
			touch "$stamp"
		else
			lacks "the set of npm clients" "tests/interop/test_node.py; see .cache/npm.log"
		fi
	fi
else
	lacks node "tests/interop/test_node.py (install Node.js 20 or newer with npm)"
fi

# --- Smack's integration tests ------------------------------------------------------------------------
if ! has java || ! has keytool; then
	lacks java "tests/interop/test_smack.py (install a JDK, 17 or newer)"
elif [ ! -f "$smack_jar" ]; then
	if has mvn; then
		say "fetching Smack's integration tests"
		mvn -q -B -f "$root/tests/interop/smack/pom.xml" dependency:copy-dependencies \
			-DoutputDirectory="$smack" >"$cache/maven.log" 2>&1 ||
			lacks "the set of Smack's jars" "tests/interop/test_smack.py; see .cache/maven.log"
	else
		lacks maven "tests/interop/test_smack.py (install Maven)"
	fi
fi

# --- Cassandra ------------------------------------------------------------------------------------------
if ! cassandra --check; then
	say "fetching Cassandra"
	cassandra >"$cache/cassandra.log" 2>&1 ||
		lacks "a Cassandra that starts" "tests/cassandra; see .cache/cassandra.log"
fi

# --- from Go modules --------------------------------------------------------------------------------------
if has go; then
	"$root/tests/deps/go.sh" etcd etcd35 helm >"$cache/go.log" 2>&1 && "$root/tests/deps/crds.sh" >>"$cache/go.log" 2>&1 ||
		lacks "etcd or Helm" "tests/k8s, tests/cluster; see .cache/go.log"
else
	lacks go "tests/k8s, tests/cluster (install Go 1.26 or newer; 1.21 fetches that itself)"
fi

if [ "$missing" = 0 ]; then say "all there"; fi
exit 0
