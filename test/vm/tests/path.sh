# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: any path comes through a table and back, and names the same file again
# LONG: not worth three kernels: depends on no function that differs between them
# TIMEOUT: 120

dir=$(mkfs_mount ext4)
component=$(printf '%0200d' 0)
long=
for ((i = 0; i < 19; i++)); do
	long+=$component/
done

# Each file has a pattern of its own, to be known again.
# shellcheck disable=SC1003,SC2016 # odd names they are
names=(
	plain
	'with blank'
	'two  blanks and one behind '
	$'tab\there'
	$'new\nline'
	$'\v\f\r'
	'back\slash'
	'back\\slashes\'
	'looks like\040a code'
	'\134'
	$'voil\u00e0 \u00e0'	# UTF-8: the second byte is 0xa0
	$'no\u00a0break'
	$'one\xa0byte'
	$'\u00c0 la carte'
	'# no comment'
	'quotes "and'\''\`others$HOME;*|&()<>{}'
	$'\x01\x1b\x7f'
	"${long}end"
)
mkdir -p "$dir/$long"
for i in "${!names[@]}"; do
	pattern write "$i" 0 4096 >"$dir/${names[i]}"
done
sync -f "$dir"

dmsetup create p --notable
for i in "${!names[@]}"; do
	note "path $i"
	table="0 8 loop $(escape "$dir/${names[i]}") 0"
	dmsetup load p --table "$table"
	dmsetup table --inactive p | dmsetup load p
	dmsetup resume p
	check "the right file after the round trip" pattern check "$i" 0 4096 </dev/mapper/p
	same "the table is as it was loaded" "$(dmsetup table p)" "$table"
done

note "backslashes that are no code are part of the name"
dmsetup load p --table "0 8 loop $dir/back\\slash 0"
dmsetup resume p
check "the right file" pattern check 6 0 4096 </dev/mapper/p
fails "ENOENT:loop: Cannot find the file" dmsetup load p --table "0 8 loop $dir/with\\x40blank 0"

note "paths that are too long"
fails "ENAMETOOLONG:loop: Cannot find the file" dmsetup load p --table "0 8 loop $dir/$(printf '%0256d' 0) 0"
fails "ENAMETOOLONG:loop: Cannot find the file" dmsetup load p --table "0 8 loop $dir/$long$long 0"
