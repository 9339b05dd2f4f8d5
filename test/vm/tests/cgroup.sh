# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: first writes and file I/O belong to the cgroup that writes: its limits of I/O hold, and it has the memory
# TIMEOUT: 240

# took COMMAND...: milliseconds, in $ms
took()
{
	local begin=${EPOCHREALTIME/./}
	"$@"
	ms=$(((${EPOCHREALTIME/./} - begin) / 1000))
}

put_2_mib()
{
	"${@:2}" xfs_io -d -c "pwrite -q -b 64k ${1}m 2m" "$dev"
}

get_2_mib()
{
	"${@:2}" xfs_io -d -c "pread -q -b 64k ${1}m 2m" "$dev"
}

# At half a MiB a second it is four seconds, less what may come at once. In the debug kernel that is
# what it takes anyway, so there is less.
# limited VERB: put or get
limited()
{
	local ms free try
	drop_caches
	# A guest that was stopped meanwhile says nothing.
	for ((try = 0; try < 5; try++)); do
		took "$1_2_mib" 0
		free=$ms
		[ "$free" -gt 1000 ] || break
	done
	took "$1_2_mib" 4 slowly
	note "$1 2 MiB: $ms ms with a limit, $free without"
	check "the limit holds" test "$ms" -ge $((free + 2000))
}

limits()
{
	touch "$2/image"
	[ "$1" != btrfs ] || chattr +C "$2/image"
	truncate -s 16M "$2/image"
	[ "$1" != btrfs ] || written_file "$2/image" $((16 << 20))
	sync -f "$2"
	slow_disk "$(findmnt -no SOURCE "$2")" $((524288 / ${DMLOOP_TIME_FACTOR:-1}))
	dev=$(loop_dev x "$2/image")
	limited put
	sync "$dev"
	limited get
	same "mode" "$(status_field x mode) $(status_field x dio)" "$([ "$1" = btrfs ] && echo file || echo mapped) 1"
	dmsetup remove x
}

# As systemd does it, with memory alone: the cgroup of I/O is the root's.
memory_group()
{
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
	echo "-io +memory" >/sys/fs/cgroup/cgroup.subtree_control
	mkdir -p "$group"
}

within()
(
	echo "$BASHPID" >"$group/cgroup.procs"
	exec "$@"
)

# MiB of the page cache that are the group's
has_mib()
{
	echo $(($(awk '$1 == "file" { print $2 }' "$group/memory.stat") >> 20))
}

# What is in the page cache of the file belongs to who wrote or read it. A little is counted late.
memory()
{
	local group=/sys/fs/cgroup/$1
	memory_group
	truncate -s 32M "$2/image"
	dev=$(loop_dev x "$2/image")
	same "mode" "$(status_field x mode) $(status_field x dio)" "file 0"
	put_2_mib 0
	check "what is written outside is not its" test "$(has_mib)" = 0
	within xfs_io -d -c "pwrite -q -b 1m 4m 8m" "$dev"
	note "it has $(has_mib) MiB"
	check "what it wrote" test "$(has_mib)" -ge 7
	put_2_mib 16
	check "no more than that" test "$(has_mib)" -le 9
	if [ "$1" != tmpfs ]; then
		drop_caches
		check "its pages are gone" test "$(has_mib)" -le 1
		within xfs_io -d -c "pread -q -b 64k 4m 4m" -c "pread -q -b 1m 8m 4m" "$dev"
		note "it has $(has_mib) MiB"
		check "what it read" test "$(has_mib)" -ge 7
	fi
	rmdir "$group"
	put_2_mib 4
	dmsetup remove x
}

for_each_fs memory tmpfs btrfs
for_each_fs limits ext4 xfs btrfs
