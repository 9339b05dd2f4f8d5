# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the tests in tests/ are written with. The runner sources it before each
# test; README.md says how a test looks.

set -Eeuo pipefail

state=/run/dmloop
mkdir -p "$state"

# shellcheck source=test/vm/reports.sh
. "$(dirname "${BASH_SOURCE[0]}")/reports.sh"

# ------------------------------------------------------------- how it ends --

# Where in the test it was: the calls, innermost first, without those in here.
where()
{
	local i
	for ((i = 1; i < ${#FUNCNAME[@]}; i++)); do
		[[ "${BASH_SOURCE[i]:-}" == */tests/* || "${BASH_SOURCE[i]:-}" == */files/* ]] || continue
		printf '   at %s:%s\n' "${BASH_SOURCE[i]##*/}" "${BASH_LINENO[i - 1]}"
	done
}

# An unexpected failure names its place; without this a test would just stop.
err_trap()
{
	local status=$1 command=$2
	# skip, or a subshell that has said it already
	[ "$status" != 77 ] || exit 77
	[ "$BASH_SUBSHELL" = 0 ] || exit "$status"
	printf 'FAILED with status %s: %s\n' "$status" "$command"
	where
	exit "$status"
} >&2
trap 'err_trap $? "$BASH_COMMAND"' ERR

# fail TEXT: end the test as failed.
fail()
{
	printf 'FAILED: %s\n' "$*"
	where
	trap - ERR
	exit 1
} >&2

# skip REASON: end the test, it cannot run here.
skip()
{
	printf '%s\n' "$*" >"$state/skip"
	exit 77
}

# note TEXT: say what comes next; the log of the test has it.
note()
{
	printf '== %s\n' "$*" >&2
}

# -------------------------------------------------------------- assertions --

# check TEXT COMMAND...: the command must succeed.
check()
{
	local text=$1
	shift
	if "$@"; then
		printf 'ok: %s\n' "$text" >&2
	else
		fail "$text ($*: status $?)"
	fi
}

# same TEXT GOT WANTED: the two words must be equal.
same()
{
	if [ "$2" = "$3" ]; then
		printf 'ok: %s (%s)\n' "$1" "$2" >&2
	else
		fail "$1: got '$2', wanted '$3'"
	fi
}

# matches TEXT GOT REGEX: the text must match the extended regular expression.
matches()
{
	if grep -qE -- "$3" <<<"$2"; then
		printf 'ok: %s\n' "$1" >&2
	else
		fail "$1: '$2' does not match '$3'"
	fi
}

# only SET COMMAND...: it succeeds, and writes no bytes but those of SET, as tr(1) names them
only()
{
	local other set=$1
	shift
	other=$("$@" | LC_ALL=C tr -d "$set" | wc -c) && [ "$other" = 0 ]
}

# What strerror(3) says of the errors that the tests wait for.
declare -A errno_text=(
	[EPERM]='Operation not permitted' [ENOENT]='No such file or directory' [EIO]='Input/output error'
	[ENXIO]='No such device or address' [EBADF]='Bad file descriptor' [EAGAIN]='Resource temporarily unavailable'
	[ENOMEM]='Cannot allocate memory' [EACCES]='Permission denied' [EBUSY]='Device or resource busy'
	[EEXIST]='File exists' [ENODEV]='No such device' [ENOTDIR]='Not a directory' [EISDIR]='Is a directory'
	[EINVAL]='Invalid argument' [ETXTBSY]='Text file busy' [EFBIG]='File too large'
	[ENOSPC]='No space left on device' [EROFS]='Read-only file system' [ERANGE]='Numerical result out of range'
	[ENAMETOOLONG]='File name too long' [ELOOP]='Too many levels of symbolic links'
	[EOVERFLOW]='Value too large for defined data type' [EOPNOTSUPP]='Operation not supported'
	[EDQUOT]='Disk quota exceeded' [ESTALE]='Stale file handle' [ENOTBLK]='Block device required'
	[EUCLEAN]='Structure needs cleaning' [ENODATA]='No data available' [ENOKEY]='Required key not available'
	[EXDEV]='Invalid cross-device link' [EMLINK]='Too many links' [ETIMEDOUT]='Connection timed out'
	[EFAULT]='Bad address' [EINTR]='Interrupted system call' [E2BIG]='Argument list too long'
	[ENOTTY]='Inappropriate ioctl for device' [ENOTSUP]='Operation not supported'
)

# fails WHAT COMMAND...: the command must fail, as said by WHAT: an errno (ETXTBSY),
# an extended regular expression, or both (ETXTBSY:regex). They are looked for in
# its output and in what the kernel logged meanwhile. Its output is in $output after.
fails()
{
	local what=$1 errno='' regex='' mark status=0 logged text
	shift
	case $what in
	E[A-Z0-9]*:*) errno=${what%%:*} regex=${what#*:} ;;
	*) if [[ "$what" =~ ^E[A-Z0-9]+$ ]]; then errno=$what; else regex=$what; fi ;;
	esac
	[ -z "$errno" ] || [ -n "${errno_text[$errno]:-}" ] || fail "fails: errno $errno is not in lib.sh"
	mark=$(kmsg_mark)
	output=$("$@" 2>&1 </dev/null) || status=$?
	logged=$(kmsg_since "$mark")
	text=$output$'\n'$logged
	[ "$status" != 0 ] || fail "succeeded, but should fail with $what: $* (output: $output)"
	# swapon exits with -1; 124 is one that timeout ended, 127 one that is not there
	[ "$status" -lt 124 ] || [ "$status" = 255 ] || fail "died with status $status: $* (output: $output)"
	if [ -n "$errno" ] && ! grep -qF -e "${errno_text[$errno]}" -e "(-$errno)" <<<"$text"; then
		fail "failed, but not with $errno: $*"$'\n'"$text"
	fi
	if [ -n "$regex" ] && ! grep -qE -- "$regex" <<<"$text"; then
		fail "failed, but without '$regex': $*"$'\n'"$text"
	fi
	printf 'ok: fails with %s: %s\n' "$what" "$*" >&2
}

# ---------------------------------------------------------- the kernel log --

# kmsg_mark: a place in the kernel log, for kmsg_since.
kmsg_mark()
{
	local mark="mark $BASHPID $RANDOM$RANDOM"
	printf 'dm-loop test: %s\n' "$mark" >/dev/kmsg
	printf '%s\n' "$mark"
}

# kmsg_since [MARK]: what the kernel logged since then, or since the test began.
kmsg_since()
{
	local mark=${1:-begin $test_name}
	dmesg | awk -v mark="dm-loop test: $mark" '
		substr($0, length($0) - length(mark) + 1) == mark { text = ""; next }
		/dm-loop test: mark / { next }
		{ text = text $0 "\n" }
		END { printf "%s", text }'
}

# kmsg_has REGEX [MARK]: has the kernel logged it?
kmsg_has()
{
	kmsg_since "${2:-}" | grep -E -- "$1" >/dev/null
}

# allow REGEX...: such a line in the kernel log, or in what --verify says, is meant, and no failure.
allow()
{
	printf '%s\n' "$@" >>"$state.allow"
}

# --------------------------------------------------------- random, the same --

# random VARIABLE N: a number from 0 to N-1 (N up to 2^30); the same ones for the same SEED.
random()
{
	printf -v "$1" %d $((((RANDOM << 15) | RANDOM) % $2))
}

# rounds N: how often to do what takes long: N times, or in the debug kernel, where it takes
# many times as long, a part of that. DMLOOP_ALL wants all.
rounds()
{
	local n=$1
	[ -n "${DMLOOP_ALL:-}" ] || n=$((n / ${DMLOOP_TIME_FACTOR:-1}))
	echo $((n > 0 ? n : 1))
}

# draw_parts, is_drawn FILESYSTEM N: is the Nth part of a test to be run on this one of ext4 and xfs?
# It is, but in the debug kernel each part runs on one of them, by chance.
draw_parts()
{
	drawn=0
	random drawn 65536
}

is_drawn()
{
	local xfs=0
	[ "$1" != xfs ] || xfs=1
	[ "$(rounds 2)" = 2 ] || [ $(((drawn >> $2) & 1)) = "$xfs" ]
}

# random_bytes COUNT: bytes to stdout; the same ones for the same SEED (and place in the test).
random_bytes()
{
	pattern write "$RANDOM" 0 "$1"
}

# pattern write KEY OFFSET BYTES, pattern check KEY OFFSET BYTES: see helpers/pattern.c

# --------------------------------------------------- disks and filesystems --

# disk N: the node of test disk N (0, 1, 2, or 4k: sectors of 4096 bytes).
disk()
{
	local dir
	for dir in /sys/block/vd*; do
		if [ "$(<"$dir/serial")" = "disk$1" ]; then
			printf '/dev/%s\n' "${dir##*/}"
			return
		fi
	done
	fail "no disk $1 in this guest"
}

# free_disk: the first test disk that nobody uses.
free_disk()
{
	local n dev
	for n in 0 1 2; do
		dev=$(disk "$n")
		if ! grep -q "^$dev " /proc/mounts /proc/swaps && [ -z "$(ls "/sys/block/${dev#/dev/}/holders")" ]; then
			printf '%s\n' "$dev"
			return
		fi
	done
	fail "no test disk is free"
}

# make_fs TYPE DEVICE [MKFS OPTIONS...]
make_fs()
{
	local type=$1 dev=$2 force=(-f -q)
	shift 2
	case $type in
	ext*) force=(-F -q) ;;
	vfat) force=() ;;
	f2fs) force=(-f) ;;
	xfs) force=(-f -q -K) ;;
	esac
	# It says on stdout when it finds a partition table.
	wipefs -q -a "$dev" >/dev/null
	"mkfs.$type" "${force[@]}" "$@" "$dev" >"$state/mkfs.log" 2>&1 ||
		fail "mkfs.$type $* $dev: $(cat "$state/mkfs.log")"
}

# mkfs_mount [-d DISK] [-o MOUNT OPTIONS] TYPE [MKFS OPTIONS...]: a new filesystem on a
# free test disk; prints where it is mounted. TYPE may be tmpfs too.
mkfs_mount()
{
	local dev='' opts=defaults type dir n=0
	while [[ "${1:-}" == -[do] ]]; do
		case $1 in
		-d) dev=$(disk "$2") ;;
		-o) opts=$2 ;;
		esac
		shift 2
	done
	type=$1
	shift
	dir=/mnt/$type
	while mountpoint -q "$dir"; do
		n=$((n + 1))
		dir=/mnt/$type-$n
	done
	mkdir -p "$dir"
	if [ "$type" = tmpfs ]; then
		dev=tmpfs
	else
		[ -n "$dev" ] || dev=$(free_disk)
		make_fs "$type" "$dev" "$@"
	fi
	mount -t "$type" -o "$opts" "$dev" "$dir"
	printf '%s\n' "$dir"
}

