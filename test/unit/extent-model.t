#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# The extent table compared with a model after random changes.
cd "$(dirname "$0")" || exit 1
build=${BUILD:-../../build/unit}
make -s BUILD="$build" "$build/extent-model" >&2 || exit 1
exec "$build/extent-model" "$@"
