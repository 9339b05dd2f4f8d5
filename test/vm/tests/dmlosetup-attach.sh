# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164,SC2154 # a cd that fails ends the test; state is set in lib.sh
# LONG: runs the command a hundred times
# DESCRIPTION: dmlosetup attaches files and lists devices, and says why it does not
# TIMEOUT: 600

column()
{
	dmlosetup -l -n --raw -O "$1" "$2"
}

attach()
{
	local fs=$1 dir=$2 image=$2/image node
	cd "$dir"
	dmlosetup --prepare image --size 8M
	same "the first free one" "$(dmlosetup -f)" /dev/mapper/loop0
	node=$(dmlosetup -f --show image)
	same "its node" "$node" /dev/mapper/loop0
	check "is a block device" test -b "$node"
	same "its size" "$(sectors "$node")" 16384
	same "the next free one" "$(dmlosetup -f)" /dev/mapper/loop1
	matches "its UUID is ours" "$(dmsetup info -c --noheadings -o uuid loop0)" '^LOOP-[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'
	same "MODE" "$(column MODE loop0)" mapped
	same "FSTYPE" "$(column FSTYPE loop0)" "$fs"
	same "BACK-FILE" "$(column BACK-FILE "$node")" "$image"
	same "BACK-INO" "$(column BACK-INO loop0)" "$(stat -c %i image)"
	same "SIZELIMIT to the end" "$(column SIZELIMIT loop0)" 0
	same "MAPPED" "$(column MAPPED loop0)" $((8 << 20))
	matches "PIN" "$(column PIN loop0)" '^write'
	same "one line" "$(dmlosetup loop0)" "$node: [$(printf %04d "$(stat -c %d image)")]:$(stat -c %i image) ($image)"
	same "all in a line each" "$(dmlosetup -a)" "$(dmlosetup loop0)"
	ln image link
	same "found by a hard link" "$(dmlosetup -j link)" "$(dmlosetup loop0)"
	same "not found at another offset" "$(dmlosetup -j link -o 512)" ''
	same "no such file has no device, as with losetup" "$(dmlosetup -j nowhere 2>&1 && echo "$?")" 0
	same "JSON" "$(dmlosetup -J | jq -r '.loopdevices[0]."back-file"')" "$image"
	same "JSON has types" "$(dmlosetup -J --output-all | jq -c '.loopdevices[0] | [.ro, .offset, .maj]')" \
		"[false,0,$(dmsetup info -c --noheadings -o major loop0)]"
	fails "in use by another device" dmlosetup -f link
	same "--nooverlap reuses it" "$(dmlosetup -L -f --show link)" "$node"
	fails "without --mapped" dmlosetup -L --mapped -f link
	fails "without --no-discard" dmlosetup -L --no-discard -f link
	fails "without --unshare" dmlosetup -L --unshare -f link
	fails "without this --chunk" dmlosetup -L --chunk 64K -f link
	fails "under another name: $node" dmlosetup -L other link
	same "the same name" "$(dmlosetup -L --show "$node" link)" "$node"
	dmsetup suspend loop0
	fails "and suspended" dmlosetup -L -f link
	dmsetup resume loop0
	exec 7<"$node"
	dmlosetup -d --deferred loop0
	matches "it is to go" "$(dmsetup info loop0)" "DEFERRED REMOVE"
	same "--nooverlap reuses it" "$(dmlosetup -L -f --show link)" "$node"
	exec 7<&-
	same "and it stays" "$(dmlosetup -j link | wc -l)" 1
	fails "the name is taken" dmlosetup loop0 link
	fails "in use as $node" dmlosetup --prepare link
	dmlosetup -d loop0
	check "no node is left" test ! -e "$node"

	same "read-only" "$(dmlosetup -r -f --show image)" "$node"
	same "RO" "$(column RO loop0)" 1
	dmlosetup -d "$node"

	dmlosetup one image --sizelimit 1MiB
	dmlosetup two image -o 1M
	same "OFFSET" "$(column OFFSET two)" $((1 << 20))
	same "SIZELIMIT" "$(column SIZELIMIT one)" $((1 << 20))
	same "SIZE" "$(column SIZE two)" $((7 << 20))
	fails "in use by another device" dmlosetup -f image -o 512K
	same "two devices on the file" "$(dmlosetup -j image | wc -l)" 2
	same "one of that offset" "$(dmlosetup -n -l --raw -O NAME -j image -o 1M)" /dev/mapper/two
	dmlosetup -D
	same "all detached" "$(dmlosetup -l)" ''
	cd /
}

