# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# LONG: compares all limits with other targets on many disks
# DESCRIPTION: queue limits are those of the disk below; NOWAIT works; sysfs shows the stack
# TIMEOUT: 500

# shellcheck disable=SC2154 # state is set in lib.sh

# queue DEVICE: all its limits, one a line. Not what belongs to a device of its own
# (scheduler, read-ahead, statistics), and not what we give ourselves: a device without
# discards here, where dm-linear passes them on.
queue()
{
	local dir file
	dir=$(sysfs "$1")
	for file in "$dir"/queue/*; do
		case ${file##*/} in
		scheduler | nr_requests | read_ahead_kb | iostats | iostats_passthrough | wbt_lat_usec | rq_affinity | nomerges) ;;
		io_timeout | iosched | async_depth | discard_* | max_discard_segments | write_zeroes_* | write_same_*) ;;
		*) printf '%s=%s\n' "${file##*/}" "$(cat "$file" 2>/dev/null)" ;;
		esac
	done
	printf 'alignment_offset=%s\nro=%s\n' "$(cat "$dir/alignment_offset")" "$(cat "$dir/ro")"
}

limit()
{
	cat "$(sysfs "$1")/queue/$2"
}

# Once with dm-linear, once with us; and both for reading.
compare()
{
	local what=$1 host=$2 dir=$3 flag
	for flag in "" -r; do
		# shellcheck disable=SC2086 # one word or none
		dmsetup create linear $flag --table "0 2048 linear $host 0"
		queue /dev/mapper/linear >"$state/linear$flag"
		dmsetup remove linear
	done
	make_fs ext4 "$host"
	mkdir -p "$dir"
	mount "$host" "$dir"
	written_file "$dir/image" $((1 << 20))
	for flag in "" -r; do
		# shellcheck disable=SC2086
		loop_dev $flag x "$dir/image" 0 mapped >/dev/null
		queue /dev/mapper/x >"$state/x$flag"
		check "$what: limits${flag:+ for reading} ($(wc -l <"$state/x$flag"))" \
			diff "$state/linear$flag" "$state/x$flag"
		same "$what: no discards" "$(limit /dev/mapper/x discard_max_bytes)" 0
		dmsetup remove x
	done
}

shown()
{
	local disk=$1 dm
	dm=$(basename "$(sysfs /dev/mapper/x)")
	soon "$disk has the holder $dm" test -e "/sys/class/block/$disk/holders/$dm"
	check "$dm has the slave $disk" test -e "/sys/block/$dm/slaves/$disk"
	matches "lsblk" "$(lsblk -nro NAME "/dev/$disk")" "^x$"
}

note "sectors of 512 bytes"
disk=$(disk 0)
compare "512" "$disk" /mnt/a
dev=$(loop_dev x /mnt/a/image)
same "discard granularity without the option mapped" "$(limit "$dev" discard_granularity)" 4096
check "discards without the option mapped" test "$(limit "$dev" discard_max_hw_bytes)" -ge $((1 << 30))
check "write zeroes without it" test "$(limit "$dev" write_zeroes_max_bytes)" -gt 0

note "NOWAIT"
fileop nowait-write "$dev" 4096 4096
check "it was written" cmp -n 4096 <(tail -c +4097 "$dev") <(head -c 4096 /dev/zero | tr '\0' Z)
check "read" fileop nowait-read "$dev" 0 65536
dmsetup remove x
truncate -s 2M /mnt/a/image
dev=$(loop_dev x /mnt/a/image)
check "read of a hole" fileop nowait-read "$dev" $((1 << 20)) 65536
check "write to a hole" fileop nowait-write "$dev" $((1 << 20)) 4096
check "it was written" cmp -n 4096 <(tail -c +1048577 "$dev") <(head -c 4096 /dev/zero | tr '\0' Z)

