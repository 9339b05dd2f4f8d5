# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: every file that is refused: the error, what it says, and that the file is as before
# LONG: each refusal is looked at from all sides
# TIMEOUT: 400

# shellcheck disable=SC2154 # state is set in lib.sh

# With delayed allocation ext4 does not journal the data of single files.
ext4=$(mkfs_mount -d 0 -o nodelalloc ext4 -O encrypt,verity,inline_data -I 1024)
xfs=$(mkfs_mount -d 1 xfs)
dmsetup create r --notable

# load FILE [OPTIONS...]: the first page of it; LOAD_FLAGS are dmsetup's
LOAD_FLAGS=()
load()
{
	local file=$1
	shift
	# A FIFO or the like must not make it wait.
	timeout 20 dmsetup load "${LOAD_FLAGS[@]}" r --table "0 ${sectors:-8} loop $(escape "$file") ${offset:-0}${*:+ $# $*}"
}

# refused ERRNO TEXT FILE [OPTIONS...]
refused()
{
	local errno=$1 text=$2
	shift 2
	fails "$errno:loop: $text \(-($errno|[0-9]+)\)" load "$@"
}

# by_file FILE TEXT: not an error, but done by file I/O; with the option mapped it is one.
by_file()
{
	refused EOPNOTSUPP "$2" "$1" mapped
	load "$1"
	dmsetup resume r
	same "mode" "$(status_field r mode)" file
	dmsetup suspend r
	dmsetup load r --table "0 8 zero"
	dmsetup resume r
}

# hold COMMAND...: run it until release; what it says is in $state/held.
hold()
{
	mkfifo "$state/hold"
	"$@" <"$state/hold" >"$state/held" 2>&1 &
	holder=$!
	exec 6>"$state/hold"
	while ! grep -q . "$state/held" && kill -0 "$holder" 2>/dev/null; do
		sleep 0.05
	done
}

release()
{
	exec 6>&-
	wait "$holder" || true
	rm "$state/hold"
}

# An image that is a program can show both ends of i_writecount: it cannot be run while it
# is open for writing, nor opened for writing while somebody denies that.
program()
{
	cp /bin/true "$1"
	truncate -s 64K "$1"
	sync -f "$1"
}

# as_before FILE: nobody holds it, and its flags and data are those of $flags and $data.
as_before()
{
	check "it can be run" "$1"
	check "it can be opened for writing" dd if=/dev/null of="$1" conv=notrunc status=none
	same "its flags and data" "$(lsattr "$1") $(digest "$1")" "$was"
}

elsewhere()
{
	local dir=$1 file=$1/image loop
	program "$file"
	was="$(lsattr "$file") $(digest "$file")"
	# The table's own faults come after the file was opened.
	offset=65536 refused EINVAL "Offset is past the end of the file" "$file"
	sectors=129 refused EINVAL "File is shorter than the table says" "$file"
	as_before "$file"

	for LOAD_FLAGS in "" -r; do
		# shellcheck disable=SC2206 # one word or none
		LOAD_FLAGS=($LOAD_FLAGS)
		exec 5<>"$file"
		refused ETXTBSY "File is open for writing elsewhere" "$file"
		refused ETXTBSY "File is open for writing elsewhere" "$file" mapped
		exec 5>&-
		as_before "$file"
		loop=$(losetup -f --show "$file")
		refused ETXTBSY "File is open for writing elsewhere" "$file"
		check "the loop device still works" dd if="$file" of="$loop" bs=4k count=1 conv=notrunc,fsync status=none
		losetup -d "$loop"
		as_before "$file"
		hold fileop map "$file"
		refused ETXTBSY "File is open for writing elsewhere" "$file"
		release
		as_before "$file"
	done
	LOAD_FLAGS=()
	rm "$file"
}

swap()
{
	local file=$1/swap
	written_file "$file" $((1 << 20))
	chmod 600 "$file"
	mkswap -q "$file"
	swapon "$file"
	refused EBUSY "File is in use as swap" "$file"
	refused EBUSY "File is in use as swap" "$file" mapped
	LOAD_FLAGS=(-r)
	refused EBUSY "File is in use as swap" "$file"
	LOAD_FLAGS=()
	fails ETXTBSY dd if=/dev/zero of="$file" bs=4k count=1 conv=notrunc
	fails EPERM rm -f "$file"
	same "swaps" "$(awk 'NR > 1 { print $1 }' /proc/swaps)" "$file"
	swapoff "$file"
	load "$file"
	dmsetup clear r
	rm "$file"
}

ranges()
{
	local dir=$1 file
	# mapped: what it would have to ask the filesystem for
	written_file "$dir/holes" 65536
	truncate -s 128K "$dir/holes"
	written_file "$dir/unwritten" 65536
	fallocate -o 65536 -l 65536 "$dir/unwritten"
	for file in "$dir/holes" "$dir/unwritten"; do
		sectors=136 refused EOPNOTSUPP "File has holes, unwritten or shared ranges: run dmlosetup --prepare on it" "$file" mapped
		sectors=128 load "$file" mapped
		dmsetup clear r
	done
	LOAD_FLAGS=(-r)
	sectors=136 load "$dir/holes" mapped
	dmsetup clear r
	LOAD_FLAGS=()
}

