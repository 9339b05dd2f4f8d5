# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a table that is not right is refused with a clear error, and leaves nothing behind
# LONG: not worth three kernels: depends on no function that differs between them
# TIMEOUT: 120

dir=$(mkfs_mount ext4)
file=$dir/image
written_file "$file" $((1 << 20))
before="$(digest "$file") $(lsattr "$file")"
# A device without a table: a load is tried, and nothing else.
dmsetup create t --notable

# refused ERRNO TEXT TABLE: the kernel logs the text, and the load fails with the error.
refused()
{
	fails "$1:table: 253:[0-9]+: loop: $2 \(-($1|[0-9]+)\)" dmsetup load t --table "$3"
}

refused EINVAL "Invalid argument count: need <path> <offset>" "0 8 loop"
refused EINVAL "Invalid argument count: need <path> <offset>" "0 8 loop $file"
refused EINVAL "Path is not absolute" "0 8 loop image 0"
(cd "$dir" && refused EINVAL "Path is not absolute" "0 8 loop ./image 0")

# No path has the byte 0, so that is no code for it.
refused ENOENT "Cannot find the file" "0 8 loop $file\\000more 0"

note "the offset"
for offset in x 512x 0x200 -512 1e3 5.0 18446744073709551616 999999999999999999999999; do
	refused EINVAL "Invalid offset" "0 8 loop $file $offset"
done
for offset in 1 511 513 1048575 18446744073709551615; do
	refused EINVAL "Offset is not a multiple of 512 bytes" "0 8 loop $file $offset"
done
for offset in 1048576 1049088 9223372036854775808 18446744073709551104; do
	refused EINVAL "Offset is past the end of the file" "0 8 loop $file $offset"
done

note "the length"
refused EINVAL "File is shorter than the table says" "0 2049 loop $file 0"
refused EINVAL "File is shorter than the table says" "0 2048 loop $file 512"
refused EINVAL "File is shorter than the table says" "0 2 loop $file 1048064"
# More than that device-mapper does not let through.
refused EINVAL "File is shorter than the table says" "0 18014398509481983 loop $file 0"
fails EINVAL dmsetup load t --table "0 0 loop $file 0"
fails EINVAL dmsetup load t --table "8 8 loop $file 0"

note "the options"
refused EINVAL "Invalid number of options" "0 8 loop $file 0 x"
refused EINVAL "Invalid number of options" "0 8 loop $file 0 -1"
refused EINVAL "Invalid number of options" "0 8 loop $file 0 99999999999 mapped"
refused EINVAL "Invalid number of options" "0 8 loop $file 0 2 mapped"
refused EINVAL "Invalid number of options" "0 8 loop $file 0 mapped"
refused EINVAL "Number of options does not match" "0 8 loop $file 0 0 mapped"
refused EINVAL "Number of options does not match" "0 8 loop $file 0 1 mapped no_discard"
refused EINVAL "Unknown option or invalid value" "0 8 loop $file 0 1 nonsense"
refused EINVAL "Unknown option or invalid value" "0 8 loop $file 0 2 mapped nonsense"
for value in 0 x -65536 65537 32768 134217728 18446744073709617152; do
	refused EINVAL "Unknown option or invalid value" "0 8 loop $file 0 2 chunk $value"
done
refused EINVAL "Unknown option or invalid value" "0 8 loop $file 0 1 chunk"

note "what is right is taken"
dmsetup load t --table "0 8 loop $file 1044480 3 no_discard chunk 65536"
dmsetup load t --table "0 2048 loop $file 0 0"
dmsetup resume t
same "size" "$(sectors /dev/mapper/t)" 2048

note "nothing is left"
dmsetup remove t
same "data and flags of the file" "$(digest "$file") $(lsattr "$file")" "$before"
check "the file can be written" dd if=/dev/zero of="$file" bs=4k count=1 conv=notrunc status=none
check "and removed" rm "$file"
check "the filesystem can be unmounted" umount "$dir"
check "the module can be unloaded" rmmod dm_loop
