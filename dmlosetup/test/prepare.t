#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# --prepare on the filesystem of the temporary folder.
# shellcheck source-path=SCRIPTDIR source=tap.sh
. "$(dirname "$0")/tap.sh"

cd "$work" || exit 1

# all blocks written, as the filesystem says it
written()
{
	local map
	filefrag "$1" >/dev/null 2>&1 || return 0
	map=$(filefrag -v -b1 "$1") || return 1
	echo "$map"
	! grep -qE 'unwritten|shared|delalloc' <<<"$map" || return 1
	awk -v size="$(stat -c %s "$1")" '
		/^ *[0-9]+:/ {
			gsub(/[.:]/, " ")
			if ($2 != end) exit bad = 1
			end = $3 + 1
		}
		END { exit bad || end < size }' <<<"$map"
}

same_content()
{
	[ "$(sha256sum <"$1")" = "$2" ]
}

# holes, unwritten blocks and data in between, an odd size, an odd end
make_sparse()
{
	local i
	truncate -s 48M "$1"
	for i in 1 17 300 1111 2047 5000; do
		dd if=/dev/urandom of="$1" bs=4k seek=$((i * 2)) count=3 conv=notrunc status=none
	done
	fallocate -o 9M -l 7M "$1" 2>/dev/null
	dd if=/dev/urandom of="$1" bs=512 seek=25001 count=1 conv=notrunc status=none
	printf end >>"$1"
}

run "$dmlosetup" --prepare new --size 20M
ok "a new file" test "$status" = 0 -a -z "$output"
ok "has its size" test "$(stat -c %s new)" = $((20 << 20))
ok "is readable by its owner only" test "$(stat -c %a new)" = 600
ok "is fully written" written new
ok "and full of zeroes" cmp -n $((20 << 20)) new /dev/zero

make_sparse sparse
sum=$(sha256sum <sparse)
run "$dmlosetup" --prepare sparse
ok "a sparse file" test "$status" = 0 -a -z "$output"
ok "is fully written" written sparse
ok "and reads as before" same_content sparse "$sum"
before=$(stat -c %y%Z sparse)
run "$dmlosetup" --prepare sparse
ok "once more" test "$status" = 0
ok "changes nothing" same_content sparse "$sum"
ok "not even its times" test "$(stat -c %y%Z sparse)" = "$before"

run "$dmlosetup" --prepare=sparse --size 64MiB
ok "extended" test "$status" = 0 -a "$(stat -c %s sparse)" = $((64 << 20))
ok "is fully written" written sparse
head -c $(((48 << 20) + 3)) sparse >begin
ok "and begins as before" same_content begin "$sum"

fails "no cut" "would cut" --prepare sparse --size 1M
ok "the size stays" test "$(stat -c %s sparse)" = $((64 << 20))
fails "no such file" "give --size" --prepare nofile
ok "none is made" test ! -e nofile
: >empty
fails "an empty file" "empty" --prepare empty
fails "a directory" "not a regular file" --prepare .
fails "more than there is room" "it needs .* more|too large" --prepare huge --size 4P
ok "leaves no file" test ! -e huge
fails "extended by more than there is room" "it needs .* more|too large" --prepare sparse --size 4P
ok "keeps its size" test "$(stat -c %s sparse)" = $((64 << 20))

# a file that somebody has open, for reading or writing
make_sparse open
sum=$(sha256sum <open)
exec 8<open
fails "open for reading elsewhere" "open elsewhere" --prepare open
exec 8<&-
exec 8<>open
fails "open for writing elsewhere" "open elsewhere" --prepare open
exec 8<&-
ok "is as before" same_content open "$sum"

# where standard error is closed, no words go into the file that is opened in its place
make_sparse closed
sum=$(sha256sum <closed)
"$dmlosetup" -v --prepare closed 2>&-
ok "words for people do not go into the file" same_content closed "$sum"

# nobody is kept out of a file by one who is neither its owner nor root
if [ "$(id -u)" = 0 ]; then
	make_sparse foreign
	chmod 666 foreign
	chmod 755 .
	install -m 755 "$dmlosetup" command
	sum=$(sha256sum <foreign)
	run setpriv --reuid=65534 --regid=65534 --clear-groups ./command --prepare foreign
	ok "neither owner nor root" failed_with "only its owner or root"
	ok "is left alone" same_content foreign "$sum"
fi

# stopped again and again it gets there, and never loses a byte
make_sparse killed
truncate -s 300M killed
sum=$(sha256sum <killed)
good=true
for delay in 0.02 0.1 0.3; do
	# in the background it would ignore that one
	env --default-signal=INT "$dmlosetup" --prepare killed 2>/dev/null &
	sleep "$delay"
	kill -INT $! 2>/dev/null
	wait $!
	same_content killed "$sum" || good=false
	"$dmlosetup" --prepare killed 2>/dev/null &
	sleep "$delay"
	kill -KILL $! 2>/dev/null
	wait $! 2>/dev/null
	same_content killed "$sum" || good=false
done
ok "interrupted and killed, it keeps its data" "$good"
run "$dmlosetup" --prepare killed
ok "goes on" test "$status" = 0
ok "is fully written" written killed
ok "reads as before" same_content killed "$sum"

# as under nohup
make_sparse ignores
truncate -s 300M ignores
trap '' HUP
"$dmlosetup" --prepare ignores 2>/dev/null &
trap - HUP
sleep 0.1
kill -HUP $! 2>/dev/null
ok "a signal that is ignored does not stop it" wait $!
rm ignores

# a reader in between is let in, and the work goes on after it
make_sparse read
truncate -s 300M read
sum=$(sha256sum <./read)
"$dmlosetup" --prepare read &
sleep 0.2
ok "a reader is let in" cmp -n 1000 read read
wait $!
ok "the work goes on after it" test $? = 0
ok "is fully written" written read
ok "reads as before" same_content read "$sum"
plan
