/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_LINUX_BUILD_BUG_H
#define SHIM_LINUX_BUILD_BUG_H

#include <assert.h>

/* The kernel's takes the message or not, as C23's does. */
#undef static_assert
#define static_assert(cond, ...) _Static_assert(cond, #cond)

#endif /* SHIM_LINUX_BUILD_BUG_H */
