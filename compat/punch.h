/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How far a filesystem gives back blocks.  The ext4_punch_hole() of 6.1 stops,
 * without an error, where a file without extents must end
 * (ext4_max_bitmap_size()); that of 6.12.117 goes on for files that have them.
 */
#ifndef DM_LOOP_COMPAT_PUNCH_H
#define DM_LOOP_COMPAT_PUNCH_H

#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/sizes.h>
#include <linux/version.h>

/**
 * dm_loop_fs_punch_end() - up to where blocks of a file can be given back
 * @inode: the file below, if the filesystem is overlayfs
 *
 * Never too much: without huge_file it is just below 2 TiB.
 *
 * Context: Any.
 * Return: the end, in bytes.
 */
static inline loff_t dm_loop_fs_punch_end(const struct inode *inode)
{
	loff_t end = MAX_LFS_FILESIZE;

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 117)
	if (inode->i_sb->s_magic == EXT4_SUPER_MAGIC) {
		u64 pointers = i_blocksize(inode) / sizeof(__le32);

		end = min_t(u64, (pointers * pointers * pointers) <<
				 inode->i_blkbits, 2 * SZ_1T - SZ_16G);
	}
#endif
	return end;
}

#endif
