# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a file that shares blocks with clones never changes them, whoever writes on which side
# TIMEOUT: 600

# shellcheck disable=SC2154 # state is set in lib.sh
size=$((2 << 20))

# An image and four clones; of each a copy of its own in $state, to compare.
make_clones()
{
	local i
	rm -f "$dir"/*
	written_file "$dir/image" "$size"
	for i in 1 2 3 4; do
		cp --reflink=always "$dir/image" "$dir/clone$i"
		cp "$dir/image" "$state/clone$i"
	done
	cp "$dir/image" "$state/image"
	sync -f "$dir"
}

# scribble FILE|DEVICE NAME: write at random places, and the same to the copy; in the background.
scribble()
{
	local commands=() first n byte i
	for ((i = 0; i < 40; i++)); do
		random first $((size / 512))
		random n $((i % 8 ? 9 : 200))
		random byte 256
		n=$((first + n >= size / 512 ? 1 : n + 1))
		commands+=(-c "pwrite -q -S $byte -b 128k $((first * 512)) $((n * 512))")
	done
	xfs_io "${commands[@]}" "$state/$2"
	xfs_io -d "${commands[@]}" "$1" >"$state/$2.said" 2>&1 &
	pids+=($!)
}

all_written()
{
	local pid
	for pid in "${pids[@]}"; do
		wait "$pid"
	done
	pids=()
	# It succeeds whatever becomes of its commands.
	same "what went wrong" "$(cat "$state"/*.said)" ''
}

uncache()
{
	sync "$1"
	dd if="$1" iflag=nocache count=0 status=none
}

# each_is_its_own FILE...: read from the disk
each_is_its_own()
{
	local file
	for file; do
		uncache "$file"
		check "$(basename "$file")" cmp "$file" "$state/$(basename "$file")"
	done
}

# Writers on the device, on clones, and on the device of a clone; one clone is left alone.
both_sides()
{
	local dev other
	note "all of them are written: $1"
	make_clones
	dev=$(loop_dev x "$dir/image")
	other=$(loop_dev y "$dir/clone2")
	same "modes" "$(status_field x mode) $(status_field y mode)" "file file"
	scribble "$dev" image
	scribble "$dir/clone1" clone1
	scribble "$other" clone2
	scribble "$dir/clone3" clone3
	# One more on the way: what it has is of one moment, and stays.
	cp --reflink=always "$dir/image" "$dir/clone5"
	digest "$dir/clone5" >"$state/was"
	all_written
	sync "$dev" "$other"
	check "the device" cmp "$dev" "$state/image"
	check "the device of a clone" cmp "$other" "$state/clone2"
	uncache "$dir/clone5"
	same "the clone that was made meanwhile" "$(digest "$dir/clone5")" "$(<"$state/was")"
	check "I/O of the file" test "$(status_field x file_ios)" -gt 0
	dmsetup remove x y
	each_is_its_own "$dir"/{image,clone1,clone2,clone3,clone4}
}

refuse_clones()
{
	local same=$dir/clone4
	fails ETXTBSY cp --reflink=always "$dir/image" "$dir/new"
	fails ETXTBSY cp --reflink=always "$same" "$dir/image"
	matches "no dedupe into it" "$(xfs_io -r -c "dedupe $same 0 0 65536" "$dir/image" 2>&1)" "Text file busy"
	matches "no dedupe from it" "$(xfs_io -r -c "dedupe $dir/image 0 0 65536" "$same" 2>&1)" "Text file busy"
	rm -f "$dir/new"
}

read_only()
{
	local dev
	note "only for reading"
	make_clones
	dev=$(loop_dev -r x "$dir/image")
	same "mode" "$(status_field x mode)" mapped
	same "shared sectors" "$(status_field x shared)" $((size / 512))
	refuse_clones
	scribble "$dir/clone1" clone1
	scribble "$dir/clone2" clone2
	for _ in 1 2 3; do
		check "the device, while clones are written" cmp "$dev" "$state/image"
	done
	all_written
	sync -f "$dir"
	check "the device" cmp "$dev" "$state/image"
	same "I/O of the file" "$(status_field x file_ios)" 0
	dmsetup remove x
	each_is_its_own "$dir"/{image,clone1,clone2,clone3,clone4}
	loop_dev -r x "$dir/image" 0 unshare >/dev/null
	same "shared sectors, with unshare" "$(status_field x shared)" $((size / 512))
	dmsetup remove x
}

unshare()
{
	local dev loads times=1 again
	note "unshare"
	make_clones
	fsfreeze -f "$dir"
	fails "EAGAIN:loop: Filesystem is frozen" loop_dev x "$dir/image" 0 unshare
	fsfreeze -u "$dir"
	scribble "$dir/clone1" clone1
	scribble "$dir/clone2" clone2
	# How often they are is up to the machine, what comes later is not.
	random again $((1 << 30))
	loop_dev x "$dir/image" 0 unshare >"$state/dev" &
	loads=$!
	while kill -0 "$loads" 2>/dev/null; do
		all_written
		scribble "$dir/clone1" clone1
		scribble "$dir/clone2" clone2
		times=$((times + 1))
	done
	check "the table is loaded, while clones are written $times times" wait "$loads"
	RANDOM=$again
	dev=$(<"$state/dev")
	same "mode, shared sectors" "$(status_field x mode) $(status_field x shared)" "mapped 0"
	same "all has blocks of its own" "$(status_field x mapped)" $((size / 512))
	refuse_clones
	scribble "$dev" image
	scribble "$dir/clone3" clone3
	all_written
	sync "$dev"
	check "the device" cmp "$dev" "$state/image"
	same "I/O of the file" "$(status_field x file_ios)" 0
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
	each_is_its_own "$dir"/{image,clone1,clone2,clone3,clone4}
}

# Cloned while it is suspended: mapped before, by file I/O or not at all after.
cloned_when_suspended()
{
	local dev
	note "cloned while it is suspended"
	rm -f "$dir"/*
	written_file "$dir/image" "$size"
	cp "$dir/image" "$state/image"
	cp "$dir/image" "$state/clone1"
	dev=$(loop_dev x "$dir/image")
	same "mode" "$(status_field x mode)" mapped
	dmsetup suspend x
	cp --reflink=always "$dir/image" "$dir/clone1"
	dmsetup resume x
	same "mode" "$(status_field x mode)" file
	scribble "$dev" image
	all_written
	sync "$dev"
	check "the device" cmp "$dev" "$state/image"
	dmsetup remove x
	each_is_its_own "$dir"/{image,clone1}
}

# Tries all the time, while holes are filled: the flag that refuses a clone is never away.
refused_while_filled()
{
	local fio now last=-1 tries=0 moved=0 seed
	note "not cloned while it is filled"
	rm -f "$dir"/* "$state/said"
	truncate -s 256M "$dir/image"
	written_file "$dir/other" 65536
	dev=$(loop_dev x "$dir/image")
	same "mode, sectors with data" "$(status_field x mode) $(status_field x mapped)" "mapped 0"
	random seed $((1 << 30))
	fio --name=x --filename="$dev" --rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=32 \
		--randseed="$seed" --output="$state/fio.log" &
	fio=$!
	until [ "$tries" -ge 30 ] && [ "$moved" -ge 16 ]; do
		kill -0 "$fio" 2>/dev/null || break
		now=$(status_field x fills)
		[ "$now" = "$last" ] || moved=$((moved + 1))
		last=$now
		! cp --reflink=always "$dir/image" "$dir/new" 2>>"$state/said" || fail "it was cloned"
		xfs_io -r -c "dedupe $dir/image 0 0 65536" "$dir/other" >>"$state/said" 2>&1 || true
		xfs_io -r -c "dedupe $dir/other 0 0 65536" "$dir/image" >>"$state/said" 2>&1 || true
		tries=$((tries + 1))
	done
	kill -INT "$fio" 2>/dev/null || true
	wait "$fio" || true
	note "$tries tries, fills moved before $moved of them, to $last"
	check "many tries" test "$tries" -ge 10
	check "with fills between them" test "$moved" -ge 8
	same "what each said" "$(sed 's/.*: //' "$state/said" | sort | uniq -c | sed 's/^ *//')" "$((3 * tries)) Text file busy"
	same "mode" "$(status_field x mode)" mapped
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
	dmsetup remove x
}