note "holders and slaves"
shown "${disk#/dev/}"
dmsetup table x | dmsetup load x
dmsetup resume x
shown "${disk#/dev/}"
dmsetup suspend x
shown "${disk#/dev/}"
dmsetup resume x
dmsetup remove x
same "holders afterwards" "$(ls "/sys/block/${disk#/dev/}/holders")" ""
umount /mnt/a

note "sectors of 4096 bytes"
compare "4096" "$(disk 4k)" /mnt/b
loop_dev x /mnt/b/image >/dev/null
same "sector of the device" "$(blockdev --getss /dev/mapper/x)" 4096
shown "$(basename "$(disk 4k)")"
dmsetup remove x
umount /mnt/b

note "sectors larger than a page"
truncate -s 600M /tmp/large
loop=$(losetup -f --show -b 16384 /tmp/large 2>"$state/said" || true)
if [ -n "$loop" ] && mkfs.xfs -q -f -K -b size=16k -s size=16k "$loop" && mkdir -p /mnt/l &&
	mount "$loop" /mnt/l 2>"$state/said"; then
	truncate -s 16M /mnt/l/image
	dev=$(loop_dev x /mnt/l/image)
	same "sector of the device" "$(blockdev --getss "$dev")" 16384
	# More pages than a fill has segments: it is cut
	check "a large write from scattered pages" fileop scattered "$dev" 0 $((1 << 20))
	check "it was written" cmp -n $((1 << 20)) "$dev" <(head -c $((1 << 20)) /dev/zero | tr '\0' Z)
	dmsetup remove x
	umount /mnt/l
else
	note "not here: $(<"$state/said")"
	matches "a kernel that has no such sectors" "$(uname -r)" '^6[.]'
fi
[ -z "$loop" ] || losetup -d "$loop"
rm /tmp/large

note "a partition"
addpart "$disk" 1 2048 819200
compare "partition" "${disk}1" /mnt/c
loop_dev x /mnt/c/image >/dev/null
shown "${disk#/dev/}1"
same "data on a partition" "$(digest /dev/mapper/x)" "$(digest /mnt/c/image)"
dmsetup remove x
umount /mnt/c
delpart "$disk" 1

# A disk with other figures than the virtual ones: physical blocks of 4096, an optimal size,
# a cache and FUA.
note "a SCSI disk"
find_scsi()
{
	scsi=$(lsblk -dnro NAME,MODEL | awk '/scsi_debug/ { print "/dev/" $1 }')
	[ -n "$scsi" ]
}
modprobe sd_mod
modprobe scsi_debug dev_size_mb=64 physblk_exp=3 opt_blks=256 opt_xferlen_exp=7
soon "it is there" find_scsi
compare "SCSI" "$scsi" /mnt/d
same "physical block" "$(sed -n 's/physical_block_size=//p' "$state/x")" 4096
dev=$(loop_dev x /mnt/d/image)
note "reservations, of the disk: $(reserve "$scsi" 2>&1 && echo "they work")"
fails EOPNOTSUPP reserve "$dev"
dmsetup remove x
umount /mnt/d
rmmod scsi_debug

# null_disk NAME SETTING...: a null_blk of that name
null_disk()
{
	local dir=/sys/kernel/config/nullb/$1 setting
	shift
	mkdir "$dir"
	for setting in size=128 memory_backed=1 "$@" power=1; do
		echo "${setting#*=}" >"$dir/${setting%=*}"
	done
}

note "a disk without a cache"
modprobe null_blk nr_devices=0
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
null_disk nullb7
compare "null_blk" /dev/nullb7 /mnt/e
same "its cache" "$(limit /dev/nullb7 write_cache)" "write through"
loop_dev x /mnt/e/image >/dev/null
same "ours, when we may have to commit" "$(limit /dev/mapper/x write_cache)" "write back"
dmsetup remove x
loop_dev -r x /mnt/e/image >/dev/null
same "ours, when we only read" "$(limit /dev/mapper/x write_cache)" "write through"
dmsetup remove x
umount /mnt/e
rmdir /sys/kernel/config/nullb/nullb7

note "a disk that is polled: a punch waits for nobody who has stopped to ask"
null_disk nullb8 submit_queues=1 poll_queues=1
make_fs ext4 /dev/nullb8
mount /dev/nullb8 /mnt/e
written_file /mnt/e/image $((16 << 20))
dev=$(loop_dev x /mnt/e/image)
fio --name=x --filename="$dev" --size=8m --direct=1 --ioengine=io_uring --hipri=1 --rw=randread --bs=4k --iodepth=32 \
	--thread --time_based --runtime=300 --output="$state/fio.log" 2>"$state/errors" &
reader=$!
reads()
{
	[ "$(awk '{ print $1 }' "$(sysfs /dev/mapper/x)/stat")" -gt 1000 ]
}
soon "it reads" reads
kill -STOP "$reader"
check "a discard" timeout 30 blkdiscard -f -o 8M -l 1M "$dev"
kill -CONT "$reader"
kill -INT "$reader"
wait "$reader" || true
same "reads for which nobody asked in time" "$(grep -c 'io_u error' "$state/errors" || true)" 0
dmsetup remove x
umount /mnt/e
rmdir /sys/kernel/config/nullb/nullb8