# for_each_fs FUNCTION [TYPE...]: call FUNCTION TYPE MOUNTPOINT on a new filesystem of
# each type (ext4 and xfs), and clean up after each.
for_each_fs()
{
	local function=$1 type dir
	shift
	[ $# -gt 0 ] || set -- ext4 xfs
	for type; do
		note "$function on $type"
		dir=$(mkfs_mount "$type")
		"$function" "$type" "$dir"
		cleanup_devices
	done
}

# writes_end DEV: that is so soon, after fs-verity was enabled on the file
writes_end()
{
	local i
	for ((i = 0; i < 100; i++)); do
		xfs_io -d -c "pwrite -q 0 4k" "$1" >"$state/said" 2>&1 || true
		[ ! -s "$state/said" ] || break
		sleep 0.1
	done
	matches "writes end" "$(<"$state/said")" "Read-only file system|Input/output error"
}

# reserve DEV: ask for a persistent reservation (IOC_PR_REGISTER)
reserve()
{
	# shellcheck disable=SC2016 # perl's
	perl -e 'open(F, "+<", $ARGV[0]) or die "$!\n";
		my $key = pack("QQLL", 0, 1, 0, 0);
		ioctl(F, 0x401870c8, $key) or die "$!\n"' "$1"
}

# written_file FILE BYTES: a file whose every block is allocated and written, with random
# bytes, and on the disk.
written_file()
{
	pattern write "$RANDOM" 0 "$2" >"$1"
	sync -f "$1"
}

drop_caches()
{
	sync
	echo 3 >/proc/sys/vm/drop_caches
}

# digest FILE: the SHA-256 of a file or device
digest()
{
	sha256sum <"$1" | cut -d' ' -f1
}

# ------------------------------------------------------------- our devices --

# sectors FILE|DEVICE: its size in sectors of 512 bytes.
sectors()
{
	if [ -b "$1" ]; then
		blockdev --getsz "$1"
	else
		echo $(($(stat -L -c %s "$1") / 512))
	fi
}

# escape PATH: as the table wants it, with the octal code of bytes that dm's parser would cut at.
escape()
{
	local LC_ALL=C path=$1 word='' c i
	for ((i = 0; i < ${#path}; i++)); do
		c=${path:i:1}
		# shellcheck disable=SC2101 # the class is in a set
		[[ "$c" != [\\\#[:space:][:cntrl:]$'\xa0'] ]] || printf -v c '\\%03o' "$(($(printf '%d' "'$c") & 255))"
		word+=$c
	done
	printf '%s\n' "$word"
}

# loop_table FILE [OFFSET [OPTIONS...]]: the table of a device for the file from that byte on.
loop_table()
{
	local file=$1 offset=${2:-0} size
	shift
	[ $# -eq 0 ] || shift
	size=$(($(sectors "$file") - offset / 512))
	printf '0 %s loop %s %s%s\n' "$size" "$(escape "$file")" "$offset" "${*:+ $# $*}"
}

# loop_dev [-r] NAME FILE [OFFSET [OPTIONS...]]: make the device with dmsetup; prints its node.
loop_dev()
{
	local flags=() name
	if [ "$1" = -r ]; then
		flags=(-r)
		shift
	fi
	name=$1
	shift
	dmsetup create "${flags[@]}" "$name" --table "$(loop_table "$@")" || return
	printf '/dev/mapper/%s\n' "$name"
}

# status_field NAME FIELD: one word of the status line: mode, fstype, pin, extents, mapped,
# hole, unwritten, shared, or the name of a counter.
status_field()
{
	local words i=4
	read -r -a words <<<"$(dmsetup status "$1")"
	[ "${words[2]:-}" = loop ] || fail "$1 is not a loop device: ${words[*]}"
	case $2 in
	mode) echo "${words[3]}" ;;
	fstype) echo "${words[4]}" ;;
	pin) echo "${words[5]}" ;;
	extents) echo "${words[6]}" ;;
	mapped) echo "${words[7]}" ;;
	hole) echo "${words[8]}" ;;
	unwritten) echo "${words[9]}" ;;
	shared) echo "${words[10]}" ;;
	*)
		for ((i = 12; i < ${#words[@]}; i += 2)); do
			if [ "${words[i]}" = "$2" ]; then
				echo "${words[i + 1]}"
				return
			fi
		done
		fail "no field $2 in the status of $1: ${words[*]}"
		;;
	esac
}

# ------------------------------------------------------------------ tracing --

# trace_events SYSTEM/EVENT...: trace them until the end of the test. Once and for all:
# each change patches the running kernel, which an emulated one does not always survive.
trace_events()
{
	local event
	# It would patch the scheduler.
	echo 0 >/sys/kernel/tracing/options/record-cmd
	# The usual clock is each processor's own, by which a commit may end before it begins.
	echo mono >/sys/kernel/tracing/trace_clock
	for event; do
		echo 1 >"/sys/kernel/tracing/events/$event/enable"
	done
}

# trace_begin, trace_end: what lies between is all there is in /sys/kernel/tracing/trace.
trace_begin()
{
	echo >/sys/kernel/tracing/trace
	echo 1 >/sys/kernel/tracing/tracing_on
}

trace_end()
{
	echo 0 >/sys/kernel/tracing/tracing_on
}

# sysfs DEVICE: its folder
sysfs()
{
	readlink -f "/sys/dev/block/$(printf '%d:%d' "0x$(stat -L -c %t "$1")" "0x$(stat -L -c %T "$1")")"
}

# writes_in_flight N: so many writes to the device x wait, or more if some were cut
writes_in_flight()
{
	local now
	read -r -a now <"$(sysfs /dev/mapper/x)/inflight"
	[ "${now[1]}" -ge "$1" ]
}

# no_guard: has the guard of each dmlosetup ended?
no_guard() { ! pgrep dmloop-guard >/dev/null; }

# wait_event, event_came TEXT: there is an event of the device x between them
wait_event()
{
	local n
	n=$(dmsetup info -c --noheadings -o events x)
	dmsetup wait x "$n" &
	waiting=$!
}

event_came()
{
	soon "an event" is_woken
	check "an event: $1" wait "$waiting"
}

is_woken() { ! kill -0 "$waiting" 2>/dev/null; }

# workers_wait WHO: a worker of ours waits in the filesystem, or several
workers_wait()
{
	waiting=$(ps -eo pid,stat,comm | awk -v who="$1" '$2 ~ /^D/ && $3 ~ who { print $1 }')
	[ -n "$waiting" ]
}

# workers_marked WHO: those that wait are in PF_MEMALLOC_NOIO (0x80000) and PF_LOCAL_THROTTLE
# (0x100000), by the ninth field of /proc/PID/stat
workers_marked()
{
	local pid flags
	soon "$1 waits in the filesystem" workers_wait "$1"
	for pid in $waiting; do
		flags=$(sed 's/.*) //' "/proc/$pid/stat" | cut -d ' ' -f 7)
		same "flags of $(<"/proc/$pid/comm")" "$(printf '%x' $((flags & 0x180000)))" 180000
	done
}

# soon TEXT COMMAND...: must be true within ten seconds, or what these are in a slow guest.
soon()
{
	local text=$1 try
	shift
	for ((try = 0; try < 100 * ${DMLOOP_TIME_FACTOR:-1}; try++)); do
		if "$@"; then
			printf 'ok: %s\n' "$text" >&2
			return
		fi
		sleep 0.1
	done
	fail "$text: not after ten seconds ($*)"
}

# shut_down FOLDER: the filesystem there ends without writing back what is in its journal
shut_down()
{
	allow 'XFS .*[Ss]hut(ting)? down' 'EXT4-fs .*shut down' 'Aborting journal' \
		'dm-loop: inode [0-9]+: cannot' "cannot verify .*: ${errno_text[EIO]}"
	xfs_io -x -c shutdown "$1"
}

# host_fs [-o MOUNT OPTIONS] TYPE [MKFS OPTIONS...]: a new filesystem in /mnt/host, on a device of
# that name, so that what lies below it can change: a test disk, $host_disk of $host_size sectors
host_fs()
{
	local opts=defaults
	if [ "$1" = -o ]; then
		opts=$2
		shift 2
	fi
	host_disk=$(free_disk)
	host_size=$(sectors "$host_disk")
	dmsetup create host --table "0 $host_size linear $host_disk 0"
	make_fs "$1" /dev/mapper/host "${@:2}"
	mkdir -p /mnt/host
	mount -o "$opts" /dev/mapper/host /mnt/host
}

# host_gone: unmount and remove what host_fs made
host_gone()
{
	umount /mnt/host
	dmsetup remove host
}

# host_is TABLE...: give the device host this table; what is mounted on it writes nothing back before
host_is()
{
	dmsetup suspend --noflush --nolockfs host
	dmsetup load host --table "$*"
	dmsetup resume host
}

# slow_disk DISK [BYTES]: the I/O of `slowly COMMAND...` to it is BYTES a second at most, half a MiB by default
slow_disk()
{
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
	echo +io >/sys/fs/cgroup/cgroup.subtree_control
	mkdir -p /sys/fs/cgroup/slow
	echo "$(<"/sys/block/${1#/dev/}/dev") wbps=${2:-524288} rbps=${2:-524288}" >/sys/fs/cgroup/slow/io.max
}

slowly()
(
	echo "$BASHPID" >/sys/fs/cgroup/slow/cgroup.procs
	exec "$@"
)

# ---------------------------------------------------------------- self-test --

# What differs between the maps of all devices and the filesystems' own, and whatever else
# --verify complains of. A filesystem that is frozen says nothing.
verify_devices()
{
	local said status=0
	[ -e /sys/module/dm_loop ] || return 0
	said=$(timeout $((60 * ${DMLOOP_TIME_FACTOR:-1})) dmlosetup --verify 2>&1) || status=$?
	case $status in
	0) ;;
	1) grep -vE ": (ok [0-9]+|file|released)\$|: ${errno_text[EAGAIN]}\$" <<<"$said" | not_allowed || true ;;
	*) echo "--verify: status $status: $said" ;;
	esac
}

