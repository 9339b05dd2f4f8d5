# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# DESCRIPTION: dmlosetup resizes, refreshes, clones and verifies a device in use
# TIMEOUT: 400

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

size()
{
	blockdev --getsize64 /dev/mapper/disk
}

# allocated FILE: how many KiB are allocated
allocated()
{
	sync "$1"
	echo $(($(stat -c %b "$1") / 2))
}

# fs_size FOLDER: the size in KiB of the filesystem, as it says
fs_size()
{
	echo $(($(stat -f -c '%b * %S' "$1") / 1024))
}

# behind_lock FILE REASON ARGUMENT...: dmlosetup waits while FILE is locked; in between comes
# what is on stdin, and then it fails with REASON, or if there is none it does not
behind_lock()
{
	local file=$1 reason=$2 status=0 wanted=1 pid
	shift 2
	exec 7<"$file"
	flock -x 7
	dmlosetup "$@" 2>"$state/said" 7<&- &
	pid=$!
	soon "it waits" grep -q "waiting for another program that has .*${file##*/} locked" "$state/said"
	same "it is in use" "$(state_of disk)" Active
	eval "$(cat)"
	exec 7<&-
	wait $pid || status=$?
	same "it is in use" "$(state_of disk)" Active
	[ -n "$reason" ] || wanted=0
	same "status" "$status" "$wanted"
	matches "it says so" "$(<"$state/said")" "$reason"
}

# behind_suspend ARGUMENT...: dmlosetup waits while another command has the device suspended
behind_suspend()
{
	local pid
	exec 7</dev/mapper/disk
	flock -x 7
	dmsetup suspend disk
	dmlosetup "$@" 2>"$state/said" 7<&- &
	pid=$!
	soon "it waits" grep -q "waiting for another program" "$state/said"
	dmsetup resume disk
	exec 7<&-
	check "then it is done" wait $pid
}

has_grown() { [ "$(stat -c %s written)" -gt $((4 << 20)) ]; }

# What takes long or too much room is not begun, or stops.
stops()
{
	local pid status=0
	note "a size for which there is no room, and one that takes long"
	dmlosetup --prepare written --size 4M
	dmlosetup --mapped long written
	fails "would need .* bytes more, and there are .* left" dmlosetup -c long --size 100G
	same "the file stays" "$(stat -c %s written)" $((4 << 20))
	command dmlosetup -c long --size 1500M 2>"$state/said" &
	pid=$!
	soon "it has begun" has_grown
	kill -TERM $pid
	wait $pid || status=$?
	same "ended by" "$status" 143
	same "it is in use" "$(state_of long)" Active
	same "the device stays" "$(blockdev --getsize64 /dev/mapper/long)" $((4 << 20))
	same "the file is as it was" "$(stat -c %s written)" $((4 << 20))
	dmlosetup -d long
	rm written
}

waits()
{
	note "it waits for others, and then looks again"
	dmlosetup disk image
	wipefs -q -a /dev/mapper/disk
	behind_lock image '' --refresh disk </dev/null
	# What is known may be open.
	mkswap /dev/mapper/disk 4096 >/dev/null
	behind_lock /dev/mapper/disk "the ext4 on it has" -c disk --size 20M --shrink <<-EOT
		mkfs.ext4 -q /dev/mapper/disk
	EOT
	same "the file stays" "$(stat -c %s image)" $((40 << 20))
	# xfs does not let go of the name of a file in use
	if [ "$1" = ext4 ]; then
		behind_lock image "not at its path" --refresh disk <<-EOT
			mv image kept
			cp kept image
		EOT
		mv kept image
	fi
	behind_suspend -c disk --size 41M
	behind_suspend --snapshot disk taken
	rm taken
	dmlosetup -D
	truncate -s 40M image
}

is_loaded() { [ "$(dmsetup info -c --noheadings -o suspended,tables_loaded disk)" = Suspended:Both ]; }

# The last of its ioctls fails as it does for who comes second: it must not load the old table.
resumed_by_others()
{
	local last pid
	note "somebody else resumes it with the new table"
	dmlosetup disk image
	wipefs -q -a /dev/mapper/disk
	strace -qq -e trace=ioctl -o "$state/trace" dmlosetup -c disk --size 44M
	last=$(awk '/DM_DEV_SUSPEND/ { last = NR } END { print last }' "$state/trace")
	strace -qq -e trace=ioctl -e "inject=ioctl:error=EINVAL:delay_enter=$((5000000 * ${DMLOOP_TIME_FACTOR:-1})):when=$last" -o "$state/trace" \
		dmlosetup -c disk --size 48M 2>"$state/said" &
	pid=$!
	soon "the new table is loaded" is_loaded
	within dmsetup resume disk
	! wait $pid || fail "it saw no error"
	matches "it says so" "$(<"$state/said")" "was resumed by somebody else"
	same "the device" "$(size)" $((48 << 20))
	same "the file" "$(stat -c %s image)" $((48 << 20))
	same "in use" "$(state_of disk)" Active
	dmlosetup -D
	truncate -s 40M image
}

