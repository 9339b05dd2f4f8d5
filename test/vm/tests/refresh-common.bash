# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What the tests refresh-* have in common: I/O that goes on and on above a device, and
# the steps of giving its file back. They source it:
#	. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

: "${state:?is set by lib.sh}"

# within COMMAND...: it must not hang. A guest may be slow, but not that slow. In a subshell the status
# tells: "fails" takes no 124.
within()
{
	local status=0
	[ "$1 ${2:-}" != "dmsetup remove" ] || verify_before "$@"
	timeout -k 5 $((60 * ${DMLOOP_TIME_FACTOR:-1})) "$@" || status=$?
	[ "$status" -lt 124 ] || [ "$BASH_SUBSHELL" != 0 ] || fail "hangs: $*"
	return "$status"
}

# state_of NAME: Active or Suspended
state_of()
{
	dmsetup info -c --noheadings -o suspended "$1"
}

# For the device disk
is_suspended() { [ "$(state_of disk)" = Suspended ]; }
is_active() { [ "$(state_of disk)" = Active ]; }

# events NAME: how many events the device has had
events()
{
	dmsetup info -c --noheadings -o events "$1"
}

# wakes NAME COMMAND...: the command, or what it sets off, is an event of the device
wakes()
{
	local name=$1 number pid
	shift
	number=$(events "$name")
	timeout $((60 * ${DMLOOP_TIME_FACTOR:-1})) dmsetup wait "$name" "$number" >/dev/null &
	pid=$!
	"$@"
	check "dmsetup wait wakes" wait "$pid"
}

# suspend NAME [OPTION...], resume NAME: and the mode that follows
suspend()
{
	local name=$1
	within dmsetup suspend "$@"
	same "suspended${2:+ $2}" "$(status_field "$name" mode) $(status_field "$name" pin)" "released none"
}

resume()
{
	within dmsetup resume "$1"
	table_is_right "$1"
}

# no_resume NAME REASON: the device stays suspended, the kernel log and dmlosetup have the reason, and there is an event
no_resume()
{
	wakes "$1" fails "cannot resume: $2" within dmsetup resume "$1"
	same "it stays" "$(state_of "$1") $(status_field "$1" mode)" "Suspended released"
	# The kernel's line begins otherwise
	fails "^dmlosetup: cannot resume .*: $2 [(]" within dmlosetup --refresh "$1"
	same "it stays" "$(state_of "$1") $(status_field "$1" mode)" "Suspended released"
}

# table_is_right NAME: the extent table and the filesystem agree, target by target
table_is_right()
{
	local starts start answer
	starts=$(dmsetup table "$1" | awk '$3 == "loop" { print $1 }')
	check "$1 has a target of ours" test -n "$starts"
	for start in $starts; do
		answer=$(within dmsetup message "$1" "$start" check)
		case $answer in
		'ok '* | file) ;;
		*) fail "$1: table and file are not the same: $answer" ;;
		esac
	done
}

# places FILE: where its blocks are, one word
places()
{
	sync "$1"
	filefrag -v "$1" | awk '/^ *[0-9]+:/ { print $2, $4, $6 }' | sha256sum | cut -c 1-16
}

# move_blocks FILE: its first 4 MiB get new blocks
move_blocks()
{
	dd if="$1" of="$1.part" bs=1M count=4 status=none
	fallocate -p -o 0 -l 4M "$1"
	fallocate -l 4M "$1.between"
	dd if="$1.part" of="$1" bs=1M conv=notrunc,fsync status=none
	rm "$1.part" "$1.between"
}

# fill_up FOLDER: so that its filesystem is full; FOLDER/full.* are to be removed
fill_up()
{
	local size n=0
	for size in 512M 64M 8M 1M 64K 4K; do
		while fallocate -l "$size" "$1/full.$((n++))" 2>/dev/null; do
			:
		done
	done
	sync -f "$1"
	# What was freed meanwhile
	while fallocate -l 4K "$1/full.$((n++))" 2>/dev/null; do
		:
	done
}

# reload NAME FILE [OFFSET [OPTIONS]]: load a new table, which the next resume takes
reload()
{
	local name=$1
	shift
	within dmsetup load "$name" --table "$(loop_table "$@")"
}

# ------------------------------------------------------- I/O that goes on above --

# A device or a file of zeroes is written at random, and each read is compared.
# writer_start TARGET BYTES [PACE]; writer_goes_on; writer_stop: ends it, and looks at every byte;
# writer_end and writer_was_right FILE are its halves
writer_start()
{
	local seed
	writer_target=$1 writer_bytes=$2 writer_log=$state/instants.$((++writer_number))
	random seed 32768
	instants run "$1" "$2" 2 "$writer_log" "$seed" "${3:-2000}" &
	writer_pid=$!
	soon "the writer writes" writer_wrote 2
}
writer_number=0

# writer_wrote N: has it written so much?
writer_wrote()
{
	kill -0 "$writer_pid" || fail "the writer has ended"
	[ -s "$writer_log" ] && [ "$(instants count "$writer_log")" -ge "$1" ]
}

writer_goes_on()
{
	local n
	n=$(instants count "$writer_log")
	soon "the writer goes on" writer_wrote $((n + 4))
}

