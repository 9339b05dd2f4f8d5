# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: an error of the disk at a first write is that write's, and promotes nothing
# TIMEOUT: 120

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

failing ext4
failing xfs
