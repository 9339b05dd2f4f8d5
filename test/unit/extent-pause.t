#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# No change of the extent table makes a pause.
cd "$(dirname "$0")" || exit 1
build=${BUILD:-../../build/unit}
make -s BUILD="$build" "$build/extent-pause" >&2 || exit 1
exec "$build/extent-pause" "$@"
