# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: the module loads by itself, names its target, and unloads

# ticks PID: how long it ran
ticks()
{
	awk '{ print $14 + $15 }' "/proc/$1/stat"
}

check "no module at first" test ! -e /sys/module/dm_loop
# dm asks for dm-loop when a table names a target that nobody has registered.
fails "" dmsetup create x --table "0 8 loop"
check "a table loads the module" test -e /sys/module/dm_loop
matches "the target" "$(dmsetup targets)" '^loop +v1\.0\.0$'
rmmod dm_loop

note "removed while the file's filesystem is frozen: it waits, at rest"
dir=$(mkfs_mount ext4)
truncate -s 1M "$dir/image"
dev=$(loop_dev x "$dir/image")
xfs_io -d -c "pwrite -q 0 64k" "$dev"
fsfreeze -f "$dir"
dmsetup remove x
mark=$(kmsg_mark)
rmmod dm_loop &
waits() { grep -q dm_loop "/proc/$1/stack"; }
soon "it waits in the module" waits $!
used=$(ticks $!)
soon "the log says for what" kmsg_has 'dm-loop: inode [0-9]+: waits for its filesystem' "$mark"
check "it waits" kill -0 $!
check "and has not spun" test $(($(ticks $!) - used)) -lt 20
fsfreeze -u "$dir"
check "then it is gone" wait $!
umount "$dir"

modprobe dm-loop
check "modprobe dm-loop" test -e /sys/module/dm_loop
mark=$(kmsg_mark)
rmmod dm_loop
# as the debug kernel has
if [ -e /sys/kernel/debug/kmemleak ]; then
	check "it is built with DEBUG" kmsg_has 'dm-loop: looked for leaks' "$mark"
fi
