# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a hundred random sequences of suspend, resume, load, clear, grow, changes of the file, with I/O above
# LONG: a hundred sequences of a dozen commands
# TIMEOUT: 900

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# What the steps know of the device: is it suspended, and how large is the file.
suspended='' mib=24

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
# next step finds it under way, or it waits for a resume.
step_write()
{
	local at
	random at 8
	dd if=/dev/urandom of="$node" bs=64K count=8 seek=$((16 * (16 + at))) oflag=direct status=none &
	writes+=($!)
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
}

steps=(suspend suspend suspend resume resume load_same load clear rewrite rewrite rewrite grow status check write write discard frozen)

sequences()
{
	local count=$1 n i length step pid
	local -a writes
	for ((n = 0; n < count; n++)); do
		random length 6
		said='' writes=()
		for ((i = 0; i < length + 3; i++)); do
			random step ${#steps[@]}
			said+=" ${steps[step]}"
			"step_${steps[step]}" 2>>"$state/steps"
		done
		echo "$n:$said" >>"$state/sequences"
		[ -z "$suspended" ] || step_resume
		for pid in ${writes[@]+"${writes[@]}"}; do
			wait "$pid" || fail "a write failed"
		done
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
	host=$2 image=$2/image suspended='' mib=24
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
	host=$2 image=$2/image suspended='' mib=44
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
