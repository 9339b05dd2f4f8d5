# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: a resume that looks where its file is reads nothing for that: the path may lie on the device
# TIMEOUT: 60

host_fs ext4
image=/mnt/host/image
truncate -s 64M "$image"
dev=$(loop_dev x "$image")
make_fs ext4 "$dev"
mkdir -p /mnt/in
mount "$dev" /mnt/in
mkdir /mnt/in/folder
ln -s /mnt/host /mnt/in/folder/link
sync -f /mnt/in

note "a link on the device, in the table"
dmsetup load x --table "$(loop_table /mnt/in/folder/link/image)"
dmsetup suspend x
dmsetup resume x
matches "the path" "$(dmsetup table x)" ' /mnt/in/folder/link/image '
dmsetup suspend x
echo 3 >/proc/sys/vm/drop_caches
dmsetup resume x
check "the file is there" test "$(stat -c %s /mnt/in/folder/link/image)" = $((64 << 20))

note "another file there"
dmsetup suspend x
mv "$image" "$image.away"
truncate -s 64M "$image"
fails "cannot resume: Another file is in its place" dmsetup resume x
mv "$image.away" "$image"
dmsetup resume x
umount /mnt/in
dmsetup remove x
host_gone
