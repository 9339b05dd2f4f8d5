# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: several targets in a table, several devices on a file, other names of the file, and others who want it
# LONG: many commands
# TIMEOUT: 600

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

is_held() { fails ETXTBSY dd if=/dev/zero of="$1" bs=4K count=1 conv=notrunc; }

# ------------------------------------------------- several targets in one table --

modes() { dmsetup status --target loop "$1" | awk '{ printf "%s%s", sep, $4; sep = " " }'; }

# With a writer of its own to the linear one, which waits like the others
linear_wrote()
{
	kill -0 "$linear_pid" || fail "the writer to the linear target has ended"
	[ -s "$state/linear" ] && [ "$(instants count "$state/linear")" -ge "$1" ]
}

both_go_on()
{
	local n
	n=$(instants count "$state/linear")
	writer_goes_on
	soon "the one to the linear target too" linear_wrote $((n + 4))
}

several_targets()
{
	local a=$2/a b=$2/b other table node linear_pid seed
	truncate -s 16M "$a" "$b"
	other=$(disk 2)
	table=$(cat <<-EOT
		0 16384 loop $a 0
		16384 8192 loop $b 4194304
		24576 2048 linear $other 0
		26624 2048 zero
		28672 8192 loop $a 12582912
		36864 8192 loop $a 8388608
	EOT
	)
	within dmsetup create disk --table "$table"
	node=/dev/mapper/disk
	same "modes" "$(modes disk)" "mapped mapped mapped mapped"
	pattern write 3 $((14 << 20)) $((8 << 20)) | dd of="$node" bs=1M seek=14 oflag=direct iflag=fullblock status=none
	writer_start "$node" $((11 << 20))
	dd if=/dev/zero of="$other" bs=1M count=1 oflag=direct status=none
	within dmsetup create part --table "0 2048 linear $node 24576"
	random seed 32768
	instants run /dev/mapper/part $((1 << 20)) 2 "$state/linear" "$seed" 2000 &
	linear_pid=$!
	soon "it is written" linear_wrote 2
	within dmsetup suspend disk
	same "both files are given back" "$(modes disk)" "released released released released"
	move_blocks "$a"
	move_blocks "$b"
	resume disk
	both_go_on

	note "one of the files is not right"
	within dmsetup suspend disk
	truncate -s 7M "$b"
	wakes disk fails "$b: cannot resume: File is shorter than the table says" within dmsetup resume disk
	same "it stays" "$(state_of disk)" Suspended
	same "the other one is given back too" "$(modes disk)" "released released released released"
	move_blocks "$a"
	truncate -s 16M "$b"
	resume disk
	both_go_on
	within dmsetup suspend disk
	truncate -s 15M "$a"
	wakes disk fails "$a: cannot resume: File is shorter than the table says" within dmsetup resume disk
	same "neither" "$(modes disk)" "released released released released"
	move_blocks "$b"
	truncate -s 16M "$a"
	resume disk
	both_go_on
	writer_stop
	kill "$linear_pid"
	check "its writer saw nothing wrong" wait "$linear_pid"
	within dmsetup remove part
	check "every byte of the linear target" instants check "$other" $((1 << 20)) "$state/linear" last >/dev/null
	rm "$state/linear"

	note "a target less"
	table=$(sed '/ linear / s/.*/24576 2048 zero/; 6d' <<<"$table")
	within dmsetup load disk --table "$table"
	within dmsetup resume disk
	same "size" "$(sectors "$node")" 36864
	table_is_right disk
	check "the range is free for another" loop_range second "$a" 8388608 8192
	within dmsetup remove second
	within dmsetup remove disk
	check "data in one" pattern check 3 $((18 << 20)) $((4 << 20)) < <(dd if="$a" bs=1M skip=8 count=4 status=none)
	check "data in the other" test "$(stat -c %s "$b")" = $((16 << 20))
	fails ENXIO within dmsetup remove second
	check "free" truncate -s 0 "$a" "$b"

	note "a range twice in a table"
	truncate -s 16M "$a"
	fails "Range of the file is in use" dmsetup create disk --table "0 8 loop $a 0
8 8 loop $a 0"
	check "free" truncate -s 0 "$a"
}

# loop_range NAME FILE OFFSET SECTORS
loop_range()
{
	dmsetup create "$1" --table "0 $4 loop $(escape "$2") $3"
}

# ------------------------------------------------- several devices on one file --

device_modes() { for name; do status_field "$name" mode; done | paste -sd ' '; }

