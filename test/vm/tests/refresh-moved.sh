# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: when another file is at the path, no command takes it for the file of the device
# LONG: each command on three filesystems
# TIMEOUT: 240

# shellcheck source=test/vm/tests/refresh-common.bash
. "${BASH_SOURCE[0]%/*}/refresh-common.bash"

# away, back: the image, and a copy of it in its place
away()
{
	mv "$image" "$image.away"
	mv "$image.copy" "$image"
}

back()
{
	same "the file in its place" "$(digest "$image")" "$other"
	check "nobody holds it" truncate -s +0 "$image"
	mv "$image" "$image.copy"
	mv "$image.away" "$image"
}

moved()
{
	local dir=$2 key command pid other others status=0
	image=$dir/image
	random key 1000000
	truncate -s 16M "$image"
	dmlosetup disk "$image"
	node=/dev/mapper/disk
	pattern write "$key" 0 1048576 | dd of="$node" bs=64K iflag=fullblock oflag=direct conv=fsync status=none
	cp "$image" "$image.copy"
	other=$(digest "$image.copy")
	same "devices on it" "$(dmlosetup -n -O NAME -j "$image")" "$node"

	away
	others=$(dmlosetup -n -O NAME -j "$image")
	same "devices on the other" "$others" ''
	same "devices on it, by its new name" "$(dmlosetup -n -O NAME -j "$image.away")" "$node"
	for command in "--refresh disk" "-c disk" "-c disk --size 32M" "-c disk --size 8M --shrink" \
		"--snapshot disk $dir/new" "--defrag disk" "--replace disk $dir/new"; do
		# shellcheck disable=SC2086 # words
		fails "is not (its file|the file of .*) any more" within dmlosetup $command
		same "the device, and a new file" "$(state_of disk) $(ls "$dir/new" 2>/dev/null)" "Active "
	done
	same "sectors" "$(blockdev --getsz "$node")" 32768
	back

	if [ "$1" = ext4 ]; then
		note "moved while a command has it suspended"
		strace -qq -o /dev/null -e trace=ftruncate -e inject=ftruncate:delay_enter=$((5000000 * ${DMLOOP_TIME_FACTOR:-1})):when=1 \
			dmlosetup --snapshot disk "$dir/new" &
		pid=$!
		soon "it is suspended" suspended
		away
		wait "$pid" || status=$?
		same "its exit status" $status 1
		check "not with the other file: it stays suspended" suspended
		back
		check "it goes on" within dmlosetup --refresh disk
	fi
	check "the data" pattern check "$key" 0 1048576 <"$node"
	dmlosetup -d disk
	check "the data in the file" pattern check "$key" 0 1048576 <"$image"
}

suspended() { [ "$(state_of disk)" = Suspended ]; }

# Where the device number that stat shows is not that of the filesystem, too.
for_each_fs moved ext4 tmpfs btrfs
