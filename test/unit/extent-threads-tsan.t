#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The same under ThreadSanitizer, which sees races that ASAN does not.
cd "$(dirname "$0")" || exit 1
build=${BUILD:-../../build/unit}
make -s BUILD="$build" "$build/extent-threads-tsan" >&2 || exit 1
exec "$build/extent-threads-tsan" "$@"
