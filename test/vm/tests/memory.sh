# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: when no bio can be had but from its pool, first writes go on, and are what was written
# LONG: skips itself where allocations cannot be made to fail
# TIMEOUT: 240
# SKIPS: 6.1 6.12 7.2

# shellcheck disable=SC2154 # state is set in lib.sh
export state
fault=/sys/kernel/debug/failslab
[ -d "$fault" ] || skip "the kernel has no failslab: make check-debug has"

no_memory()
{
	local cache
	echo Y >"$fault/cache-filter"
	echo N >"$fault/ignore-gfp-wait"
	echo 0 >"$fault/verbose"
	echo 1000000 >"$fault/times"
	for cache in /sys/kernel/slab/bio-* /sys/kernel/slab/biovec-*; do
		echo 1 >"$cache/failslab"
	done
	echo 100 >"$fault/probability"
}

memory_again()
{
	local cache
	echo 0 >"$fault/probability"
	for cache in /sys/kernel/slab/bio-* /sys/kernel/slab/biovec-*; do
		echo 0 >"$cache/failslab"
	done
}
trap memory_again EXIT

# Large and small side by side: what a small one fills cuts a large one into parts.
fio_writes()
{
	fio --name=x --filename=/dev/mapper/disk --direct=1 --ioengine=libaio --iodepth=32 --numjobs=2 \
		--offset_increment=16M --size=16M --rw=randwrite --blockalign=4k --randseed="$1" \
		--bssplit=4k/50:64k/20:1M/30 --verify=crc32c --output="$state/fio.log" "${@:2}"
}

first_writes()
{
	local image=$2/image seed failed
	random seed $((1 << 30))
	truncate -s 32M "$image"
	loop_dev disk "$image" >/dev/null
	no_memory
	check "they go on, seed $seed" timeout $((60 * ${DMLOOP_TIME_FACTOR:-1})) \
		bash -c "$(declare -f fio_writes); fio_writes $seed --do_verify=0 --fsync=32"
	memory_again
	failed=$((1000000 - $(<"$fault/times")))
	check "$failed allocations failed" test "$failed" -gt 100
	check "they are what was written" fio_writes "$seed" --verify_only --verify_fatal=1
	same "so is the file" "$(sync /dev/mapper/disk; digest "$image")" "$(digest /dev/mapper/disk)"
	dmsetup remove disk
	rm "$image"
}
for_each_fs first_writes

# What a part of a large write is given is not in one piece either.
scattered()
{
	local i
	# Else there is a large piece that is only kept for hard times.
	xfs_io -x -c 'resblks 64' "$2" >/dev/null
	fallocate -l $(($(df -k --output=avail "$2" | tail -n 1) - 2048))K "$2/filler"
	for ((i = 0; i < 800; i++)); do
		echo "fpunch $((i * 128))k 64k"
	done | xfs_io "$2/filler" >/dev/null
	sync -f "$2"
	for i in 1 2 3; do
		first_writes "$@"
	done
}
for_each_fs scattered xfs
