# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: no write reaches the disk while the filesystem below is frozen, and nobody hangs
# TIMEOUT: 240

# Seconds until what waits for nothing hangs
patience=$((20 * ${DMLOOP_TIME_FACTOR:-1}))

# Sectors that were written or discarded on the disk.
writes()
{
	awk '{ print $7 + $14 }' "/sys/block/${disk#/dev/}/stat"
}

# put KEY MIB: a MiB of a pattern, there
put()
{
	pattern write "$1" 0 $((1 << 20)) | dd of="$dev" bs=1M seek="$2" iflag=fullblock oflag=direct conv=notrunc status=none
}

has()
{
	pattern check "$1" 0 $((1 << 20)) < <(dd if="$dev" bs=1M skip="$2" count=1 iflag=direct status=none)
}

# is_free FILE: soon, as what is put off until the thaw is done by a worker
is_free()
{
	soon "$1 is free after the thaw" can_write "$1"
}

can_write() { dd if=/dev/null of="$1" conv=notrunc status=none 2>/dev/null; }

# held_more NUMBER: bios were held since it was so large
held_more() { [ "$(status_field x held)" -gt "$1" ]; }

# Frozen, with a write that waits.
frozen_with_a_write()
{
	local dir=$1
	fsfreeze -f "$dir"
	put "$2" "$3" &
	writer=$!
	soon "a write has come" writes_in_flight 1
	check "it waits" kill -0 "$writer"
}

freeze()
{
	local file=$2/image before held given_up i
	disk=$(findmnt -no SOURCE "$2")
	written_file "$file" $((4 << 20))
	truncate -s 8M "$file"
	dev=$(loop_dev x "$file")
	put 1 0

	note "reads go on, writes wait"
	fsfreeze -f "$2"
	before=$(writes)
	writers=()
	put 2 0 &
	writers+=($!)
	put 3 1 &
	writers+=($!)
	put 4 6 &
	writers+=($!)
	xfs_io -d -c "pwrite -q -V 1 -D 3m 4k" "$dev" &
	writers+=($!)
	soon "they have come" writes_in_flight 4
	soon "and are held" held_more 0
	check "what was there is read" has 1 0
	check "what comes reads as before" only '\0' dd if="$dev" bs=1M skip=6 count=1 iflag=direct status=none
	timeout 10 sync "$dev" || note "sync waits too"
	same "sectors written on the disk" "$(writes)" "$before"
	fsfreeze -u "$2"
	for i in "${writers[@]}"; do
		wait "$i"
	done
	has 2 0
	has 3 1
	check "then they are done" has 4 6
	check "the one with FUA too" cmp <(head -c 4096 /dev/zero | tr '\0' '\315') \
		<(dd if="$dev" bs=4k skip=768 count=1 iflag=direct status=none)

	# For itself, as a discard locks the node, so that lseek(2) waits too.
	note "discard"
	fsfreeze -f "$2"
	before=$(writes)
	held=$(status_field x held)
	blkdiscard -o 2M -l 1M "$dev" &
	writer=$!
	soon "it is held" held_more "$held"
	check "the discard waits" kill -0 "$writer"
	same "sectors written on the disk" "$(writes)" "$before"
	fsfreeze -u "$2"
	wait "$writer"
	check "then it is done" cmp -n $((1 << 20)) -i 2M:0 "$dev" /dev/zero
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'

	note "suspend without flush"
	frozen_with_a_write "$2" 5 1
	before=$(writes)
	check "suspend does not hang" timeout "$patience" dmsetup suspend --noflush x
	check "the write still waits" kill -0 "$writer"
	check "nor does resume" timeout "$patience" dmsetup resume x
	sleep 0.2
	same "sectors written on the disk" "$(writes)" "$before"
	fsfreeze -u "$2"
	wait "$writer"
	check "then it is done" has 5 1

	# It comes again at the resume, which is no error.
	note "suspend without flush, with a flush that waits"
	xfs_io -d -c "pwrite -q 7m 4k" "$dev"
	fsfreeze -f "$2"
	held=$(status_field x held)
	xfs_io -d -c fsync "$dev" &
	writer=$!
	soon "it is held" held_more "$held"
	check "the flush waits" kill -0 "$writer"
	check "suspend does not hang" timeout "$patience" dmsetup suspend --noflush x
	check "nor does resume" timeout "$patience" dmsetup resume x
	fsfreeze -u "$2"
	check "then it is done" wait "$writer"
	check "and the next one" xfs_io -d -c fsync "$dev"

	note "a device with mapped"
	written_file "$2/mapped" $((1 << 20))
	loop_dev m "$2/mapped" 0 mapped >/dev/null
	# So that the times are to move, which they cannot.
	xfs_io -d -c "pwrite -q 0 4k" -c "pwrite -q 0 4k" /dev/mapper/m
	fsfreeze -f "$2"
	check "suspend does not hang" timeout "$patience" dmsetup suspend m
	check "nor does resume" timeout "$patience" dmsetup resume m
	fsfreeze -u "$2"
	check "it can be written" xfs_io -d -c "pwrite -q 0 4k" /dev/mapper/m
	dmsetup remove m

	note "suspend with flush"
	frozen_with_a_write "$2" 6 1
	given_up=0
	timeout 2 dmsetup suspend x || given_up=$?
	same "it waits for the write, until it is interrupted" "$given_up" 124
	same "as before then" "$(dmsetup info -c --noheadings -o suspended x)" Active
	check "the write still waits" kill -0 "$writer"
	fsfreeze -u "$2"
	wait "$writer"
	check "then it is done" has 6 1
	check "suspend" timeout "$patience" dmsetup suspend x
	same "it is" "$(dmsetup info -c --noheadings -o suspended x)" Suspended
	dmsetup resume x
	check "the data" has 6 1

	note "remove"
	put 7 1
	# a fill, which is not committed
	put 7 5
	fsfreeze -f "$2"
	check "remove does not hang" timeout "$patience" dmsetup remove x
	check "the data is read from the file" pattern check 7 0 $((1 << 20)) < <(tail -c +1048577 "$file")
	fails 'shorter than the table' timeout "$patience" dmsetup create y --table "0 $((1 << 20)) loop $file 0"
	fsfreeze -u "$2"
	is_free "$file"

	note "remove by force, with a write that waits"
	dev=$(loop_dev x "$file")
	put 8 7
	frozen_with_a_write "$2" 9 7
	held=0
	# Busy is right: the writer has it open, with another table by now.
	timeout "$patience" dmsetup remove --force x || held=$?
	check "it does not hang" test "$held" != 124
	held=0
	wait "$writer" || held=$?
	check "the write failed" test "$held" != 0
	dmsetup remove x 2>/dev/null || true
	fsfreeze -u "$2"
	is_free "$file"
	check "what was there stays" pattern check 8 0 $((1 << 20)) < <(tail -c +7340033 "$file")
}

