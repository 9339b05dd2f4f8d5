# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: when the filesystem below ends by an error or is shut down writes fail, there is an event, and nothing hangs
# TIMEOUT: 240

# shellcheck disable=SC2154 # state is set in lib.sh
# Seconds until what waits for nothing hangs
patience=$((20 * ${DMLOOP_TIME_FACTOR:-1}))

# small_fs TYPE [-o MOUNT OPTIONS] [MKFS OPTIONS...]
small_fs()
{
	local type=$1 opts=defaults
	shift
	if [ "${1:-}" = -o ]; then
		opts=$2
		shift 2
	fi
	disk=$(disk 1)
	case $type in
	ext4) mkfs.ext4 -F -q -m 0 "$@" "$disk" 64M ;;
	xfs) mkfs.xfs -f -q -K -d size=320m "$@" "$disk" ;;
	esac
	mkdir -p /mnt/small
	mount -o "$opts" "$disk" /mnt/small
}

# image [MODE]: a MiB with data, a MiB with blocks, and holes; for the mode file with a clone.
image()
{
	local file=/mnt/small/image mode=${1:-mapped}
	pattern write 1 0 $((1 << 20)) >"$file"
	fallocate -o 1M -l 1M "$file"
	truncate -s 16M "$file"
	[ "$mode" = mapped ] || cp --reflink=always "$file" /mnt/small/clone
	sync -f /mnt/small
	dev=$(loop_dev x "$file")
	same "mode" "$(status_field x mode)" "$mode"
}

# put KEY MIB: 64 KiB from there on
put()
{
	pattern write "$1" 0 65536 | dd of="$dev" bs=64K seek=$(($2 * 16)) iflag=fullblock oflag=direct conv=notrunc status=none
}

has()
{
	pattern check "$1" 0 65536 < <(dd if="$dev" bs=64K skip=$(($2 * 16)) count=1 iflag=direct status=none)
}

# Nothing hangs when the filesystem below is no more.
end_of()
{
	check "what was flushed is there" has 2 8
	check "the device can be suspended" timeout "$patience" dmsetup suspend x
	check "and removed" timeout "$patience" dmsetup remove x
	check "nothing keeps the filesystem" umount /mnt/small
}

# Writes fail within the second in which the times of the file are updated.
fails_soon()
{
	local i
	for ((i = 0; i < 60; i++)); do
		put 5 0 2>"$state/output" || break
		sleep 0.1
	done
	matches "writes to what has data fail" "$(<"$state/output")" 'Input/output error|Read-only file system'
}

# 6.1 lets ext4 write to blocks that have data after its journal was aborted.
ext4_tells()
{
	[[ "$(uname -r)" != 6.1.* ]]
}

after_error()
{
	allow 'EXT4-fs error' 'Aborting journal' 'EXT4-fs .*Remounting filesystem read-only' 'dm-loop: inode [0-9]+: cannot'
	note "an error of the filesystem: ext4"
	small_fs ext4 -o errors=remount-ro
	image
	put 1 0
	put 2 8
	sync "$dev"
	wait_event
	echo 1 >"/sys/fs/ext4/${disk#/dev/}/trigger_fs_error"
	fails 'Input/output error|Read-only file system' put 3 9
	if ext4_tells; then
		fails_soon
	else
		check "what has data can be written, as by loop" put 5 0
	fi
	event_came "read-only"
	end_of
}

after_shutdown()
{
	note "shut down: $1"
	small_fs "$1"
	image
	put 1 0
	put 2 8
	sync "$dev"
	wait_event
	shut_down /mnt/small
	fails 'Input/output error|Read-only file system' put 3 9
	fails_soon
	event_came "shut down"
	end_of
}

# A clone is written by file I/O, and nothing of it can be read any more.
by_file()
{
	note "shut down, in file mode"
	small_fs xfs
	pattern write 1 0 $((4 << 20)) >/mnt/small/image
	cp --reflink=always /mnt/small/image /mnt/small/clone
	sync -f /mnt/small
	dev=$(loop_dev x /mnt/small/image)
	same "mode" "$(status_field x mode)" file
	put 1 0
	sync "$dev"
	wait_event
	shut_down /mnt/small
	fails EIO put 3 1
	event_came "shut down"
	fails EIO sync "$dev"
	check "the device can be suspended" timeout "$patience" dmsetup suspend x
	check "and removed" timeout "$patience" dmsetup remove x
	check "nothing keeps the filesystem" umount /mnt/small
}

# A first write that no flush had committed is lost: the flush after it must say so. On
# xfs it is committed after a second, and what comes too late for that is tried again.
lose_it()
{
	local before after status=0
	note "shut down before a flush: $1"
	small_fs "$1"
	image
	put 1 0
	sync "$dev"
	# The second of the last first write is over.
	sleep 2
	before=$(status_field x fsyncs)
	xfs_io -x -d -c "pwrite -q -b 64k 8m 64k" -c "open /mnt/small" -c shutdown "$dev"
	after=$(status_field x fsyncs)
	sync "$dev" 2>"$state/output" || status=$?
	if [ "$after" = "$before" ]; then
		lost=1
		check "the flush fails ($status)" test "$status" != 0
		matches "with an error" "$(<"$state/output")" 'Input/output error'
		fails EIO sync "$dev"
	else
		note "committed before: fsyncs $before, $after; the flush: $status"
	fi
	check "the device can be removed" timeout "$patience" dmsetup remove x
	check "nothing keeps the filesystem" umount /mnt/small
}

flush_fails()
{
	local lost='' i
	for ((i = 0; i < 5; i++)); do
		lose_it "$1"
		[ -z "$lost" ] || return 0
	done
	fail "each write was committed before the shutdown"
}

is_readonly() { findmnt -n -O ro /mnt/small >/dev/null; }

# emergency TYPE MODE. By sysrq, though there are writers: nobody asks them.
emergency()
{
	note "made read-only by force: $1, $2"
	allow 'sysrq: Emergency Remount R/O' 'Emergency Remount complete' 'EXT4-fs .* re-mounted'
	small_fs "$1"
	image "$2"
	put 1 0
	wait_event
	echo u >/proc/sysrq-trigger
	soon "it is read-only" is_readonly
	fails EIO put 2 0
	event_came "read-only by force"
	check "what was written" has 1 0
	check "it can be suspended" timeout "$patience" dmsetup suspend x
	mount -o remount,rw /mnt/small
	dmsetup resume x
	echo u >/proc/sysrq-trigger
	soon "it is read-only again" is_readonly
	mount -o remount,rw /mnt/small
	dmsetup suspend x
	dmsetup resume x
	check "it goes on" put 3 0
	check "with what was written" has 3 0
	echo u >/proc/sysrq-trigger
	soon "it is read-only" is_readonly
	check "it can be removed" timeout "$patience" dmsetup remove x
	umount /mnt/small
}

after_error
after_shutdown ext4
emergency ext4 mapped
after_shutdown xfs
emergency xfs mapped
emergency xfs file
by_file
flush_fails ext4
flush_fails xfs
