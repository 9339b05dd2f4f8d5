#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The extent table called with random, also senseless, arguments.
cd "$(dirname "$0")" || exit 1
build=${BUILD:-../../build/unit}
make -s BUILD="$build" "$build/extent-fuzz" >&2 || exit 1
exec "$build/extent-fuzz" "$@"
