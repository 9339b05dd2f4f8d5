# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a dmlosetup --replace that fails, or is killed at any step, leaves the device in use and whole
# LONG: runs the command some fifty times
# TIMEOUT: 1600

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# table_word N: of the table of disk
table_word()
{
	dmsetup table disk | cut -d' ' -f"$1"
}

# refuse WHAT ARGUMENT...: dmlosetup fails, and all is as it was
refuse()
{
	local why=$1 before
	shift
	before="$(dmsetup table disk) $(ls -A "$there")"
	fails "$why" within dmlosetup "$@"
	same "nothing has changed" "$(dmsetup table disk) $(ls -A "$there")" "$before"
	same "it is in use" "$(state_of disk)" Active
	writer_goes_on
}

has_ended() { ! pgrep -x dmlosetup >/dev/null; }

# is_resumed NAME, after a minute and more
is_resumed()
{
	local try
	for ((try = 0; try < 500; try++)); do
		[ "$(state_of "$1")" != Active ] || return 0
		sleep 0.2
	done
	return 1
}

is_stopped() { pgrep --runstates tT -x dmlosetup >/dev/null; }

# stopped_copy: a replace to $there/image that stands still when it has copied. It is $copier.
stopped_copy()
{
	strace -qq -o /dev/null -e trace=fchmod -e inject=fchmod:signal=STOP:when=1 \
		dmlosetup --replace disk "$there/image" 2>"$state/said" &
	copier=$!
	soon "it has copied" is_stopped
}

# in_call NUMBER: sync_file_range is 277 and ftruncate 77 on x86
in_call()
{
	local pid
	for pid in $(pgrep -x dmlosetup); do
		grep -q "^$1 " "/proc/$pid/syscall" 2>/dev/null && return
	done
	return 1
}

refused()
{
	local here=$1 there=$2 image=$1/image replaced stopped copier
	note "refused, or rolled back"
	truncate -s 24M "$image"
	inner_mount ext4 "$(loop_dev disk "$image")" 16M
	writer_start "$inner/data" $((8 << 20))
	: >"$there/exists"
	refuse EEXIST --replace disk "$there/exists"
	refuse ENOENT --replace disk "$there/nowhere/image"
	refuse "lie on that device itself" --replace disk "$inner/image"
	check "none is left on it" test ! -e "$inner/image"
	fill_up "$there"
	refuse ENOSPC --replace disk "$there/image"
	rm "$there"/full.* "$there/exists"

	note "stopped"
	strace -qq -o /dev/null -e trace=pwrite64 -e inject=pwrite64:delay_enter=300000 \
		dmlosetup --replace disk "$there/image" 2>"$state/said" &
	soon "it copies" test -s "$there/image"
	pkill -TERM -x dmlosetup
	! wait $! || fail "it was not stopped"
	matches "it says so" "$(<"$state/said")" "stopped; /dev/mapper/disk has the file that it had"
	check "none is left" test ! -e "$there/image"

	note "another table meanwhile"
	stopped_copy
	within dmlosetup -c disk --size 32M
	pkill -CONT -x dmlosetup
	! wait "$copier" || fail "it went on"
	matches "it says so" "$(<"$state/said")" "it was changed meanwhile"
	check "none is left" test ! -e "$there/image"

	note "another file at the path of the new one"
	stopped_copy
	mv "$there/image" "$there/moved"
	truncate -s 32M "$there/image"
	pkill -CONT -x dmlosetup
	! wait "$copier" || fail "it went on"
	matches "it says so" "$(<"$state/said")" "it was changed meanwhile"
	same "it has the file that it had" "$(table_word 4)" "$image"
	check "the other is left alone" test -e "$there/image"
	rm "$there/image" "$there/moved"
	writer_goes_on

	note "another file at that path while its table is loaded, and no longer"
	strace -qq -o "$state/calls" -e trace=fchmod,ioctl -e inject=fchmod:signal=STOP:when=1 \
		-e inject=ioctl:delay_exit=$((1000000 * ${DMLOOP_TIME_FACTOR:-1})) dmlosetup --replace disk "$there/image" 2>"$state/said" &
	copier=$!
	until grep -qs 'stopped by SIGSTOP' "$state/calls"; do
		kill -0 "$copier"
		sleep 0.1
	done
	mv "$there/image" "$there/moved"
	truncate -s 32M "$there/image"
	pkill -CONT -x dmlosetup
	while [ "$(dmsetup info -c --noheadings -o tables_loaded disk)" = Live ]; do
		kill -0 "$copier"
	done
	mv "$there/moved" "$there/image"
	! wait "$copier" || fail "it went on"
	matches "it says so" "$(<"$state/said")" "it was changed meanwhile"
	same "it has the file that it had" "$(table_word 4)" "$image"
	check "none is left" test ! -e "$there/image"
	writer_goes_on

	note "what was copied does not come to the disk"
	fails EIO strace -qq -o /dev/null -e trace=sync_file_range -e inject=sync_file_range:error=EIO:when=1 \
		dmlosetup --replace disk "$there/image"
	check "none is left" test ! -e "$there/image"
	writer_goes_on

	note "it hangs, and another one too"
	truncate -s 8M "$here/second"
	dmlosetup second "$here/second"
	# Held by strace for a moment only: that would keep it from dying, too
	strace -qq -o /dev/null -e trace=sync_file_range -e inject=sync_file_range:delay_enter=$((5000000 * ${DMLOOP_TIME_FACTOR:-1})):when=1 \
		dmlosetup --replace disk "$there/image" 2>/dev/null &
	stopped=$!
	soon "it is suspended, and writes back" in_call 277
	pkill -STOP -x dmlosetup
	# It has the file open for writing itself
	strace -qq -o /dev/null -e trace=ftruncate -e inject=ftruncate:delay_enter=$((5000000 * ${DMLOOP_TIME_FACTOR:-1})):when=1 \
		dmlosetup -c second --size 4M --shrink 2>/dev/null &
	stopped+=" $!"
	soon "the other cuts its file" in_call 77
	pkill -STOP -x dmlosetup
	fails ETXTBSY within dmsetup resume disk
	check "the guard resumes it after a minute" is_resumed disk
	check "and the other" is_resumed second
	writer_goes_on
	soon "both commands were killed" has_ended
	# shellcheck disable=SC2086 # two words
	wait $stopped || true
	wait_guard
	rm "$there/image"
	same "it has the file that it had" "$(table_word 4)" "$image"
	same "the other has the size of its file" "$(($(sectors /dev/mapper/second) * 512))" "$(stat -c %s "$here/second")"
	table_is_right second
	dmlosetup -d second
	rm "$here/second"

	note "somebody resumes it meanwhile"
	strace -qq -o /dev/null -e trace=sync_file_range -e inject=sync_file_range:delay_enter=$((5000000 * ${DMLOOP_TIME_FACTOR:-1})):when=1 \
		dmlosetup --replace disk "$there/image" &
	replaced=$!
	soon "it is suspended, and writes back" in_call 277
	fails ETXTBSY within dmsetup resume disk
	within dmlosetup --refresh disk
	check "it went on" wait "$replaced"
	same "it has the new file" "$(table_word 4)" "$there/image"
	writer_goes_on
	writer_stop
	inner_check
	dmlosetup -d disk
	rm "$there/image"

	note "no table for the new file"
	rm "$image"
	dmlosetup --prepare "$image" --size 8M
	dmlosetup --mapped disk "$image"
	writer_start /dev/mapper/disk $((8 << 20))
	there=$(mkfs_mount tmpfs)
	refuse "" --replace disk "$there/image"
	writer_stop
	umount "$there"
	dmlosetup -d disk
	rm "$image"
}