# fs_disks: the test disks with ext4 or xfs that are mounted now, each with its filesystem
fs_disks()
{
	awk '$1 ~ "^/dev/vd" && $3 ~ "^(ext4|xfs)$" { print $1, $3 }' /proc/mounts | sort -u
}

fsck_fs()
{
	case $2 in
	ext4) e2fsck -fn "$1" ;;
	xfs) xfs_repair -n "$1" ;;
	esac >"$state/fsck.log" 2>&1
}

# check_fs DEVICE TYPE: is it sound? What was shut down is mounted first, for its log.
check_fs()
{
	local dir=$state/fsck
	! fsck_fs "$@" || return 0
	mkdir -p "$dir"
	mount -t "$2" "$1" "$dir" && umount "$dir" && fsck_fs "$@" ||
		printf '%s on %s is damaged: %s\n' "$2" "$1" "$(tail -n 20 "$state/fsck.log")"
}

verify_before()
{
	local differs
	differs=$(verify_devices)
	[ -z "$differs" ] || fail "before $*: $differs"
}

# Before a device goes it is compared, in every test.
dmsetup()
{
	[ "${1:-}" != remove ] || verify_before dmsetup "$@"
	command dmsetup "$@"
}

dmlosetup()
{
	case ${1:-} in
	-d | -D | --detach | --detach-all) verify_before dmlosetup "$@" ;;
	esac
	command dmlosetup "$@"
}