# whole MODE FILE: attached, written here and there, and compared with a copy when detached
whole()
{
	local node i
	note "$2"
	cp --sparse=always --reflink=never "$2" "$state/copy"
	node=$(dmlosetup -f --show "$2")
	same "mode" "$(column MODE "$node")" "$1"
	same "its data at first" "$(digest "$node")" "$(digest "$state/copy")"
	for i in 0 7 800 1023 1024 2047; do
		pattern write "$i" 0 12288 | dd of="$node" bs=4k seek="$i" oflag=direct iflag=fullblock conv=notrunc status=none
		pattern write "$i" 0 12288 | dd of="$state/copy" bs=4k seek="$i" iflag=fullblock conv=notrunc status=none
	done
	pattern write 1 0 1536 | dd of="$node" bs=512 seek=4003 oflag=direct iflag=fullblock conv=notrunc,fsync status=none
	pattern write 1 0 1536 | dd of="$state/copy" bs=512 seek=4003 iflag=fullblock conv=notrunc status=none
	same "the device" "$(digest "$node")" "$(digest "$state/copy")"
	dmlosetup -d "$node"
	drop_caches
	check "the file" cmp "$2" "$state/copy"
	rm "$2"
}

# Each kind of file, with no option.
kinds()
{
	local fs=$1 dir=$2 mode=file
	[[ "$fs" != @(ext4|xfs) ]] || mode=mapped
	truncate -s 9M "$dir/sparse"
	whole "$mode" "$dir/sparse"
	written_file "$dir/part" $((3 << 20))
	truncate -s 9M "$dir/part"
	whole "$mode" "$dir/part"
	if [ "$fs" != vfat ]; then
		fallocate -l 9M "$dir/fallocated"
		whole "$mode" "$dir/fallocated"
	fi
	if [[ "$fs" == @(xfs|btrfs) ]]; then
		written_file "$dir/origin" $((9 << 20))
		cp "$dir/origin" "$state/origin"
		cp --reflink=always "$dir/origin" "$dir/clone"
		sync -f "$dir"
		whole file "$dir/clone"
		check "what it was cloned from" cmp "$dir/origin" "$state/origin"
	fi
}

# On xfs the name of a file in use stays.
moved_away()
{
	local dir=$2 node
	cd "$dir"
	dmlosetup --prepare image --size 1M
	node=$(dmlosetup -f --show image)
	mv image kept
	matches "no file is there" "$(dmlosetup -a)" "\($dir/image \(deleted\)\)"
	cp kept image
	same "another is there" "$(column BACK-FILE "$node")" "$dir/image\x20(deleted)"
	mv kept image
	same "it is back" "$(column BACK-FILE "$node")" "$dir/image"
	dmlosetup -d "$node"
	cd /
}

is_made() { dmsetup info disk >/dev/null 2>&1; }

