# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a device grows again and again while fio verifies it, and each of many snapshots under load is the state of one instant
# LONG: dozens of commands, each with its checks, while the processors are busy
# TIMEOUT: 1200

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# DMLOOP_ALL and DMLOOP_SOAK want all of it.
grows=$(rounds 20) snapshots=10
[ -z "${DMLOOP_ALL:-}${DMLOOP_SOAK:-}" ] || grows=200 snapshots=100

# --------------------------------------------------------------------- it grows --

# One fio after the other, each with its own data, until it is told to end.
fio_goes_on()
{
	local key=$1 n
	for ((n = 0; ; n++)); do
		[ ! -e "$state/fio.end" ] || return 0
		fio --name=grow --filename=/dev/mapper/disk --size=32M --direct=1 --ioengine=libaio \
			--iodepth=16 --rw=randrw --rwmixread=30 --bssplit=4k/60:16k/20:128k/20 --fsync=32 \
			--verify=crc32c --verify_fatal=1 --verify_backlog=32 --randseed=$((key + n)) \
			--output="$state/fio.log" || { cat "$state/fio.log"; return 1; }
		echo $((n + 1)) >"$state/fio.runs"
	done
}

# The last 64 KiB of each 16 MiB that came.
new_part() { pattern "$1" "$2" 0 65536; }

grow()
{
	local image=$2/image node=/dev/mapper/disk key n mib=64 pid begin=$SECONDS
	random key 1000000
	note "fio's first seed: $key"
	truncate -s ${mib}M "$image"
	dmlosetup disk "$image"
	fio_goes_on "$key" &
	pid=$!
	for ((n = 0; n < grows; n++)); do
		mib=$((mib + 16))
		within dmlosetup -c disk --size ${mib}M
		[ "$(blockdev --getsize64 "$node")" = $((mib << 20)) ] || fail "after $n: $(blockdev --getsize64 "$node") bytes"
		new_part write "$n" | dd of="$node" bs=64K seek=$((mib * 16 - 1)) iflag=fullblock oflag=direct status=none
		kill -0 "$pid" || fail "fio has ended, after $n times"
	done
	note "grown $n times in $((SECONDS - begin)) s"
	table_is_right disk
	: >"$state/fio.end"
	check "fio saw nothing wrong" wait "$pid"
	note "$(<"$state/fio.runs") runs of fio"
	rm "$state"/fio.*
	dmsetup status disk >&2
	for node in "$node" "$image"; do
		[ "$node" != "$image" ] || dmlosetup -d disk
		for ((n = 0; n < grows; n++)); do
			new_part check "$n" < <(dd if="$node" bs=64K skip=$(((64 + n * 16 + 16) * 16 - 1)) count=1 status=none) ||
				fail "$node: what was written after it had grown $n times"
		done
		note "all that was written where it grew is in $node"
	done
	same "the file" "$(stat -c %s "$image")" $((mib << 20))
	rm "$image"
}

# ------------------------------------------------------------- snapshots of it --

# take_snapshots COUNT HOW: $image.0 and so on; $bounds.N has how many writes were complete before and after
take_snapshots()
{
	local n said before
	bounds=$state/bounds
	: >"$state/said"
	for ((n = 0; n < $1; n++)); do
		before=$(instants count "$writer_log")
		said=$(within dmlosetup --snapshot disk "$image.$n")
		echo "$before $(instants count "$writer_log")" >"$bounds.$n"
		[[ "$said" == "$image.$n: $2 of /dev/mapper/disk, which was suspended for "* ]] || fail "it says '$said'"
		said=${said% ms}
		echo "${said##* }" >>"$state/said"
		writer_goes_on 2>/dev/null
	done
	note "$n times $2; suspended for $(sort -n "$state/said" |
		awk '{ t[NR] = $1 } END { print t[int((NR + 1) / 2)] " ms, at most " t[NR] " ms" }')"
}

# is_instant NUMBER FILE: FILE has what the writer had written when snapshot NUMBER was taken
is_instant()
{
	local have before after sum=0 n
	have=$(instants check "$2" "$writer_bytes" "$writer_log") || fail "snapshot $1 is of no instant"
	read -r before after <"$bounds.$1"
	for n in $have; do
		sum=$((sum + n))
	done
	# A write is there a little earlier than it is counted
	((sum >= before && sum <= after + 2)) ||
		fail "snapshot $1 has $sum writes; there were $before before and $after after it"
}

# of the device: snapshot_device FS DIR COUNT HOW [OPTION]
snapshot_device()
{
	local n node size=$((16 << 20))
	image=$2/image
	note "$1: $3 snapshots${5:+, $5}"
	truncate -s $size "$image"
	node=$(loop_dev disk "$image" 0 ${5:+"$5"})
	writer_start "$node" $size
	take_snapshots "$3" "$4"
	writer_end
	for ((n = 0; n < $3; n++)); do
		is_instant "$n" "$image.$n"
		rm "$image.$n"
	done
	note "each is the state of one instant"
	writer_was_right "$node"
	dmsetup status disk >&2
	within dmsetup remove disk
	rm "$image"
}

# of a filesystem on it, which must need no recovery: snapshot_filesystem FS DIR COUNT HOW
snapshot_filesystem()
{
	local n loop size=$((8 << 20))
	image=$2/image
	note "$1: $3 snapshots with a filesystem in them"
	truncate -s 40M "$image"
	inner_mount ext4 "$(loop_dev disk "$image")"
	churn_start "$inner"
	writer_start "$inner/data" $size
	take_snapshots "$3" "$4"
	churn_goes_on
	churn_stop
	writer_end
	mkdir -p /mnt/snap
	for ((n = 0; n < $3; n++)); do
		! dumpe2fs -h "$image.$n" 2>/dev/null | grep -q needs_recovery || fail "snapshot $n needs recovery"
		e2fsck -fn "$image.$n" >"$state/fsck" 2>&1 || fail "snapshot $n: $(cat "$state/fsck")"
		loop=$(losetup -r -f --show "$image.$n")
		mount -o ro "$loop" /mnt/snap
		is_instant "$n" /mnt/snap/data
		umount /mnt/snap
		losetup -d "$loop"
		rm "$image.$n"
	done
	note "each is clean, and the state of one instant"
	writer_was_right "$inner/data"
	inner_check
	within dmsetup remove disk
	rm "$image"
}

fire()
{
	grow "$1" "$2"
	case $1 in
	ext4) snapshot_device "$1" "$2" $((snapshots / 5)) copy ;;
	xfs)
		snapshot_device "$1" "$2" "$snapshots" clone
		snapshot_device "$1" "$2" $((snapshots / 2)) clone unshare
		snapshot_filesystem "$1" "$2" $((snapshots / 2)) clone
		;;
	esac
}

for_each_fs fire ext4 xfs
