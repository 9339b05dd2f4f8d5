#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
#
# What test/bench/report makes of the lines of a guest: a line a case, medians of the rounds'
# ratios, and exit status 1 when a target is missed.
# shellcheck source=dmlosetup/test/tap.sh
. "$(dirname "$0")/../../dmlosetup/test/tap.sh"
report=$here/../../test/bench/report

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

# reported COMMAND...: what report makes of its lines, in $status and $output
reported()
{
	status=0
	output=$("$@" | "$report" first-write 7.2 icount "$work/out" 2>&1) || status=$?
}

# says REGEX: a line of the report is like that
says()
{
	printf 'status %s: %s\n' "$status" "$output"
	grep -qE -- "$1" <<<"$output"
}

reported lines 1.00
ok "a target that is met: 0" test "$status" = 0
ok "a line for the case, with the median and the range" \
	says '^ext4 sparse seq128k +1\.07 x loop-dio +\(1\.00-1\.20\) +target >= 1\.00 +ok$'
ok "none missed" says '^0 of 1 targets missed$'
ok "instructions an I/O: 100 ms of 1000" says '^ext4 sparse seq128k +100000 +107000$'
reported lines 1.08
ok "one that is missed: 1" test "$status" = 1
ok "it says so" says 'target >= 1\.08 +MISS$'
ok "one missed" says '^1 of 1 targets missed$'
ok "and in the file" grep -q 'MISS$' "$work/out.tsv"
reported true
ok "no case at all: 1" test "$status" = 1
plan
