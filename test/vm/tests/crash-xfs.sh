# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: power cuts under an image on xfs, also one that is or was a clone: nothing that was promised is lost
# LONG: a hundred times a filesystem is mounted, compared and checked
# TIMEOUT: 900

# shellcheck source=test/vm/tests/crash-common.bash
. /dmloop/vm/tests/crash-common.bash

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	crash_case xfs sparse 360 35
	crash_case xfs fallocated 360 35
	crash_case xfs reflinked 360 30 unshare
	crash_case xfs reflinked 360 20
	# Not one that needs the page cache for a part of a block: small ones go there until a flush
	crash_align=8 crash_case xfs reflinked 360 20
done