overlap()
{
	local file=$1/image
	written_file "$file" 65536
	loop_dev one "$file" 0
	sectors=128 refused EBUSY "Range of the file is in use by another device" "$file"
	offset=61440 refused EBUSY "Range of the file is in use by another device" "$file"
	LOAD_FLAGS=(-r)
	refused EBUSY "Range of the file is in use by another device" "$file"
	LOAD_FLAGS=()
	dmsetup remove one
	dmsetup create one --table "0 64 loop $file 0"
	offset=28672 refused EBUSY "Range of the file is in use by another device" "$file"
	offset=32768 load "$file"
	dmsetup resume r
	pattern write 1 0 4096 | dd of=/dev/mapper/r oflag=direct bs=4k iflag=fullblock status=none
	pattern write 2 0 4096 | dd of=/dev/mapper/one oflag=direct bs=4k iflag=fullblock status=none
	dmsetup remove one
	check "two devices on disjoint ranges" pattern check 1 0 4096 < <(tail -c +32769 "$file")
	check "the other one" pattern check 2 0 4096 <"$file"
	dmsetup suspend r
	dmsetup load r --table "0 8 zero"
	dmsetup resume r

	loop_dev -r one "$file" 0
	LOAD_FLAGS=(-r)
	load "$file"
	dmsetup resume r
	LOAD_FLAGS=()
	fails ETXTBSY dmsetup create two --table "0 8 loop $file 0"
	same "two that only read may share" "$(digest "$file")" "$(digest /dev/mapper/one)"
	dmsetup suspend r
	dmsetup load r --table "0 8 zero"
	dmsetup resume r
	dmsetup remove one
	rm "$file"
	# Two lines of one table are two devices here.
	written_file "$file" 65536
	fails "EBUSY:loop: Range of the file is in use by another device" lines "$file"
}

# mapped holds for a device that comes to a file which others have taken already.
joined()
{
	local file=$1/image
	written_file "$file" 65536
	truncate -s 128K "$file"
	dmsetup create one --table "0 128 loop $file 0"
	offset=65536 refused EOPNOTSUPP "File has holes, unwritten or shared ranges: run dmlosetup --prepare on it" "$file" mapped
	dmsetup remove one
	rm "$file"
}

runs() { [ "$(readlink "/proc/$1/exe")" = "$2" ]; }

# Others may deny writing on top of us, and go on when we go.
run_meanwhile()
{
	local file=$1/program
	cp /bin/sleep "$file"
	truncate -s 64K "$file"
	sync -f "$file"
	dmsetup create one --table "0 128 loop $file 0"
	"$file" inf &
	soon "it runs" runs $! "$file"
	dmsetup remove one
	kill $!
	wait $! || true
	check "it can be run" "$file" 0
	load "$file"
	dmsetup clear r
	rm "$file"
}

lines()
{
	dmsetup load r <<-EOF
	0 8 loop $1 0
	8 8 loop $1 0
	EOF
}

note "what is no file with data"
mkdir "$ext4/dir"
mkfifo "$ext4/fifo"
mknod "$ext4/null" c 1 3
cp -a "$(disk 2)" "$ext4/block"
ln -s loop1 "$ext4/loop2"
ln -s loop2 "$ext4/loop1"
ln -s nothing "$ext4/dangling"
: >"$ext4/empty"
refused ENOENT "Cannot find the file" "$ext4/nothing"
refused ENOENT "Cannot find the file" "$ext4/nothing/image"
refused ENOENT "Cannot find the file" "$ext4/dangling"
refused ENOTDIR "Cannot find the file" "$ext4/empty/image"
refused ELOOP "Cannot find the file" "$ext4/loop1"
refused EINVAL "Not a regular file" "$ext4/dir"
refused EINVAL "Not a regular file" "$ext4/fifo"
refused EINVAL "Not a regular file" "$ext4/null"
refused EINVAL "Not a regular file" "$ext4/block"
refused EINVAL "File is empty" "$ext4/empty"

note "what may not be written"
written_file "$ext4/fixed" 65536
chattr +i "$ext4/fixed"
refused EPERM "Cannot open the file" "$ext4/fixed"
LOAD_FLAGS=(-r)
load "$ext4/fixed"
dmsetup clear r
LOAD_FLAGS=()
chattr -i "$ext4/fixed"

for dir in "$ext4" "$xfs"; do
	note "used elsewhere: $dir"
	elsewhere "$dir"
	note "swap: $dir"
	swap "$dir"
	note "with the option mapped: $dir"
	ranges "$dir"
	note "overlap: $dir"
	overlap "$dir"
	note "joined: $dir"
	joined "$dir"
	note "run meanwhile: $dir"
	run_meanwhile "$dir"
done
written_file "$xfs/shared" 65536
cp --reflink=always "$xfs/shared" "$xfs/clone"
sync -f "$xfs"
refused EOPNOTSUPP "File has holes, unwritten or shared ranges: run dmlosetup --prepare on it" "$xfs/shared" mapped

