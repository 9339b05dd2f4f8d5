# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Power cuts, for the tests crash-*. The host filesystem is on a small disk whose
# writes are logged (dm-log-writes). Then the log is replayed up to a flush, and the
# image must have all that was promised before that flush: see crash.c, replay.c.
# shellcheck disable=SC2154 # state is set in lib.sh

crash_disk_mib=64
crash_image_mib=12
crash_points=0

# crash_begin FS [MKFS OPTIONS...]: a filesystem in /mnt/host, on a disk full of old data.
crash_begin()
{
	crash_fs=$1
	shift
	modprobe -r brd
	# Three disks in memory: the host's, one to replay to, one for what a look changes.
	modprobe brd rd_nr=3 rd_size=$((crash_disk_mib << 10))
	(yes 'what was on the disk' || true) |
		dd of=/dev/ram0 bs=1M count=$crash_disk_mib iflag=fullblock oflag=direct status=none
	case $crash_fs in
	ext3 | ext4) make_fs "$crash_fs" /dev/ram0 -E nodiscard -J size=4 "$@" ;;
	# Smaller than mkfs.xfs likes; quick to copy.
	xfs) make_fs xfs /dev/ram0 --unsupported -d agcount=2 "$@" ;;
	esac
	mkdir -p /mnt/host
	mount /dev/ram0 /mnt/host
}

# crash_image KIND [OPTIONS OF THE TABLE...]: /mnt/host/image, and for reflinked ones a clone
# of it. A journalled one works by file I/O, and so does a reflinked one without unshare.
crash_image()
{
	local bytes=$((crash_image_mib << 20))
	crash_base='' crash_mode=mapped crash_mount=defaults
	case $1 in
	sparse) truncate -s "$bytes" /mnt/host/image ;;
	journalled)
		crash_mode=file crash_mount=data=journal
		truncate -s "$bytes" /mnt/host/image
		;;
	fallocated) fallocate -l "$bytes" /mnt/host/image ;;
	reflinked)
		crash init /mnt/host/image "$bytes"
		cp --reflink=always /mnt/host/image /mnt/host/clone
		crash_base=base
		[[ " ${*:2} " == *" unshare "* ]] || crash_mode="file"
		;;
	esac
}

# crash_log: from now on all that is written to the host's disk is logged.
#
# log-writes takes what a flush makes safe along when that begins, and logs it when it ends. Of
# two at a time the second can log newer data of a block first, and a mark can come before data
# that was promised. A FUA write is logged at once, before older data of its block. The loop
# driver is there because all its requests go through a queue that does one flush after the
# other, and makes a write and a flush of FUA.
crash_log()
{
	umount /mnt/host
	dd if=/dev/ram0 of=/dev/ram1 bs=1M iflag=direct oflag=direct status=none
	dmsetup create log --table "0 $((crash_disk_mib << 11)) log-writes /dev/ram0 $(disk 1)"
	crash_node=$(losetup --direct-io=on -f --show /dev/mapper/log)
	mount -o "$crash_mount" "$crash_node" /mnt/host
	dmsetup message log 0 mark begin
}

# crash_log_end: the log is complete.
crash_log_end()
{
	umount /mnt/host
	losetup -d "$crash_node"
	dmsetup remove --retry log
}

# crash_check NAME TRACE N|all [base]: a file that is as long as the image
crash_check()
{
	crash check "/mnt/host/$1" $((crash_image_mib << 20)) "${@:2}"
}

# crash_end: all that was written must be in the file.
crash_end()
{
	dmsetup remove disk
	check "the file has all that was written" \
		crash_check image "$state/trace" all ${crash_base:+base}
	[ -z "$crash_base" ] ||
		check "the clone is unchanged" crash_check clone /dev/null 0 base
	crash_log_end
}

# What is checked in the mounted filesystem after a power cut; a test may have its own.
crash_look()
{
	crash_check image "$state/trace" "$1" ${crash_base:+base} || return
	[ -z "$crash_base" ] || crash_check clone /dev/null 0 base
}

crash_fsck()
{
	case $crash_fs in
	ext3 | ext4) e2fsck -fn "$1" ;;
	xfs) xfs_repair -n "$1" ;;
	esac >"$state/fsck" 2>&1 || { cat "$state/fsck"; return 1; }
}

# One power cut: what is on /dev/mapper/snap is what the disk has.
crash_cut()
{
	mount -o "$crash_mount" /dev/mapper/snap /mnt/host || return
	crash_look "$1" || return
	umount /mnt/host || return
	crash_fsck /dev/mapper/snap
}

# crash_replay COUNT: cut the power at that many places of the log.
crash_replay()
{
	local count log pos=0 i n at next ack kind some
	local -a places picked
	count=$(rounds "$1")
	log=$(disk 1)
	# Each place: entries up to it, promises made, what it is, entries up to the next place
	# without that. Before the last mark "begin" a test was not ready to be cut.
	mapfile -t places < <(replay list "$log" | awk '
		last != "" { place[n++] = last " " $1 - 1; last = "" }
		$2 == "mark" && $3 == "begin" { n = 0; begun = 1 }
		$2 == "mark" && $3 == "ack" { ack = $4 }
		begun { last = $1 " " (ack + 0) " " $2 }
		END { for (i = 0; i < n; i++) print place[i] }')
	same "promises in the log" "$(replay list "$log" |
		awk '$2 == "mark" && $3 == "ack" { n = $4 } END { print n + 0 }')" "$(crash last "$state/trace")"
	n=${#places[@]}
	note "$n places where the power may be cut"
	[ "$n" -ge "$count" ] || fail "fewer than $count places"
	for ((i = 0; i < count; i++)); do
		# One of each part of the log.
		random at $((n / count))
		picked+=($((i * n / count + at)))
	done
	for i in "${picked[@]}"; do
		read -r at ack kind next <<<"${places[i]}"
		replay apply "$log" /dev/ram1 "$pos" "$at"
		pos=$at
		dmsetup create snap --table "0 $((crash_disk_mib << 11)) snapshot /dev/ram1 /dev/ram2 N 8"
		# Of what the disk had in its cache, some may have arrived too.
		random some 2
		[ "$some" = 0 ] || replay some "$log" /dev/mapper/snap "$at" "$next" "$RANDOM"
		crash_cut "$ack" ||
			fail "power cut after $at entries ($kind$([ "$some" = 0 ] || echo ', and some')), $ack promises"
		dmsetup remove snap
		crash_points=$((crash_points + 1))
	done
	note "$count power cuts, $crash_points so far"
}

# crash_case FS KIND OPS CUTS [OPTIONS OF THE TABLE...]; with crash_align=N all writes are
# of N whole sectors
crash_case()
{
	local fs=$1 kind=$2 ops=$3 cuts=$4 seed
	shift 4
	note "$fs, $kind image${*:+, $*}${crash_align:+, in units of $crash_align sectors}"
	crash_begin "$fs"
	crash_image "$kind" "$@"
	crash_log
	loop_dev disk /mnt/host/image 0 "$@" >/dev/null
	same "mode" "$(status_field disk mode)" "$crash_mode"
	random seed $((1 << 30))
	crash write /dev/mapper/disk "$state/trace" "$seed" "$ops" log "${crash_align:-1}" >&2
	dmsetup status disk >&2
	crash_end
	crash_replay "$cuts"
	modprobe -r brd
}