# The bits of the group are those that any entry of the ACL may have.
access()
{
	note "a file with an ACL"
	rm -f clone
	chmod 600 image
	setfacl -m u:backup:r image
	dmlosetup disk image
	dmlosetup --snapshot disk clone >/dev/null
	same "a snapshot" "$(getfacl -c clone)" "$(getfacl -c image)"
	dmlosetup --replace disk moved >/dev/null
	same "replaced" "$(getfacl -c moved)" "$(getfacl -c image)"
	note "a mask of the process"
	(
		umask 077
		dmlosetup --snapshot disk masked >/dev/null
	)
	same "a snapshot" "$(stat -c %a masked)" 600
	dmlosetup -D
	note "a folder with a default ACL"
	setfacl -b image
	chmod 660 image
	mkdir folder
	setfacl -d -m u:nobody:rw folder
	dmlosetup disk image
	dmlosetup --replace disk folder/image >/dev/null
	same "replaced" "$(getfacl -c folder/image)" "$(getfacl -c image)"
	dmlosetup -D
	rm -r moved masked folder
}

# The guard must not keep what the kernel is to take.
many_files()
{
	local fd
	note "who calls it has many files open"
	dmlosetup disk image
	(
		for ((fd = 10; fd < 300; fd++)); do
			eval "exec $fd</dev/null"
		done
		dmlosetup --replace disk moved >/dev/null
	)
	same "the device has it" "$(dmsetup table disk | cut -d' ' -f4)" "$PWD/moved"
	dmlosetup -D
	rm moved
}

# done_all_the_same COMMAND...: what was done stays when it cannot be told
done_all_the_same()
{
	check "$*" "$@" >/dev/full 2>"$state/said"
	matches "it says so" "$(<"$state/said")" "done, but standard output cannot be written"
}

not_told()
{
	note "standard output is full"
	dmlosetup disk image
	rm -f clone
	done_all_the_same dmlosetup --snapshot disk clone
	check "it is whole" cmp clone image
	done_all_the_same dmlosetup --replace disk moved
	done_all_the_same dmlosetup --defrag disk
	! dmlosetup --verify disk >/dev/full 2>"$state/said" || fail "it was told to nobody"
	matches "it says so" "$(<"$state/said")" "cannot write the result: No space left"
	same "the device has it" "$(dmsetup table disk | cut -d' ' -f4)" "$PWD/moved"
	dmlosetup -D
	rm moved
}

# By what is not on top of the device, or mounted in sight.
opened()
{
	local pid
	rm -f "$state/mounted"
	note "open elsewhere"
	dmlosetup disk image
	wipefs -q -a /dev/mapper/disk
	exec 7</dev/mapper/disk
	fails "something has it open" dmlosetup -c disk --size 20M --shrink 7<&-
	exec 7<&-
	# One partition from 1 MiB on, and behind the table what was there before.
	mkfs.ext4 -q /dev/mapper/disk 16M
	printf '\0\0\0\0\203\0\0\0\0\10\0\0\0\10\0\0' | dd of=/dev/mapper/disk bs=1 seek=446 conv=fsync status=none
	printf '\125\252' | dd of=/dev/mapper/disk bs=1 seek=510 conv=fsync status=none
	exec 7</dev/mapper/disk
	fails "something has it open" dmlosetup -c disk --size 20M --shrink 7<&-
	exec 7<&-
	# Unless they are the mistake.
	fails "the ext4 on it has 16777216 bytes" dmlosetup -c disk --size 12M --shrink
	wipefs -q -a /dev/mapper/disk
	case $1 in
	ext4) mkfs.ext4 -q /dev/mapper/disk 16M ;;
	xfs) mkfs.xfs -q -f -K --unsupported -d size=16m /dev/mapper/disk ;;
	esac
	# What is read here stays in the page cache, and is not what is there later.
	blkid -p /dev/mapper/disk >/dev/null
	exec 7</dev/mapper/disk
	mkdir -p /mnt/elsewhere
	# shellcheck disable=SC2016
	unshare -m bash -c 'mount /dev/mapper/disk /mnt/elsewhere
		case $2 in
		ext4) resize2fs /dev/mapper/disk ;;
		xfs) xfs_growfs /mnt/elsewhere ;;
		esac >/dev/null 2>&1
		: >"$1"
		exec sleep inf' - "$state/mounted" "$1" &
	pid=$!
	soon "it is mounted, unseen, and has grown" test -e "$state/mounted"
	fails "the $1 on it has" dmlosetup -c disk --size 20M --shrink
	same "the file stays" "$(stat -c %s image)" $((40 << 20))
	same "it is in use" "$(state_of disk)" Active
	kill $pid
	wait $pid || true
	exec 7<&-
	dmlosetup -D
}

