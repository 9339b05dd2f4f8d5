#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# DESCRIPTION: first writes to sparse and fallocated images, a rewritten range, file mode; against loop
# MINUTES: 60

# shellcheck source=test/bench/guest/lib.sh
. "$(dirname "$0")/lib.sh"

# The allocation chunk of a device without the option.
chunk=$((1 << 20))

# In MiB: what rand4k, rewrite4k and read4k go over, and an image for first writes. Counted
# instructions repeat; a time of 0.2 seconds does not. Nor would so few runs show three percent.
area=32
image_size=256
rewrites=1
[ "$clock" = icount ] || area=128 image_size=1024 rewrites=10

# What fio does, by the last word of the case. The last fsync is part of the time.
job()
{
	case $1 in
	seq128k) options=(--rw=write --bs=128k --iodepth=16 "--size=$((area * 4))M") ;;
	rand4k) options=(--rw=randwrite --bs=4k --iodepth=32 "--size=${area}M") ;;
	thin64k) options=(--iodepth=32 --read_iolog=/tmp/thin64k) ;;
	thin1m) options=(--iodepth=32 --read_iolog=/tmp/thin1m) ;;
	read4k) options=(--rw=randread --bs=4k --iodepth=32 "--size=${area}M") ;;
	rewrite4k) options=(--rw=randwrite --bs=4k --iodepth=32 "--size=${area}M" "--io_size=$((area * 2))M") ;;
	esac
	[ "$1" = read4k ] || options+=(--end_fsync=1)
}

# thin_log NAME TOUCHES STEP: 4 KiB in each area of STEP bytes, once, in random order; fio
# cannot do that by itself.
thin_log()
{
	awk -v n="$2" -v step="$3" -v dev="$dev" 'BEGIN {
		srand(1)
		for (i = 0; i < n; i++)
			at[i] = i
		for (i = n - 1; i > 0; i--) {
			j = int(rand() * (i + 1)); t = at[i]; at[i] = at[j]; at[j] = t
		}
		printf "fio version 2 iolog\n%s add\n%s open\n", dev, dev
		for (i = 0; i < n; i++)
			printf "%s write %d 4096\n", dev, at[i] * step + int(rand() * step / 4096) * 4096
		printf "%s close\n", dev
	}' >"/tmp/$1"
}

# first CASE WHO ROUND: into an image that nobody has written. Of so few writes as one in 1 MiB
# the log of xfs may take a tenth of the time or nothing: three images a round.
first()
{
	local i
	if [[ "$1" != *thin1m ]]; then
		first_once "$@"
		return
	fi
	for i in 2 1 0; do
		first_once "$1" "$2" $((3 * $3 - i))
	done
}

first_once()
{
	local case=$1 who=$2 alloc size=$image_size before touches=0
	read -r _ alloc work <<<"$case"
	# The file that it is a clone of, and the copy, must have room.
	[ "$alloc" != shared ] || size=256
	case $work in
	thin64k) touches=$((size * 16)) ;;
	thin1m)
		touches=1024 size=1024
		# Two chunks for a touch: both could be taken, and shall not.
		[ "$alloc" != sparse ] || size=2048
		;;
	esac
	fresh_image "$alloc" $size
	attach "$who"
	[ $touches = 0 ] || thin_log "$work" $touches $((size * 1048576 / touches))
	job "$work"
	before=$(stat -c %b "$image")
	measure "$case" "$who" "$3" "$dev" "${options[@]}"
	if [ "$who" = dm-loop ] && [ $size = 2048 ] && [ "$3" = $((3 * rounds)) ]; then
		emit space "$case" "$3" $((($(stat -c %b "$image") - before) * 512)) $touches $chunk
	fi
	drop_image
}

# filled ALLOCATION: an image all of which was written through the device, at random
filled()
{
	fresh_image "$1" $area
	attach dm-loop
	job rand4k
	fio --name=fill --filename="$dev" --direct=1 --ioengine=libaio "${options[@]}" >/tmp/fio.log 2>&1
}

