# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# DRAFT: not yet seen green from start to end as it is now
# DESCRIPTION: power cuts under an image on xfs: nothing that was promised is lost
# TIMEOUT: 900
# KERNELS: 6.12

# shellcheck source=test/vm/tests/crash-common.bash
. /dmloop/vm/tests/crash-common.bash

crash_case xfs sparse 360 40
crash_case xfs fallocated 360 40
