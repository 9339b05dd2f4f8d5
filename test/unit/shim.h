/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests may ask of the stand-ins for the kernel.
 */
#ifndef SHIM_H
#define SHIM_H

#include <stddef.h>

/* Let the allocation number @n from now on (1 is the next) fail; 0: none. */
void shim_fail_alloc(long n);

/* How many allocations would have to be made for that one to fail. */
long shim_fail_left(void);

/* Objects allocated and not freed, and their bytes. Call rcu_barrier() first. */
long shim_live(void);
long shim_live_bytes(void);

/* How many objects kvfree_rcu() gathers before it waits for the readers. */
void shim_rcu_batch(unsigned int n);

#endif /* SHIM_H */