writer_end()
{
	kill "$writer_pid"
	check "the writer saw nothing wrong" wait "$writer_pid"
	note "$(instants count "$writer_log") writes"
}

# writer_was_right FILE: it has all of them, and nothing else
writer_was_right()
{
	check "every byte of it is right" instants check "$1" "$writer_bytes" "$writer_log" last >/dev/null
	rm "$writer_log"
}

writer_stop()
{
	writer_end
	writer_was_right "$writer_target"
}

# Files come, go, and are compared, through the page cache of a filesystem.
# churn_start FOLDER; churn_goes_on; churn_stop: ends it, and looks at every file
churn_start()
{
	local seed
	churn_dir=$1/churn
	mkdir "$churn_dir"
	echo 0 >"$state/churn"
	random seed 32768
	churn "$churn_dir" "$seed" &
	churn_pid=$!
}

churn()
{
	local dir=$1 key=$2 n f
	trap 'exit 0' TERM
	for ((n = 0; ; n++)); do
		f=$dir/$((n % 16))
		if [ -e "$f" ]; then
			pattern check $((key + n - 16)) 0 $((n % 7 * 40000 + 8)) <"$f" || fail "churn: $f"
		fi
		# A file appears with its whole content or not at all
		pattern write $((key + n)) 0 $(((n + 16) % 7 * 40000 + 8)) >"$dir/new"
		mv "$dir/new" "$f"
		[ $((n % 5)) != 0 ] || sync -f "$f"
		echo "$n" >"$state/churn.new"
		mv "$state/churn.new" "$state/churn"
	done
}

churned()
{
	kill -0 "$churn_pid" || fail "the churn has ended"
	[ "$(<"$state/churn")" -ge "$1" ]
}

churn_goes_on()
{
	soon "the churn goes on" churned $(($(<"$state/churn") + 2))
}

churn_stop()
{
	kill "$churn_pid"
	check "the churn saw nothing wrong" wait "$churn_pid"
	note "$(<"$state/churn") files"
}

# ---------------------------------------------------------- commands that are killed --

wait_guard()
{
	no_guard || soon "the guard ends" no_guard
}

# kill_each TEXT CALLS AFTER FUNCTION: FUNCTION N STRACE... runs a command, which is killed
# before its Nth of each of the system calls CALLS, until it does not make so many. Then
# AFTER TEXT is called: is all well? With kill_signal=INT it is ^C, which may have to wait.
# By chance some N are left out, but with DMLOOP_ALL; in the debug kernel, where each takes half
# a minute, it is one of CALLS and a few N.
# From the 80th on there are none: a slow copy has as many writes as its writer makes it.
kill_each()
{
	local what=$1 after=$3 signal=${kill_signal:-KILL} n status call these kills gap most=2
	read -r -a these <<<"$2"
	shift 3
	[ -z "${DMLOOP_ALL:-}" ] || most=1
	if [ "$(rounds 4)" != 4 ]; then
		most=40
		random n ${#these[@]}
		these=("${these[n]}")
	fi
	for call in "${these[@]}"; do
		kills=0
		for ((n = 1; n < 80; n += gap + 1)); do
			random gap "$most"
			status=0
			# A shell without job control has its background ignore ^C
			"$@" "$n" env --default-signal=INT strace -qq -o /dev/null -e "trace=$call" \
				-e "inject=$call:signal=$signal:when=$n" || status=$?
			wait_guard
			"$after" "$what, $signal before $call $n"
			# it came to its end: there is no such call
			case $signal:$status in
			KILL:137 | INT:130 | INT:1) ;;
			*) break ;;
			esac
			kills=$((kills + 1))
		done
		note "$what: $kills times $signal before $call"
		# a command that fails at once was not killed at each step
		[ "$status" = 0 ] || [ "$n" -ge 80 ] || fail "$what: status $status: $(cat "$state/said" 2>/dev/null)"
		[ "$kills" -gt 0 ] || fail "$what: it was never killed before $call"
	done
}

# --------------------------------------------------- a filesystem on the device --

# inner_mount TYPE DEV [SIZE [DATA MIB]]: make it and mount it; the folder is in $inner
inner_mount()
{
	inner=/mnt/inner inner_dev=$2 inner_type=$1
	wipefs -q -a "$2"
	case $1 in
	ext*) mkfs."$1" -q -F "$2" ${3:+"$3"} ;;
	xfs) mkfs.xfs -q -f -K ${3:+-d size="$3"} "$2" ;;
	esac
	mkdir -p "$inner"
	mount "$2" "$inner"
	pattern write 77 0 $((3 << 20)) >"$inner/kept"
	dd if=/dev/zero of="$inner/data" bs=1M count="${4:-8}" conv=fsync status=none
}

# inner_check [DEV]: unmount, and look at it with its own fsck
inner_check()
{
	umount "$inner"
	case $inner_type in
	ext*) e2fsck -fn "$inner_dev" >"$state/fsck" 2>&1 || fail "e2fsck: $(<"$state/fsck")" ;;
	xfs) xfs_repair -n "$inner_dev" >"$state/fsck" 2>&1 || fail "xfs_repair: $(<"$state/fsck")" ;;
	esac
	mount -o ro "$inner_dev" "$inner"
	check "a file from the beginning is right" pattern check 77 0 $((3 << 20)) <"$inner/kept"
	umount "$inner"
}