# ----------------------------------------------------------------- cleaning --

# start_udev: run udev until the end of the test, as a real machine does.
start_udev()
{
	unset DM_DISABLE_UDEV
	# It stays where it is started, and that may be a filesystem of the test.
	(cd / && /lib/systemd/systemd-udevd --daemon)
	udevadm trigger
	udevadm settle
}

# stop_udev: killed and seen to be gone. One that was only asked to exit went on once, and made
# the devices of the tests after it busy.
stop_udev()
{
	local names='systemd-udevd|[(]udev-worker[)]'
	while pkill -KILL -x "$names" 2>/dev/null; do
		sleep 0.1
	done
	# libdevmapper takes its presence for a udev that runs.
	rm -f /run/udev/control
	export DM_DISABLE_UDEV=1
}

# Unmount, remove, detach whatever a test may have left, in the order that works
# whatever is stacked on what. Says what does not go away, and then is false.
cleanup_devices()
(
	trap - ERR
	set +e
	local try name dir left='' differs disks damaged
	differs=$(verify_devices)
	disks=$(fs_disks)
	for try in 1 2 3 4 5; do
		left=
		# A suspended device blocks everything above it.
		while read -r name; do
			dmsetup resume "$name"
		done < <(dmsetup info -c --noheadings -o name,suspended 2>/dev/null |
			awk -F: '$2 == "Suspended" { print $1 }')
		[ "$(wc -l </proc/swaps)" = 1 ] || swapoff -a
		[ ! -d /proc/fs/nfsd ] || exportfs -ua
		while read -r dir; do
			fsfreeze -u "$dir"
			umount -R "$dir" || { [ "$try" -lt 4 ] || umount -l "$dir"; }
		done < <(awk '$2 ~ "^/mnt/|^/tmp/" { print $2 }' /proc/mounts | tac | sed 's/\\040/ /g')
		! dmsetup info -c --noheadings -o uuid | grep -q '^LVM-' || vgchange -an
		dmsetup remove_all
		losetup -D
		[ -z "$(losetup -a)" ] || left+=" loop devices: $(losetup -a)"
		grep -qE ' (/mnt|/tmp)/' /proc/mounts && left+=" mounts: $(grep -E ' (/mnt|/tmp)/' /proc/mounts)"
		if [ "$(dmsetup ls)" != 'No devices found' ]; then
			left+=" dm devices: $(dmsetup ls)"
		fi
		[ -n "$left" ] || break
		sleep 0.5
	done >/dev/null 2>&1
	[ -z "$left" ] || echo "cannot clean up:$left"
	[ -z "$differs" ] || echo "map and filesystem differ: $differs"
	damaged=$([ -n "$left" ] || [ -z "$disks" ] ||
		while read -r name dir; do check_fs "$name" "$dir"; done <<<"$disks")
	[ -z "$damaged" ] || echo "$damaged"
	[ -z "$left$differs$damaged" ]
)