note "what can only be done by file I/O"
written_file "$ext4/journalled" 65536
chattr +j "$ext4/journalled"
by_file "$ext4/journalled" "File has journalled or inline data"
truncate -s 128K "$ext4/journalled"
dmsetup create one --table "0 128 loop $ext4/journalled 0"
same "mode" "$(status_field one mode)" file
offset=65536 refused EBUSY "File is in use by file I/O" "$ext4/journalled" mapped
dmsetup remove one
truncate -s 64K "$ext4/journalled"
chattr -j "$ext4/journalled"
load "$ext4/journalled" mapped
dmsetup clear r
written_file "$ext4/inline" 512
matches "its data is inline" "$(filefrag -v "$ext4/inline")" inline
sectors=1 by_file "$ext4/inline" "File has journalled or inline data"

key=$(pattern write 1 0 64 | xfs_io -c add_enckey "$ext4" | sed -n 's/^Added .* identifier \([0-9a-f]*\)$/\1/p')
mkdir "$ext4/secret"
xfs_io -c "set_encpolicy $key" "$ext4/secret"
written_file "$ext4/secret/image" 65536
by_file "$ext4/secret/image" "File is encrypted"

written_file "$ext4/verity" 65536
was=$(digest "$ext4/verity")
fileop verity "$ext4/verity"
refused EPERM "Cannot open the file" "$ext4/verity"
LOAD_FLAGS=(-r)
refused EOPNOTSUPP "File has fs-verity" "$ext4/verity" mapped
sectors=128 load "$ext4/verity"
dmsetup resume r
same "mode of a file with verity" "$(status_field r mode)" file
same "its data" "$(digest /dev/mapper/r)" "$was"
LOAD_FLAGS=()
# To enable it nobody may be able to write the file, and nobody can.
dmsetup suspend r
written_file "$ext4/verity2" 65536
load "$ext4/verity2"
dmsetup resume r
same "mode" "$(status_field r mode)" mapped
fileop verity "$ext4/verity2"
writes_end /dev/mapper/r
dmsetup suspend r
dmsetup load r --table "0 8 zero"
dmsetup resume r
note "there is no disk with DAX here"

written_file "$ext4/watched" 65536
hold fileop hsm "$ext4/watched"
if grep -q ready "$state/held"; then
	refused EBUSY "File is watched by a storage manager \(HSM\)" "$ext4/watched"
else
	matches "a kernel without a watch of a storage manager" "$(uname -r)" '^6\.'
fi
release

note "on the very device"
dmsetup create under --table "0 262144 linear $(disk 2) 0"
make_fs ext4 /dev/mapper/under
mkdir -p /mnt/under
mount /dev/mapper/under /mnt/under
written_file /mnt/under/image 65536
fails "ELOOP:loop: File is on this very device" dmsetup load under --table "0 128 loop /mnt/under/image 0"
mkdir /mnt/under/{upper,work} /mnt/over
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/under/upper,workdir=/mnt/under/work overlay /mnt/over
written_file /mnt/over/image 65536
fails "ELOOP:loop: File is on this very device" dmsetup load under --table "0 128 loop /mnt/over/image 0"
umount /mnt/over
umount /mnt/under
dmsetup remove under

note "sectors of 4096 bytes"
k4=$(mkfs_mount -d 4k ext4)
written_file "$k4/image" 65536
offset=512 by_file "$k4/image" "Offset or length is not a multiple of the disk's sector size"
sectors=127 by_file "$k4/image" "Offset or length is not a multiple of the disk's sector size"

note "a zoned disk"
nullb=/sys/kernel/config/nullb/nullb9
modprobe null_blk nr_devices=0
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
mkdir "$nullb"
# Zones of 4 MiB, and into all but the last one may be written anywhere.
for n in memory_backed=1 size=64 zoned=1 zone_size=4 zone_nr_conv=15 power=1; do
	echo "${n#*=}" >"$nullb/${n%=*}"
done
mkfs.ext4 -F -q -b 1024 -E nodiscard /dev/nullb9 50M
mkdir -p /mnt/zoned
mount /dev/nullb9 /mnt/zoned
written_file /mnt/zoned/image 65536
by_file /mnt/zoned/image "Disk is zoned"
umount /mnt/zoned
rmdir "$nullb"

note "xfs with a realtime device"
dmsetup remove r
umount "$xfs"
dmsetup create r --notable
make_fs xfs "$(disk 1)" -r "rtdev=$(disk 2)"
mount -o "rtdev=$(disk 2)" "$(disk 1)" "$xfs"
touch "$xfs/realtime"
xfs_io -c "chattr +r" "$xfs/realtime"
pattern write 1 0 65536 >"$xfs/realtime"
by_file "$xfs/realtime" "File is on the realtime device"
dmsetup remove r

note "a filesystem that is mounted read-only"
mount -o remount,ro "$k4"
dmsetup create r --notable
refused EROFS "Cannot open the file" "$k4/image"
dmsetup remove r
check "all can be unmounted" umount "$k4" "$xfs" "$ext4"
check "the module can be unloaded" rmmod dm_loop