# wrote N NAME...: the writer to each has written so much since all_go_on looked
wrote()
{
	local name
	for name in "${@:2}"; do
		[ -s "$state/several.$name" ] || return 1
		[ "$(instants count "$state/several.$name")" -ge $((${had[$name]:-0} + $1)) ] || return 1
	done
}

all_go_on()
{
	local -A had=()
	local name
	for name; do
		[ ! -s "$state/several.$name" ] || had[$name]=$(instants count "$state/several.$name")
	done
	soon "all writers go on" wrote 4 "$@"
}

several_devices()
{
	local image=$2/image n seed writers=()
	truncate -s 24M "$image"
	loop_range a "$image" 0 16384
	loop_range b "$image" $((8 << 20)) 16384
	loop_range c "$image" $((16 << 20)) 16384
	fails "Range of the file is in use" loop_range d "$image" $((4 << 20)) 16384
	for n in a b c; do
		random seed 32768
		instants run /dev/mapper/$n $((8 << 20)) 2 "$state/several.$n" "$seed" 3000 &
		writers+=($!)
	done
	all_go_on a b c

	note "suspended one after the other"
	within dmsetup suspend a
	is_held "$image"
	within dmsetup suspend b
	is_held "$image"
	same "modes" "$(device_modes a b c)" "mapped mapped mapped"
	within dmsetup suspend c
	same "modes" "$(device_modes a b c)" "released released released"
	move_blocks "$image"
	resume b
	is_held "$image"
	resume a
	within dmsetup suspend b
	resume c
	resume b
	all_go_on a b c

	note "one with a new table"
	loop_range d "$image" 0 16384 2>/dev/null && fail "the range is in use"
	within dmsetup suspend a
	within dmsetup suspend c
	within dmsetup load a --table "0 16384 loop $image 0 1 no_discard"
	is_held "$image"
	within dmsetup suspend b
	move_blocks "$image"
	resume c
	resume a
	resume b

	note "too short for the last one only"
	for n in a b c; do
		within dmsetup suspend $n
	done
	cp --reflink=never "$image" "$image.copy"
	truncate -s 20M "$image"
	resume a
	resume b
	fails "cannot resume: File is shorter than the table says" within dmsetup resume c
	same "it stays" "$(state_of c)" Suspended
	within dmsetup suspend a
	within dmsetup suspend b
	truncate -s 24M "$image"
	dd if="$image.copy" of="$image" bs=1M skip=20 seek=20 conv=notrunc status=none
	for n in c a b; do
		resume $n
	done
	all_go_on a b c
	kill "${writers[@]}"
	for n in 0 1 2; do
		check "a writer saw nothing wrong" wait "${writers[n]}"
	done
	for n in a b c; do
		check "every byte of $n" instants check /dev/mapper/$n $((8 << 20)) "$state/several.$n" last >/dev/null
		within dmsetup remove $n
		[ $n = c ] || is_held "$image"
	done
	check "free" truncate -s 0 "$image"
}

# ----------------------------------------------------- other names of one file --

names()
{
	local dir=$2 image=$2/image link=$2/link bind=$2/bind/image
	mkdir "$dir/bind" "$dir/sub"
	truncate -s 16M "$image"
	ln "$image" "$link"
	mount --bind "$dir" "$dir/bind"
	ln -s ../image "$dir/sub/symlink"
	loop_range a "$image" 0 16384
	for name in "$link" "$bind" "$dir/sub/symlink" "$dir/bind/link"; do
		fails "Range of the file is in use" loop_range b "$name" 0 8
		check "another range by $name" loop_range b "$name" $((8 << 20)) 16384
		within dmsetup suspend a
		is_held "$name"
		within dmsetup suspend b
		move_blocks "$image"
		resume b
		is_held "$image"
		is_held "$name"
		resume a
		within dmsetup remove b
	done
	note "a reload by another name"
	within dmsetup load a --table "0 16384 loop $link 0"
	within dmsetup resume a
	same "table" "$(dmsetup table a)" "0 16384 loop $link 0"
	table_is_right a
	within dmsetup suspend a
	rm "$image"
	resume a
	is_held "$link"
	within dmsetup remove a
	check "free" truncate -s 0 "$link"
	umount "$dir/bind"
}

# ------------------------------------------------------ others who want the file --

swap_file()
{
	rm -f "$1"
	dd if=/dev/zero of="$1" bs=1M count=8 status=none
	chmod 600 "$1"
	mkswap -q "$1"
	sync "$1"
}

map_shared='
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 4096)
os.close(fd)
print("mapped", flush=True)
time.sleep(1000)'

