# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: an error of the disk at a first write is that write's, and promotes nothing; nor shows it what was on the disk
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh
# What was on the disk before; nobody else writes such bytes.
old=165
piece=128

# place BYTES: the sector of the host where that part of the image lies
place()
{
	filefrag -e -b512 "$image" | awk -v at=$(($1 / 512)) '/unwritten/ {
		gsub(/[.:]/, " ")
		if ($2 <= at && at <= $3) print $4 + at - $2
	}'
}

# at BYTES COMMAND...: xfs_io on the device; a command has %s for the place
at()
{
	local command="$2"
	# shellcheck disable=SC2059 # a format it is
	xfs_io -d -c "$(printf "$command" "$1")" "${@:3}" "$dev"
}

# zeroes TEXT BYTES LENGTH: nothing of what was on the disk is read
zeroes()
{
	check "$1" cmp -s <(dd if="$dev" iflag=skip_bytes,count_bytes,direct bs=4096 \
		skip="$2" count="$3" status=none) <(head -c "$3" /dev/zero)
}

failing()
{
	local type=$1 bad image=/mnt/host/image dev was broken=$((4 << 20)) far=$((6 << 20))
	note "$type"
	host_fs "$type"
	fallocate -l 8M "$image"
	sync -f "$image"
	bad=$(place $broken)
	check "a place on the disk" test "${bad:-0}" -gt 0
	xfs_io -d -c "pwrite -q -S $old -b 64k $((bad * 512)) $((piece * 512))" /dev/mapper/host
	dev=$(loop_dev x "$image")
	same "mode" "$(status_field x mode)" mapped

	host_is "0 $bad linear $host_disk 0
		$bad $piece error
		$((bad + piece)) $((host_size - bad - piece)) linear $host_disk $((bad + piece))"
	was=$(status_field x promotes)
	fails "Input/output error" at $broken "pwrite -q -S 1 %s 4096"
	fails "Input/output error" at $((broken + 8192)) "pwrite -q -S 1 %s 16384"
	same "nothing is promoted" "$(status_field x promotes)" "$was"
	check "a flush" xfs_io -d -c fsync "$dev"
	check "a first write elsewhere" at $far "pwrite -q -S 2 %s 4096" -c fsync
	check "is promoted" test "$(status_field x promotes)" -gt "$was"

	host_is "0 $host_size linear $host_disk 0"
	zeroes "what failed is zeroes" $broken $((piece * 512))
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	check "and is written the next time" at $broken "pwrite -q -S 3 %s 4096" -c fsync
	check "it is read" at $broken "pread -q %s 4096"
	host_is "0 $bad linear $host_disk 0
		$bad $piece error
		$((bad + piece)) $((host_size - bad - piece)) linear $host_disk $((bad + piece))"
	fails "Input/output error" blkdiscard -f -z -o $broken -l 4096 "$dev"
	host_is "0 $host_size linear $host_disk 0"
	zeroes "what is around it is zeroes" $((broken + 4096)) 61440
	check "what was written" only '\3' dd if="$dev" iflag=skip_bytes,direct bs=4096 skip=$broken count=1 status=none
	dmsetup remove x
	check "no old bytes in the file" only "\\0-\\$(printf %o $((old - 1)))\\$(printf %o $((old + 1)))-\\377" cat "$image"
	host_gone
}

# bad FROM TO, good FROM TO: sectors in the table of the host
bad() { table+=("$1 $(($2 - $1)) flakey $host_disk $1 0 60 1 error_writes"); }
good() { table+=("$1 $(($2 - $1)) linear $host_disk $1"); }

