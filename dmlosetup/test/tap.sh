# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# TAP for the tests in this folder, which need no device-mapper, and for bench-report. Sourced.

set -u
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dmlosetup=${DMLOSETUP:-$here/../../build/dmlosetup/dmlosetup}
work=$(mktemp -d) || exit 1
# A child that is killed before it is another program has this trap, too.
trap '[ "$BASHPID" != $$ ] || rm -rf "$work"' EXIT
nr=0

# ok TEXT COMMAND...: one test, that the command succeeds
ok()
{
	local text=$1
	shift
	nr=$((nr + 1))
	if "$@" >"$work/.out" 2>&1; then
		echo "ok $nr - $text"
	else
		echo "not ok $nr - $text"
		sed 's/^/# /' "$work/.out"
	fi
}

# run COMMAND...: keep its status, and all that it says, in $status and $output
run()
{
	status=0
	output=$("$@" 2>&1 </dev/null) || status=$?
}

# fails TEXT REGEX ARGUMENT...: dmlosetup exits with 1 and says so, in one line
# apart from the hint at --help
fails()
{
	local text=$1 regex=$2
	shift 2
	run "$dmlosetup" "$@"
	ok "$text" failed_with "$regex"
}

failed_with()
{
	printf 'status %s: %s\n' "$status" "$output"
	[ "$status" = 1 ] && grep -qE -- "$1" <<<"$output" &&
		[ "$(grep -vc '^Try ' <<<"$output")" = 1 ]
}

skip()
{
	nr=$((nr + 1))
	echo "ok $nr - $1 # SKIP $2"
}

plan()
{
	echo "1..$nr"
}
