/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_LINUX_TYPES_H
#define SHIM_LINUX_TYPES_H

#include_next <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;
typedef u64 sector_t;
typedef unsigned int gfp_t;

#define U64_MAX UINT64_MAX
#define __rcu

/* @obj: what to free, since there is no way back from the head to its object */
struct rcu_head {
	struct rcu_head *next;
	void *obj;
};

#endif /* SHIM_LINUX_TYPES_H */