# Perhaps the next partition
hidden()
{
	note "what the device does not show"
	dmlosetup disk image
	wipefs -q -a /dev/mapper/disk
	dmlosetup -D
	dmlosetup disk image --sizelimit 1M
	fails "does not show the last $((39 << 20)) bytes" dmlosetup -c disk --size 2M --shrink
	same "the file stays" "$(stat -c %s image)" $((40 << 20))
	dmlosetup -D
}

# ^S, or whoever reads the terminal waits for the device: TCXONC, TCOOFF
silent_terminal()
{
	rm clone
	check "a terminal that takes nothing" timeout $((50 * ${DMLOOP_TIME_FACTOR:-1})) script -qec 'perl -e "ioctl(STDERR, 0x540a, 0) or die"
		dmlosetup --snapshot disk clone >'"$state/said"'
		perl -e "ioctl(STDERR, 0x540a, 1) or die"' /dev/null </dev/null >/dev/null
	matches "it is done" "$(<"$state/said")" "^clone: copy of"
}

# It has a device number of its own.
btrfs_above()
{
	note "a btrfs on it"
	rm -f image clone
	truncate -s 128M image
	dmlosetup disk image
	mkfs.btrfs -q /dev/mapper/disk
	mount /dev/mapper/disk /mnt/inner
	fails "onto /dev/mapper/disk itself" dmlosetup --snapshot disk /mnt/inner/clone
	fails "would lie on that device itself" dmlosetup --replace disk /mnt/inner/clone
	check "none is left" test ! -e /mnt/inner/clone
	umount /mnt/inner
	dmlosetup -D
}

# A copy that has no room takes none: the device goes on and may need it.
no_room_for_copy()
{
	local free
	note "no room for a copy"
	rm -f clone
	written_file full $((24 << 20))
	dmlosetup disk full
	free=$(($(stat -f -c '%a * %S' .)))
	fallocate -l $((free - (16 << 20))) fill
	strace -qq -e trace=pwrite64 -o "$state/trace" dmlosetup --snapshot disk clone 2>"$state/said" &&
		fail "there was room for it"
	matches "it says so" "$(<"$state/said")" "No space left"
	cat "$state/trace" >&2
	same "writes" "$(grep -c pwrite64 "$state/trace")" 0
	check "none is left" test ! -e clone
	dmlosetup -D
	rm fill full
}

