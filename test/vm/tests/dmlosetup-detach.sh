# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# DESCRIPTION: dmlosetup -d is done, or an error that says who uses the device

dir=$(mkfs_mount ext4)
cd "$dir"
dmlosetup --prepare image --size 16M
dmlosetup --prepare other --size 1M
node=$(dmlosetup -f --show image)

mkfs.ext4 -q "$node"
mkdir "/mnt/m p"
mount "$node" "/mnt/m p"
fails "loop0: it is mounted on /mnt/m p" dmlosetup -d loop0
check "it is still there" dmlosetup loop0
umount "/mnt/m p"

dmsetup create stack --table "0 8 linear $node 0"
fails "loop0: dm-[0-9]+ \(stack\) is on top of it" dmlosetup -d loop0
fails "stack: it is not a dm-loop device" dmlosetup -d stack
fails "not of dm-loop" dmlosetup stack
dmsetup remove stack

mkswap -q "$node"
swapon "$node"
fails "loop0: it is used as swap space" dmlosetup -d loop0
swapoff "$node"

exec 7<"$node"
fails "loop0: something has it open" dmlosetup -d loop0
dmlosetup -d --deferred loop0
same "deferred" "$(dmlosetup -l -n --raw -O AUTOCLEAR loop0)" 1
exec 7<&-
no_device() { [ "$(dmsetup ls)" = 'No devices found' ]; }
soon "gone when it is closed" no_device

fails "no such device" dmlosetup -d loop0
fails "no such device" dmlosetup -d /dev/mapper/loop0
fails "no such device" dmlosetup -d "$(disk 1)"
fails "it is no device" dmlosetup -d ./image

# by each of its names; one that fails does not keep the others
dmlosetup a image
dmlosetup b other
fails "nix: no such device" dmlosetup -d /dev/mapper/a nix "$(readlink -f /dev/mapper/b)"
same "both are gone" "$(dmsetup ls)" 'No devices found'

# It is busy; before the next try another command removes it, and a third makes one of that name.
dmlosetup a image
exec 7</dev/mapper/a
# shellcheck disable=SC2154 # state is set in lib.sh
strace -qq -o "$state/calls" -e trace=clock_nanosleep -e inject=clock_nanosleep:delay_exit=$((8000000 * ${DMLOOP_TIME_FACTOR:-1})):when=1 \
	dmlosetup -d a 2>"$state/said" 7<&- &
pid=$!
soon "it will try again" grep -q nanosleep "$state/calls"
exec 7<&-
command dmlosetup -d a
dmlosetup a other
status=0
wait $pid || status=$?
same "it fails" "$status" 1
matches "as its device is gone" "$(<"$state/said")" "a: it is gone already"
check "the other one stays" dmlosetup a
dmlosetup -d a

# Before the node goes a new device gets its name and its number.
dmlosetup a image
strace -qq -o "$state/calls" -e trace=unlink -e inject=unlink:delay_enter=$((8000000 * ${DMLOOP_TIME_FACTOR:-1})) \
	dmlosetup -d a &
pid=$!
soon "the old one is gone" no_device
dmlosetup a other
check "it was waiting with the node" kill -0 $pid
wait $pid
check "the new one has its node" test -b /dev/mapper/a
dmlosetup -d a
check "no node is left" test ! -e /dev/mapper/a

# also those that dmsetup made, and those that are suspended
loop_dev hand "$dir/other" >/dev/null
dmlosetup -d hand
dmlosetup a image
dmlosetup b other
dmsetup suspend a
exec 7</dev/mapper/b
fails "b: something has it open" dmlosetup -D
exec 7<&-
same "the other is gone" "$(dmlosetup -l -n --raw -O NAME)" /dev/mapper/b
dmlosetup -D
same "nothing is left" "$(dmsetup ls)" 'No devices found'
