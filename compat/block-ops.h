/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The block operations of exportfs, which xfs has for pNFS.  Since 7.1 they
 * are in a structure of their own and commit_blocks() takes a size; before,
 * they were export operations and took attributes.
 */
#ifndef DM_LOOP_COMPAT_BLOCK_OPS_H
#define DM_LOOP_COMPAT_BLOCK_OPS_H

#include <linux/exportfs.h>
#include <linux/fs.h>
#include <linux/iomap.h>

#ifdef HAVE_EXPORTFS_BLOCK_OPS
#include <linux/exportfs_block.h>

/**
 * dm_loop_has_block_ops() - does the filesystem tell where blocks are, as for pNFS?
 * @inode: the file
 *
 * Context: Any.
 */
static inline bool dm_loop_has_block_ops(const struct inode *inode)
{
	const struct export_operations *ops = inode->i_sb->s_export_op;

	return ops && ops->block_ops && ops->block_ops->map_blocks &&
	       ops->block_ops->commit_blocks;
}

/**
 * dm_loop_map_blocks() - where the block at a place of the file is, and how far that goes on
 * @inode: the file
 * @pos: the place, in bytes
 * @len: how far it is wanted, in bytes
 * @iomap: for the answer
 *
 * xfs writes back and drops all pages of the file for it (xfs_fs_map_blocks()).
 *
 * Context: Sleeps, takes the inode lock.
 * Return: 0 or a negative errno.
 */
static inline int dm_loop_map_blocks(struct inode *inode, loff_t pos, u64 len,
				     struct iomap *iomap)
{
	u32 generation;

	return inode->i_sb->s_export_op->block_ops->map_blocks(inode, pos, len,
							       iomap, false,
							       &generation);
}

/**
 * dm_loop_commit_blocks() - unwritten extents hold data now (xfs_fs_commit_blocks())
 * @inode: the file
 * @maps: where they are
 * @nr: how many
 *
 * Context: Sleeps, takes the inode lock.
 * Return: 0 or a negative errno.
 */
static inline int dm_loop_commit_blocks(struct inode *inode,
					struct iomap *maps, int nr)
{
	return inode->i_sb->s_export_op->block_ops->commit_blocks(inode, maps,
								  nr, 0);
}
#else
static inline bool dm_loop_has_block_ops(const struct inode *inode)
{
	const struct export_operations *ops = inode->i_sb->s_export_op;

	return ops && ops->map_blocks && ops->commit_blocks;
}

static inline int dm_loop_map_blocks(struct inode *inode, loff_t pos, u64 len,
				     struct iomap *iomap)
{
	u32 generation;

	return inode->i_sb->s_export_op->map_blocks(inode, pos, len, iomap,
						    false, &generation);
}

/* It insists on the times being set. */
static inline int dm_loop_commit_blocks(struct inode *inode,
					struct iomap *maps, int nr)
{
	struct iattr attr = {
		.ia_valid = ATTR_ATIME | ATTR_MTIME | ATTR_CTIME,
	};

	attr.ia_mtime = current_time(inode);
	attr.ia_ctime = attr.ia_mtime;
	attr.ia_atime = attr.ia_mtime;
	return inode->i_sb->s_export_op->commit_blocks(inode, maps, nr, &attr);
}
#endif

#endif
