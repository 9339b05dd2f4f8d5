# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: in file mode several write back what a flush finds after many writes, and all of it
# TIMEOUT: 300

# shellcheck disable=SC2154 # state is set in lib.sh
tracing=/sys/kernel/tracing

# random_writes COUNT [FIO-OPTIONS...]: of 4 KiB, each somewhere else
random_writes()
{
	local count=$1
	shift
	fio --name=writes --filename="$dev" --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite --bs=4k \
		--number_ios="$count" --randseed="$seed" --verify=crc32c --output="$state/fio" "$@"
}

# A flush without one before, as sync(1) of the device writes pages too; n: how many wrote back a
# piece of the file for it (btrfs itself may be one), helpers: how many of us were asked to.
flush()
{
	trace_begin
	xfs_io -d -c fsync "$dev"
	trace_end
	n=$(sed -n 's/^[^#]*-\([0-9]*\) .* dmloop_piece: .*/\1/p' "$tracing/trace" | sort -u | wc -l)
	helpers=$(grep -c ' dmloop_help: ' "$tracing/trace" || true)
}

# Whether one who helps comes before all is done is up to the scheduler.
helped()
{
	local try
	for ((try = 0; try < 10; try++)); do
		random_writes "$many" --do_verify=0
		flush
		[ "$n" -lt 2 ] || [ "$helpers" = 0 ] || return 0
	done
	return 1
}

one_processor()
{
	local status=0
	echo 0 >/sys/devices/system/cpu/cpu1/online
	"$@" || status=$?
	echo 1 >/sys/devices/system/cpu/cpu1/online
	return "$status"
}

by_several()
{
	local seed n helpers many
	random seed $((1 << 30))
	many=$(rounds 4096)
	truncate -s 64M "$2/image"
	dev=$(loop_dev x "$2/image")

	note "many writes"
	check "several write back" helped
	drop_caches
	check "what was written" random_writes "$many" --verify_only

	note "few writes"
	random_writes 32 --do_verify=0
	flush
	same "helpers" "$helpers" 0

	note "one processor"
	random_writes "$many" --do_verify=0
	one_processor flush
	same "helpers" "$helpers" 0
	drop_caches
	check "what was written" random_writes "$many" --verify_only
	dmsetup remove x
}

[ -e /sys/devices/system/cpu/cpu1/online ] || skip "one processor"
modprobe dm-loop
echo 'p:dmloop_piece filemap_fdatawrite_range' >>"$tracing/kprobe_events"
echo 'p:dmloop_help dm_loop:dm_loop_help' >>"$tracing/kprobe_events"
trace_events kprobes/dmloop_piece kprobes/dmloop_help
for_each_fs by_several btrfs f2fs
echo 0 >"$tracing/events/kprobes/enable"
echo >"$tracing/kprobe_events"
