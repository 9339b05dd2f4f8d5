/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Random numbers, the same on every machine: xorshift64*.
 */
#ifndef RND_H
#define RND_H

#include <linux/types.h>

/* The next number below @below; *@state is not 0. */
static inline u64 rnd_next(u64 *state, u64 below)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (*state * 0x2545f4914f6cdd1dULL >> 11) % below;
}

#endif /* RND_H */
