# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: the module loads by itself, names its target, and unloads

check "no module at first" test ! -e /sys/module/dm_loop
# dm asks for dm-loop when a table names a target that nobody has registered.
fails "" dmsetup create x --table "0 8 loop"
check "a table loads the module" test -e /sys/module/dm_loop
matches "the target" "$(dmsetup targets)" '^loop +v1\.0\.0$'
rmmod dm_loop
modprobe dm-loop
check "modprobe dm-loop" test -e /sys/module/dm_loop
rmmod dm_loop