# With kmemleak: what the module has lost, looked for while its functions have names.
find_leaks()
{
	local list=/sys/kernel/debug/kmemleak found
	[ -w "$list" ] && [ -e /sys/module/dm_loop ] || return 0
	# What was not there at the scan before, or not for five seconds, is not yet told.
	echo scan >"$list"
	sleep 5
	echo scan >"$list"
	found=$(lost_memory <"$list")
	[ -n "$found" ] || return 0
	printf 'kmemleak: %s\n' "$found"
	return 1
}

# After each test, by the runner: also the programs, and the module must go.
cleanup()
{
	local try
	if [ -e /proc/fs/nfsd/threads ]; then
		exportfs -ua
		rpc.nfsd 0
	fi 2>/dev/null
	stop_udev
	sysctl -q vm.dirty_expire_centisecs=3000 vm.dirty_writeback_centisecs=500
	cleanup_devices || return
	find_leaks || return
	for try in 1 2 3; do
		[ -e /sys/module/dm_loop ] || break
		rmmod dm_loop && break
		sleep 1
	done
	if [ -e /sys/module/dm_loop ]; then
		echo "the module cannot be unloaded: $(cat /sys/module/dm_loop/refcnt) references"
		return 1
	fi
	# shellcheck disable=SC2115 # exactly those
	rm -rf "${state:?}"/* /tmp/* /mnt/* 2>/dev/null
	return 0
}
