/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How far ext4 gives back blocks.  The ext4_punch_hole() of 6.1 stops, without
 * an error, where a file without extents must end (ext4_max_bitmap_size());
 * that of 6.16 and 6.12.117 goes on for files that have them.
 */
#ifndef DM_LOOP_COMPAT_PUNCH_H
#define DM_LOOP_COMPAT_PUNCH_H

#include <linux/version.h>

/**
 * dm_loop_ext4_minds_extents() - does ext4_punch_hole() look at what kind of file it is?
 *
 * Context: Any.
 * Return: false when it stops at that place in each file.
 */
static inline bool dm_loop_ext4_minds_extents(void)
{
	return LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0) ||
	       (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 117) &&
		LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0));
}

#endif