others()
{
	local image=$2/image pid line option
	for option in '' mapped; do
		note "they come to our file${option:+ ($option)}"
		swap_file "$image"
		# shellcheck disable=SC2086
		loop_dev disk "$image" 0 $option >/dev/null
		fails ETXTBSY losetup /dev/loop7 "$image"
		fails 'ETXTBSY|busy' swapon "$image"
		fails ETXTBSY python3 -c 'import os, sys; os.open(sys.argv[1], os.O_RDWR)' "$image"
		fails ETXTBSY truncate -s 0 "$image"
		fails ETXTBSY fallocate -p -o 0 -l 4096 "$image"
		# One that only reads is welcome
		losetup -r /dev/loop7 "$image"
		same "it reads the same" "$(digest /dev/loop7)" "$(digest /dev/mapper/disk)"
		fails 'not permitted|Read-only|EROFS|EPERM' blkdiscard -f /dev/loop7
		losetup -d /dev/loop7
		table_is_right disk
		within dmsetup remove disk
	done

	note "we come to theirs"
	losetup /dev/loop7 "$image"
	fails "nobody may write to it|open for writing elsewhere" loop_dev disk "$image"
	losetup -d /dev/loop7
	swapon "$image"
	fails "in use as swap|nobody may write to it|open for writing elsewhere" loop_dev disk "$image"
	fails "in use as swap|nobody may write to it|open for writing elsewhere" loop_dev -r disk "$image"
	swapoff "$image"
	exec 7<>"$image"
	flock -x 7
	fails "nobody may write to it|open for writing elsewhere" loop_dev disk "$image"
	fails "nobody may write to it|open for writing elsewhere" loop_dev -r disk "$image"
	exec 7>&-
	exec 7< <(exec python3 -c "$map_shared" "$image")
	pid=$!
	read -r line <&7
	same "a program has it mapped" "$line" mapped
	fails "nobody may write to it|open for writing elsewhere" loop_dev disk "$image"
	kill "$pid"
	exec 7<&-
	wait "$pid" || true
	check "and then we get it" loop_dev disk "$image"
	within dmsetup remove disk
}

# take WHOSE: get the file; drop WHOSE: and let it go; has WHOSE: who has it?
take_loop() { losetup /dev/loop6 "$image"; }
drop_loop() { losetup -d /dev/loop6; }
has_loop() { [ -e /sys/block/loop6/loop/backing_file ]; }
take_swap() { swapon "$image"; }
drop_swap() { swapoff "$image"; }
has_swap() { grep -q "^$image " /proc/swaps; }
take_open() { exec 7<>"$image" && : >"$state/opened"; }
drop_open() { rm "$state/opened"; exec 7>&-; }
has_open() { [ -e "$state/opened" ]; }
take_disk() { dmsetup create disk --table "$table"; }
drop_disk() { dmsetup remove disk; }
# A device whose table was refused is there for a moment, without a table.
has_disk() { [ -n "$(dmsetup table disk)" ]; }

# In a shell of its own, as no failure counts here
contender()
(
	local mine=$1 other=$2 n won=0
	trap - ERR
	set +e
	RANDOM=$3
	for ((n = 0; n < 12; n++)); do
		if take_"$mine"; then
			won=$((won + 1))
			if has_"$other"; then
				: >"$state/both"
			fi
			drop_"$mine"
		fi
		sleep "0.0$((RANDOM % 5))"
	done >/dev/null 2>&1
	echo "$won" >"$state/won.$mine"
)

race()
{
	local image=$2/image other table pid seed
	swap_file "$image"
	table=$(loop_table "$image")
	for other in loop swap open; do
		random seed 32768
		contender "$other" disk "$seed" &
		pid=$!
		contender disk "$other" $((seed + 1))
		wait "$pid"
		[ ! -e "$state/both" ] || fail "$other and we had the file at the same time"
		note "$other had it $(<"$state/won.$other") times, we $(<"$state/won.disk") times"
		dmsetup info disk >/dev/null 2>&1 && fail "a device is left"
		check "somebody got it" test $(($(<"$state/won.$other") + $(<"$state/won.disk"))) -gt 0
	done
}

on_fs()
{
	local part nth=0
	for part in several_targets several_devices names others race; do
		nth=$((nth + 1))
		is_drawn "$1" "$nth" || continue
		note "$part on $1"
		mkdir "$2/$part"
		"$part" "$1" "$2/$part"
		rm -rf "${2:?}/$part"
	done
}

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	draw_parts
	for_each_fs on_fs ext4 xfs
done
