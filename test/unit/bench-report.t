#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What test/bench/report makes of the lines of a guest: a line a case, medians of the rounds'
# ratios, and exit status 1 when a target is missed.
set -u
report=$(cd "$(dirname "$0")" && pwd)/../bench/report
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
nr=0

ok()
{
	local text=$1
	shift
	nr=$((nr + 1))
	if "$@"; then
		echo "ok $nr - $text"
	else
		echo "not ok $nr - $text"
		printf 'status %s\n%s\n' "$status" "$output" | sed 's/^/# /'
	fi
}

# of three rounds ours takes 100 ms, the other 100, 107 and 120
lines()
{
	printf 'kernel\t7.2.0\tabc\n'
	for ms in 100 107 120; do
		printf 'sample\text4 sparse seq128k\tdm-loop\t1\t100\t1000\n'
		printf 'sample\text4 sparse seq128k\tloop-dio\t1\t%s\t1000\n' "$ms"
	done
	printf 'target\text4 sparse seq128k\tdm-loop\tloop-dio\t%s\n' "$1"
}

run()
{
	status=0
	output=$(lines "$1" | "$report" first-write 7.2 icount "$work/out" 2>&1) || status=$?
}

says() { grep -qE -- "$1" <<<"$output"; }

run 1.00
ok "a target that is met: 0" test "$status" = 0
ok "a line for the case, with the median and the range" \
	says '^ext4 sparse seq128k +1\.07 x loop-dio +\(1\.00-1\.20\) +target >= 1\.00 +ok$'
ok "none missed" says '^0 of 1 targets missed$'
ok "instructions an I/O: 100 ms of 1000" says '^ext4 sparse seq128k +100000 +107000$'
run 1.08
ok "one that is missed: 1" test "$status" = 1
ok "it says so" says 'target >= 1\.08 +MISS$'
ok "one missed" says '^1 of 1 targets missed$'
ok "and in the file" grep -q 'MISS$' "$work/out.tsv"
status=0
output=$(: | "$report" first-write 7.2 icount "$work/out" 2>&1) || status=$?
ok "no case at all: 1" test "$status" = 1
echo "1..$nr"
