# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a hundred random sequences of suspend, resume, load, clear, grow, remove, changes of the file, a full host, with I/O above
# LONG: a hundred sequences of a dozen commands
# TIMEOUT: 900

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# What the steps know of the device: is it suspended, is it mounted, how large is the file,
# and how large is the smallest table that may be live.
suspended='' mounted='' mib=24 least=24

step_suspend()
{
	local kinds=('' '--noflush' '--nolockfs' '--noflush --nolockfs') kind
	random kind 4
	# shellcheck disable=SC2086
	within dmsetup suspend ${kinds[kind]} disk
	said+=" ${kinds[kind]}"
	suspended=1
}

step_resume()
{
	within dmsetup resume disk
	suspended=''
}

step_load_same()
{
	within dmsetup load disk --table "$(dmsetup table disk)"
}

step_load()
{
	local tables=('' no_discard 'chunk 65536' 'no_discard chunk 4194304') n
	random n 4
	# shellcheck disable=SC2086
	reload disk "$image" 0 ${tables[n]}
	said+=" ${tables[n]}"
}

step_clear()
{
	within dmsetup clear disk
}

# held COMMAND...: as "fails ETXTBSY" does, without a look at the kernel log, which takes long
held()
{
	local said
	! said=$("$@" 2>&1) || fail "succeeded: $*"
	[[ "$said" == *'Text file busy'* ]] || fail "$*: $said"
}

# Only who has the file back may change it; the device says so.
step_rewrite()
{
	local from len
	if [ -z "$suspended" ]; then
		held dd if=/dev/zero of="$image" bs=4K count=1 conv=notrunc
		return
	fi
	random from $((mib - 4))
	random len 4
	len=$((len + 1))
	dd if="$image" of="$image.part" bs=1M skip="$from" count="$len" status=none
	fallocate -p -o $((from << 20)) -l $((len << 20)) "$image"
	[ $((from % 2)) = 0 ] || fallocate -l 2M "$image.between.$((++between))"
	dd if="$image.part" of="$image" bs=1M seek="$from" conv=notrunc status=none
	# Some of it is still only in the page cache
	[ $((len % 2)) = 0 ] || sync "$image"
}

step_grow()
{
	if [ -z "$suspended" ]; then
		held truncate -s +1M "$image"
	elif [ "$mib" -lt 64 ]; then
		mib=$((mib + 1))
		truncate -s "${mib}M" "$image"
		reload disk "$image"
	fi
}

step_status()
{
	local want=mapped
	[ -z "$suspended" ] || want=released
	[ "$(status_field disk mode)" = "$want" ] || fail "mode $(status_field disk mode), wanted $want"
	dmsetup table disk >/dev/null
}

step_check()
{
	local answer
	answer=$(within dmsetup message disk 0 check)
	case $answer in
	ok*) [ -z "$suspended" ] || fail "check: $answer" ;;
	released) [ -n "$suspended" ] || fail "check: $answer" ;;
	*) fail "check: $answer" ;;
	esac
}

# To a hole, most often, and nobody waits for it before the sequence is over: the
# next step finds it under way, or it waits for a resume. Of two to one place either may be the last.
step_write()
{
	local at key
	random at 8
	random key 1000000
	pattern write "$key" 0 $((512 << 10)) |
		dd of="$node" bs=64K count=8 seek=$((16 * (16 + at))) iflag=fullblock oflag=direct status=none &
	writes+=($!)
	[ -z "${under_way[at]:-}" ] || key=
	written[at]=$key under_way[at]=1
}

is_released()
{
	[ "$(status_field disk mode)" = released ]
}

# The filesystem below is frozen. A suspend need not wait for the thaw; a resume may have to,
# because the filesystem above writes when it thaws.
step_frozen()
{
	local pid
	fsfreeze -f "$host"
	if [ -n "$suspended" ]; then
		within dmsetup resume disk &
		pid=$!
		sleep 0.2
		fsfreeze -u "$host"
		wait "$pid"
		suspended=''
	else
		within dmsetup suspend --noflush --nolockfs disk
		suspended=1
		fsfreeze -u "$host"
		# What could not be committed until now is, and then the file is free.
		soon "the file is free" is_released
	fi
}

step_discard()
{
	[ -z "$suspended" ] && [ "$(<"/sys/block/dm-$(dmsetup info -c --noheadings -o minor disk)/queue/discard_max_bytes")" != 0 ] || return 0
	local at
	random at 8
	blkdiscard -f -o $(((16 + at) << 20)) -l 512K "$node"
	written[at]=
}

# refused REASON: it is not resumed, and dmlosetup says why
refused()
{
	local text status=0
	! within dmsetup resume disk 2>/dev/null || fail "resumed: $1"
	text=$(within dmlosetup --refresh disk 2>&1) || status=$?
	same "refresh: $1" "$status" 1
	[[ "$text" == *"cannot resume "*": $1 ("* ]] || fail "dmlosetup: $text, wanted: $1"
}

