# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# LONG: writes files whole
# DESCRIPTION: dmlosetup --prepare makes any file fully written and keeps its content
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh

sparse()
{
	local i
	truncate -s 24M "$1"
	for i in 1 17 300 1111 2047 5000; do
		random_bytes 12345 >"$state/bytes"
		dd if="$state/bytes" of="$1" bs=4k seek="$i" conv=notrunc status=none
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

has_blocks() { [ "$(stat -c %b "$1")" -gt 0 ]; }

# On x86 that is its number.
in_pread64() { grep -q '^17 ' "/proc/$(pgrep -x dmlosetup)/syscall" 2>/dev/null; }

# Whoever opens the file meanwhile is let in, and has the last word.
let_in()
{
	local dir=$2 pid nth was
	cd "$dir"
	was=$(sysctl -n fs.lease-break-time)
	sysctl -q fs.lease-break-time=1

	note "it is cut"
	truncate -s 64M cut
	strace -qq -o /dev/null -e trace=pwrite64,fallocate -e inject=pwrite64,fallocate:delay_enter=300000 \
		dmlosetup --prepare cut 2>"$state/said" &
	pid=$!
	soon "it has begun" has_blocks cut
	# truncate does not wait
	dd if=/dev/null of=cut bs=1M seek=1 count=0 status=none
	! wait $pid || fail "it saw no change"
	matches "it says so" "$(<"$state/said")" "something else has changed its size"
	same "the size stays" "$(stat -c %s cut)" $((1 << 20))

	note "it is written while a piece has been read"
	truncate -s 8M one two
	strace -qq -o "$state/trace" -e trace=pread64 dmlosetup --prepare one
	nth=$(awk '!n && $NF >= 65536 { n = NR } END { print n }' "$state/trace")
	if [ -n "$nth" ]; then
		strace -qq -o /dev/null -e trace=pread64 -e "inject=pread64:delay_exit=5000000:when=$nth" \
			dmlosetup --prepare two &
		pid=$!
		soon "it reads" in_pread64
		head -c 65536 /dev/zero | tr '\0' Z | dd of=two bs=64K conv=notrunc,fsync status=none
		check "it goes on" wait $pid
		check "what was written stays" only Z head -c 65536 two
	else
		note "the filesystem writes the zeroes itself"
	fi
	sysctl -q fs.lease-break-time="$was"
	rm cut one two
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
for_each_fs let_in ext4 xfs
for_each_fs plain ext2 vfat btrfs
plain tmpfs "$(mkfs_mount tmpfs)"