# under_way N: writes and discards to the device
under_way()
{
	local now
	read -r -a now <"$(sysfs /dev/mapper/x)/inflight"
	[ $((now[0] + now[1])) -ge "$1" ]
}

# By file I/O: the same for writes, and no filesystem is asked to commit.
freeze_by_file()
{
	local file=$2/image before fsyncs i
	disk=$(findmnt -no SOURCE "$2")
	written_file "$file" $((4 << 20))
	truncate -s 8M "$file"
	dev=$(loop_dev x "$file")
	same "mode" "$(status_field x mode)" file
	put 1 0
	sync "$dev"
	fsfreeze -f "$2"
	before=$(writes)
	fsyncs=$(status_field x fsyncs)
	writers=()
	put 2 0 &
	writers+=($!)
	put 3 1 &
	writers+=($!)
	put 4 6 &
	writers+=($!)
	xfs_io -d -c "pwrite -q -V 1 -D 3m 4k" "$dev" &
	writers+=($!)
	soon "they have come" writes_in_flight 4
	check "what was there is read" has 1 0
	# From here on lseek(2) waits, as above.
	blkdiscard -o 2M -l 512K "$dev" &
	writers+=($!)
	soon "and a discard" under_way 5
	for i in "${writers[@]}"; do
		check "it waits" kill -0 "$i"
	done
	check "they are counted" test "$(status_field x held)" -gt 0
	same "fsyncs" "$(status_field x fsyncs)" "$fsyncs"
	same "sectors written on the disk" "$(writes)" "$before"
	fsfreeze -u "$2"
	for i in "${writers[@]}"; do
		wait "$i"
	done
	has 2 0
	has 3 1
	check "then they are done" has 4 6
	check "the one with FUA too" cmp <(head -c 4096 /dev/zero | tr '\0' '\315') \
		<(dd if="$dev" bs=4k skip=768 count=1 iflag=direct status=none)
	check "and the discard" cmp -n 512K -i 2M:0 "$dev" /dev/zero
	dmsetup remove x
	check "the file" pattern check 4 0 $((1 << 20)) < <(tail -c +6291457 "$file" | head -c 1M)

	note "suspend and remove, with nothing to be committed"
	dev=$(loop_dev x "$file")
	sync "$dev"
	fsfreeze -f "$2"
	check "suspend does not hang" timeout "$patience" dmsetup suspend x
	check "nor does remove" timeout "$patience" dmsetup remove x
	fsfreeze -u "$2"
	is_free "$file"

	note "remove"
	dev=$(loop_dev x "$file")
	put 5 2
	fsfreeze -f "$2"
	check "remove does not hang" timeout "$patience" dmsetup remove x
	fsfreeze -u "$2"
	is_free "$file"
	check "the file has what was written" pattern check 5 0 $((1 << 20)) < <(tail -c +2097153 "$file" | head -c 1M)
}
for_each_fs freeze ext4 xfs
for_each_fs freeze_by_file f2fs btrfs