# It hangs where the kernel looks at the new file; what it loads comes after it was undone.
late()
{
	local here=$1 image=$1/image nth pid refreshed was
	note "whoever can read a file locks it"
	truncate -s 8M "$here/locked"
	dmlosetup locked "$here/locked"
	exec 6<"$here/locked"
	flock -s 6
	fails EBUSY timeout $((120 * ${DMLOOP_TIME_FACTOR:-1})) dmlosetup --refresh locked 6<&- &
	refreshed=$!

	note "its table comes late"
	# What makes it ready later would wait for the host, too, and be told as hung.
	host_fs -o noinit_itable,no_prefetch_block_bitmaps ext4
	# Nobody writes: a number of calls is the same each time then.
	written_file "$image" $((4 << 20))
	was=$(digest "$image")
	loop_dev disk "$image" >/dev/null
	strace -qq -e trace=ioctl -o "$state/trace" dmlosetup --replace disk "$here/other" >/dev/null
	nth=$(awk '/DM_TABLE_LOAD/ { print NR; exit }' "$state/trace")
	strace -qq -o /dev/null -e trace=ioctl -e "inject=ioctl:delay_enter=$((5000000 * ${DMLOOP_TIME_FACTOR:-1})):when=$nth" \
		dmlosetup --replace disk /mnt/host/image 2>/dev/null &
	pid=$!
	# DM_TABLE_LOAD
	soon "it is about to load the table" in_call "16 0x[0-9a-f]* 0xc138fd09"
	dmsetup suspend --noflush --nolockfs host
	check "the guard resumes it after a minute" is_resumed disk
	dmsetup resume host
	! wait "$pid" || fail "it went on"
	wait_guard
	same "what it has loaded is gone" "$(dmsetup info -c --noheadings -o suspended,tables_loaded disk)" Active:Live
	same "it has the file that it had" "$(table_word 4)" "$here/other"
	same "its content" "$(digest /dev/mapper/disk)" "$was"
	dmlosetup -d disk
	host_gone
	rm -f "$image" "$here/other"
	check "who waited for the lock has given up" wait "$refreshed"
	exec 6<&-
	dmlosetup -d locked
	rm "$here/locked"
}

# ------------------------------------------------------------------------- killed --

# Whichever file it has: nothing of it is lost.
whole()
{
	local file
	file=$(table_word 4)
	same "$1" "$(dmsetup info -c --noheadings -o suspended,tables_loaded disk)" Active:Live
	writer_goes_on
	table_is_right disk
	# what was half made, and what was replaced
	find "$here" "$there" -name 'image*' ! -path "$file" -delete
}

do_replace()
{
	local next=$here/image.$((++number))
	shift
	[ $((number % 2)) = 0 ] || next=$there/image.$number
	"$@" dmlosetup --replace disk "$next" >/dev/null 2>&1
}

killed()
{
	local here=$1 there=$2 number=0
	note "killed"
	truncate -s 4M "$here/image"
	writer_start "$(loop_dev disk "$here/image")" $((4 << 20))
	kill_each "--replace" "ioctl fsync fallocate ftruncate pwrite64" whole do_replace
	kill_signal=INT kill_each "--replace" "ioctl pwrite64" whole do_replace
	writer_stop
	dmlosetup -d disk
}

ext4=$(mkfs_mount ext4)
xfs=$(mkfs_mount xfs)
refused "$ext4" "$xfs"
late "$ext4"
killed "$ext4" "$xfs"
