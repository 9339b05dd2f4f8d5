# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What in the kernel's log is never right.

# kernel_reports: of the kernel log on stdin, the lines that report a fault.
kernel_reports()
{
	local reports expected
	reports='BUG|WARNING|Oops|possible circular|possible recursive|inconsistent lock|suspicious RCU'
	reports+='|INFO: task|blocked for more than|KASAN|UBSAN|kmemleak|general protection|refcount_t'
	reports+='|unable to handle|Call Trace|stack segment|self-detected stall|detected stalls'
	reports+='|(list_add|list_del) corruption|scheduling while atomic|sleeping function called|Bad page'
	# The module says so at its unload when it is built with DEBUG.
	reports+='|dm-loop: leak: '
	reports+='|dm-loop: inode [0-9]+: cannot '
	# What a filesystem says of damage, or of data that is lost.
	reports+='|EXT4-fs (error|warning)|EXT4-fs .*(failed to convert|Data will be lost|Remounting filesystem read-only)'
	reports+='|JBD2: .*(error|Error)|Aborting journal|Buffer I/O error'
	reports+='|XFS .*([Cc]orruption|I/O error|Internal error|[Ss]hut(ting)? down|Unmount and run xfs_repair)'
	reports+='|BTRFS (error|critical|warning)|F2FS-fs .*(error|inconsistent|corrupt)'
	# A module that is not part of the kernel says so; nothing else may be filtered here.
	expected='dm_loop: loading out-of-tree module taints kernel\.$'
	expected+='|dm_loop: module verification failed: signature and/or required key missing - tainting kernel$'
	# With a summary of what find_leaks looks at.
	expected+='|kmemleak: [0-9]+ new suspected memory leaks \(see /sys/kernel/debug/kmemleak\)$'
	grep -E "$reports" | grep -vE "$expected"
}

# lost_memory: of what kmemleak says on stdin, the objects that the module has lost
lost_memory()
{
	awk -v RS='unreferenced object ' '/\[dm_loop\]/ { printf "%s%s", RS, $0 }'
}

# shellcheck disable=SC2154 # state is set by who sources this
# not_allowed: of stdin, the lines that "allow" has not named
not_allowed()
{
	if [ -s "$state.allow" ]; then grep -vEf "$state.allow"; else cat; fi
}
