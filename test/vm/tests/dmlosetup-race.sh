# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash disable=SC2164 # a cd that fails ends the test
# LONG: two hundred commands at once, and again
# DESCRIPTION: dmlosetup -f two hundred times at once gives two hundred devices; killed, it leaves none
# TIMEOUT: 900

dir=$(mkfs_mount ext4)
cd "$dir"
n=$(rounds 200)
for ((i = 0; i < n; i++)); do
	dd if=/dev/zero of="image$i" bs=64k count=1 status=none
done
sync -f .
pids=()
for ((i = 0; i < n; i++)); do
	dmlosetup -f --show "image$i" >"out$i" &
	pids+=($!)
done
for pid in "${pids[@]}"; do
	wait "$pid"
done
same "devices" "$(sort -u out* | wc -l)" "$n"
same "no name is left out" "$(sort -V out* | tail -n 1)" "/dev/mapper/loop$((n - 1))"
for ((i = 0; i < n; i += 13)); do
	same "each shows its file" "$(dmlosetup -l -n --raw -O BACK-FILE "$(<"out$i")")" "$dir/image$i"
done
dmlosetup -D
same "all are gone" "$(dmsetup ls)" 'No devices found'

# Killed at any moment, it has attached the file and said so, or nothing is left: what is
# killed with its last word on the lips may have said so and be taken back.
began=${EPOCHREALTIME/./}
dmlosetup -d "$(dmlosetup -f --show image0)"
took=$(((${EPOCHREALTIME/./} - began) / 1000))
finished=0
turns=$(rounds 12)
for ((i = 0; i < turns; i++)); do
	for signal in TERM KILL; do
		dmlosetup -f --show image0 >out 2>err &
		pid=$!
		ms=0
		random ms "$took"
		sleep "$(printf '%d.%03d' $((ms / 1000)) $((ms % 1000)))"
		kill -s "$signal" "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
		no_guard || soon "no guard is left" no_guard
		if [ -s out ]; then
			finished=$((finished + 1))
			dmlosetup -d "$(<out)" || [ "$(dmsetup ls)" = 'No devices found' ]
		fi
		[ "$(dmsetup ls)" = 'No devices found' ] ||
			fail "left after $signal at $ms ms: $(dmsetup info)"
		[ ! -e /dev/mapper/loop0 ] || fail "a node is left after $signal at $ms ms"
	done
done
note "$finished of $((2 * turns)) were faster than the signal"
