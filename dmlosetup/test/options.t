#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# Options, and what is refused before the kernel is asked.
# shellcheck source-path=SCRIPTDIR source=tap.sh
. "$(dirname "$0")/tap.sh"

cd "$work" || exit 1
truncate -s 1M file
truncate -s 100 tiny
: >empty
mkfifo fifo
ln -s loop2 loop1
ln -s loop1 loop2

run "$dmlosetup" --version
ok "--version" test "$status" = 0 -a "${output#dmlosetup from dm-loop }" != "$output"
run "$dmlosetup" --help
ok "--help" test "$status" = 0
ok "--help is 80 columns wide" awk 'length > 80 { bad = 1 } END { exit bad }' <<<"$output"

# each option has its place in the help, the man page and the completion
for option in $("$dmlosetup" --help | grep -oE -- ' --[a-z-]+' | sort -u); do
	name=${option#--}
	ok "$option is in the man page" grep -qF -- "Fl -$name" "$here/../dmlosetup.8"
	ok "$option is completed" grep -qwF -- "$option" "$here/../dmlosetup.bash"
done
for column in $("$dmlosetup" --help | sed -n '/^Columns:/,/^$/s/^  \([A-Z:-]*\) .*/\1/p'); do
	ok "$column is in the man page" grep -qE -- "^\.It .*$column" "$here/../dmlosetup.8"
	ok "$column is completed" grep -qE -- "[[:space:]\"]$column(\$|[[:space:]\"])" "$here/../dmlosetup.bash"
done

fails "an unknown option" "unrecognized option '--unknown'" --unknown
fails "an unknown letter" "invalid option -- 'Q'" -Q
fails "-b is not offered" "invalid option -- 'b'" -b 4096 -f file
fails "a size without a number" "not a size" --offset K -f file
fails "a number that losetup takes for octal" "not a size" -o 0512 -f file
fails "a negative size" "not a size" --sizelimit -1 -f file
fails "a size that overflows" "too large" -o 16E -f file
fails "-f with two files" "one file" -f file file
fails "--verify of all and of one" "not both" --verify -a loop0
fails "-d without a name" "name of a device is missing" -d
fails "-D with a name" "takes no name" -D loop0
fails "-d and -D" "do not go together" -d -D
fails "--prepare and -f" "do not go together" --prepare -f file
fails "three names" "too many" a b c
fails "--size without --prepare" "goes with --prepare" --size 1M -f file
fails "--shrink without -c" "goes with --set-capacity" --shrink -f file
fails "-c with two names" "takes one device" -c a b
fails "--snapshot without a file" "takes a device and a file" --snapshot a
fails "--replace without a file" "takes a device and a file" --replace a
fails "--replace with two files" "takes a device and a file" --replace a b c
fails "--replace and --snapshot" "do not go together" --replace a --snapshot b
fails "--defrag without a name" "takes one device" --defrag
fails "--defrag with two names" "takes one device" --defrag a b
fails "--size with --replace" "goes with --prepare" --replace a b --size 1M
fails "--offset with --defrag" "needs a file to attach" --defrag a -o 512
fails "--deferred without -d" "goes with --detach" --deferred -f file
fails "-r when listing" "need a file" -r -l
fails "--show without a file, as of a variable that is empty" "need a file" -f --show
fails "--mapped without a file" "need a file" -f --mapped
fails "-o when listing" "needs a file" -o 512 -l
fails "-J when attaching" "do not go with" -J -f file
fails "an unknown column" "unknown column: NONE" -O NAME,NONE
fails "an empty column" "unknown column" -O NAME,

fails "no such file" "cannot open nofile: No such file" -f nofile
fails "a directory" "is a directory" -f .
fails "a character device" "is a character device" -f /dev/null
fails "a FIFO, without waiting for it" "is a FIFO" -f fifo
fails "a loop of links" "Too many levels" -f loop1
fails "an empty file" "empty" -f empty
fails "less than a sector" "less than a sector" -f tiny
fails "an offset that is no multiple of 512" "not a multiple" -o 100 -f file
fails "an offset at the end" "behind its end" -o 1M -f file
fails "an offset behind the end" "behind its end" -o 1G -f file
fails "a limit of less than a sector" "less than a sector" --sizelimit 100 -f file
fails "a newline in a name is not printed" 'a\\x0ab: No such' -f $'a\nb'
"$dmlosetup" --version >&-
ok "an answer that nobody can get is an error" test $? = 1
plan
