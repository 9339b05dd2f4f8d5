# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: --verify and the message check find a map that is wrong, of each device and target
# TIMEOUT: 120

# said DEVICE WANTED: what both say, and the exit status
said()
{
	local status=0 text
	text=$(dmsetup message "$1" 0 check)
	matches "message to $1" "$text" "^$2"
	text=$(command dmlosetup --verify "$1") || status=$?
	matches "--verify $1, exit status" "$text: $status" "^/dev/mapper/$1: $2.*: $3\$"
}

# A file of so many extents that they are in a block, which can be written behind ext4's back.
disk=$(disk 0)
mkfs.ext4 -F -q -b 4096 -O ^metadata_csum "$disk" 64M
mkdir -p /mnt/verify
mount "$disk" /mnt/verify
image=/mnt/verify/image
truncate -s 1M "$image"
for ((i = 0; i < 16; i++)); do
	dd if=/dev/zero of="$image" bs=4096 seek=$((2 * i)) count=1 conv=notrunc status=none
done
written_file /mnt/verify/good 1048576
sync
leaf=$(debugfs -R 'dump_extents -n image' "$disk" 2>/dev/null | awk '$1 == "0/" { print $(NF - 1); exit }')
matches "the block with the extents" "$leaf" '^[0-9]+$'
# the low half of where the first extent is
was=$(dd if="$disk" bs=1 skip=$((leaf * 4096 + 12 + 8)) count=2 status=none | od -An -tu2)

# put16 OFFSET VALUE: into that block, as ext4 sees it now
put16()
{
	# shellcheck disable=SC2059 # bytes
	printf "$(printf '\\x%02x\\x%02x' $(($2 % 256)) $(($2 / 256)))" |
		dd of="$disk" bs=1 seek=$((leaf * 4096 + $1)) conv=notrunc status=none
	# EXT4_IOC_CLEAR_ES_CACHE
	perl -e 'open(F, "<", $ARGV[0]) or die; ioctl(F, 0x6628, 0) or die "$!"' "$image"
}

# first_extent BLOCK: it lies there
first_extent() { put16 20 "$1"; }

loop_dev good /mnt/verify/good
loop_dev wrong "$image"
said good ok 0
said wrong ok 0
first_extent $((was + 1))
said wrong 'differs at sector 0: ' 1
said good ok 0
status=0
text=$(command dmlosetup --verify) || status=$?
matches "--verify of all" "${text//$'\n'/; }: $status" '^/dev/mapper/good: ok.*/dev/mapper/wrong: differs.*: 1$'
same "--verify -a" "$(command dmlosetup --verify -a || true)" "$text"
matches "what is looked at after each test" "$(verify_devices)" '^/dev/mapper/wrong: differs'
first_extent $((was))
said wrong ok 0
# ee_len: unwritten
put16 16 32769
said wrong 'differs at sector 0: table mapped' 1
put16 16 1
said wrong ok 0
# eh_entries: at the resume the last one is not there
dmsetup suspend wrong
put16 2 15
command dmsetup resume wrong
put16 2 16
said wrong 'differs at sector 240: table hole' 1
put16 2 15
said wrong ok 0
command dmsetup remove wrong
put16 2 16
loop_dev wrong "$image"
dmsetup remove wrong
dmsetup remove good

note "a table of several targets"
dmsetup create several <<-END
	0 8 zero
	8 1024 loop /mnt/verify/good 0
	1032 1024 loop $image 0
END
same "each is asked" "$(dmlosetup --verify several | sed 's/: ok .*/: ok/')" \
	"/dev/mapper/several at sector 8: ok
/dev/mapper/several at sector 1032: ok"
first_extent $((was + 1))
matches "one differs" "$(dmlosetup --verify several || true)" 'at sector 1032: differs'
first_extent $((was))
dmsetup remove several
