# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: fio verifies random writes of 512 B to 1 MiB among trims, four jobs 32 deep, from an empty image on
# LONG: fio writes and verifies for half a minute
# TIMEOUT: 600

# shellcheck disable=SC2154 # state is set in lib.sh
# With DMLOOP_SOAK as often as it fits into those seconds.
begin=$SECONDS

# fio ends with 0 though one of its jobs was killed. It says so on stderr, and nothing else.
run_fio()
{
	local status=0
	fio "$@" 2>"$state/fio.err" || status=$?
	cat "$state/fio.err" >&2
	same "status of fio" "$status" 0
	check "no job of fio was killed" test ! -s "$state/fio.err"
}

# Each job has a part of the device of its own, because a job knows only what it wrote
# itself. Between them others write and trim; the parts do not end where blocks end. One
# writes each block as soon as it has trimmed it.
fio_jobs()
{
	local seed part=$((16 << 20)) used=$(((11 << 20) + 1536)) again=$((14 << 20))
	local jobs=(--filename=/dev/mapper/disk --direct=1 --ioengine=libaio --iodepth=32 --numjobs=4
		--offset_increment="$part")
	local common=("${jobs[@]}" --blockalign=512
		--bssplit=512/20:1k/10:4k/25:12k/10:64k/15:256k/10:1M/10)
	random seed $((1 << 30))
	note "seed $seed"
	run_fio --group_reporting --randseed="$seed" --output="$state/fio.log" \
		--name=write "${common[@]}" --size="$used" --rw=randrw --rwmixread=30 --fsync=64 \
		--verify=crc32c --verify_fatal=1 --verify_backlog=64 \
		--name=dirty "${common[@]}" --offset="$used" --size=$((again - used)) --rw=randwrite --loops=4 \
		--name=trim "${common[@]}" --offset="$used" --size=$((again - used)) --rw=randtrim --loops=8 \
		--name=again "${jobs[@]}" --offset="$again" --size=$((part - again)) --rw=trimwrite --bs=8k --loops=4 \
		--verify=crc32c --verify_fatal=1
	grep -E 'read:|write:|trim:' "$state/fio.log" >&2
	dmsetup status disk >&2
	check "what had blocks was trimmed" test "$(status_field disk punches)" -ge 50
}

load()
{
	local fs=$1 dir=$2 kind image nth=0
	for kind in sparse fallocated; do
		nth=$((nth + 1))
		is_drawn "$fs" "$nth" || continue
		note "$fs, $kind"
		image=$dir/$kind
		case $kind in
		sparse) truncate -s 64M "$image" ;;
		fallocated) fallocate -l 64M "$image" ;;
		esac
		loop_dev disk "$image" >/dev/null
		same "mode" "$(status_field disk mode)" mapped
		fio_jobs
		dmsetup remove disk
		rm "$image"
	done
}

draw_parts
for_each_fs load ext4 xfs
while [ $((SECONDS - begin)) -lt "${DMLOOP_SOAK:-0}" ]; do
	for_each_fs load ext4 xfs
done
