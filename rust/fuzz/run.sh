#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh SECONDS [TARGET]...: fuzzes each target (all of them if none is named) for so long, two at
# a time (FUZZ_JOBS), one line each. What is found goes to .cache/fuzz/TARGET, the log beside it. A
# crash leaves its input in rust/fuzz/artifacts/TARGET and makes the whole fail, once all have run.
set -euo pipefail
cd "$(dirname "$0")/../.."
export RUSTC_BOOTSTRAP=1 # the sanitizer's flags, on a stable compiler

fuzz_one() {
	local seconds=$1 target=$2
	local found=.cache/fuzz/$target log=.cache/fuzz/$target.log
	mkdir -p "$found"
	if cargo fuzz run --fuzz-dir rust/fuzz "$target" "$found" "rust/fuzz/corpus/$target" -- \
		-max_total_time="$seconds" -rss_limit_mb=2048 -timeout=30 -print_final_stats=1 \
		>"$log" 2>&1; then
		printf 'fuzz: %-10s ok, %s, %s\n' "$target" \
			"$(grep -a '^Done' "$log" | sed 's/Done/ran/')" \
			"$(grep -aoE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)"
	else
		printf 'fuzz: %-10s FAILED, the end of %s:\n' "$target" "$log"
		grep -av '^"' "$log" | tail -n 60 | sed "s/^/$target: /"
		return 1
	fi
}

if [[ ${1-} == --one ]]; then
	fuzz_one "$2" "$3"
	exit
fi
seconds=${1:?how many seconds for each target}
shift
[[ $# -gt 0 ]] || mapfile -t all < <(cargo fuzz list --fuzz-dir rust/fuzz)
mkdir -p .cache/fuzz
cargo fuzz build --fuzz-dir rust/fuzz >.cache/fuzz/build.log 2>&1 || {
	tail -n 60 .cache/fuzz/build.log
	exit 1
}
printf "%s\n" "${all[@]:-$@}" | xargs -P "${FUZZ_JOBS:-2}" -n 1 "$0" --one "$seconds" || {
	echo "fuzz: a target failed; its input is in rust/fuzz/artifacts" >&2
	exit 1
}