change()
{
	local fs=$1 dir=$2 was
	cd "$dir"
	dmlosetup --prepare image --size 32M
	dmlosetup disk image
	same "verify" "$(dmlosetup --verify disk)" "/dev/mapper/disk: ok 1"
	# These would punch holes, and what is added would be one
	mkfs.ext4 -q -E nodiscard /dev/mapper/disk
	mkdir -p /mnt/inner
	mount -o noinit_itable /dev/mapper/disk /mnt/inner
	random_bytes 3000000 >/mnt/inner/data

	note "grow, mounted"
	was=$(fs_size /mnt/inner)
	dmlosetup -c disk --size 64M
	same "the device" "$(size)" $((64 << 20))
	same "the file" "$(stat -c %s image)" $((64 << 20))
	check "it stays allocated" test "$(allocated image)" -ge $((64 << 10))
	resize2fs /dev/mapper/disk 2>/dev/null
	check "the ext4 on it has grown" test "$(fs_size /mnt/inner)" -gt $((was + (24 << 10)))
	dmlosetup --verify disk

	note "shrink"
	fails "would become smaller" dmlosetup -c disk --size 40M
	fails "the ext4 on it has" dmlosetup -c disk --size 40M --shrink
	same "the file stays" "$(stat -c %s image)" $((64 << 20))
	umount /mnt/inner
	e2fsck -fy /dev/mapper/disk >/dev/null 2>&1 || true
	resize2fs /dev/mapper/disk 40M 2>/dev/null
	dmsetup create top --table "0 8 linear /dev/mapper/disk $((48 << 11))"
	fails "is on top of it" dmlosetup -c disk --size 40M --shrink
	dmsetup remove top
	dmlosetup -c disk --size 40M --shrink
	same "the device" "$(size)" $((40 << 20))
	same "the file" "$(stat -c %s image)" $((40 << 20))
	check "the filesystem" e2fsck -fn /dev/mapper/disk
	mount /dev/mapper/disk /mnt/inner

	note "refresh"
	dmlosetup --refresh disk
	dmsetup suspend disk
	fails "it is suspended" dmlosetup -c disk
	dmlosetup --refresh disk
	same "resumed" "$(dmsetup info -c --noheadings -o suspended disk)" Active
	reload disk "$PWD/image"
	fails "a table is loaded for it" dmlosetup -c disk --size 48M
	fails "a table is loaded for it" dmlosetup --snapshot disk clone
	fails "a table is loaded for it" dmlosetup --refresh disk
	same "it is left" "$(dmsetup info -c --noheadings -o tables_loaded disk)" Both
	same "the file stays" "$(stat -c %s image)" $((40 << 20))
	check "no clone is left" test ! -e clone
	dmsetup clear disk

	note "snapshot"
	matches "how it was made" "$(dmlosetup --snapshot disk clone)" \
		"^clone: $([ "$fs" = xfs ] && echo clone || echo copy) of .*suspended for [0-9.]+ ms"
	check "it is clean" e2fsck -fn clone
	# A terminal sees how far a copy is
	if [ "$fs" = ext4 ]; then
		rm clone
		script -qec 'dmlosetup --snapshot disk clone' /dev/null </dev/null >"$state/said"
		matches "progress" "$(<"$state/said")" 'copying \[[#.]+\] +[0-9]+% .* of 40 MiB'
		silent_terminal
	fi
	fails "File exists" dmlosetup --snapshot disk clone
	fails "onto /dev/mapper/disk itself" dmlosetup --snapshot disk /mnt/inner/clone
	check "none is left" test ! -e /mnt/inner/clone
	fails "No such file" dmlosetup --snapshot disk nowhere/clone

	note "several devices on a file"
	umount /mnt/inner
	dmlosetup -d disk
	dmlosetup disk image --sizelimit 1M
	dmlosetup other image -o 1M
	fails "in use by another device" dmlosetup -c disk
	fails "uses the file" dmlosetup -c disk --size 80M
	# What was written to them may not be in the file, and goes on
	fails "another device uses" dmlosetup --snapshot disk second
	fails "another device uses" dmlosetup --replace disk second
	check "none is left" test ! -e second
	dmsetup suspend other
	fails "other is on the same file and would be cut" dmlosetup -c disk --size 512K --shrink
	dmsetup resume other
	same "the file stays" "$(stat -c %s image)" $((40 << 20))
	same "both are in use" "$(state_of disk) $(state_of other)" "Active Active"
	dmlosetup -d other
	dmlosetup -c disk
	same "as large as the file" "$(size)" $((40 << 20))
	dmlosetup -D

	waits "$fs"
	stops
	resumed_by_others
	hidden
	opened "$fs"
	access
	many_files
	not_told
	[ "$fs" = xfs ] || no_room_for_copy
	btrfs_above

	note "no room"
	rm -f clone image
	dmlosetup --prepare image --size 8M
	dmlosetup disk image
	fails ENOSPC dmlosetup -c disk --size 100G
	# The limit of a file also sends a signal that ends whoever does not ignore it.
	fails "File too large" bash -c 'ulimit -f 16384; exec dmlosetup -c disk --size 64M'
	same "the file stays" "$(stat -c %s image)" $((8 << 20))
	same "the device stays" "$(size)" $((8 << 20))
	same "it is in use" "$(dmsetup info -c --noheadings -o suspended disk)" Active
	dmlosetup -D

	note "mapped"
	dmlosetup --mapped disk image
	dmlosetup -c disk --size 12M
	check "all of it is allocated" test "$(allocated image)" -ge $((12 << 10))
	same "all of it is mapped" "$(status_field disk mapped)" $((12 << 11))
	# The table would not take blocks that are shared.
	matches "a snapshot is a copy" "$(dmlosetup --snapshot disk clone)" "clone: copy of "
	same "it goes on" "$(status_field disk mode)" mapped
	check "the copy is right" cmp /dev/mapper/disk clone
	dmlosetup -D
	rm clone image
	cd /
}

