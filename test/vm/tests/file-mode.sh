# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# LONG: ten filesystems are made, filled and checked
# DESCRIPTION: files that cannot be mapped work by file I/O; the option mapped refuses them
# TIMEOUT: 1200

# shellcheck disable=SC2154 # state is set in lib.sh

seed=
random seed 1000000
# Seconds until what waits for nothing hangs
patience=$((60 * ${DMLOOP_TIME_FACTOR:-1}))

# contents FILE: what the device has of it
contents()
{
	tail -c "+$((${offset:-0} + 1))" "$1"
}

# by_model FILE: threads compare the device with a model of it, and the file is compared after
by_model()
{
	local seed said flags=()
	random seed $((1 << 30))
	dev=$(loop_dev x "$1" "${offset:-0}")
	check "it takes discards" test "$(lsblk -bdno DISC-MAX "$dev")" -gt 0
	[ -z "${cannot_punch:-}" ] || flags=(-n)
	note "model, seed $seed ${flags[*]}"
	said=$(model run -s "$seed" -t 5 "${flags[@]}" "$dev" "$state/model")
	note "$said"
	matches "reads of what is being written, and flushes" "$said" '\([1-9][0-9]* of what .* [1-9][0-9]* flushes'
	[ ${#flags[@]} -gt 0 ] || matches "discards" "$said" ' [1-9][0-9]* discards'
	dmsetup remove x
	contents "$1" >"$state/contents"
	check "the file" model check "$state/contents" "$state/model"
	drop_caches
	contents "$1" >"$state/contents"
	check "the file, from the disk" model check "$state/contents" "$state/model"
	rm "$state/contents"
}

# freed FILE COMMAND...: the KiB that it has less then, in $less
freed()
{
	less=$(du -k "$1" | cut -f 1)
	"${@:2}"
	sync "$dev"
	sync -f "$1"
	less=$((less - $(du -k "$1" | cut -f 1)))
}

# gives_back FILE FILESYSTEM DIRECT: the space of what is discarded, but for blocks of which a part is kept
gives_back()
{
	local less
	[ -z "${cannot_punch:-}" ] || return 0
	pattern write "$seed" 0 $((4 << 20)) | dd of="$dev" bs=64k oflag=direct iflag=fullblock conv=fsync status=none
	sync -f "$1"
	freed "$1" blkdiscard -o 1M -l 2M "$dev"
	note "$less KiB less for 2048 discarded"
	check "a discard gives space back" test "$less" -ge 2032 -a "$less" -le 2064
	check "what is before it" cmp -n 1M <(pattern write "$seed" 0 $((1 << 20))) "$dev"
	check "what is behind it" cmp -n 1M <(pattern write "$seed" 0 $((4 << 20)) | tail -c 1M) <(head -c 4M "$dev" | tail -c 1M)
	# Where ext4 does no direct I/O, it may be as it journals data: see journalled().
	[ "$2 $3" != "ext4 0" ] || return 0
	freed "$1" fallocate -p -o 3M -l 512K "$dev"
	note "$less KiB less for 512 of zeroes"
	check "zeroes do so too" test "$less" -ge 496 -a "$less" -le 528
	check "they are read" cmp -n 512K -i 3M:0 "$dev" /dev/zero
}

# is_direct FILE: what is aligned in the file does not come into its page cache
is_direct()
{
	drop_caches
	xfs_io -d -c "pwrite -q -b 64k $((4096 - ${offset:-4096})) 64k" "$dev"
	same "bytes in the page cache" "$(fincore -b -n -o res "$1" | tr -d " ")" 0
}

# [offset=BYTES] [cannot_punch=1] by_file FILESYSTEM FILE REASON [DIRECT]: use it, and compare
by_file()
{
	local fs=$1 file=$2 direct=${4:-0} loop n m
	note "$fs: $file ${offset:-}"
	truncate -s 16M "$file"
	fails "EOPNOTSUPP:loop: $3 \(-(EOPNOTSUPP|[0-9]+)\)" \
		dmsetup create x --table "$(loop_table "$file" "${offset:-0}" mapped)"
	by_model "$file"
	dev=$(loop_dev x "$file" "${offset:-0}")
	matches "mode, filesystem, direct I/O" \
		"$(status_field x mode) $(status_field x fstype) $(status_field x dio)" "^file $fs $direct\$"
	matches "DIO, as dmlosetup shows it" "$(dmlosetup -n -O DIO x)" "^ *$direct\$"
	[ "$(status_field x dio)" = 0 ] || is_direct "$file"
	fails ETXTBSY truncate -s 0 "$file"
	fails EOPNOTSUPP reserve "$dev"
	gives_back "$file" "$fs" "$direct"
	make_fs ext4 "$dev"
	mkdir -p /mnt/top
	mount "$dev" /mnt/top
	pattern write "$seed" 0 $((1 << 20)) >/mnt/top/data
	cp /mnt/top/data /mnt/top/copy
	rm /mnt/top/data
	fstrim /mnt/top || [ -n "${cannot_punch:-}" ] || fail "fstrim"
	# A flush that belongs to a write has its place, of any alignment (__send_empty_flush()).
	# Each folder is a block more in the journal.
	for n in 1 2 3 4 5 6; do
		for ((m = 0; m < n; m++)); do
			mkdir -p "/mnt/top/$n/$m"
		done
		check "a commit" sync -f /mnt/top
	done
	umount /mnt/top
	check "all by file I/O" test "$(status_field x file_ios)" -gt 0
	# suspend gives it back here too
	dmsetup suspend x
	check "it can be written" dd if=/dev/null of="$file" conv=notrunc status=none
	dmsetup resume x
	check "the filesystem in it" e2fsck -fn "$dev" >/dev/null 2>&1
	was=$(digest "$dev")
	dmsetup remove x
	same "the data of the file" "$(digest <(contents "$file"))" "$was"
	loop=$(losetup -r -f --show -o "${offset:-0}" "$file")
	mount -o ro,noload "$loop" /mnt/top
	check "the file in it" pattern check "$seed" 0 $((1 << 20)) </mnt/top/copy
	umount /mnt/top
	losetup -d "$loop"
	# read-only
	dev=$(loop_dev -r x "$file" "${offset:-0}")
	same "the data when it is only read" "$(digest "$dev")" "$was"
	fails "" dd if=/dev/zero of="$dev" bs=4k count=1 oflag=direct
	dmsetup remove x
	dev=$(loop_dev x "$file" "${offset:-0}" no_discard)
	same "no_discard: limit" "$(cat "$(sysfs "$dev")/queue/discard_max_bytes")" 0
	fails EOPNOTSUPP blkdiscard "$dev"
	dmsetup remove x
	rm "$file"
}

# journalled FILE: unwritten blocks among journalled ones can get old data back from the
# journal (see file_punch()), so zeroes are data there. Discards still free blocks.
journalled()
{
	note "zeroes, where data is journalled: $1"
	truncate -s 1M "$1"
	dev=$(loop_dev x "$1")
	pattern write "$seed" 0 $((1 << 20)) | dd of="$dev" bs=64k oflag=direct iflag=fullblock conv=fsync status=none
	blkdiscard -z -o 64K -l 256K "$dev"
	check "it is zeroed" cmp -n 256K -i 64K:0 "$dev" /dev/zero
	sync "$1"
	filefrag -v "$1" >"$state/extents"
	same "unwritten extents" "$(grep -c unwritten "$state/extents" || true)" 0
	same "space in use" "$(du -k "$1" | cut -f 1)" 1024
	blkdiscard -o 512K -l 256K "$dev"
	sync "$1"
	same "space after a discard" "$(du -k "$1" | cut -f 1)" 768
	check "the rest" cmp -n 256K <(pattern write "$seed" 0 $((1 << 20)) | tail -c 256K) <(tail -c 256K "$1")
	dmsetup remove x
	rm "$1"
}

# fuse_mount COMMAND...: a filesystem that this program serves, in /mnt/fuse
fuse_mount()
{
	"$@" &
	daemon=$!
	until mountpoint -q /mnt/fuse; do
		kill -0 "$daemon" || fail "it ended: $*"
		sleep 0.1
	done
}

fuse_umount()
{
	umount /mnt/fuse
	wait "$daemon"
}

events()
{
	dmsetup info -c --noheadings -o events x
}

# No discards, and they are no error: the block layer writes zeroes, and nobody is told.
fuse_cannot_punch()
{
	local was
	note "fallocate() does nothing there"
	pattern write "$seed" 0 $((1 << 20)) >/mnt/fuse/image
	dev=$(loop_dev x /mnt/fuse/image)
	was=$(events)
	fails unsupported fallocate -p -o 64K -l 64K "$dev"
	blkdiscard -o 64K -l 64K "$dev"
	check "nothing is discarded" pattern check "$seed" 0 $((1 << 20)) <"$dev"
	blkdiscard -z -o 128K -l 64K "$dev"
	check "zeroes" cmp -n 64K -i 128K:0 "$dev" /dev/zero
	same "events" "$(events)" "$was"
}

# full_but BYTES FOLDER: no more than that is free there
full_but()
{
	head -c "$1" /dev/zero >"$2/spare"
	sync -f "$2"
	! cat /dev/zero 2>/dev/null >"$2/full" || fail "there is no end of it"
	sync -f "$2"
	rm "$2/spare"
	sync -f "$2"
}

# FUSE takes all of a write, sends one part after the other, and says how much had been written before one failed.
fuse_writes_a_part()
{
	local kib refused=0
	note "no space for a part of a write"
	truncate -s 8M /mnt/fuse/image
	full_but $((160 << 10)) /mnt/fuse
	dev=$(loop_dev x /mnt/fuse/image)
	for ((kib = 100; kib <= 260; kib += 4)); do
		if xfs_io -d -c "pwrite -q -b 1m -S $((kib / 2)) 0 ${kib}k" "$dev" 2>/dev/null; then
			cmp <(head -c ${kib}K /dev/zero | tr '\0' "\\$(printf %o $((kib / 2)))") \
				<(head -c ${kib}K /mnt/fuse/image) || fail "$kib KiB were not written"
		else
			refused=$((refused + 1))
		fi
		blkdiscard -l 1M "$dev"
	done
	check "$refused of 41 had no space" test "$refused" -gt 0 -a "$refused" -lt 41
	dmsetup remove x
}

# What was acknowledged did not come to the server. NFS tells that to the next write, and the flush must know too.
nfs_is_full()
{
	note "the server has no space"
	allow 'dm-loop: inode [0-9]+: cannot'
	dev=$(loop_dev x /mnt/nfs/image)
	same "mode" "$(status_field x mode)" file
	check "a write" xfs_io -d -c "pwrite -q -S 1 0 64k" "$dev"
	sync -f /mnt/nfs/image || true
	fails ENOSPC xfs_io -d -c "pwrite -q -S 2 1m 4k" "$dev"
	fails "${errno_text[ENOSPC]}|${errno_text[EIO]}" xfs_io -d -c fsync "$dev"
	dmsetup remove x
}

# The program is killed while somebody writes: errors, and nothing waits for ever.
fuse_dies()
{
	local writer status=0 was ios
	note "the program is killed"
	allow 'Buffer I/O error on dev dm-' 'dm-loop: inode [0-9]+: cannot'
	was=$(events)
	ios=$(status_field x file_ios)
	while dd if=/dev/zero of="$dev" bs=64k count=16 oflag=direct conv=notrunc,fsync status=none; do
		:
	done 2>"$state/writer" &
	writer=$!
	until [ "$(status_field x file_ios)" -gt $((ios + 50)) ]; do
		kill -0 "$writer" || fail "the writer ended"
		sleep 0.1
	done
	kill -KILL "$daemon"
	timeout 60 tail --pid="$writer" -f /dev/null
	wait "$writer"
	matches "what the writer got" "$(<"$state/writer")" "${errno_text[EIO]}"
	wait "$daemon" || status=$?
	same "the program" "$status" 137
	# What is cached can be read for a second more, until FUSE asks whether the file has changed.
	echo 1 >/proc/sys/vm/drop_caches
	fails EIO timeout "$patience" dd if="$dev" of=/dev/null bs=64k iflag=direct
	fails EIO timeout "$patience" dd if=/dev/zero of="$dev" bs=64k count=1 oflag=direct conv=notrunc
	fails EIO timeout "$patience" blkdiscard -z "$dev"
	same "events" "$(events)" $((was + 1))
	check "it is removed" timeout "$patience" dmsetup remove x
	umount /mnt/fuse
}

# reads_wait N: so many of our workers, at least, wait for the host's disk
reads_wait()
{
	# shellcheck disable=SC2009 # by state
	[ "$(ps -eo stat,comm | grep -c '^D.*kworker.*dm-loop')" -ge "$1" ]
}

# journalled_later FILE BELOW DIO: the same when that begins while the file is in use
journalled_later()
{
	note "zeroes, after chattr +j: $1"
	written_file "$1" $((1 << 20))
	dev=$(loop_dev x "$1" 512)
	same "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" "file $3"
	chattr +j "$2"
	blkdiscard -z -o 64K -l 256K "$dev"
	check "it is zeroed" cmp -n 256K -i 64K:0 "$dev" /dev/zero
	sync "$2"
	filefrag -v "$2" >"$state/extents"
	same "unwritten extents" "$(grep -c unwritten "$state/extents" || true)" 0
	dmsetup remove x
	rm "$1"
}

# Reads that have to wait for the disk do so side by side, and one that has not waits for none of them.
side_by_side()
{
	local image=/mnt/host/image reader
	note "reads side by side"
	host_fs -o data=journal,noatime ext4
	written_file "$image" $((16 << 20))
	dev=$(loop_dev x "$image")
	same "mode" "$(status_field x mode)" file
	drop_caches
	# What comes now is in the page cache, and so is where all of it lies.
	head -c 64K "$image" >"$state/cached"
	filefrag "$image" >/dev/null
	dmsetup suspend --noflush --nolockfs host
	fio --name=x --filename="$dev" --rw=randread --bs=4k --offset=8m --size=8m --number_ios=8 --direct=1 \
		--ioengine=libaio --iodepth=8 --iodepth_batch=8 --output="$state/fio.log" &
	reader=$!
	soon "some wait for the disk" reads_wait 4
	workers_marked 'kworker.*dm-loop'
	dd if="$dev" of="$state/read" bs=4k count=16 iflag=direct status=none
	check "they still do" reads_wait 4
	check "what was cached is read" cmp "$state/read" "$state/cached"
	dmsetup resume host
	wait "$reader"
	dmsetup remove x
	host_gone
}

# writes_delayed N: dm-delay has so many, at least
writes_delayed() { [ "$(dmsetup status host | awk '{ print $5 }')" -ge "$1" ]; }

# So do direct writes, where the filesystem lets them.
writes_side_by_side()
{
	local image=/mnt/host/image writer
	note "direct writes side by side"
	modprobe dm-delay
	host_fs -o noatime btrfs
	touch "$image"
	chattr +C "$image"
	written_file "$image" $((16 << 20))
	dev=$(loop_dev x "$image")
	same "mode, direct I/O" "$(status_field x mode) $(status_field x dio)" "file 1"
	host_is 0 "$host_size" delay "$host_disk" 0 0 "$host_disk" 0 $((4000 * ${DMLOOP_TIME_FACTOR:-1}))
	fio --name=x --filename="$dev" --rw=randwrite --bs=4k --offset=8m --size=8m --number_ios=8 --direct=1 \
		--ioengine=libaio --iodepth=8 --iodepth_batch=8 --output="$state/fio.log" &
	writer=$!
	soon "some are under way to the disk" writes_delayed 4
	wait "$writer"
	dmsetup remove x
	host_is 0 "$host_size" linear "$host_disk" 0
	host_gone
}

side_by_side
# The btrfs of 6.12 takes the inode lock alone for each (btrfs_inode_lock() without BTRFS_ILOCK_SHARED).
[[ "$(uname -r)" == 6.12.* ]] || writes_side_by_side
dir=$(mkfs_mount tmpfs)
by_file tmpfs "$dir/image" "Filesystem cannot be mapped"

dir=$(mkfs_mount btrfs)
by_file btrfs "$dir/image" "Filesystem cannot be mapped"
touch "$dir/nocow"
chattr +C "$dir/nocow"
by_file btrfs "$dir/nocow" "Filesystem cannot be mapped" 1
note "fs-verity, which can be enabled on a file in use"
written_file "$dir/verity" 65536
dev=$(loop_dev x "$dir/verity")
fileop verity "$dir/verity"
writes_end "$dev"
dmsetup remove x
cleanup_devices

modprobe fuse
mkdir -p /mnt/fuse
disk=$(free_disk)
make_fs ext4 "$disk"
fuse_mount fuse2fs -f "$disk" /mnt/fuse
by_file fuse /mnt/fuse/image "Filesystem cannot be mapped"
fuse_umount
check "the filesystem below" e2fsck -fn "$disk" >/dev/null 2>&1

mkfs.ext4 -q "$state/small" 32M
fuse_mount fuse2fs -f "$state/small" /mnt/fuse
fuse_writes_a_part
fuse_umount

mkdir -p /mnt/below
fuse_mount bindfs -f /mnt/below /mnt/fuse
cannot_punch=1 by_file fuse /mnt/fuse/image "Filesystem cannot be mapped"
fuse_cannot_punch
fuse_dies
fuse_mount bindfs -f -o direct_io /mnt/below /mnt/fuse
cannot_punch=1 by_file fuse /mnt/fuse/image "Filesystem cannot be mapped"
fuse_umount

dir=$(mkfs_mount f2fs)
by_file f2fs "$dir/image" "Filesystem cannot be mapped"
cleanup_devices

# With delayed allocation ext4 does not journal the data of single files.
dir=$(mkfs_mount -d 4k -o nodelalloc ext4 -O encrypt)
key=$(pattern write 1 0 64 | xfs_io -c add_enckey "$dir" | sed -n 's/^Added .* identifier \([0-9a-f]*\)$/\1/p')
mkdir "$dir/secret"
xfs_io -c "set_encpolicy $key" "$dir/secret"
by_file ext4 "$dir/secret/image" "File is encrypted"
offset=512 by_file ext4 "$dir/image" "Offset or length is not a multiple of the disk's sector size" 1
journalled_later "$dir/later" "$dir/later" 1
cleanup_devices

dir=$(mkfs_mount -o nodelalloc ext4 -O inline_data -I 1024)
mkdir -p "$dir"/{lower,upper,work} /mnt/overlay
mount -t overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" overlay /mnt/overlay
# It passes on how direct I/O is aligned, but does none.
by_file overlay /mnt/overlay/image "Filesystem cannot be mapped"
journalled_later /mnt/overlay/later "$dir/upper/later" 0
umount /mnt/overlay

touch "$dir/journalled"
chattr +j "$dir/journalled"
by_file ext4 "$dir/journalled" "File has journalled or inline data"
touch "$dir/journalled"
chattr +j "$dir/journalled"
journalled "$dir/journalled"

note "inline data"
pattern write "$seed" 0 512 >"$dir/inline"
sync -f "$dir"
matches "its data is inline" "$(filefrag -v "$dir/inline")" inline
dev=$(loop_dev x "$dir/inline")
same "mode" "$(status_field x mode)" file
check "the data" pattern check "$seed" 0 512 <"$dev"
pattern write $((seed + 1)) 0 512 | dd of="$dev" bs=512 oflag=direct iflag=fullblock conv=fsync status=none
dmsetup remove x
check "what was written" pattern check $((seed + 1)) 0 512 <"$dir/inline"
umount "$dir"

disk=$(disk 0)
make_fs ext4 "$disk"
mount -o data=journal "$disk" "$dir"
by_file ext4 "$dir/image" "File has journalled or inline data"
journalled "$dir/image"
mkdir "$dir"/{lower,upper,work}
mount -t overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" overlay /mnt/overlay
journalled /mnt/overlay/image
umount /mnt/overlay
mount -o remount,ro "$dir"
mount -o remount,rw "$dir"

# answers PID CACHE: the kernel may ask the daemon; until then it refuses all for which it would
answers() { find "/proc/$1/fd" -lname "*/$2/channel" | grep -q .; }

note nfs
modprobe nfsd
mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
mkdir -p /mnt/nfs /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
exportfs -o rw,no_root_squash,insecure,fsid=0 "127.0.0.1:$dir"
# Clients wait until its grace period is over. Newer servers do not end it when told.
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
rpc.mountd --foreground --no-nfs-version 3 &
mountd=$!
soon "mountd answers" answers "$mountd" nfsd.export
rpc.nfsd -N 3 2
echo Y >/proc/fs/nfsd/v4_end_grace || note "it takes its ten seconds"
timeout 60 mount -t nfs4 -o vers=4.2 127.0.0.1:/ /mnt/nfs
by_file nfs4 /mnt/nfs/image "Filesystem cannot be mapped"
umount /mnt/nfs
exportfs -ua
disk=$(free_disk)
mkfs.ext4 -q -F "$disk" 64M
mkdir -p /mnt/small
mount "$disk" /mnt/small
truncate -s 16M /mnt/small/image
full_but 0 /mnt/small
exportfs -o rw,no_root_squash,insecure,fsid=0 127.0.0.1:/mnt/small
timeout 60 mount -t nfs4 -o vers=4.2 127.0.0.1:/ /mnt/nfs
nfs_is_full
umount /mnt/nfs
exportfs -ua
rpc.nfsd 0
kill "$mountd"
wait "$mountd" || true
soon "nothing is left on the small one" umount /mnt/small
soon "nothing is left" umount "$dir"