# xfs takes away what was removed in the background.
owns_all() { ! filefrag -v "$1" | grep -q shared; }

# As long as the file has a clone xfs does not fill it for us, wherever they share blocks. What is
# mapped can be written; no blocks may be given back, as no others could be had.
shared_elsewhere()
{
	note "a clone of what is not in the device"
	rm -f "$dir"/*
	written_file "$dir/image" $((2 * size))
	xfs_io -f -c "reflink $dir/image $size 0 $size" "$dir/clone" >/dev/null
	sync -f "$dir"
	dmsetup create x --table "0 $((size / 512)) loop $dir/image 0"
	dev=/dev/mapper/x
	same "mode" "$(status_field x mode)" mapped
	check "zeroes" blkdiscard -z -l 1M "$dev"
	fails EOPNOTSUPP blkdiscard -l 1M "$dev"
	check "it can be written" xfs_io -d -c "pwrite -q -S 7 0 1m" -c fsync "$dev"
	check "what was written" only '\7' dd if="$dev" bs=1M count=1 iflag=direct status=none
	same "nothing is given back" "$(status_field x punches) $(status_field x hole)" "0 0"
	dmsetup remove x
	fallocate -p -l 64K "$dir/image"
	dmsetup create x --table "0 $((size / 512)) loop $dir/image 0"
	same "mode, with a hole" "$(status_field x mode)" file
	dmsetup remove x
}

# The same for a device that takes discards, and is resumed when there is a clone.
cloned_elsewhere()
{
	note "such a clone, made while the device is suspended"
	rm -f "$dir"/*
	written_file "$dir/image" $((2 * size))
	dmsetup create x --table "0 $((size / 512)) loop $dir/image 0"
	dev=/dev/mapper/x
	dmsetup suspend x
	xfs_io -f -c "reflink $dir/image $size 0 $size" "$dir/clone" >/dev/null
	sync -f "$dir"
	dmsetup resume x
	same "mode" "$(status_field x mode)" mapped
	check "zeroes" blkdiscard -z -l 1M "$dev"
	# The block layer takes it for done.
	blkdiscard -l 1M "$dev"
	fallocate -p -o 1M -l 1M "$dev"
	check "zeroes are written" only '\0' dd if="$dev" bs=1M skip=1 count=1 iflag=direct status=none
	same "nothing is given back" "$(status_field x punches) $(status_field x hole)" "0 0"
	check "it can be written" xfs_io -d -c "pwrite -q -S 7 0 2m" -c fsync "$dev"
	check "what was written" only '\7' dd if="$dev" bs=1M count=2 iflag=direct status=none
	dmsetup remove x
}

# gives_and_takes MIB: that one of x has data, is given back, and is filled again
gives_and_takes()
{
	local holes fills
	holes=$(status_field x hole)
	fills=$(status_field x fills)
	blkdiscard -o "${1}M" -l 1M "$dev"
	same "sectors given back" $(($(status_field x hole) - holes)) 2048
	check "it can be written" xfs_io -d -c "pwrite -q -S 7 ${1}m 1m" -c fsync "$dev"
	check "by fills" test "$(status_field x fills)" -gt "$fills"
	same "by file I/O" "$(status_field x file_ios)" 0
	check "what was written" only '\7' dd if="$dev" bs=1M skip="$1" count=1 iflag=direct status=none
	matches "the table is the filesystem's" "$(dmsetup message x 0 check)" '^ok'
}

# xfs keeps a mark on a file that once had a clone, which would be in the way.
clone_gone()
{
	note "a clone that is gone when the device is resumed"
	rm -f "$dir"/*
	written_file "$dir/image" "$size"
	dev=$(loop_dev x "$dir/image")
	dmsetup suspend x
	cp --reflink=always "$dir/image" "$dir/clone"
	rm "$dir/clone"
	sync -f "$dir"
	soon "its blocks are its own" owns_all "$dir/image"
	dmsetup resume x
	same "mode" "$(status_field x mode)" mapped
	gives_and_takes 0
	dmsetup remove x
}

# many_clones MODE [OPTION]: reads, writes, discards of many threads on the device, writes to
# each of many clones.
many_clones()
{
	local mode=$1 seed model begin clones=() i
	random seed $((1 << 30))
	note "$*: 16 threads, 12 clones, seed $seed"
	rm -f "$dir"/* "$state"/{image,clone*}
	truncate -s 8M "$dir/image"
	dev=$(loop_dev x "$dir/image")
	model run -s "$seed" -t 2 "$dev" "$state/model" >&2
	dmsetup remove x
	for ((i = 1; i <= 12; i++)); do
		cp --reflink=always "$dir/image" "$dir/clone$i"
		head -c "$size" "$dir/image" >"$state/clone$i"
		clones+=("$dir/clone$i")
	done
	cp --reflink=always "$dir/image" "$dir/kept"
	sync -f "$dir"
	cp "$state/model" "$state/model.kept"
	dev=$(loop_dev x "$dir/image" 0 "${@:2}")
	same "mode" "$(status_field x mode)" "$mode"
	model run -c -s "$seed" -t 600 -j 16 "$dev" "$state/model" >&2 &
	model=$! begin=$SECONDS
	while [ $((SECONDS - begin)) -lt 5 ]; do
		for ((i = 1; i <= 12; i++)); do
			scribble "$dir/clone$i" "clone$i"
		done
		all_written
	done
	kill "$model"
	check "the device, against its model" wait "$model"
	same "done by file I/O" "$([ "$(status_field x file_ios)" -gt 0 ] && echo file || echo mapped)" "$mode"
	dmsetup remove x
	uncache "$dir/image"
	check "the file" model check "$dir/image" "$state/model"
	uncache "$dir/kept"
	check "a clone that nobody wrote" model check "$dir/kept" "$state/model.kept"
	for i in "${clones[@]}"; do
		uncache "$i"
		check "$(basename "$i")" cmp -n "$size" "$i" "$state/$(basename "$i")"
	done
}

# Whole blocks: direct writes that go on side by side (file_async()), while two clones are written.
whole_blocks()
{
	local seed model begin
	random seed $((1 << 30))
	note "whole blocks, 16 threads, seed $seed"
	rm -f "$dir"/* "$state"/clone*
	written_file "$dir/image" "$((16 * size))"
	cp --reflink=always "$dir/image" "$dir/clone1"
	cp --reflink=always "$dir/image" "$dir/clone2"
	cp "$dir/image" "$state/kept"
	head -c "$size" "$dir/image" >"$state/clone1"
	sync -f "$dir"
	dev=$(loop_dev x "$dir/image")
	same "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" "file 1"
	blkdiscard -z "$dev"
	model run -a 4096 -s "$seed" -t 600 -j 16 "$dev" "$state/model" >&2 &
	model=$! begin=$SECONDS
	while [ $((SECONDS - begin)) -lt 5 ]; do
		scribble "$dir/clone1" clone1
		all_written
	done
	kill "$model"
	check "the device, against its model" wait "$model"
	dmsetup remove x
	uncache "$dir/image"
	check "the file" model check "$dir/image" "$state/model"
	uncache "$dir/clone1"
	check "a clone that was written" cmp -n "$size" "$dir/clone1" "$state/clone1"
	check "one that nobody wrote" cmp "$dir/clone2" "$state/kept"
}

cached()
{
	fincore -b -n -o res "$dir/image" | tr -d " "
}

# Small first writes go through the page cache, where neighbours come together before they are
# copied; after a flush what was copied is written direct again.
small_first()
{
	local i order before
	note "small first writes"
	make_clones
	dev=$(loop_dev x "$dir/image")
	same "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" "file 1"
	# every second block of the first half, the last first
	order=()
	for ((i = size / 2 / 4096 - 2; i >= 0; i -= 2)); do
		order+=(-c "pwrite -q -S $((i % 256)) $((i * 4096)) 4k")
	done
	xfs_io -d "${order[@]}" "$dev"
	xfs_io "${order[@]}" "$state/image"
	same "bytes in the page cache" "$(cached)" $((size / 4))
	check "the device, before a flush" cmp -n $((size / 2)) \
		<(dd if="$dev" iflag=direct bs=64k count=$((size / 2 / 65536)) status=none) "$state/image"
	# too large to gain by it, but not to be in the way of the others
	xfs_io -d -c "pwrite -q -S 9 -b 128k $((size / 2)) 256k" "$dev"
	xfs_io -c "pwrite -q -S 9 $((size / 2)) 256k" "$state/image"
	check "the device" cmp <(dd if="$dev" iflag=direct bs=64k status=none) "$state/image"
	sync "$dev"
	before=$(cached)
	check "the device, after a flush" cmp <(dd if="$dev" iflag=direct bs=64k status=none) "$state/image"
	order=(-c "pwrite -q -S 7 0 4k" -c "pwrite -q -S 7 -b 128k $((size / 2)) 128k")
	xfs_io -d "${order[@]}" "$dev"
	xfs_io "${order[@]}" "$state/image"
	same "what has blocks of its own is written direct" $((before - $(cached))) $((33 * 4096))
	dmsetup remove x
	each_is_its_own "$dir"/{image,clone1,clone2,clone3,clone4}
}

# Several blocks in a page: what xfs writes through the page cache, as it is no whole block,
# must not meet direct writes there. They would leave a flush with an error.
small_blocks()
{
	local seed
	random seed $((1 << 30))
	note "blocks of 1 KiB, 16 threads, seed $seed"
	written_file "$dir/image" $((8 * size))
	cp --reflink=always "$dir/image" "$dir/clone1"
	cp "$dir/image" "$state/clone1"
	sync -f "$dir"
	dev=$(loop_dev x "$dir/image")
	same "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" "file 1"
	blkdiscard -z "$dev"
	check "the device, against its model" model run -s "$seed" -h 2 -t 8 -j 16 "$dev" "$state/model" >&2
	dmsetup remove x
	uncache "$dir/image"
	check "the file" model check "$dir/image" "$state/model"
	each_is_its_own "$dir/clone1"
}

# has_holes WHAT [OPTION]: the image has, and there is nothing that keeps them from being filled.
has_holes()
{
	note "holes, $1"
	dev=$(loop_dev x "$dir/image" 0 "${@:2}")
	same "mode, shared" "$(status_field x mode) $(status_field x shared)" "mapped 0"
	check "they can be written" xfs_io -d -c "pwrite -q -S 3 $size $size" -c fsync "$dev"
	gives_and_takes $((size >> 20))
	pattern write 5 0 "$size" | dd of="$dev" bs=64K seek=$((size >> 16)) iflag=fullblock oflag=direct \
		conv=fsync status=none
	dmsetup remove x
	uncache "$dir/image"
	check "what was written" pattern check 5 0 "$size" < <(tail -c "$size" "$dir/image")
}

once_cloned()
{
	local dev
	rm -f "$dir"/*
	written_file "$dir/image" "$size"
	truncate -s $((2 * size)) "$dir/image"
	cp --reflink=always "$dir/image" "$dir/clone"
	rm "$dir/clone"
	sync -f "$dir"
	soon "its blocks are its own" owns_all "$dir/image"
	has_holes "and a clone that is gone"

	rm "$dir/image"
	truncate -s $((2 * size)) "$dir/image"
	cp --reflink=always "$dir/image" "$dir/clone"
	has_holes "nothing else, and a clone"

	rm "$dir"/*
	written_file "$dir/image" "$size"
	truncate -s $((2 * size)) "$dir/image"
	cp --reflink=always "$dir/image" "$dir/clone"
	cp "$dir/image" "$state/clone"
	has_holes "and a clone, with unshare" unshare
	each_is_its_own "$dir/clone"
	rm "$dir"/*
}

# more_events NUMBER: x has had more than that
more_events() { [ "$(dmsetup info -c --noheadings -o events x)" -gt "$1" ]; }

# There is no space for copies. Who is told so are those whose block needs one.
no_space()
{
	local blocks=$((size / 4096)) said events
	note "no space to copy"
	make_clones
	dev=$(loop_dev x "$dir/image")
	dd if=/dev/zero of="$dev" bs=4k count=16 oflag=direct conv=fsync status=none
	dd if=/dev/zero of="$state/image" bs=4k count=16 conv=notrunc status=none
	events=$(dmsetup info -c --noheadings -o events x)
	fallocate -l $(($(df -k --output=avail "$dir" | tail -n 1) - 4096))K "$dir/filler"
	dd if=/dev/zero of="$dir/filler2" bs=4k status=none 2>/dev/null || true
	sync -f "$dir"
	fails ENOSPC dd if=/dev/zero of="$dev" bs=4k count=$blocks oflag=direct status=none
	soon "an event" more_events "$events"
	check "it is counted" test "$(status_field x nospc)" -gt 0
	said=$(xfs_io -d -c "pwrite -q -S 1 -b 4k 0 16k" "$dev" 2>&1)
	same "what has been copied can be written" "$said" ''
	rm "$dir"/filler*
	sync -f "$dir"
	check "there is space again" dd if="$state/image" of="$dev" bs=4k count=$blocks oflag=direct conv=fsync status=none
	dmsetup remove x
	each_is_its_own "$dir"/{image,clone1,clone2,clone3,clone4}
}

pids=()
dir=$(mkfs_mount xfs)
both_sides xfs
read_only
unshare
cloned_when_suspended
refused_while_filled
clone_gone
shared_elsewhere
cloned_elsewhere
many_clones file
many_clones mapped unshare
small_first
whole_blocks
once_cloned
no_space
cleanup_devices

dir=$(mkfs_mount xfs -b size=1024)
small_blocks
cleanup_devices

dir=$(mkfs_mount btrfs)
both_sides btrfs
