# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: one allocation of a load, resume, check, suspend or remove fails, whichever: so does the call, or it does without
# LONG: skips itself where allocations cannot be made to fail
# TIMEOUT: 200
# SKIPS: 6.1 6.12 7.2

faults=/sys/kernel/debug
[ -d "$faults/failslab" ] || skip "the kernel has no failslab: make check-debug has"

# Of a slab cache that cannot be made for the table's bios (__kmem_cache_create_args())
allow 'Call Trace:$'

# Also those that may sleep, and single pages.
for fault in failslab fail_page_alloc; do
	echo N >"$faults/$fault/ignore-gfp-wait"
	echo 0 >"$faults/$fault/verbose"
done
echo N >"$faults/fail_page_alloc/ignore-gfp-highmem"
echo 0 >"$faults/fail_page_alloc/min-order"

# each CALL: see helpers/dmfail.c, whose last words are in $said
each()
{
	local seed tries=${DMLOOP_ALL:+10000}
	random seed $((1 << 30))
	said=$(dmfail "$1" x "$image" "$(sectors "$image")" "${tries:-40}" "$seed") || fail "$1, seed $seed"
	note "$said"
}

# blocks COUNT: what dmfail has written
blocks()
{
	local i
	for ((i = 1; i <= $1; i++)); do
		head -c 4096 /dev/zero | tr '\0' "\\$(printf %o $((i % 256)))"
	done
}

control()
{
	local image=$2/image dev=/dev/mapper/x mode=mapped said count
	[ "$1" != tmpfs ] || mode="file"
	written_file "$image" $((1 << 20))
	truncate -s 8M "$image"
	dmsetup create x --table "0 $(sectors "$image") zero"
	each load
	each first
	dmsetup load x --table "$(loop_table "$image")"
	dmsetup resume x
	same "mode" "$(status_field x mode)" "$mode"
	each check
	each suspend
	count=${said##*; } count=${count% blocks}
	each resume
	check "what was written is there" cmp <(blocks "$count") \
		<(dd if="$dev" bs=4096 skip=257 count="$count" iflag=direct status=none)
	dmsetup remove x
	check "it is in the file" cmp <(blocks "$count") <(dd if="$image" bs=4096 skip=257 count="$count" status=none)
	dmsetup create x --notable
	each remove
	dmsetup remove x
	rm "$image"
}

for_each_fs control ext4 xfs tmpfs
