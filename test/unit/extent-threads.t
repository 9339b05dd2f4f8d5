#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The extent table read and changed at the same time, under ASAN.
cd "$(dirname "$0")" || exit 1
build=${BUILD:-../../build/unit}
make -s BUILD="$build" "$build/extent-threads" >&2 || exit 1
exec "$build/extent-threads" "$@"
