# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: the host can be frozen while FUA writes wait for a commit, which cannot begin while it is
# TIMEOUT: 240
# shellcheck disable=SC2154 # state is set in lib.sh

fua()
{
	local dir=$2 image=$2/image n pid was seed
	truncate -s 64M "$image"
	dev=$(loop_dev x "$image")
	random seed $((1 << 30))
	fio --name=fua --filename="$dev" --rw=randwrite --bs=4k --direct=1 --sync=dsync --ioengine=libaio \
		--iodepth=8 --numjobs=2 --randseed="$seed" --time_based --runtime=600 >/dev/null 2>"$state/errors" &
	pid=$!
	for ((n = 0; n < 15; n++)); do
		was=$(status_field x fsyncs)
		until [ "$(status_field x fsyncs)" -ge $((was + 2)) ]; do
			kill -0 "$pid" || fail "fio has ended"
		done
		timeout 60 fsfreeze -f "$dir" || fail "it cannot be frozen, at number $n"
		fsfreeze -u "$dir"
	done
	kill -INT "$pid"
	wait "$pid" || true
	same "writes that failed" "$(grep -c 'io_u error' "$state/errors" || true)" 0
	note "$(status_field x fsyncs) commits, $(status_field x held) times held"
	check "some were held" test "$(status_field x held)" -gt 0
	dmsetup remove x
}

for_each_fs fua ext4 xfs f2fs
