# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# LONG: writes files whole
# DESCRIPTION: dmlosetup --prepare makes any file fully written and keeps its content
# TIMEOUT: 300

sparse()
{
	local i
	truncate -s 24M "$1"
	for i in 1 17 300 1111 2047 5000; do
		random_bytes 12345 | dd of="$1" bs=4k seek="$i" conv=notrunc status=none
	done
	fallocate -o 9M -l 7M "$1" 2>/dev/null || true
	printf end >>"$1"
}

mapped()
{
	local node
	node=$(dmlosetup -f --show "$1" 2>/dev/null)
	same "holes" "$(status_field "${node##*/}" hole)" 0
	same "unwritten" "$(status_field "${node##*/}" unwritten)" 0
	same "shared" "$(status_field "${node##*/}" shared)" 0
	dmlosetup -d "$node"
}

prepare()
{
	local fs=$1 dir=$2 sum
	cd "$dir"
	sparse image
	sum=$(digest image)
	dmlosetup --prepare image
	drop_caches
	same "content" "$(digest image)" "$sum"
	mapped image
	if [ "$fs" = xfs ]; then
		cp --reflink=always image clone
		note "a clone, then its original"
		dmlosetup --prepare clone
		drop_caches
		same "content of the clone" "$(digest clone)" "$sum"
		same "content of its original" "$(digest image)" "$sum"
		mapped clone
		mapped image
		rm -f clone
		cp --reflink=always image clone
		rm -f clone
		note "a file that was cloned once"
		dmlosetup --prepare image
		mapped image
	fi
	dmlosetup --prepare new --size 20M
	mapped new
	fails "needs .* more|too large" dmlosetup --prepare huge --size 1T
	check "no file is left" test ! -e huge
	fails "needs .* more|too large" dmlosetup --prepare new --size 1T
	same "the size stays" "$(stat -c %s new)" $((20 << 20))
	losetup -f new
	fails "open elsewhere" dmlosetup --prepare new
	losetup -D
	mkswap -q new && chmod 600 new && swapon "$dir/new"
	fails "open elsewhere|in use" dmlosetup --prepare new
	swapoff "$dir/new"
	cd /
}

# where there is no FIEMAP, or no fallocate
plain()
{
	local dir=$2 sum
	cd "$dir"
	sparse image
	sum=$(digest image)
	dmlosetup --prepare image
	same "content" "$(digest image)" "$sum"
	cd /
}

for_each_fs prepare ext4 xfs
for_each_fs plain ext2 vfat btrfs
plain tmpfs "$(mkfs_mount tmpfs)"
