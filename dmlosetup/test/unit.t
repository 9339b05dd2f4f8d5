#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Sizes, quoting of table lines, reading of status lines and kernel messages.
exec "${DMLOSETUP_UNIT:-$(dirname "$0")/../../build/dmlosetup/unit}"
