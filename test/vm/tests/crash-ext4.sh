# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DESCRIPTION: power cuts under an image on ext4 and ext3: nothing that was promised is lost
# LONG: a hundred times a filesystem is mounted, compared and checked
# TIMEOUT: 900

# shellcheck source=test/vm/tests/crash-common.bash
. /dmloop/vm/tests/crash-common.bash

for ((n = 0; n == 0 || SECONDS < ${DMLOOP_SOAK:-0}; n++)); do
	crash_case ext4 sparse 360 40
	crash_case ext4 fallocated 360 40
	crash_case ext4 journalled 360 20
	crash_case ext3 sparse 360 20
done