# The kernel opens the path anew when the table is loaded.
swapped()
{
	local dir=$2 load pid
	cd "$dir"
	dmlosetup --prepare image --size 1M
	cp image other
	strace -qq -e trace=ioctl -o "$state/trace" dmlosetup disk image
	dmlosetup -d disk
	load=$(awk '/DM_TABLE_LOAD/ { print NR }' "$state/trace")
	strace -qq -e trace=ioctl -e "inject=ioctl:delay_enter=$((8000000 * ${DMLOOP_TIME_FACTOR:-1})):when=$load" -o "$state/trace" \
		dmlosetup disk image 2>"$state/said" &
	pid=$!
	soon "it is about to load" is_made
	mv other image
	! wait $pid || fail "it took the other file"
	matches "it says so" "$(<"$state/said")" "image: it was replaced meanwhile"
	same "nothing is left" "$(dmsetup ls)" 'No devices found'
	cd /
}

# what the kernel refuses comes with its reason, and leaves nothing
refuse()
{
	local dir=$2
	cd "$dir"
	dmlosetup --prepare image --size 1M
	exec 7<>image
	fails "image: .*open for writing elsewhere" dmlosetup -f image
	exec 7>&-
	fails "smaller|less than" dmlosetup -f --sizelimit 100 image
	fails "not a multiple" dmlosetup -f -o 100 image
	fails "no such file|No such file" dmlosetup -f nofile
	mkfifo fifo
	fails "FIFO" dmlosetup -f fifo
	fails "block device" dmlosetup -f "$(disk 2)"
	printf tail >>image
	truncate -s 1M sparse
	fails "dmlosetup --prepare" dmlosetup --mapped -f sparse
	matches "a tail is warned of" "$(dmlosetup -f image 2>&1)" 'last 4 bytes'
	same "and left out" "$(sectors /dev/mapper/loop0)" 2048
	dmlosetup -d loop0
	chattr +i image
	matches "write-protected is read-only" "$(dmlosetup -f image 2>&1)" 'read-only'
	same "RO" "$(column RO loop0)" 1
	dmlosetup -d loop0
	chattr -i image
	same "nothing is left" "$(dmsetup ls)" 'No devices found'
	cd /
}

# every byte that a path may have
paths()
{
	local dir=$2 name old=image
	# shellcheck disable=SC1003,SC2016 # just so
	local names=('a b' $'a\nb' 'a\b' 'a\ b' 'ends\' $'d\303\240' $'\377\240' $'\t\v\f\r' '\040' '$(x)`"'"'")
	cd "$dir"
	dmlosetup --prepare image --size 1M
	for name in "${names[@]}"; do
		mv "$old" "./$name"
		old=./$name
		dmlosetup disk "./$name"
		same "found again" "$(dmlosetup -j "./$name" | wc -l)" 1
		check "JSON is JSON" jq -e '.loopdevices | length == 1' <<<"$(dmlosetup -J)"
		same "a line" "$(dmlosetup -a | wc -l)" 1
		dmlosetup -d disk
	done
	cd /
}

status()
{
	local status=0
	"$@" >/dev/null 2>&1 || status=$?
	echo "$status"
}

check "no module at first" test ! -e /sys/module/dm_loop
same "nothing to list" "$(dmlosetup -l)" ''
same "a device that is not there: 1" "$(status dmlosetup loop0)" 1
dir=$(mkfs_mount ext4)
dmlosetup --prepare "$dir/image" --size 1M
dmlosetup -f "$dir/image"
check "an attach loads the module" test -e /sys/module/dm_loop
same "a device that is there: 0" "$(status dmlosetup loop0)" 0
same "no right to look: 2" "$(status setpriv --reuid 65534 --clear-groups dmlosetup loop0)" 2
for action in "-d loop0" -D "--verify loop0" --verify "--refresh loop0"; do
	# shellcheck disable=SC2086 # two words
	fails "Permission denied; run it as root" setpriv --reuid 65534 --clear-groups dmlosetup $action
done
cleanup_devices
for_each_fs attach
for_each_fs refuse
for_each_fs moved_away ext4
for_each_fs swapped ext4
for_each_fs paths ext4
for_each_fs kinds ext4 xfs btrfs vfat tmpfs