# no_free_writes SECTORS: the host with a disk that fails writes to what is free, and reads it, but for
# so many sectors at the begin of each block
no_free_writes()
{
	local block from to end=0 table=()
	block=$(($(stat -f -c %S /mnt/host) / 512))
	while IFS=- read -r from to; do
		to=$(((${to:-$from} + 1) * block)) from=$((from * block))
		good "$end" "$from"
		for ((; $1 && from < to; from += block)); do
			good "$from" $((from + $1))
			bad $((from + $1)) $((from + block))
		done
		bad "$from" "$to"
		end=$to
	done < <(dumpe2fs /dev/mapper/host 2>/dev/null | sed -n 's/^  Free blocks: //p' |
		tr ',' '\n' | tr -d ' ' | grep .)
	check "something is free" test ${#table[@]} -gt 0
	good "$end" "$host_size"
	dmsetup suspend --noflush --nolockfs host
	printf '%s\n' "${table[@]}" | grep -v '^[0-9]* 0 ' | dmsetup load host
	dmsetup resume host
}

# used_host [-o OPTIONS] TYPE MKFS-OPTIONS...: a small one, whose free blocks have something in them
used_host()
{
	local opts=defaults
	if [ "$1" = -o ]; then
		opts=$2
		shift 2
	fi
	host_disk=$(free_disk)
	host_size=$((16 * 2048))
	dmsetup create host --table "0 $host_size linear $host_disk 0"
	xfs_io -d -c "pwrite -q -S $old -b 4m 0 16m" /dev/mapper/host
	make_fs "$1" /dev/mapper/host -E nodiscard "${@:2}"
	mkdir -p /mnt/host
	mount -o "$opts" /dev/mapper/host /mnt/host
}

# Without extents blocks show what was there before from when they are allocated.
failing_hole()
{
	local type=$1 image=/mnt/host/image dev
	note "$type, a hole"
	used_host "$type"
	truncate -s 64K "$image"
	sync -f "$image"
	dev=$(loop_dev x "$image")
	same "mode" "$(status_field x mode)" mapped
	no_free_writes 0
	fails "Input/output error" xfs_io -d -c "pwrite -q -S 1 8k 4k" "$dev"
	fails "Input/output error" xfs_io -d -c "pwrite -q -S 1 17k 1k" "$dev"
	fails "Input/output error" xfs_io -d -c "pwrite -q -S 1 24k 16k" "$dev"
	same "nothing is promoted" "$(status_field x promotes)" 0
	host_is "0 $host_size linear $host_disk 0"
	check "what failed is zeroes" only '\0' dd if="$dev" iflag=direct bs=64k status=none
	# It keeps one for the places of others.
	check "no blocks are left" test "$(stat -c %b "$image")" -le 2
	# The file had the error too: as far as its flushes can tell something was lost.
	[ "$type" = ext4 ] || allow "cannot verify .*: ${errno_text[EIO]}"
	dmsetup remove x
	dev=$(loop_dev x "$image")
	check "it is zeroes later" only '\0' dd if="$dev" iflag=direct bs=64k status=none
	check "and is written the next time" xfs_io -d -c "pwrite -q -S 3 8k 4k" -c fsync "$dev"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	check "the file has that" only '\0\3' cat "$image"
	host_gone
}

# Only the zeroes around what is written: to write it by itself would bring up the rest of the block.
failing_zeroes()
{
	local image=/mnt/host/image dev
	note "the rest of a block"
	used_host ext3 -b 4096
	truncate -s 64K "$image"
	sync -f "$image"
	dev=$(loop_dev x "$image")
	no_free_writes 2
	fails "Input/output error" xfs_io -d -c "pwrite -q -S 1 16k 1k" "$dev"
	same "nothing is promoted" "$(status_field x promotes)" 0
	host_is "0 $host_size linear $host_disk 0"
	check "what failed is zeroes" only '\0' dd if="$dev" iflag=direct bs=64k status=none
	dmsetup remove x
	check "in the file too" only '\0' cat "$image"
	host_gone
}

# with_4k: the host has moved to a disk with sectors of 4 KiB
with_4k()
{
	dmsetup suspend --noflush --nolockfs host
	dd if="$host_disk" of="$(disk 4k)" bs=1M count=16 iflag=direct oflag=direct status=none
	host_disk=$(disk 4k)
	host_is "0 $host_size linear $host_disk 0"
}

# failing_cached OPTIONS COMMAND...: a file made by that. What is smaller than a sector of the disk goes
# through the page cache when it is written alone. With these options ext4 does not make blocks for that
# unwritten.
failing_cached()
{
	local image=/mnt/host/image dev place table=()
	note "through the page cache, $*"
	used_host -o "$1" ext4 -b 4096
	"${@:2}" 64K "$image"
	sync -f "$image"
	place=$(place 16384)
	dev=$(loop_dev x "$image")
	same "mode" "$(status_field x mode)" mapped
	with_4k
	if [ "$place" ]; then
		good 0 "$place"
		bad "$place" $((place + 8))
		good $((place + 8)) "$host_size"
		host_is "$(printf '%s\n' "${table[@]}")"
	else
		no_free_writes 0
	fi
	fails "Input/output error" xfs_io -d -c "pwrite -q -S 1 17k 512" "$dev"
	same "nothing is promoted" "$(status_field x promotes)" 0
	host_is "0 $host_size linear $host_disk 0"
	check "what failed is zeroes" only '\0' dd if="$dev" iflag=direct bs=64k status=none
	allow "cannot verify .*: ${errno_text[EIO]}"
	dmsetup remove x
	dev=$(loop_dev x "$image")
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	check "in the file too" only '\0' cat "$image"
	host_gone
}

# An error of what is written back is told once, to whoever asks first.
failing_asked()
{
	local image=/mnt/host/image dev place table=()
	note "through the page cache, and others ask whether there was an error"
	used_host ext4 -b 4096
	fallocate -l 64K "$image"
	sync -f "$image"
	place=$(place 16384)
	dev=$(loop_dev x "$image")
	with_4k
	good 0 "$place"
	bad "$place" $((place + 8))
	good $((place + 8)) "$host_size"
	dmsetup create slow --table "$(printf '%s\n' "${table[@]}")"
	# so slow that all wait for it
	host_is "0 $place linear $host_disk 0
		$place 8 delay /dev/mapper/slow $place 0 /dev/mapper/slow $place 500
		$((place + 8)) $((host_size - place - 8)) linear $host_disk $((place + 8))"
	for _ in 1 2 3 4 5 6; do
		until [ -e "$state/written" ]; do
			sync -d "$image" 2>/dev/null || true
		done &
	done
	fails "Input/output error" xfs_io -d -c "pwrite -q -S 1 17k 512" "$dev"
	touch "$state/written"
	wait
	same "nothing is promoted" "$(status_field x promotes)" 0
	host_is "0 $host_size linear $host_disk 0"
	dmsetup remove slow
	check "what failed is zeroes" only '\0' dd if="$dev" iflag=direct bs=64k status=none
	allow "cannot verify .*: ${errno_text[EIO]}"
	dmsetup remove x
	host_gone
}

failing ext4
failing xfs
allow 'EXT4-fs warning .*I/O error' 'Buffer I/O error' 'JBD2: Detected IO errors' \
	'failed to convert unwritten extents'
failing_hole ext2
failing_hole ext3
failing_hole ext4
failing_zeroes
failing_cached nodelalloc truncate -s
failing_cached nodelalloc fallocate -l
failing_cached dioread_lock truncate -s
failing_cached defaults truncate -s
failing_asked
