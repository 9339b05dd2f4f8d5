# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# DESCRIPTION: dmlosetup with udev, without it, and where udev cannot answer
# TIMEOUT: 300

dir=$(mkfs_mount ext4)
cd "$dir"
dmlosetup --prepare image --size 1M

# The guest sets DM_DISABLE_UDEV; without it libdevmapper must find out by itself.
unset DM_DISABLE_UDEV
same "no udev runs" "$(timeout 20 dmlosetup -f --show image)" /dev/mapper/loop0
check "the node" test -b /dev/mapper/loop0
timeout 20 dmlosetup -d loop0
check "no node is left" test ! -e /dev/mapper/loop0

start_udev
same "udev runs" "$(timeout 20 dmlosetup -f --show image)" /dev/mapper/loop0
check "udev made the node" test -L /dev/mapper/loop0
timeout 20 dmlosetup -d loop0
check "no node is left" test ! -e /dev/mapper/loop0
same "no cookie is left" "$(dmsetup udevcookies | grep -c 0x || true)" 0

same "not waited for" "$(timeout 20 dmlosetup --noudevsync -f --show image)" /dev/mapper/loop0
check "the node" test -b /dev/mapper/loop0
timeout 20 dmlosetup --noudevsync -d loop0

# As in a container that shows the host's /run/udev.
same "another IPC namespace" "$(timeout 20 unshare -i -p -f --mount-proc dmlosetup -f --show image)" /dev/mapper/loop0
check "the node" test -b /dev/mapper/loop0
timeout 20 unshare -i -p -f --mount-proc dmlosetup -d loop0
udevadm settle
check "no node is left" test ! -e /dev/mapper/loop0
