# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: after a commit failed all flushes fail for half a minute, and a filesystem on the device sees the error
# TIMEOUT: 300

# shellcheck disable=SC2154 # state is set in lib.sh

put()
{
	xfs_io -d -c "pwrite -q -S 0x5a $(($1 * 4096)) 4096" "$dev"
}

# Half of a write with PREFLUSH may be on its way for that long.
goes_on_after_a_while()
{
	local began=$SECONDS
	fails "Input/output error" xfs_io -d -c fsync "$dev"
	fails "Input/output error" put_fua 2
	until xfs_io -d -c fsync "$dev" 2>"$state/said"; do
		[ $((SECONDS - began)) -lt 100 ] || fail "it does not go on"
		sleep 1
	done
	check "after half a minute" test $((SECONDS - began)) -ge 25
	check "a FUA write" put_fua 2
}

put_fua()
{
	dd if=/dev/zero of="$dev" bs=4096 seek="$1" count=1 oflag=direct,dsync conv=notrunc status=none
}

# jbd2 commits by a write with PREFLUSH and FUA; device-mapper drops the error of the first half.
# above MIB [MKFS OPTIONS...]: it sees it all the same, when so much was written
above()
{
	local bytes=$(($1 << 20))
	shift
	mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$@" "$dev"
	mkdir -p /mnt/above
	mount "$dev" /mnt/above
	dd if=/dev/zero of=/mnt/above/data bs=1M count=$((bytes >> 20)) conv=fsync status=none
	sync -f /mnt/above
	sync "$image"
	xfs_io -d -c "pwrite -q -b 1m -S 0x77 0 $bytes" /mnt/above/data
	host_is 0 "$host_size" error
	fails "Input/output error" xfs_io -r -c fsync "$image"
	host_is 0 "$host_size" linear "$host_disk" 0
	fails "Input/output error|Read-only" xfs_io -f -c "pwrite -q 0 4k" -c fsync /mnt/above/more
	umount /mnt/above
}

allow 'Buffer I/O error' 'dm-loop: inode [0-9]+: cannot' 'EXT4-fs .*Remounting filesystem read-only' \
	'EXT4-fs error' 'JBD2: .*[Ee]rror' 'Aborting journal'
host_fs vfat
image=/mnt/host/image
dd if=/dev/zero of="$image" bs=1M count=24 conv=fsync status=none
dev=$(loop_dev x "$image")
check "the first flush is for what others wrote" xfs_io -d -c fsync "$dev"
same "fsyncs" "$(status_field x fsyncs)" 1
put 0
check "a flush" xfs_io -d -c fsync "$dev"

note "a write that is in the page cache of a disk that is gone"
put 1
host_is 0 "$host_size" error
mark=$(kmsg_mark)
dmsetup suspend x
check "the kernel log" kmsg_has "cannot commit what was not flushed" "$mark"
host_is 0 "$host_size" linear "$host_disk" 0
dmsetup resume x
goes_on_after_a_while

note "a filesystem above"
above 1
dmsetup remove x

# What was lost when it was suspended is lost for whatever file it goes on with.
note "resumed with another file"
other=$(mkfs_mount xfs)/image
dd if=/dev/zero of="$other" bs=1M count=24 conv=fsync status=none
dev=$(loop_dev x "$image")
put 3
host_is 0 "$host_size" error
dmsetup suspend x
host_is 0 "$host_size" linear "$host_disk" 0
dmsetup load x --table "$(loop_table "$other")"
dmsetup resume x
fails "Input/output error" xfs_io -d -c fsync "$dev"
dmsetup remove x

# The second half goes to another file than the flush that failed.
note "a filesystem above, whose journal is in another file"
dmsetup create x <<-EOF
	0 $((24 << 11)) loop $image 0
	$((24 << 11)) $((24 << 11)) loop $other 0
EOF
# Some of it is in the file that is lost, wherever ext4 begins.
above 32 -b 4096 -J size=4,location=8192
dmsetup remove x
host_gone
