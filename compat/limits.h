/* SPDX-License-Identifier: GPL-2.0-only */
/* Queue limits that have moved between kernels. */
#ifndef DM_LOOP_COMPAT_LIMITS_H
#define DM_LOOP_COMPAT_LIMITS_H

#include <linux/blkdev.h>

/**
 * dm_loop_discard_limits() - the whole device in one discard
 * @limits: of the device
 * @blocksize: of the filesystem, in bytes: what can be freed
 *
 * Context: Where device-mapper collects limits.
 */
static inline void dm_loop_discard_limits(struct queue_limits *limits,
					  unsigned int blocksize)
{
	limits->discard_granularity = blocksize;
	limits->max_hw_discard_sectors = UINT_MAX >> SECTOR_SHIFT;
#ifndef HAVE_MAX_USER_DISCARD
	limits->max_discard_sectors = UINT_MAX >> SECTOR_SHIFT;
#endif
}

/**
 * dm_loop_file_limits() - those of file mode, where there is no device below
 * @limits: of the device
 * @blocksize: of the filesystem, in bytes
 * @bdev: of the filesystem, or NULL
 *
 * What the page cache does well.  Direct I/O brings the pages to the disk all
 * the same, and they must not change on the way if it says so.  (Before 6.11
 * only device-mapper itself can tell.)
 *
 * Context: Where device-mapper collects limits.
 */
static inline void dm_loop_file_limits(struct queue_limits *limits,
				       unsigned int blocksize,
				       struct block_device *bdev)
{
#ifdef BLK_FEAT_STABLE_WRITES
	if (bdev && bdev_stable_writes(bdev))
		limits->features |= BLK_FEAT_STABLE_WRITES;
#endif
	limits->physical_block_size = max(limits->physical_block_size,
					  min_t(unsigned int, blocksize,
						PAGE_SIZE));
	limits->io_min = limits->physical_block_size;
	limits->max_write_zeroes_sectors = UINT_MAX >> SECTOR_SHIFT;
#ifdef HAVE_WZEROES_UNMAP
	/* This or 0, says blk_validate_limits(); a punch does unmap. */
	limits->max_hw_wzeroes_unmap_sectors = limits->max_write_zeroes_sectors;
#endif
}

#endif