# What is wrong with the file is found by the resume, and mended.
step_bad()
{
	local kinds=(short open replaced deleted linked) kind at
	[ -n "$suspended" ] || step_suspend
	random kind ${#kinds[@]}
	kind=${kinds[kind]}
	said+=" $kind"
	case $kind in
	short)
		# Only steps write to what is lost
		truncate -s "$((least - 4))M" "$image"
		for ((at = least - 20; at < 8; at++)); do
			written[at]=
		done
		refused "File is shorter than the table says"
		truncate -s "${mib}M" "$image"
		;;
	open)
		exec 7<>"$image"
		refused "File is open for writing elsewhere"
		exec 7>&-
		;;
	replaced)
		mv "$image" "$image.old"
		truncate -s "${mib}M" "$image"
		refused "Another file is in its place"
		mv "$image.old" "$image"
		;;
	deleted)
		cp --reflink=never "$image" "$image.copy"
		rm "$image"
		refused "File was deleted"
		mv "$image.copy" "$image"
		refused "File was deleted"
		reload disk "$image"
		step_resume
		;;
	linked)
		ln "$image" "$image.link"
		rm "$image"
		# It has another name
		step_resume
		# xfs does not let go of a name of what is in use
		step_suspend
		mv "$image.link" "$image"
		;;
	esac
}

# Nobody gets a block from the filesystem below; what is written has some.
step_full()
{
	[ -n "$suspended" ] || step_suspend
	fallocate -l "${mib}M" "$image"
	fill_up "$host"
	! fallocate -l 4K "$host/full.more" 2>/dev/null || fail "the host is not full"
	step_resume
	step_suspend
	rm "$host"/full.*
	sync -f "$host"
}

# Only when nobody has it open
step_remove()
{
	! within dmsetup remove disk 2>/dev/null || fail "removed while it is open"
	[ -z "$mounted" ] || return 0
	[ -z "$suspended" ] || step_resume
	writes_end
	writer_end
	step_suspend
	within dmsetup remove disk
	writer_was_right "$image"
	fallocate -p -o 0 -l 16M "$image"
	node=$(loop_dev disk "$image")
	suspended=''
	writer_start "$node" $((16 << 20))
}

step_refresh()
{
	# A table that was loaded for an active device is not its to take.
	if [ "$(dmsetup info -c --noheadings -o suspended,tables_loaded disk)" = Active:Both ]; then
		fails "a table is loaded for it" within dmlosetup --refresh disk
		return
	fi
	within dmlosetup --refresh disk >/dev/null
	suspended=''
}

writes_end()
{
	local pid at
	for pid in ${writes[@]+"${writes[@]}"}; do
		wait "$pid" || fail "a write failed"
	done
	writes=() under_way=()
	for at in "${!written[@]}"; do
		[ -n "${written[at]}" ] || continue
		pattern check "${written[at]}" 0 $((512 << 10)) < <(dd if="$node" bs=512K skip=$((2 * (16 + at))) \
			count=1 iflag=direct status=none) || fail "what was written to MiB $((16 + at)) is not there"
	done
}

steps=(
	suspend suspend suspend resume resume load_same load clear rewrite rewrite rewrite grow status check
	write write discard frozen bad bad bad full remove refresh
)

sequences()
{
	local count n i length step
	local -a writes under_way=() written=()
	count=$(rounds "$1")
	for ((n = 0; n < count; n++)); do
		random length 7
		said='' writes=()
		for ((i = 0; i < length + 3; i++)); do
			random step ${#steps[@]}
			said+=" ${steps[step]}"
			"step_${steps[step]}" 2>>"$state/steps"
		done
		echo "$n:$said" >>"$state/sequences"
		[ -z "$suspended" ] || step_resume
		writes_end
		step_check
		[ $((n % 4)) != 0 ] || writer_goes_on 2>/dev/null
		rm -f "$image".between.*
	done
}

say_last()
{
	local status=$?
	[ "$status" = 0 ] || {
		tail -n 12 "$state/steps"
		[ ! -e "$state/sequences" ] || cat "$state/sequences"
		printf 'the last steps:%s\n' "${said:-}"
	} >&9
}
exec 9>&2
trap say_last EXIT

# The writer has the first 16 MiB, the steps write behind them.
on_device()
{
	local count=$1
	host=$2 image=$2/image suspended='' mounted='' mib=24 least=24
	truncate -s "${mib}M" "$image"
	node=$(loop_dev disk "$image")
	writer_start "$node" $((16 << 20))
	sequences "$count"
	writer_end
	within dmsetup suspend disk
	within dmsetup remove disk
	writer_was_right "$image"
}

# The same with a filesystem, which the suspend freezes or not.
on_filesystem()
{
	local count=$1
	host=$2 image=$2/image suspended='' mounted=1 mib=44 least=44
	truncate -s "${mib}M" "$image"
	node=$(loop_dev disk "$image")
	# The steps may write where it is not
	inner_mount ext4 "$node" 16M 4
	churn_start "$inner"
	writer_start "$inner/data" $((4 << 20))
	sequences "$count"
	churn_stop
	writer_stop
	inner_check
	dmsetup remove disk
}
between=0

each()
{
	on_device 30 "$2"
	on_filesystem 20 "$2"
}

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	for_each_fs each ext4 xfs
	note "the sequences"
	cat "$state/sequences"
	rm "$state/sequences"
done
