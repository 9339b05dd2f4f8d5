# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: the guest has what the other tests rely on
# TIMEOUT: 120

check "disk0 is a block device" test -b "$(disk 0)"
same "sectors of disk4k" "$(blockdev --getss "$(disk 4k)")" 4096

scratch()
{
	local fs=$1 dir=$2
	same "filesystem on $dir" "$(stat -f -c %T "$dir" | sed 's/ext2.ext3/ext4/')" "$fs"
	random_bytes 100000 >"$dir/file"
	same "size of a file" "$(stat -c %s "$dir/file")" 100000
}
for_each_fs scratch ext4 xfs btrfs f2fs

number=
random number 1000
check "random numbers stay in their range" test "$number" -lt 1000
# shellcheck disable=SC2016
check "a pattern is recognized" bash -c 'pattern write 3 4096 10000 | pattern check 3 4096 10000'
# shellcheck disable=SC2016
fails "wrong at offset 4096" bash -c 'pattern write 3 0 10000 | pattern check 3 4096 10000'
fails ENOENT cat /nothing
fails "ENOENT:/nothing" cat /nothing
if [ -w /sys/kernel/debug/kmemleak ]; then
	same "the debug kernel panics when a task hangs" "$(</proc/sys/kernel/hung_task_panic)" 1
	check "after a while" test "$(</proc/sys/kernel/hung_task_timeout_secs)" -gt 0
	# It switches itself off at its first report, and when it has no room for more.
	check "lockdep is at work" grep -Eq '^ *debug_locks: +1$' /proc/lockdep_stats
fi
for program in fio jq xfs_io cryptsetup lvm dmsetup kpartx filefrag lsattr; do
	check "the guest has $program" command -v "$program"
done

note "what the kernel says of faults, of damage and of leaks is noticed"
while IFS= read -r line; do
	[ -n "$(kernel_reports <<<"$line")" ] || fail "not noticed: $line"
done <<-'EOT'
	BUG: KASAN: slab-use-after-free in dm_loop_map+0x1/0x2 [dm_loop]
	WARNING: possible circular locking dependency detected
	INFO: task dmsetup:1 blocked for more than 60 seconds.
	dm-loop: leak: 1 pins
	dm-loop: inode 12: cannot sync
	EXT4-fs error (device vda): ext4_find_extent:936: inode #12: comm x: pblk 1 bad header/extent
	JBD2: Detected IO errors while flushing file data on vda-8
	XFS (vda): Corruption detected. Unmount and run xfs_repair
	XFS (vda): metadata I/O error in "xfs_buf_ioend" at daddr 0x1 len 8 error 5
	BTRFS error (device vda): bdev /dev/vda errs: wr 1, rd 0, flush 0, corrupt 0, gen 0
	Buffer I/O error on dev dm-0, logical block 0, lost async page write
EOT
while IFS= read -r line; do
	[ -z "$(kernel_reports <<<"$line")" ] || fail "taken for a fault: $line"
done <<-'EOT'
	dm_loop: loading out-of-tree module taints kernel.
	EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.
	XFS (vda): Ending clean mount
EOT

note "what the module has lost is told from what others have"
lost=$(lost_memory <<-'EOT'
	unreferenced object 0xffff888100000000 (size 64):
	  comm "dmsetup", pid 1, jiffies 1
	  backtrace (crc 0):
	    [<0>] dm_loop_ctr+0x1/0x2 [dm_loop]
	unreferenced object 0xffff888100000040 (size 64):
	  comm "mount", pid 2, jiffies 1
	  backtrace (crc 0):
	    [<0>] ext4_fill_super+0x1/0x2 [ext4]
EOT
)
matches "it is told" "$lost" 0xffff888100000000
same "those of others" "$(grep -c 0xffff888100000040 <<<"$lost" || true)" 0

damage()
{
	local disk
	disk=$(findmnt -no SOURCE "$2")
	written_file "$2/file" 65536
	umount "$2"
	same "no damage" "$(check_fs "$disk" "$1")" ""
	case $1 in
	ext4) debugfs -w -R 'clri <12>' "$disk" 2>/dev/null ;;
	xfs) xfs_db -x -c 'sb 0' -c 'write icount 9999' "$disk" >/dev/null ;;
	esac
	matches "damage is noticed" "$(check_fs "$disk" "$1")" "^$1 on $disk is damaged"
}
for_each_fs damage
allow 'EXT4-fs error' 'XFS .*([Cc]orruption|Internal error)'
