# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: lvm2's own dmlosetup, which dmsetup is under that name, attaches and detaches
# TIMEOUT: 60

# shellcheck disable=SC2154 # state is set in lib.sh

dir=$(mkfs_mount ext4)
written_file "$dir/image" $((1 << 20))
applet=$state/applet/dmlosetup
mkdir "$state/applet"
ln -s "$(type -P dmsetup)" "$applet"

"$applet" loop7 "$dir/image"
same "its table" "$(dmsetup table loop7)" "0 2048 loop $dir/image 0"
same "its data" "$(digest /dev/mapper/loop7)" "$(digest "$dir/image")"
fails ETXTBSY truncate -s 0 "$dir/image"
pattern write 1 0 65536 | dd of=/dev/mapper/loop7 bs=64K iflag=fullblock oflag=direct conv=notrunc status=none
"$applet" -d loop7
same "devices" "$(dmsetup ls)" "No devices found"
check "what was written" pattern check 1 0 65536 <"$dir/image"

"$applet" -o 65536 loop8 "$dir/image"
same "its table" "$(dmsetup table loop8)" "0 1920 loop $dir/image 65536"
same "its data" "$(digest /dev/mapper/loop8)" "$(tail -c +65537 "$dir/image" | sha256sum | cut -d' ' -f1)"
"$applet" -d loop8

cd "$dir" || fail "no folder"
"$applet" loop9 image
same "a relative path" "$(dmsetup table loop9)" "0 2048 loop $dir/image 0"
"$applet" -d loop9
cd /
check "the file is free" truncate -s 0 "$dir/image"
fails "" "$applet" loop9 "$dir/image"
fails "" "$applet" loop9 "$dir/nothing"
same "devices" "$(dmsetup ls)" "No devices found"
