# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# LONG: each filesystem is filled before
# DESCRIPTION: the first write to a part of a block never shows what was on the disk before
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh

# The last block is not all inside the file.
sectors=4097
# What was on the disk before; nobody else writes such bytes.
old=165

# A small filesystem, all of whose free blocks have something in them.
used_fs()
{
	local type=$1 mib=64
	shift
	[ "$type" != xfs ] || mib=320
	disk=$(disk 0)
	xfs_io -d -c "pwrite -q -S $old -b 4m 0 ${mib}m" "$disk"
	dmsetup create under --table "0 $((mib * 2048)) linear $disk 0"
	[[ "$type" != ext* ]] || set -- -E nodiscard "$@"
	make_fs "$type" /dev/mapper/under "$@"
	mkdir -p /mnt/used
	mount -t "$type" /dev/mapper/under /mnt/used
}

# How many bytes of it are in a file?
count_old()
{
	LC_ALL=C tr -cd "\\$(printf %o "$old")" <"$1" | wc -c
}

# make KIND FILE
make()
{
	case $1 in
	sparse) truncate -s $((sectors * 512)) "$2" ;;
	fallocated)
		fallocate -l $((sectors * 512)) "$2"
		sync -f "$2"
		dd if=/dev/mapper/under bs="$block" skip="$(filefrag -e -b"$block" "$2" |
			awk '/unwritten/ { sub(/\.\./, "", $4); print $4; exit }')" count=1 iflag=direct \
			of="$state/found" status=none
		same "bytes in a block of the file" "$(count_old "$state/found")" "$block"
		;;
	esac
	rm -f "$state/model"
	truncate -s $((sectors * 512)) "$state/model"
}

# write_both FIRST SECTORS...: write them to the device, and to what it is compared with.
# The first of a piece of 64 KiB fills blocks; the second all of the piece.
write_both()
{
	local commands=() byte
	while [ $# -gt 0 ]; do
		random byte 160
		commands+=(-c "pwrite -q -S $((byte + 1)) -b 64k $(($1 * 512)) $(($2 * 512))")
		shift 2
	done
	xfs_io -d "${commands[@]}" "$dev"
	xfs_io "${commands[@]}" "$state/model"
}

equal()
{
	if ! cmp "$2" "$state/model" >&2; then
		fail "$1: $(count_old "$2") bytes of what was on the disk"
	fi
	printf 'ok: %s\n' "$1" >&2
}

read_direct()
{
	dd if="$1" of="$state/direct" bs=64K iflag=direct status=none
}

# Its pages only: drop_caches takes seconds.
uncache()
{
	sync "$1"
	dd if="$1" iflag=nocache count=0 status=none
}

# all_equal WHAT FILE...: however it is read
all_equal()
{
	local file what=$1
	shift
	for file; do
		read_direct "$file"
		equal "$what, $file, direct" "$state/direct"
		equal "$what, $file" "$file"
	done
	for file; do
		uncache "$file"
		equal "$what, $file, read again" "$file"
	done
}

# From the end of the file to the end of the block.
behind_the_end()
{
	check "zeroes behind the end, mapped" only '\0' fileop tail "$1"
	truncate -s +16K "$1"
	truncate -s +16K "$state/model"
	read_direct "$1"
	equal "longer by 16 KiB, direct" "$state/direct"
	equal "longer by 16 KiB" "$1"
}

parts_of_blocks()
{
	local image=$1 places=() first n i
	dev=$(loop_dev x "$image")
	same "mode" "$(status_field x mode)" mapped
	# Within a block, over its edge, the first, and the last.
	write_both 0 1  129 1  263 2  385 7  1031 18
	write_both $((sectors - 1)) 1
	all_equal "one by one" "$dev"
	write_both 3 1  131 3  390 1  $((sectors - 9)) 3
	for ((i = 0; i < 20; i++)); do
		random first $((sectors - 40))
		random n 40
		places+=("$first" $((n + 1)))
	done
	write_both "${places[@]}"
	sync "$dev"
	all_equal "written again" "$dev" "$image"
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	all_equal "given back" "$image"
	behind_the_end "$image"
}

many_at_once()
{
	local image=$1 seed was
	random seed $((1 << 30))
	dev=$(loop_dev x "$image")
	check "readers and writers, seed $seed" firstwrite "$dev" "$image" 80 "$seed"
	was=$(digest "$dev")
	dmsetup remove x
	same "the file is what the device was" "$(digest "$image")" "$was"
	uncache "$image"
	same "read again" "$(digest "$image")" "$was"
	check "zeroes behind the end, mapped" only '\0' fileop tail "$image"
}

# stale TYPE BLOCK [MKFS OPTIONS...]
stale()
{
	local kind kinds='sparse fallocated'
	block=$2
	note "$1, blocks of $2"
	used_fs "$1" "${@:3}"
	[ "$1" != ext2 ] && [ "$1" != ext3 ] || kinds=sparse
	for kind in $kinds; do
		note "$1, blocks of $2, $kind"
		# They stay: what a file had in its blocks is not what we look for.
		make "$kind" "/mnt/used/$kind-1"
		parts_of_blocks "/mnt/used/$kind-1"
		make "$kind" "/mnt/used/$kind-2"
		many_at_once "/mnt/used/$kind-2"
	done
	cleanup_devices
}

stale ext4 4096 -b 4096
stale ext4 1024 -b 1024
stale ext3 4096 -b 4096
stale ext2 1024 -b 1024
stale xfs 4096
stale xfs 1024 -b size=1024

# Blocks larger than a page, where the kernel takes them.
mounts()
{
	make_fs "$1" "$(disk 0)" "${@:2}"
	mkdir -p /mnt/used
	mount -t "$1" "$(disk 0)" /mnt/used 2>"$state/mount.log" || return 1
	umount /mnt/used
}

larger_than_a_page()
{
	if mounts "$@"; then
		stale "$1" 16384 "${@:2}"
	else
		note "$1, blocks of 16384: $(cat "$state/mount.log")"
		matches "a kernel that has no such blocks" "$(uname -r)" '^6[.]'
	fi
}

larger_than_a_page ext4 -b 16384
larger_than_a_page xfs -b size=16384