# A sparse image with what knows its own size on it
sparse()
{
	local fs=$1 dir=$2 was
	cd "$dir"
	truncate -s 320M image
	dmlosetup disk image
	[ "$fs" = xfs ] || fails EFBIG dmlosetup -c disk --size 4000P
	same "the file stays" "$(stat -c %s image)" $((320 << 20))
	inner_mount xfs /dev/mapper/disk

	note "grow, sparse, and the xfs on it"
	sync -f "$inner"
	was=$(allocated image)
	dmlosetup -c disk --size 420M
	same "the device" "$(size)" $((420 << 20))
	same "the file" "$(stat -c %s image)" $((420 << 20))
	check "what is added is a hole" test "$(allocated image)" -lt $((was + (8 << 10)))
	was=$(fs_size "$inner")
	xfs_growfs "$inner" >/dev/null
	check "the xfs on it has grown" test "$(fs_size "$inner")" -gt $((was + (80 << 10)))
	dmlosetup --verify disk

	note "no shrink"
	fails "the xfs on it has $((420 << 20)) bytes" dmlosetup -c disk --size 400M --shrink
	same "the device stays" "$(size)" $((420 << 20))
	same "the file stays" "$(stat -c %s image)" $((420 << 20))
	inner_check
	fails "the xfs on it has" dmlosetup -c disk --size 400M --shrink
	wipefs -q -a /dev/mapper/disk
	dmlosetup -c disk --size 24M --shrink
	mkswap /dev/mapper/disk >/dev/null
	swapon /dev/mapper/disk
	fails "the swap space on it has $((24 << 20)) bytes" dmlosetup -c disk --size 20M --shrink
	same "the device stays" "$(size)" $((24 << 20))
	swapoff /dev/mapper/disk
	dmlosetup -D
	rm image
	cd /
}

# is_short FUNCTION: dmlosetup says how long the device was suspended; that is not long
is_short()
{
	local n median
	for ((n = 0; n < 9; n++)); do
		"$1" 2>&1
	done | sed -n 's/.*suspended for \([0-9]*\)\.[0-9]* ms$/\1/p' | sort -n >"$state/times"
	same "$1: it says it each time" "$(wc -l <"$state/times")" 9
	median=$(sed -n 5p "$state/times")
	note "$1: suspended for $median ms, at most $(tail -n 1 "$state/times") ms"
	# an emulated guest is slow, but not that slow
	check "$1: the median" test "$median" -lt $((1000 * ${DMLOOP_TIME_FACTOR:-1}))
}

a_refresh() { dmlosetup -v --refresh disk; }
a_resize() { dmlosetup -v -c disk --size $(($(size) + 65536)); }
a_clone() { rm -f clone; dmlosetup --snapshot disk clone; }

idle()
{
	local fs=$1 dir=$2
	cd "$dir"
	dmlosetup --prepare image --size 32M
	dmlosetup disk image
	inner_mount ext4 /dev/mapper/disk
	is_short a_refresh
	is_short a_resize
	# a copy takes what it takes
	[ "$fs" != xfs ] || is_short a_clone
	inner_check
	dmlosetup -D
	rm -f image clone
	cd /
}

# refused_clone WHY: no snapshot of disk, which goes on, mapped
refused_clone()
{
	fails "$1" within dmlosetup --snapshot disk clone
	same "it is in use" "$(dmsetup info -c --noheadings -o suspended disk)" Active
	same "it goes on" "$(status_field disk mode)" mapped
	check "there is no snapshot" test ! -e clone
	check "it can be written" xfs_io -d -c "pwrite -q 0 64k" /dev/mapper/disk
}

# The device cannot be resumed as long as there is the clone
refused()
{
	local dir=$2
	cd "$dir"
	dmlosetup --prepare image --size 64M

	note "a clone, and no space for blocks of its own"
	dmlosetup --mapped --unshare disk image
	fallocate -l 24M space
	fill_up "$dir"
	rm space
	refused_clone "is as it was before"
	rm full.*
	matches "with space" "$(dmlosetup --snapshot disk clone)" "clone: clone of "
	same "it goes on" "$(status_field disk mode)" mapped
	check "the clone is right" cmp /dev/mapper/disk clone
	dmlosetup -D
	rm clone image

	note "another device refuses shared blocks"
	dmlosetup --prepare image --size 64M
	dmlosetup disk image --sizelimit 32M
	dmlosetup --mapped other image --offset 32M
	within dmsetup suspend other
	refused_clone "is as it was before"
	within dmsetup resume other
	dmlosetup -D
	rm image
	cd /
}

for_each_fs change
for_each_fs sparse
for_each_fs idle
for_each_fs refused xfs
