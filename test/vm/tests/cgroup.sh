# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: I/O limits of the cgroup that writes hold for first writes and for direct file I/O too
# TIMEOUT: 120

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

# At half a MiB a second it is four seconds, less what may come at once.
limits()
{
	local ms free
	touch "$2/image"
	[ "$1" != btrfs ] || chattr +C "$2/image"
	truncate -s 16M "$2/image"
	[ "$1" != btrfs ] || written_file "$2/image" $((16 << 20))
	sync -f "$2"
	slow_disk "$(findmnt -no SOURCE "$2")"
	dev=$(loop_dev x "$2/image")
	took put_2_mib 0
	free=$ms
	took put_2_mib 4 slowly
	note "2 MiB took $ms ms with a limit, $free without"
	check "the limit holds" test "$ms" -ge 2500
	same "mode" "$(status_field x mode) $(status_field x dio)" "$([ "$1" = btrfs ] && echo file || echo mapped) 1"
	dmsetup remove x
}

for_each_fs limits ext4 xfs btrfs