# again CASE: a range that was filled by random writes, against a file prepared for it which got
# the same writes. In each round the two are there at a time, and their runs take turns: where
# on the disk they lie makes more of a difference than how they were made.
again()
{
	local case=$1 alloc round i who whos=(dm-loop prepared)
	local -A devs
	emit note "$case"
	read -r _ alloc _ <<<"$case"
	for ((round = 0; round < rounds; round++)); do
		device_name=prepared image=$dir/prepared attached=
		filled prepared
		devs[prepared]=$dev
		device_name=bench image=$dir/image attached=
		filled "$alloc"
		devs[dm-loop]=$dev
		# What is done late is done: commits, times.
		sleep 3
		drop_caches
		job rewrite4k
		for ((i = 1; i <= rewrites; i++)); do
			for who in "${whos[@]}"; do
				measure "$case" "$who" $((round * rewrites + i)) "${devs[$who]}" "${options[@]}"
			done
			whos=("${whos[1]}" "${whos[0]}")
		done
		dmsetup remove prepared
		rm "$dir/prepared"
		drop_image
	done
}

# copied CASE WHO ROUND: in a clone each block of which was written once.
copied()
{
	fresh_image shared $area
	attach "$2"
	job rand4k
	fio --name=fill --filename="$dev" --direct=1 --ioengine=libaio "${options[@]}" >/tmp/fio.log 2>&1
	drop_caches
	job rewrite4k
	measure "$1" "$2" "$3" "$dev" "${options[@]}"
	drop_image
}

# written CASE WHO ROUND: in an image that is written.
written()
{
	local alloc work size=$area
	read -r _ alloc work <<<"$1"
	# As large as what is written in order.
	[ "$work" != seq128k ] || size=$((area * 4))
	fresh_image "$alloc" $size
	attach "$2"
	job "$work"
	measure "$1" "$2" "$3" "$dev" "${options[@]}"
	drop_image
}

null_disks 1 2 2
for fs in ext4 xfs; do
	new_fs $fs /dev/nullb0
	for alloc in sparse fallocated; do
		case="$fs $alloc seq128k"
		if wanted "$case"; then
			compare "$case" first dm-loop loop-dio loop
			target "$case" dm-loop loop-dio "$([ $fs = xfs ] && echo 1.05 || echo 1.00)"
			target "$case" dm-loop loop 2.00
		fi
		case="$fs $alloc rand4k"
		if wanted "$case"; then
			compare "$case" first dm-loop loop-dio loop
			target "$case" dm-loop loop-dio 1.50
		fi
		for work in thin64k thin1m; do
			case="$fs $alloc $work"
			if wanted "$case"; then
				compare "$case" first dm-loop loop-dio
				target "$case" dm-loop loop-dio 0.90
			fi
		done
		case="$fs $alloc rewrite4k"
		if wanted "$case"; then
			again "$case"
			target "$case" dm-loop prepared 0.97
		fi
	done
done

# A clone, in file mode; made the file's own first it is mapped.
for work in seq128k rand4k thin64k rewrite4k read4k; do
	case="xfs shared $work"
	wanted "$case" || continue
	function=written
	[ $work != rewrite4k ] || function=copied
	[ $work != thin64k ] || function=first
	compare "$case" $function dm-loop loop-dio loop unshare
	ratio "$case" dm-loop loop-dio
	ratio "$case" dm-loop loop
done

# Here processors work side by side and there is a page cache: only time counts.
[ "$clock" = wall ] || exit 0
umount "$dir"
mounted=
# On a small disk btrfs has no room for the metadata of many writes to random places, and
# writes back all the time: 48 MiB on 2 GiB take it five times as long as on 64.
null_disks 1 64 2
for fs in tmpfs btrfs; do
	new_fs $fs /dev/nullb0
	# Some seconds each, or it is chance on which processor a worker wakes.
	area=192 image_size=256
	[ $fs = tmpfs ] || area=48
	for work in 'sparse rand4k' 'written rewrite4k' 'written read4k'; do
		case="$fs $work"
		wanted "$case" || continue
		function=first
		[ "${work% *}" = sparse ] || function=written
		compare "$case" $function dm-loop loop
		target "$case" dm-loop loop 1.20
	done
done
# Without checksums both can do direct I/O.
for work in 'nocow rewrite4k' 'nocow read4k'; do
	case="btrfs $work"
	wanted "$case" || continue
	compare "$case" written dm-loop loop-dio
	ratio "$case" dm-loop loop-dio
done
