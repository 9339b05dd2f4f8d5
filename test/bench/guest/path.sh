#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# DESCRIPTION: 4 KiB reads and writes where the image is mapped; against the raw disk, dm-linear, loop
# MINUTES: 40

# shellcheck source=test/bench/guest/lib.sh
. "$(dirname "$0")/lib.sh"

# run CASE WHO ROUND
run()
{
	local case=$1 who=$2 rw qd at
	read -r _ rw qd <<<"$case"
	case $who in
	raw) at=/dev/nullb1 ;;
	linear) at=/dev/mapper/linear ;;
	file) at=$image ;;
	*)
		attach "$who"
		at=$dev
		;;
	esac
	[ "$who" = file ] || check_device "$at"
	drop_caches
	measure "$case" "$who" "$3" "$at" --rw="$rw" --bs=4k --iodepth="${qd#qd}" --size=128M \
		--io_size="$([ "$clock" = wall ] && echo 64M || echo 128M)"
	detach
}

# One disk for the filesystem, one of the same kind for raw and linear.
null_disks 2 1 1
dmsetup create linear --table "0 $(sectors /dev/nullb1) linear /dev/nullb1 0"
for fs in ext4 xfs; do
	new_fs $fs /dev/nullb0
	fresh_image prepared 256
	for rw in randread randwrite; do
		for qd in qd1 qd32; do
			case="$fs $rw $qd"
			wanted "$case" || continue
			compare "$case" run dm-loop linear raw loop loop-dio file
			# Time on a busy host is not known to two percent.
			[ "$clock" = wall ] || target "$case" dm-loop linear 0.98
			target "$case" dm-loop loop 1.00
			target "$case" dm-loop loop-dio 1.00
		done
	done
done
