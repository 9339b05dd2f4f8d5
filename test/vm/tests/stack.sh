# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: what people put on top: dm-crypt, LVM, swap, partitions, another dm-loop, a table of several lines
# LONG: three kinds of devices on top of each other, on each filesystem
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh

seed=
random seed 1000000

# use_fs DEVICE: a filesystem with a file, which is still there the next time
use_fs()
{
	make_fs ext4 "$1"
	mkdir -p /mnt/top
	mount "$1" /mnt/top
	pattern write "$seed" 0 $((2 << 20)) >/mnt/top/data
	umount /mnt/top
	see_fs "$1"
}

see_fs()
{
	mount "$1" /mnt/top
	check "the file on $1" pattern check "$seed" 0 $((2 << 20)) </mnt/top/data
	umount /mnt/top
	check "the filesystem on $1" e2fsck -fn "$1" >/dev/null 2>&1
}

sparse()
{
	rm -f "$1"
	truncate -s "$2" "$1"
}

crypt()
{
	sparse "$dir/crypt" 48M
	dev=$(loop_dev x "$dir/crypt")
	pattern write 1 0 64 >"$state/key"
	cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$dev" "$state/key"
	cryptsetup open --key-file "$state/key" "$dev" secret
	use_fs /dev/mapper/secret
	cryptsetup close secret
	dmsetup remove x
	dev=$(loop_dev x "$dir/crypt")
	cryptsetup open --key-file "$state/key" "$dev" secret
	see_fs /dev/mapper/secret
	cryptsetup close secret
	dmsetup remove x
	# The file is the truth: the ordinary loop driver finds the same.
	loop=$(losetup -f --show "$dir/crypt")
	cryptsetup open --key-file "$state/key" "$loop" secret
	see_fs /dev/mapper/secret
	cryptsetup close secret
	losetup -d "$loop"
}

lvm_on_it()
{
	sparse "$dir/lvm" 64M
	dev=$(loop_dev x "$dir/lvm")
	{
		pvcreate -q "$dev"
		vgcreate -q top "$dev"
		lvcreate -q -y -Wn -Zn -l 100%FREE -n lv top
	} >&2
	use_fs /dev/top/lv
	vgchange -q -an top >&2
	dmsetup remove x
	dev=$(loop_dev x "$dir/lvm")
	vgchange -q -ay top >&2
	see_fs /dev/top/lv
	vgchange -q -an top >&2
	dmsetup remove x
}

partitions()
{
	sparse "$dir/disk" 64M
	dev=$(loop_dev x "$dir/disk")
	sfdisk -q --no-reread --no-tell-kernel "$dev" >&2 <<-EOF
	label: gpt
	start=2048, size=32768
	start=34816, size=65536
	EOF
	kpartx -a "$dev"
	use_fs /dev/mapper/x2
	kpartx -d "$dev"
	dmsetup remove x
	dev=$(loop_dev x "$dir/disk" $((34816 * 512)))
	mkdir -p /mnt/top
	mount -o ro "$dev" /mnt/top
	check "a partition by its offset" pattern check "$seed" 0 $((2 << 20)) </mnt/top/data
	umount /mnt/top
	dmsetup remove x
}

swapped_out() { awk '/^pswpout/ { print $2 }' /proc/vmstat; }

swap()
{
	local before
	fallocate -l 96M "$dir/swap"
	fails "EOPNOTSUPP:run dmlosetup --prepare" dmsetup create x --table "$(loop_table "$dir/swap" 0 mapped)"
	dd if=/dev/zero of="$dir/swap" bs=1M count=96 conv=notrunc,fsync status=none
	dev=$(loop_dev x "$dir/swap" 0 mapped)
	mkswap -q "$dev"
	swapon "$dev"
	mkdir -p /mnt/cgroup
	mount -t cgroup2 none /mnt/cgroup
	echo +memory >/mnt/cgroup/cgroup.subtree_control
	mkdir /mnt/cgroup/small
	echo $((16 << 20)) >/mnt/cgroup/small/memory.max
	before=$(swapped_out)
	check "memory that was swapped out comes back" \
		bash -c "echo \$\$ >/mnt/cgroup/small/cgroup.procs; exec fileop memory 48"
	check "it was swapped out" test $(($(swapped_out) - before)) -gt 4096
	same "calls of the filesystem" "$(status_field x fsyncs) $(status_field x fills) $(status_field x file_ios)" "0 0 0"
	swapoff "$dev"
	rmdir /mnt/cgroup/small
	umount /mnt/cgroup
	dmsetup remove x
	rm "$dir/swap"
}

nested()
{
	local inner
	sparse "$dir/outer" 96M
	dev=$(loop_dev outer "$dir/outer")
	make_fs "$1" "$dev"
	mkdir -p /mnt/outer
	mount "$dev" /mnt/outer
	sparse /mnt/outer/image 48M
	inner=$(loop_dev inner /mnt/outer/image)
	use_fs "$inner"
	note "write it all at random"
	pattern write "$seed" 0 $((32 << 20)) | dd of="$inner" bs=1M iflag=fullblock status=none
	sync "$inner"
	check "the data" pattern check "$seed" 0 $((32 << 20)) <"$inner"
	dmsetup remove inner
	drop_caches
	check "the data of the inner file" pattern check "$seed" 0 $((32 << 20)) </mnt/outer/image
	umount /mnt/outer
	dmsetup remove outer
}

lines()
{
	written_file "$dir/a" $((1 << 20))
	sparse "$dir/b" 1M
	dmsetup create x <<-EOF
	0 2048 loop $dir/a 0
	2048 2048 loop $dir/b 0
	4096 64 zero
	4160 8 loop $other/c 4096
	EOF
	same "size" "$(sectors /dev/mapper/x)" 4168
	same "the data" "$(digest /dev/mapper/x)" \
		"$({ cat "$dir/a" "$dir/b"; head -c 32768 /dev/zero; head -c 8192 "$other/c" | tail -c 4096; } | sha256sum | cut -d' ' -f1)"
	# Over the border, with one write.
	pattern write "$seed" 0 $((1 << 20)) | dd of=/dev/mapper/x bs=1M seek=524288 oflag=seek_bytes,direct iflag=fullblock conv=notrunc status=none
	check "over the border of two files" pattern check "$seed" 0 $((1 << 20)) < <(tail -c +524289 /dev/mapper/x)
	dmsetup suspend x
	check "both are given back" dd if=/dev/null of="$dir/a" conv=notrunc status=none
	check "the other one" dd if=/dev/null of="$other/c" conv=notrunc status=none
	dmsetup resume x
	check "the data" pattern check "$seed" 0 $((1 << 20)) < <(tail -c +524289 /dev/mapper/x)
	dmsetup remove x
	check "in the files" pattern check "$seed" 0 $((1 << 20)) < <(tail -c 512K "$dir/a"; head -c 512K "$dir/b")
}

dir=$(mkfs_mount ext4)
other=$(mkfs_mount xfs)
written_file "$other/c" 65536
note "dm-crypt"
crypt
note "LVM"
lvm_on_it
note "partitions"
partitions
note "swap"
swap
note "nested"
nested ext4
note "several lines"
lines
