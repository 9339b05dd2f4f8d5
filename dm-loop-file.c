// SPDX-License-Identifier: GPL-2.0-only
/*
 * The backing file: one object for each inode, shared by every table that
 * maps it.  It pins the file so that nobody else can change where its blocks
 * are, reads the mapping, and keeps the page cache and the times of the file
 * in step with what is written past the filesystem.
 */
#include <linux/buffer_head.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fileattr.h>
#include <linux/file.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/namei.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/writeback.h>

#include "dm-loop.h"
#include "dm-loop-trace.h"
#include "compat/block-ops.h"

/*
 * Whoever takes a lock of this module outside the worker must not wait for
 * memory to be written back, as that may wait for the worker, or for a device
 * that is being suspended: hence memalloc_noio_save() around whatever allocates
 * or calls the filesystem under one.
 */

/*
 * All backing files.  dm_loop_files_lock protects the list and the references
 * that targets hold; it is the outermost lock of the module, and nothing that
 * waits for a filesystem is done under it.
 */
static LIST_HEAD(dm_loop_files);
static DEFINE_MUTEX(dm_loop_files_lock);

/*
 * All targets that have a file, whatever file.  It is changed under both
 * dm_loop_files_lock and dm_loop_targets_lock, a leaf that is taken with
 * interrupts off, because bios that fail come from end_io.
 */
static LIST_HEAD(dm_loop_targets);
static DEFINE_SPINLOCK(dm_loop_targets_lock);

/* Runs what cannot run on the workqueue of a file, because it may free that. */
static struct workqueue_struct *dm_loop_release_wq;

/* Allocated at once when a hole is filled, unless a table says otherwise. */
#define CHUNK_DEFAULT SZ_1M

/* User memory that FIEMAP writes to; about a thousand extents at a time. */
#define FIEMAP_BYTES SZ_64K
#define FIEMAP_EXTENTS (FIEMAP_BYTES / sizeof(struct fiemap_extent))

/* What the blocks of such a range are cannot be told, or is not on s_bdev. */
#define FIEMAP_NOT_BLOCKS (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | \
			   FIEMAP_EXTENT_ENCODED | \
			   FIEMAP_EXTENT_DATA_ENCRYPTED | \
			   FIEMAP_EXTENT_NOT_ALIGNED | \
			   FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL)

static int refuse(const char **why, const char *text, int err)
{
	*why = text;
	return err;
}

static bool is_xfs(const struct inode *inode)
{
	return !strcmp(inode->i_sb->s_type->name, "xfs");
}

/*
 * Filesystems whose extents are addresses on s_bdev and stay where they are
 * under our pin.  Not f2fs (its cleaner moves pinned files too), not btrfs
 * (logical addresses), not overlayfs (somebody else's).
 */
static bool can_map_fs(const struct inode *inode)
{
	static const char *const names[] = { "ext2", "ext3", "ext4", "xfs" };

	return inode->i_sb->s_bdev &&
	       match_string(names, ARRAY_SIZE(names),
			    inode->i_sb->s_type->name) >= 0;
}

/* What no device can be made of, however its I/O is done. */
static int check_inode(struct dm_loop_target *lt, struct dentry *dentry,
		       const char **why)
{
	struct gendisk *disk = dm_disk(dm_table_get_md(lt->ti->table));
	struct inode *inode = d_inode(dentry);
	/* Overlayfs has none; btrfs has several, and names none. */
	struct block_device *bdev = d_real_inode(dentry)->i_sb->s_bdev;

	if (!S_ISREG(inode->i_mode))
		return refuse(why, "Not a regular file", -EINVAL);
	if (!i_size_read(inode))
		return refuse(why, "File is empty", -EINVAL);
	if (bdev && bdev->bd_disk == disk)
		return refuse(why, "File is on this very device", -ELOOP);
	return 0;
}

/*
 * What can be done by file I/O only.  STATX_DIOALIGN says 0 where the
 * filesystem cannot do direct I/O on the file: on ext4 that is data=journal,
 * inline data and verity (see ext4_dio_alignment()).  None of these can be
 * written past the filesystem.
 */
static int check_mappable(struct file *file, const char **why)
{
	struct inode *inode = file_inode(file);
	struct file_kattr attr = { };
	struct kstat stat;

	if (!can_map_fs(inode))
		return refuse(why, "Filesystem cannot be mapped", -EOPNOTSUPP);
	/* Ours would have to be zoned as well: all of it must take writes anywhere. */
	if (bdev_is_zoned(inode->i_sb->s_bdev))
		return refuse(why, "Disk is zoned", -EOPNOTSUPP);
	if (IS_DAX(inode))
		return refuse(why, "File uses DAX", -EOPNOTSUPP);
	if (IS_ENCRYPTED(inode))
		return refuse(why, "File is encrypted", -EOPNOTSUPP);
	if (IS_VERITY(inode))
		return refuse(why, "File has fs-verity", -EOPNOTSUPP);
	if (!vfs_getattr(&file->f_path, &stat, STATX_DIOALIGN, 0) &&
	    (stat.result_mask & STATX_DIOALIGN) && !stat.dio_offset_align)
		return refuse(why, "File has journalled or inline data",
			      -EOPNOTSUPP);
	/* Its blocks are on another device, and bmap says 0 for all of them. */
	if (is_xfs(inode) &&
	    (vfs_fileattr_get(file->f_path.dentry, &attr) ||
	     (attr.fsx_xflags & FS_XFLAG_REALTIME)))
		return refuse(why, "File is on the realtime device",
			      -EOPNOTSUPP);
	return 0;
}

/* --- reading the mapping ----------------------------------------------- */

/*
 * FIEMAP alone is no promise that an address is one on s_bdev.  bmap() must
 * agree on the first and last block; between them an extent is one piece.
 * bmap() says 0 for every block of an xfs inode with the reflink flag
 * (xfs_vm_bmap()): there the whitelist, check_mappable() and the SHARED flag
 * decide.
 */
static bool bmap_agrees(struct inode *inode, u64 logical, u64 physical)
{
	sector_t block = logical >> inode->i_blkbits;

	if (bmap(inode, &block))
		return false;
	if (!block)
		return is_xfs(inode);
	return block == physical >> inode->i_blkbits;
}

static enum dm_loop_state extent_state(const struct fiemap_extent *fe)
{
	if (fe->fe_flags & FIEMAP_EXTENT_UNWRITTEN)
		return DM_LOOP_UNWRITTEN;
	if (fe->fe_flags & FIEMAP_EXTENT_SHARED)
		return DM_LOOP_SHARED;
	return DM_LOOP_MAPPED;
}

/* Append one record of FIEMAP, from byte @pos of the file on. */
static int add_extent(struct dm_loop_file *lf, struct dm_loop_builder *b,
		      const struct fiemap_extent *fe, u64 pos,
		      const char **why)
{
	struct inode *inode = lf->inode;
	u64 size = (u64)b->size << SECTOR_SHIFT;
	u64 last = fe->fe_length - i_blocksize(inode);
	enum dm_loop_state state = extent_state(fe);
	u64 start = max(fe->fe_logical, pos);
	u64 end = min(fe->fe_logical + fe->fe_length, size);
	u64 phys = fe->fe_physical + (start - fe->fe_logical);

	if (fe->fe_flags & FIEMAP_NOT_BLOCKS)
		return refuse(why, "File has a range that is not in blocks of its own",
			      -EOPNOTSUPP);
	if (start >= end)
		return 0;
	if (state != DM_LOOP_UNWRITTEN &&
	    (!bmap_agrees(inode, fe->fe_logical, fe->fe_physical) ||
	     (last && !bmap_agrees(inode, fe->fe_logical + last,
				   fe->fe_physical + last))))
		return refuse(why, "FIEMAP and bmap do not agree on the file",
			      -EOPNOTSUPP);
	if ((phys + (end - start)) >> SECTOR_SHIFT > bdev_nr_sectors(lf->bdev))
		return refuse(why, "File reaches past the end of its device",
			      -EUCLEAN);
	return dm_loop_builder_append(b, start >> SECTOR_SHIFT,
				      (end - start) >> SECTOR_SHIFT, state,
				      phys >> SECTOR_SHIFT);
}

/* One FIEMAP call from *@pos on; moves *@pos, to the end when nothing is left. */
static int read_extents(struct dm_loop_file *lf, struct dm_loop_builder *b,
			struct fiemap_extent __user *user, u64 *pos,
			const char **why)
{
	struct inode *inode = lf->inode;
	u64 size = i_size_read(inode);
	struct fiemap_extent_info info = {
		.fi_flags = FIEMAP_FLAG_SYNC,
		.fi_extents_max = FIEMAP_EXTENTS,
		.fi_extents_start = user,
	};
	struct fiemap_extent fe;
	unsigned int i;
	int r;

	r = inode->i_op->fiemap(inode, &info, *pos, size - *pos);
	for (i = 0; !r && i < info.fi_extents_mapped; i++) {
		if (copy_from_user(&fe, user + i, sizeof(fe)))
			return -EFAULT;
		r = add_extent(lf, b, &fe, *pos, why);
		*pos = max(*pos, fe.fe_logical + fe.fe_length);
	}
	/* FIEMAP_EXTENT_LAST ends the request, not the file: go by the end. */
	if (!info.fi_extents_mapped)
		*pos = size;
	return r;
}

/*
 * FIEMAP writes to user memory only (fiemap_fill_next_extent()), so lend it
 * some of the process that loads or resumes the table.
 */
static int read_fiemap(struct dm_loop_file *lf, struct dm_loop_builder *b,
		       const char **why)
{
	u64 size = i_size_read(lf->inode);
	unsigned long addr;
	u64 pos = 0;
	int r = 0;

	addr = vm_mmap(NULL, 0, FIEMAP_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, 0);
	if (IS_ERR_VALUE(addr))
		return (long)addr;
	while (!r && pos < size)
		r = read_extents(lf, b, (struct fiemap_extent __user *)addr,
				 &pos, why);
	vm_munmap(addr, FIEMAP_BYTES);
	return r;
}

/*
 * Without user memory (a resume from inside the kernel) ask block by block.
 * bmap() cannot tell unwritten from hole, which read the same.  Not on xfs,
 * where 0 may also mean a block of an inode with the reflink flag.
 */
static int read_bmap(struct dm_loop_file *lf, struct dm_loop_builder *b,
		     const char **why)
{
	struct inode *inode = lf->inode;
	unsigned int shift = inode->i_blkbits - SECTOR_SHIFT;
	sector_t len = 1 << shift;
	sector_t sector, block;
	int r = 0;

	if (is_xfs(inode))
		return refuse(why, "Mapping of xfs can be read in a process only",
			      -EOPNOTSUPP);
	for (sector = 0; !r && sector < b->size; sector += len) {
		block = sector >> shift;
		r = bmap(inode, &block);
		if (!r && block)
			r = dm_loop_builder_append(b, sector,
						   min(len, b->size - sector),
						   DM_LOOP_MAPPED,
						   block << shift);
		cond_resched();
	}
	return r;
}

/* The file's mapping, into @t, which may be in use. */
static int read_mapping(struct dm_loop_file *lf, struct dm_loop_extents *t,
			const char **why)
{
	struct dm_loop_builder b;
	int r;

	*why = "Cannot read the mapping of the file";
	dm_loop_builder_init(&b,
			     i_size_read(lf->inode) >> SECTOR_SHIFT,
			     GFP_KERNEL);
	if (current->mm && !(current->flags & PF_KTHREAD))
		r = read_fiemap(lf, &b, why);
	else
		r = read_bmap(lf, &b, why);
	if (!r)
		r = dm_loop_builder_finish(&b, t);
	if (r)
		dm_loop_builder_abort(&b);
	return r;
}

/* --- the pin ------------------------------------------------------------ */

/*
 * While i_writecount is negative nobody can open the file for writing,
 * truncate it, swap on it, or use the ioctls that move blocks.  Ours is the
 * only reference when 1 -> -1 succeeds, so nobody has it mapped writable.
 */
static int pin_writecount(struct dm_loop_file *lf)
{
	struct inode *inode = lf->inode;
	int r = 0;

	if (!(lf->file->f_mode & FMODE_WRITE))
		r = deny_write_access(lf->file);
	else if (atomic_cmpxchg(&inode->i_writecount, 1, -1) != 1)
		r = -ETXTBSY;
	if (!r)
		dm_loop_took(DM_LOOP_OWN_PIN);
	return r;
}

/* Add, do not set: others may have denied writes on top of us meanwhile. */
static void unpin_writecount(struct dm_loop_file *lf)
{
	if (lf->file->f_mode & FMODE_WRITE)
		atomic_add(2, &lf->inode->i_writecount);
	else
		allow_write_access(lf->file);
	dm_loop_gave(DM_LOOP_OWN_PIN);
}

static bool same_device(const struct dm_loop_target *a,
			const struct dm_loop_target *b)
{
	return dm_table_get_md(a->ti->table) == dm_table_get_md(b->ti->table);
}

/*
 * Of the two tables of a device only one is used: the new one takes the place
 * of the old, which goes when the device has been resumed.
 */
static bool is_other_table(const struct dm_loop_target *a,
			   const struct dm_loop_target *b)
{
	return a->ti->table != b->ti->table && same_device(a, b);
}

static struct address_space *page_cache(const struct dm_loop_file *lf)
{
	return d_real_inode(lf->file->f_path.dentry)->i_mapping;
}

/*
 * Who reads the file has pages or the whole mapping locked when it needs memory
 * for them.  It must not wait for I/O then: that may be ours, behind a discard
 * or a write that waits for those locks.  Loop does the same.
 */
static void limit_page_cache(struct dm_loop_file *lf)
{
	struct address_space *mapping = page_cache(lf);
	gfp_t gfp = mapping_gfp_mask(mapping);

	lf->limited = mapping;
	lf->gfp = gfp & (__GFP_IO | __GFP_FS);
	mapping_set_gfp_mask(mapping, gfp & ~lf->gfp);
}

/* Loop may have changed it meanwhile, and overlayfs may use another file by now. */
static void unlimit_page_cache(struct dm_loop_file *lf)
{
	mapping_set_gfp_mask(lf->limited,
			     mapping_gfp_mask(lf->limited) | lf->gfp);
}

/*
 * FICLONE from the file and dedupe into it need no write access; S_SWAPFILE
 * alone refuses them.  Where the filesystem cannot remap, it is worth having
 * only when we never write through the filesystem, which it refuses too.
 */
static bool wants_swapfile(const struct dm_loop_file *lf,
			   const struct dm_loop_target *lt)
{
	struct dm_loop_target *one;

	if (lf->file->f_op->remap_file_range)
		return true;
	list_for_each_entry(one, &lf->targets, node)
		if (!one->mapped && !is_other_table(one, lt))
			return false;
	return true;
}

static void clear_swapfile(struct dm_loop_file *lf)
{
	struct inode *inode = lf->inode;

	if (!lf->swapfile)
		return;
	inode_lock(inode);
	inode->i_flags &= ~S_SWAPFILE;
	inode_unlock(inode);
	lf->swapfile = false;
	dm_loop_gave(DM_LOOP_OWN_SWAPFILE);
}

/* As swapon does it: flag first, then wait for writes that saw it clear. */
static int pin_swapfile(struct dm_loop_file *lf,
			const struct dm_loop_target *lt, const char **why)
{
	struct inode *inode = lf->inode;
	int r;

	inode_lock(inode);
	if (IS_SWAPFILE(inode)) {
		inode_unlock(inode);
		return refuse(why, "File is in use as swap", -EBUSY);
	}
	if (wants_swapfile(lf, lt)) {
		inode->i_flags |= S_SWAPFILE;
		lf->swapfile = true;
		dm_loop_took(DM_LOOP_OWN_SWAPFILE);
	}
	r = inode_drain_writes(inode);
	inode_unlock(inode);
	return r ? refuse(why, "Cannot write back the file", r) : 0;
}

/* ext4 keeps the buffer of its superblock, so it is not read again. */
static bool is_without_journal(struct super_block *sb)
{
	struct buffer_head *bh;
	const __le32 *compat;
	bool has = true;

	if (sb->s_magic != EXT4_SUPER_MAGIC)
		return false;
	bh = sb_bread(sb, SZ_1K >> sb->s_blocksize_bits);
	if (bh) {
		/* s_feature_compat, EXT4_FEATURE_COMPAT_HAS_JOURNAL */
		compat = (void *)bh->b_data + (SZ_1K & (sb->s_blocksize - 1)) + 0x5c;
		has = le32_to_cpu(*compat) & 0x4;
		brelse(bh);
	}
	return !has;
}

/*
 * vfs_fsync(), which leaves out nothing: without a journal the ext4 of 6.1
 * takes an inode for clean of which only the blocks have changed
 * (ext4_fsync_nojournal()), so it is written in any case.
 */
static int sync_file(struct file *file, int datasync)
{
	struct inode *inode = d_real_inode(file->f_path.dentry);
	struct writeback_control wbc = { .sync_mode = WB_SYNC_ALL };
	int r;

	r = vfs_fsync(file, datasync);
	if (r || sb_rdonly(inode->i_sb) || !is_without_journal(inode->i_sb))
		return r;
	return inode->i_sb->s_op->write_inode(inode, &wbc) ?:
	       blkdev_issue_flush(inode->i_sb->s_bdev);
}

/**
 * dm_loop_file_commit() - commit what was written to the file
 * @lf: the backing file, pinned
 * @datasync: its times may wait
 *
 * What NFS could not write back it tells to the next write that comes, and not
 * to an fsync any more (nfs_file_write()), so file mode looks for itself.  It is
 * told once, so it comes before the error of an fsync that was interrupted.
 *
 * Context: Sleeps; under memalloc_noio_save(), one at a time.
 * Return: 0 or a negative errno.
 */
int dm_loop_file_commit(struct dm_loop_file *lf, int datasync)
{
	int r = sync_file(lf->file, datasync), err;

	if (lf->mode != DM_LOOP_MODE_FILE)
		return r;
	err = errseq_check_and_advance(&lf->file->f_mapping->wb_err,
				       &lf->wb_err);
	return err ?: r;
}

/* Nothing may be cached, and nothing we map may be in an open transaction. */
static int settle(struct dm_loop_file *lf, const char **why)
{
	int r;

	r = invalidate_inode_pages2(lf->file->f_mapping);
	if (r)
		return refuse(why, "Cannot drop the file from the page cache", r);
	r = sync_file(lf->file, 0);
	if (r)
		return refuse(why, "Cannot sync the file", r);
	return 0;
}

static int unshare_range(struct dm_loop_file *lf, sector_t start, sector_t len)
{
	return lf->file->f_op->fallocate(lf->file,
					 FALLOC_FL_UNSHARE_RANGE |
					 FALLOC_FL_KEEP_SIZE,
					 start << SECTOR_SHIFT,
					 len << SECTOR_SHIFT);
}

/* Make the shared ranges the file's own; the clones keep the old blocks. */
static int unshare_file(struct dm_loop_file *lf, const char **why)
{
	struct dm_loop_range r;
	sector_t pos;
	bool found;
	int err = 0;

	if (!sb_start_write_trylock(lf->inode->i_sb))
		return refuse(why, "Filesystem is frozen", -EAGAIN);
	for (pos = 0; !err; pos = r.start + r.len) {
		rcu_read_lock();
		found = dm_loop_extents_lookup(&lf->extents, pos, &r);
		rcu_read_unlock();
		if (!found)
			break;
		if (r.state == DM_LOOP_SHARED)
			err = unshare_range(lf, r.start, r.len);
	}
	sb_end_write(lf->inode->i_sb);
	if (err)
		return refuse(why, "Cannot unshare the file", err);
	return settle(lf, why) ?: read_mapping(lf, &lf->extents, why);
}

static bool wants_unshare(const struct dm_loop_file *lf,
			  const struct dm_loop_target *lt)
{
	struct dm_loop_target *one;

	list_for_each_entry(one, &lf->targets, node)
		if (one->unshare && dm_loop_writable(one) &&
		    !is_other_table(one, lt))
			return lf->file->f_op->fallocate;
	return false;
}

static bool has_shared(const struct dm_loop_file *lf)
{
	struct dm_loop_counts n = { };

	dm_loop_extents_count(&lf->extents, 0,
			      i_size_read(lf->inode) >> SECTOR_SHIFT, &n);
	return n.sectors[DM_LOOP_SHARED];
}

static bool wants_fills(const struct dm_loop_file *lf,
			const struct dm_loop_target *lt)
{
	struct dm_loop_target *one;

	list_for_each_entry(one, &lf->targets, node)
		if (dm_loop_writable(one) && !one->mapped && !one->by_file &&
		    !is_other_table(one, lt))
			return true;
	return false;
}

/*
 * No block of the file is shared.  xfs_reflink_unshare() of any range takes the
 * mark off, when no page of it is dirty.  xfs_can_free_cowblocks() asks the state
 * of the inode for that, too, which only who writes an inode back clears.  If it
 * fails the file has new times, and no more holes in its first block.
 */
static int remove_clone_mark(struct dm_loop_file *lf, const char **why)
{
	struct super_block *sb = lf->inode->i_sb;

	if (!lf->file->f_op->fallocate || sb_rdonly(sb) ||
	    !sb_start_write_trylock(sb))
		return 0;
	if (!write_inode_now(lf->inode, 1))
		unshare_range(lf, 0, i_blocksize(lf->inode) >> SECTOR_SHIFT);
	sb_end_write(sb);
	/* A hole there has a block now. */
	return settle(lf, why) ?: read_mapping(lf, &lf->extents, why);
}

/*
 * Can the mapping serve what @lt writes?  Holes and unwritten ranges need a
 * way to fill them; shared ranges must be copied, which only the filesystem
 * can do.
 */
static int check_writes(struct dm_loop_target *lt, struct dm_loop_file *lf,
			const char **why)
{
	struct dm_loop_counts n = { };

	if (!dm_loop_writable(lt))
		return 0;
	dm_loop_extents_count(&lf->extents, lt->start, lt->ti->len, &n);
	if (!n.sectors[DM_LOOP_HOLE] && !n.sectors[DM_LOOP_UNWRITTEN] &&
	    !n.sectors[DM_LOOP_SHARED])
		return 0;
	if (lt->mapped)
		return refuse(why,
			      "File has holes, unwritten or shared ranges: run dmlosetup --prepare on it",
			      -EOPNOTSUPP);
	if (n.sectors[DM_LOOP_SHARED] || !dm_loop_can_fill(lf))
		return refuse(why, "File has ranges that only the filesystem can write",
			      -EOPNOTSUPP);
	return 0;
}

/* The device's sectors must be sectors of the disk. */
static int check_alignment(const struct dm_loop_target *lt,
			   const struct dm_loop_file *lf, const char **why)
{
	u64 bytes = (lt->start | lt->ti->len) << SECTOR_SHIFT;

	if (lt->by_file)
		return refuse(why, "Device was loaded for file I/O", -EOPNOTSUPP);
	if (bytes & (bdev_logical_block_size(lf->bdev) - 1))
		return refuse(why,
			      "Offset or length is not a multiple of the disk's sector size",
			      -EOPNOTSUPP);
	return 0;
}

static int check_targets(struct dm_loop_file *lf,
			 const struct dm_loop_target *lt, const char **why)
{
	struct dm_loop_target *one;
	int r = 0;

	list_for_each_entry(one, &lf->targets, node)
		if (!r && !is_other_table(one, lt))
			r = check_alignment(one, lf, why) ?:
			    check_writes(one, lf, why);
	return r;
}

/* In file mode there is no table, but on xfs a guess is worth having. */
static void keep_as_hints(struct dm_loop_file *lf)
{
	if (!is_xfs(lf->inode) ||
	    dm_loop_extents_leaves(&lf->extents) > DM_LOOP_HINT_LEAVES) {
		dm_loop_extents_destroy(&lf->extents);
		return;
	}
	lf->hints = lf->extents;
	RCU_INIT_POINTER(lf->extents.root, NULL);
}

/*
 * Pin against remapping, and map, for @lt and those it is to share the file
 * with.  -EOPNOTSUPP: this can be done by file I/O only.
 */
static int map_file(struct dm_loop_file *lf, const struct dm_loop_target *lt,
		    const char **why)
{
	int r;

	r = check_mappable(lf->file, why);
	if (!r)
		r = pin_swapfile(lf, lt, why);
	if (!r)
		r = settle(lf, why);
	if (!r)
		r = read_mapping(lf, &lf->extents, why);
	if (!r && has_shared(lf) && wants_unshare(lf, lt))
		r = unshare_file(lf, why);
	if (!r && wants_fills(lf, lt) && dm_loop_has_clone_mark(lf) &&
	    !has_shared(lf))
		r = remove_clone_mark(lf, why);
	if (!r)
		r = check_targets(lf, lt, why);
	if (r) {
		keep_as_hints(lf);
		clear_swapfile(lf);
	}
	return r;
}

static bool wants_mapped(const struct dm_loop_file *lf,
			 const struct dm_loop_target *lt)
{
	struct dm_loop_target *one;

	list_for_each_entry(one, &lf->targets, node)
		if (one->mapped && !is_other_table(one, lt))
			return true;
	return false;
}

/*
 * btrfs does not answer STATX_DIOALIGN.  With checksums it should not: whoever
 * changes the data of a direct write meanwhile, or reads twice to one place at
 * a time, gets an I/O error (Linux commit 968f19c5b1b7).
 */
static bool is_nocow(struct file *file)
{
	struct file_kattr attr = { };

	return (file->f_mode & FMODE_CAN_ODIRECT) &&
	       !vfs_fileattr_get(file->f_path.dentry, &attr) &&
	       (attr.flags & FS_NOCOW_FL);
}

/*
 * overlayfs answers for the file below, but drops IOCB_DIRECT on the way to it
 * (ovl_iocb_to_rwf(), iocb_to_rw_flags()).
 */
static bool is_overlaid(struct dm_loop_file *lf)
{
	return d_real_inode(lf->file->f_path.dentry) != lf->inode;
}

static bool is_on_ext4(struct file *file)
{
	return d_real_inode(file->f_path.dentry)->i_sb->s_magic ==
	       EXT4_SUPER_MAGIC;
}

/*
 * A punch of f2fs does not keep out direct reads (f2fs_punch_hole() and
 * f2fs_dio_read_iter() take different locks).  They would read blocks that are
 * somebody else's by then.  NFS takes references to the pages; those of
 * kmalloc(), such as the log of an xfs on the device, have none.  The answer
 * that nfs_getattr() of 7.2 has does not reach us, as it clears the bit that
 * asks for it, but may one day.
 */
static bool is_bad_at_direct(struct file *file)
{
	unsigned long magic = d_real_inode(file->f_path.dentry)->i_sb->s_magic;

	return magic == F2FS_SUPER_MAGIC || magic == NFS_SUPER_MAGIC;
}

/* Called with lf->lock. */
static void find_dio_align(struct dm_loop_file *lf)
{
	struct file *file = lf->file;
	struct kstat stat;

	lf->dio_align = 0;
	lf->journalled = is_on_ext4(file);
	lf->mixed = false;
	lf->cached_ios = 0;
	lf->until_flush = false;
	if (is_bad_at_direct(file) ||
	    vfs_getattr(&file->f_path, &stat, STATX_DIOALIGN, 0))
		return;
	/*
	 * On ext4, also below overlayfs, journalled data is why there is no
	 * direct I/O.  Inline or encrypted data may be another reason; then
	 * this only costs time.
	 */
	if ((stat.result_mask & STATX_DIOALIGN) && stat.dio_offset_align)
		lf->journalled = false;
	if (is_overlaid(lf))
		return;
	if (stat.result_mask & STATX_DIOALIGN) {
		lf->dio_align = stat.dio_offset_align;
		lf->dio_mem_align = max_t(u32, stat.dio_mem_align, 1);
		/*
		 * Older kernels do not say that xfs writes less than a block
		 * through the page cache, where it must not meet direct writes,
		 * once the file may share blocks; and in file mode a clone can
		 * be made at any time.
		 */
		if (lf->dio_align && is_xfs(lf->inode))
			lf->dio_align = max(lf->dio_align,
					    i_blocksize(lf->inode));
	} else if (is_nocow(file)) {
		lf->dio_align = i_blocksize(lf->inode);
		lf->dio_mem_align = lf->dio_align;
	}
}

/**
 * dm_loop_file_stat() - which file it is, as stat() tells user space
 * @lf: the backing file
 * @stat: its dev and ino are set
 *
 * On btrfs and overlayfs that is not what the inode says.  A server that is
 * gone is not asked.
 *
 * Context: May sleep; called with lf->lock.
 */
void dm_loop_file_stat(const struct dm_loop_file *lf, struct kstat *stat)
{
	if (lf->file && !vfs_getattr(&lf->file->f_path, stat, STATX_INO,
				     AT_STATX_DONT_SYNC))
		return;
	stat->dev = lf->inode->i_sb->s_dev;
	stat->ino = lf->inode->i_ino;
}

/* File mode: any filesystem, with direct I/O if it says how. */
static int use_file_io(struct dm_loop_file *lf, const char **why)
{
	struct file *file = lf->file;

	if (IS_SWAPFILE(lf->inode))
		return refuse(why, "File is in use as swap", -EBUSY);
	if (!file->f_op->read_iter ||
	    ((file->f_mode & FMODE_WRITE) && !file->f_op->write_iter))
		return refuse(why, "Filesystem has no file I/O for the kernel",
			      -EOPNOTSUPP);
	find_dio_align(lf);
	lf->wb_err = file->f_wb_err;
	/* The first flush also commits what others have written before. */
	if (file->f_mode & FMODE_WRITE)
		atomic64_inc(&lf->dirtied);
	lf->mode = DM_LOOP_MODE_FILE;
	return 0;
}

static sector_t choose_chunk(const struct dm_loop_file *lf,
			     const struct dm_loop_target *lt)
{
	struct dm_loop_target *one;

	list_for_each_entry(one, &lf->targets, node)
		if (one->chunk && !is_other_table(one, lt))
			return max_t(sector_t, one->chunk,
				     i_blocksize(lf->inode) >> SECTOR_SHIFT);
	return CHUNK_DEFAULT >> SECTOR_SHIFT;
}

static int check_range(struct dm_loop_target *lt, struct dm_loop_file *lf,
		       const char **why)
{
	sector_t sectors = i_size_read(lf->inode) >> SECTOR_SHIFT;

	if (lt->start >= sectors)
		return refuse(why, "Offset is past the end of the file", -EINVAL);
	if (lt->ti->len > sectors - lt->start)
		return refuse(why, "File is shorter than the table says", -EINVAL);
	return 0;
}

/* Called with lf->lock. */
static int pin(struct dm_loop_file *lf, struct dm_loop_target *lt,
	       const char **why)
{
	int r;

	/* swapon has it open for writing; this says why. */
	if (IS_SWAPFILE(lf->inode))
		return refuse(why, "File is in use as swap", -EBUSY);
	r = pin_writecount(lf);
	if (r)
		return refuse(why, "File is open for writing elsewhere", r);
	limit_page_cache(lf);
	lf->chunk = choose_chunk(lf, lt);
	lf->aops = lf->limited->a_ops;
	lf->failed = 0;
	/* Where a freeze kept the times from moving the next write does it. */
	clear_bit(0, &lf->times_stale);
	/* Only now nobody can cut it any more. */
	r = check_range(lt, lf, why) ?: map_file(lf, lt, why);
	if (!r)
		lf->mode = DM_LOOP_MODE_MAPPED;
	else if (r == -EOPNOTSUPP && !wants_mapped(lf, lt))
		r = use_file_io(lf, why);
	if (r) {
		dm_loop_extents_destroy(&lf->hints);
		unlimit_page_cache(lf);
		unpin_writecount(lf);
	}
	return r;
}

static void touch(struct dm_loop_file *lf);

/*
 * Called with lf->lock and no bio on its way; what is to be written to the
 * filesystem is written with it kept from freezing.  An error goes to the next
 * flush: what was flushed is safe, and what was not may be lost.
 */
static void unpin(struct dm_loop_file *lf)
{
	bool wrote = lf->file && (lf->file->f_mode & FMODE_WRITE);
	unsigned int noio;

	if (lf->mode == DM_LOOP_MODE_RELEASED)
		return;
	noio = memalloc_noio_save();
	cancel_delayed_work_sync(&lf->touch);
	if (test_bit(0, &lf->times_stale))
		touch(lf);
	dm_loop_fill_stop(lf);
	if (wrote && dm_loop_lost_data(dm_loop_file_commit(lf, 0))) {
		pr_err("inode %llu: cannot sync\n", (u64)lf->inode->i_ino);
		dm_loop_file_lost(lf);
	}
	if (lf->mode == DM_LOOP_MODE_MAPPED)
		invalidate_inode_pages2(lf->file->f_mapping);
	lf->mode = DM_LOOP_MODE_RELEASED;
	dm_loop_extents_destroy(&lf->extents);
	dm_loop_extents_destroy(&lf->hints);
	clear_swapfile(lf);
	unlimit_page_cache(lf);
	unpin_writecount(lf);
	memalloc_noio_restore(noio);
}

/* --- targets come and go ------------------------------------------------ */

static void close_file(struct file *file)
{
	/*
	 * A deferred remove runs in a kernel thread, where fput() would be
	 * put off and umount after the remove would say busy.
	 */
	if (current->flags & PF_KTHREAD)
		__fput_sync(file);
	else
		fput(file);
}

/*
 * Give the file back.  A frozen filesystem neither commits nor moves times,
 * and nobody shall hang for it: the file stays pinned until it has thawed.
 * Called with lf->lock and no bio on its way.
 */
static void release(struct dm_loop_file *lf)
{
	struct super_block *sb = lf->inode->i_sb;

	if (lf->mode == DM_LOOP_MODE_RELEASED)
		return;
	if (!dm_loop_needs_sync(lf) &&
	    (lf->mode == DM_LOOP_MODE_FILE ||
	     !test_bit(0, &lf->times_stale))) {
		unpin(lf);
	} else if (sb_start_write_trylock(sb)) {
		unpin(lf);
		sb_end_write(sb);
	} else {
		refcount_inc(&lf->refs);
		if (!queue_delayed_work(dm_loop_release_wq, &lf->release,
					DM_LOOP_THAW_POLL))
			refcount_dec(&lf->refs);
	}
}

/* Called with lf->lock, wherever a target or its pin goes. */
static void release_idle(struct dm_loop_file *lf)
{
	if (!lf->active)
		release(lf);
}

/* The same, but for a table that waits for a resume and counts on the pin. */
static void release_unless_loaded(struct dm_loop_file *lf)
{
	const struct dm_loop_target *lt;

	list_for_each_entry(lt, &lf->targets, node)
		if (!dm_suspended(lt->ti))
			return;
	release_idle(lf);
}

static void put_file_object(struct dm_loop_file *lf);

static void release_work(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(to_delayed_work(work),
					       struct dm_loop_file, release);

	mutex_lock(&lf->lock);
	release_idle(lf);
	mutex_unlock(&lf->lock);
	put_file_object(lf);
}

/*
 * Open @lt->path, which must still be the inode @lf is for.  Called with
 * lf->lock, and no target active.
 */
static int open_file(struct dm_loop_target *lt, struct dm_loop_file *lf,
		     const char **why)
{
	int flags = O_LARGEFILE | (dm_loop_writable(lt) ? O_RDWR : O_RDONLY);
	struct file *file;

	/* Our own pin would refuse it; a resume takes it again. */
	unpin(lf);
	file = filp_open(lt->path, flags, 0);
	if (IS_ERR(file))
		return refuse(why, PTR_ERR(file) == -ETXTBSY ?
			      "File is in use: nobody may write to it" :
			      "Cannot open the file", PTR_ERR(file));
	if (FMODE_FSNOTIFY_HSM(file->f_mode)) {
		close_file(file);
		return refuse(why, "File is watched by a storage manager (HSM)",
			      -EBUSY);
	}
	if (file_inode(file) != lf->inode) {
		close_file(file);
		return refuse(why, "File was replaced while it was opened",
			      -ESTALE);
	}
	if (lf->file)
		close_file(lf->file);
	lf->file = file;
	return 0;
}

/* Called with lf->lock: a file that @lt can use, at the price of a reopen. */
static int need_file(struct dm_loop_target *lt, struct dm_loop_file *lf,
		     const char **why)
{
	if (lf->file && (!dm_loop_writable(lt) ||
			 (lf->file->f_mode & FMODE_WRITE)))
		return 0;
	if (lf->active)
		return refuse(why,
			      "File is in use read-only by another device or table: suspend that first",
			      -ETXTBSY);
	return open_file(lt, lf, why);
}

static struct dm_loop_file *alloc_file(struct inode *inode)
{
	struct dm_loop_file *lf = kzalloc_obj(*lf, GFP_KERNEL);

	if (!lf)
		return NULL;
	if (init_srcu_struct(&lf->inflight))
		goto free;
	if (dm_loop_worker_init(lf))
		goto cleanup;
	ihold(inode);
	lf->inode = inode;
	lf->fs = dm_loop_fill_fs(lf);
	/* One of several, whichever was there first: it may be taken away. */
	if (strcmp(inode->i_sb->s_type->name, "bcachefs"))
		lf->bdev = inode->i_sb->s_bdev;
	INIT_LIST_HEAD(&lf->targets);
	INIT_DELAYED_WORK(&lf->release, release_work);
	mutex_init(&lf->lock);
	refcount_set(&lf->refs, 1);
	INIT_LIST_HEAD(&lf->node);
	dm_loop_took(DM_LOOP_OWN_FILE);
	return lf;

cleanup:
	cleanup_srcu_struct(&lf->inflight);
free:
	kfree(lf);
	return NULL;
}

/* How many targets @md has, in all of its tables. */
static unsigned int count_targets(struct mapped_device *md)
{
	struct dm_loop_target *lt;
	unsigned int n = 0;

	mutex_lock(&dm_loop_files_lock);
	list_for_each_entry(lt, &dm_loop_targets, all)
		n += dm_table_get_md(lt->ti->table) == md;
	mutex_unlock(&dm_loop_files_lock);
	return n;
}

/*
 * The file of the @n-th target that @md has, in any of its tables, or NULL.  From the
 * last to the first: others may go meanwhile, and then none that stays is left out.
 */
static struct dm_loop_file *get_file_of(struct mapped_device *md, unsigned int n)
{
	struct dm_loop_file *lf = NULL;
	struct dm_loop_target *lt;

	mutex_lock(&dm_loop_files_lock);
	list_for_each_entry(lt, &dm_loop_targets, all) {
		if (dm_table_get_md(lt->ti->table) != md || n--)
			continue;
		lf = lt->lf;
		refcount_inc(&lf->refs);
		break;
	}
	mutex_unlock(&dm_loop_files_lock);
	return lf;
}

/* Called with dm_loop_targets_lock. */
static void lose_device_of(const struct dm_loop_target *lt)
{
	struct dm_loop_target *one;

	list_for_each_entry(one, &dm_loop_targets, all)
		if (same_device(one, lt))
			WRITE_ONCE(one->lf->lost, DM_LOOP_LOST_UNTOLD);
}

/**
 * dm_loop_file_lost() - what was written may not be on the disk
 * @lf: the backing file
 *
 * The device has to be told, which may have other files as well: device-mapper
 * sends each a flush, and drops the error if what is written after it goes to
 * only one of them (see tell_lost()).
 *
 * Context: Any; takes dm_loop_targets_lock.
 */
void dm_loop_file_lost(struct dm_loop_file *lf)
{
	struct dm_loop_target *lt;
	unsigned long flags;

	spin_lock_irqsave(&dm_loop_targets_lock, flags);
	WRITE_ONCE(lf->lost, DM_LOOP_LOST_UNTOLD);
	list_for_each_entry(lt, &dm_loop_targets, all)
		if (lt->lf == lf)
			lose_device_of(lt);
	spin_unlock_irqrestore(&dm_loop_targets_lock, flags);
}

/*
 * What a device was to be told when it was suspended, or has lost then, it is
 * told when it goes on, on whatever files it is by then.
 */
static void lost_before(const struct dm_loop_target *lt)
{
	struct dm_loop_target *one;

	spin_lock_irq(&dm_loop_targets_lock);
	list_for_each_entry(one, &dm_loop_targets, all)
		if (same_device(one, lt) &&
		    (one->lost ||
		     READ_ONCE(one->lf->lost) == DM_LOOP_LOST_UNTOLD))
			WRITE_ONCE(lt->lf->lost, DM_LOOP_LOST_UNTOLD);
	spin_unlock_irq(&dm_loop_targets_lock);
}

/* The object of @inode, or else @fresh, or NULL. */
static struct dm_loop_file *find_file_object(struct inode *inode,
					     struct dm_loop_file *fresh)
{
	struct dm_loop_file *lf;

	mutex_lock(&dm_loop_files_lock);
	list_for_each_entry(lf, &dm_loop_files, node) {
		if (lf->inode == inode) {
			refcount_inc(&lf->refs);
			goto out;
		}
	}
	lf = fresh;
	if (fresh)
		list_add(&fresh->node, &dm_loop_files);
out:
	mutex_unlock(&dm_loop_files_lock);
	return lf;
}

static void put_file_object(struct dm_loop_file *lf)
{
	if (!refcount_dec_and_mutex_lock(&lf->refs, &dm_loop_files_lock))
		return;
	list_del(&lf->node);
	mutex_unlock(&dm_loop_files_lock);

	unpin(lf);
	dm_loop_worker_exit(lf);
	cleanup_srcu_struct(&lf->inflight);
	/* The open file keeps the filesystem mounted: close it last. */
	iput(lf->inode);
	if (lf->file)
		close_file(lf->file);
	kfree(lf);
	dm_loop_gave(DM_LOOP_OWN_FILE);
}

/*
 * The object of @inode, made if there is none.  It keeps no target yet.
 *
 * Made without dm_loop_files_lock: that waits for kthreadd, which may wait for memory and
 * so for a device that is suspended, and each suspend takes the lock.
 */
static struct dm_loop_file *get_file_object(struct inode *inode)
{
	struct dm_loop_file *fresh, *lf = find_file_object(inode, NULL);

	if (lf)
		return lf;
	fresh = alloc_file(inode);
	lf = find_file_object(inode, fresh);
	if (fresh && lf != fresh)
		put_file_object(fresh);
	return lf;
}

/* A range belongs to one device, unless all only read. */
static bool overlaps(const struct dm_loop_target *a,
		     const struct dm_loop_target *b)
{
	if (!dm_loop_writable(a) && !dm_loop_writable(b))
		return false;
	if (is_other_table(a, b))
		return false;
	return a->start < b->start + b->ti->len &&
	       b->start < a->start + a->ti->len;
}

static int check_overlap(struct dm_loop_target *lt, struct dm_loop_file *lf,
			 const char **why)
{
	struct dm_loop_target *other;

	list_for_each_entry(other, &lf->targets, node)
		if (overlaps(lt, other))
			return refuse(why,
				      "Range of the file is in use by another device",
				      -EBUSY);
	return 0;
}

/*
 * For @lt, which never asks the filesystem later, and gets no flushes if the disk
 * has no write cache: what others have filled of its range is found and committed.
 */
static int finish_fills(struct dm_loop_target *lt, struct dm_loop_file *lf,
			const char **why)
{
	struct super_block *sb = lf->inode->i_sb;
	int r;

	if (dm_loop_locate(lf, lt->start, lt->start + lt->ti->len))
		return refuse(why, "Cannot ask where blocks are", -EIO);
	if (atomic64_read(&lf->dirtied) == atomic64_read(&lf->synced))
		return 0;
	if (!sb_start_write_trylock(sb))
		return refuse(why, "Filesystem is frozen", -EAGAIN);
	r = dm_loop_sync(lf);
	sb_end_write(sb);
	return r ? refuse(why, "Cannot sync the file", r) : 0;
}

/*
 * Called with lf->lock: @lt comes to a file that others have pinned already,
 * in the mode that suits them.
 */
static int join(struct dm_loop_target *lt, struct dm_loop_file *lf,
		const char **why)
{
	int r;

	if (lf->mode == DM_LOOP_MODE_FILE)
		return lt->mapped ?
		       refuse(why, "File is in use by file I/O", -EBUSY) : 0;
	/* A pin that only mapped targets wanted, and that refuses our fills. */
	if (lf->swapfile && !wants_swapfile(lf, lt))
		clear_swapfile(lf);
	r = check_alignment(lt, lf, why) ?: check_writes(lt, lf, why);
	if (!r && lt->mapped)
		r = finish_fills(lt, lf, why);
	/* It would do by file I/O, but that is not for a part of a file. */
	return r == -EOPNOTSUPP && !lt->mapped ? -EBUSY : r;
}

/* Called with lf->lock, @lt on lf->targets. */
static int pin_for(struct dm_loop_target *lt, struct dm_loop_file *lf,
		   const char **why)
{
	if (lf->mode == DM_LOOP_MODE_RELEASED)
		return pin(lf, lt, why);
	return check_range(lt, lf, why) ?: join(lt, lf, why);
}

/* A mapped range that is given back has to be filled again. */
static bool can_discard(const struct dm_loop_target *lt,
			struct dm_loop_file *lf)
{
	if (!dm_loop_writable(lt) || lt->mapped || lt->no_discard ||
	    !lf->file->f_op->fallocate)
		return false;
	return lf->mode == DM_LOOP_MODE_FILE || dm_loop_can_fill(lf);
}

/* Called with lf->lock. */
static int attach(struct dm_loop_target *lt, struct dm_loop_file *lf,
		  const char **why)
{
	int r;

	r = need_file(lt, lf, why);
	if (!r)
		r = check_overlap(lt, lf, why);
	if (r)
		return r;
	list_add(&lt->node, &lf->targets);
	r = pin_for(lt, lf, why);
	if (r) {
		list_del(&lt->node);
		return r;
	}
	lt->by_file = lf->mode == DM_LOOP_MODE_FILE;
	lt->can_discard = can_discard(lt, lf);
	lt->can_zero = !lt->by_file ||
		       (!lf->journalled &&
			lt->start + lt->ti->len <= dm_loop_file_punch_end(lf));
	return 0;
}

static int lookup_and_attach(struct dm_loop_target *lt, const struct path *path,
			     const char **why)
{
	struct inode *inode = d_inode(path->dentry);
	struct dm_loop_file *lf;
	int r;

	r = check_inode(lt, path->dentry, why);
	if (r)
		return r;
	lf = get_file_object(inode);
	if (!lf)
		return refuse(why, "Out of memory", -ENOMEM);
	mutex_lock(&lf->lock);
	r = attach(lt, lf, why);
	mutex_unlock(&lf->lock);
	if (r) {
		put_file_object(lf);
		return r;
	}
	lt->lf = lf;
	mutex_lock(&dm_loop_files_lock);
	spin_lock_irq(&dm_loop_targets_lock);
	list_add_tail(&lt->all, &dm_loop_targets);
	spin_unlock_irq(&dm_loop_targets_lock);
	mutex_unlock(&dm_loop_files_lock);
	/*
	 * The user has the file back; the load only proved that it is good.  A
	 * suspend that begins now finds @lt: see dm_loop_file_release_idle().
	 */
	mutex_lock(&lf->lock);
	if (dm_suspended(lt->ti))
		release_unless_loaded(lf);
	mutex_unlock(&lf->lock);
	return 0;
}

/**
 * dm_loop_file_attach() - find, open, pin and map the file of a target
 * @lt: the target; @lt->path and @lt->start say what
 *
 * The inode is looked up before it is opened: a reload comes while the live
 * table holds the pin, and an open for writing would fail on that.
 *
 * Context: Process context of the ioctl; sleeps, takes dm_loop_files_lock,
 *	lf->lock and inode locks.
 * Return: 0, or a negative errno with the reason in @lt->ti->error.
 */
int dm_loop_file_attach(struct dm_loop_target *lt)
{
	unsigned int noio = memalloc_noio_save();
	const char *why = NULL;
	struct path path;
	int r;

	r = kern_path(lt->path, LOOKUP_FOLLOW, &path);
	if (r) {
		refuse(&why, "Cannot find the file", r);
		goto out;
	}
	r = lookup_and_attach(lt, &path, &why);
	path_put(&path);
out:
	if (r)
		lt->ti->error = (char *)why;
	memalloc_noio_restore(noio);
	return r;
}

/**
 * dm_loop_file_detach() - the last of a target
 * @lt: attached, not active
 *
 * Context: Process context or a kernel thread; sleeps, takes lf->lock and
 *	dm_loop_files_lock.
 */
void dm_loop_file_detach(struct dm_loop_target *lt)
{
	struct dm_loop_file *lf = lt->lf;

	mutex_lock(&dm_loop_files_lock);
	spin_lock_irq(&dm_loop_targets_lock);
	list_del(&lt->all);
	spin_unlock_irq(&dm_loop_targets_lock);
	mutex_unlock(&dm_loop_files_lock);
	mutex_lock(&lf->lock);
	list_del(&lt->node);
	/* It may have been the one that was loaded beside others, suspended. */
	release_unless_loaded(lf);
	mutex_unlock(&lf->lock);
	put_file_object(lf);
}

/*
 * While it was suspended the file may have been deleted, or another put in
 * its place.  That it was only renamed is no harm.  Nothing may be read for
 * that: a part of the path can be in a filesystem on the device.
 */
static int check_same_file(struct dm_loop_target *lt, struct dm_loop_file *lf,
			   const char **why)
{
	struct path path;
	bool same;

	if (lf->mode != DM_LOOP_MODE_RELEASED)
		return 0;
	if (!lf->inode->i_nlink)
		return refuse(why, "File was deleted", -ENOENT);
	if (current->flags & PF_KTHREAD ||
	    kern_path(lt->path, LOOKUP_FOLLOW | LOOKUP_CACHED, &path))
		return 0;
	same = d_inode(path.dentry) == lf->inode;
	path_put(&path);
	return same ? 0 : refuse(why, "Another file is in its place", -ESTALE);
}

/**
 * dm_loop_file_activate() - make the mapping valid for a target, for preresume
 * @lt: the target
 * @why: set to the reason when this fails
 *
 * Pins the file and reads its mapping anew unless another active target, or
 * the load of this one, did.
 *
 * Context: Sleeps; under md->suspend_lock, takes lf->lock.
 * Return: 0, or a negative errno; then @lt is not active.
 */
int dm_loop_file_activate(struct dm_loop_target *lt, const char **why)
{
	unsigned int noio = memalloc_noio_save();
	struct dm_loop_file *lf = lt->lf;
	int r = 0;

	mutex_lock(&lf->lock);
	if (!lt->active) {
		/* Also when this fails: then the old table goes all the same. */
		lost_before(lt);
		r = check_same_file(lt, lf, why) ?: pin_for(lt, lf, why);
		if (!r) {
			lt->active = true;
			lf->active++;
		}
	}
	mutex_unlock(&lf->lock);
	memalloc_noio_restore(noio);
	return r;
}

/* Called with lf->lock. */
static void deactivate(struct dm_loop_target *lt, struct dm_loop_file *lf)
{
	if (!lt->active)
		return;
	lt->active = false;
	if (!--lf->active)
		release(lf);
}

/**
 * dm_loop_file_deactivate() - a target needs the mapping no more
 * @lt: the target, with none of its bios under way
 *
 * With the last active target the file goes back to its owner, though an
 * inactive table may be loaded: its resume reads the mapping again.
 *
 * Context: Sleeps; takes lf->lock.
 */
void dm_loop_file_deactivate(struct dm_loop_target *lt)
{
	struct dm_loop_file *lf = lt->lf;

	mutex_lock(&lf->lock);
	deactivate(lt, lf);
	mutex_unlock(&lf->lock);
}

/**
 * dm_loop_file_undo_resume() - give back what other targets of a table took
 * @ti: the target whose preresume failed
 *
 * device-mapper leaves the device suspended and does not tell the targets
 * before this one (dm_table_resume_targets()).
 *
 * Context: Sleeps; under md->suspend_lock, takes dm_loop_files_lock and the
 *	lf->lock of one file after the other.
 */
void dm_loop_file_undo_resume(struct dm_target *ti)
{
	struct mapped_device *md = dm_table_get_md(ti->table);
	struct dm_loop_target *lt;
	struct dm_loop_file *lf;
	unsigned int n = count_targets(md);

	while (n--) {
		lf = get_file_of(md, n);
		if (!lf)
			continue;
		mutex_lock(&lf->lock);
		list_for_each_entry(lt, &lf->targets, node)
			if (lt->ti->table == ti->table)
				deactivate(lt, lf);
		/* One whose turn had not come was pinned by the load. */
		release_idle(lf);
		mutex_unlock(&lf->lock);
		put_file_object(lf);
	}
}

/**
 * dm_loop_file_release_idle() - give back files that wait for a suspended device
 * @ti: a target that is suspended
 *
 * A table that is loaded but not live keeps its file pinned only as long as
 * its device is not suspended.
 *
 * Context: As dm_loop_file_undo_resume().
 */
void dm_loop_file_release_idle(struct dm_target *ti)
{
	struct mapped_device *md = dm_table_get_md(ti->table);
	struct dm_loop_file *lf;
	unsigned int n = count_targets(md);

	while (n--) {
		lf = get_file_of(md, n);
		if (!lf)
			continue;
		mutex_lock(&lf->lock);
		release_idle(lf);
		mutex_unlock(&lf->lock);
		put_file_object(lf);
	}
}

/* --- comparing the table with the file ---------------------------------- */

/*
 * ext4 may write zeroes to unwritten blocks beside those it was asked to
 * write, and call them written (ext4_ext_convert_to_initialized()).
 * It keeps the blocks that it had found when a write runs out of space, and
 * bmap() does not tell us; they read as zeroes, as a hole does.
 */
static bool agree(const struct dm_loop_range *ours,
		  const struct dm_loop_range *theirs, sector_t pos)
{
	switch (ours->state) {
	case DM_LOOP_HOLE:
		return dm_loop_has_no_data(theirs->state);
	case DM_LOOP_FILLED:
		return theirs->state == DM_LOOP_MAPPED;
	default:
		break;
	}
	if (!dm_loop_has_place(theirs->state) ||
	    ours->phys + (pos - ours->start) !=
	    theirs->phys + (pos - theirs->start))
		return false;
	return ours->state == theirs->state ||
	       (ours->state == DM_LOOP_UNWRITTEN &&
		theirs->state == DM_LOOP_MAPPED);
}

static int compare(struct dm_loop_target *lt, struct dm_loop_extents *theirs,
		   char *result, unsigned int maxlen)
{
	static const char *const states[] = {
		"hole", "filled", "unwritten", "mapped", "shared"
	};
	sector_t end = lt->start + lt->ti->len, pos;
	struct dm_loop_range a, b;
	unsigned int extents = 0;
	size_t sz = 0;

	for (pos = lt->start; pos < end; extents++) {
		rcu_read_lock();
		if (!dm_loop_extents_lookup(&lt->lf->extents, pos, &a) ||
		    !dm_loop_extents_lookup(theirs, pos, &b)) {
			rcu_read_unlock();
			return -EIO;
		}
		rcu_read_unlock();
		if (!agree(&a, &b, pos)) {
			DMEMIT("differs at sector %llu: table %s %llu, file %s %llu",
			       (u64)pos, states[a.state],
			       (u64)(a.phys + (pos - a.start)), states[b.state],
			       (u64)(b.phys + (pos - b.start)));
			return 1;
		}
		pos = min(a.start + a.len, b.start + b.len);
	}
	DMEMIT("ok %u", extents);
	return 1;
}

static int check_mapped(struct dm_loop_target *lt, char *result,
			unsigned int maxlen)
{
	struct dm_loop_file *lf = lt->lf;
	struct dm_loop_extents theirs = { };
	unsigned int noio = memalloc_noio_save();
	struct super_block *sb = lf->inode->i_sb;
	const char *why;
	int r;

	if (!sb_start_write_trylock(sb)) {
		memalloc_noio_restore(noio);
		return -EAGAIN;
	}
	/* With the worker away, what is on the disk can all be committed. */
	r = dm_loop_sync(lf);
	sb_end_write(sb);
	if (!r)
		r = read_mapping(lf, &theirs, &why);
	if (!r)
		r = compare(lt, &theirs, result, maxlen);
	dm_loop_extents_destroy(&theirs);
	memalloc_noio_restore(noio);
	return r;
}

/**
 * dm_loop_file_check() - compare the extent table with the filesystem's answer
 * @lt: the target
 * @result: for the answer: "ok <extents>", "differs at sector ..." or the mode
 *	that has no table
 * @maxlen: size of @result
 *
 * Context: Process context of a message; sleeps, takes lf->worker_lock and
 *	lf->lock.
 * Return: 1, as dm wants it with an answer, or a negative errno.
 */
int dm_loop_file_check(struct dm_loop_target *lt, char *result,
		       unsigned int maxlen)
{
	struct dm_loop_file *lf = lt->lf;
	size_t sz = 0;
	int r = 1;

	mutex_lock(&lf->worker_lock);
	mutex_lock(&lf->lock);
	if (lf->mode == DM_LOOP_MODE_MAPPED)
		r = check_mapped(lt, result, maxlen);
	else
		DMEMIT("%s", lf->mode == DM_LOOP_MODE_FILE ? "file" :
		       "released");
	mutex_unlock(&lf->lock);
	mutex_unlock(&lf->worker_lock);
	return r;
}

/**
 * dm_loop_file_event() - wake those who wait for an event of our devices
 * @lf: the backing file
 *
 * Context: Sleeps; takes lf->lock.
 */
void dm_loop_file_event(struct dm_loop_file *lf)
{
	struct dm_loop_target *lt;

	mutex_lock(&lf->lock);
	list_for_each_entry(lt, &lf->targets, node)
		if (lt->active)
			dm_table_event(lt->ti->table);
	mutex_unlock(&lf->lock);
}

/**
 * dm_loop_file_init() - what all files share
 *
 * Context: Sleeps; when the module is loaded.
 * Return: 0 or -ENOMEM.
 */
int dm_loop_file_init(void)
{
	dm_loop_release_wq = alloc_workqueue("dm-loop-release", WQ_UNBOUND, 0);
	return dm_loop_release_wq ? 0 : -ENOMEM;
}

/* For who waits until the module is unloaded: nothing else keeps a file now. */
static void tell_kept(void)
{
	struct dm_loop_file *lf;

	lockdep_assert_held(&dm_loop_files_lock);
	list_for_each_entry(lf, &dm_loop_files, node) {
		if (work_busy(&lf->release.work))
			pr_info("inode %llu: waits for its filesystem, which may be frozen\n",
				(u64)lf->inode->i_ino);
		else
			pr_err("leak: file, inode %llu\n",
			       (u64)lf->inode->i_ino);
	}
}

/**
 * dm_loop_file_exit() - undo dm_loop_file_init()
 *
 * Waits for files that a frozen host keeps from being given back, and after a
 * while says so.
 *
 * Context: Sleeps.
 */
void dm_loop_file_exit(void)
{
	unsigned int polls = 0;

	mutex_lock(&dm_loop_files_lock);
	while (!list_empty(&dm_loop_files)) {
		if (++polls == DM_LOOP_TELL_KEPT)
			tell_kept();
		mutex_unlock(&dm_loop_files_lock);
		schedule_timeout_idle(DM_LOOP_THAW_POLL);
		mutex_lock(&dm_loop_files_lock);
	}
	mutex_unlock(&dm_loop_files_lock);
	destroy_workqueue(dm_loop_release_wq);
}

/* --- page cache and times ----------------------------------------------- */

/**
 * dm_loop_file_cached() - does the page cache hold pages of a range?
 * @lf: the backing file
 * @sector: first sector in the file
 * @sectors: how many
 *
 * Context: Any; does not sleep.
 * Return: true also for pages that are about to go.
 */
bool dm_loop_file_cached(const struct dm_loop_file *lf, sector_t sector,
			 unsigned int sectors)
{
	struct address_space *mapping = lf->file->f_mapping;
	loff_t pos = (loff_t)sector << SECTOR_SHIFT;

	return mapping->nrpages &&
	       filemap_range_has_page(mapping, pos,
				      pos + ((loff_t)sectors << SECTOR_SHIFT) - 1);
}

/* Any page: that is rarely so, and not for long (see below). */
static bool has_dirty(struct address_space *mapping)
{
	return mapping_tagged(mapping, PAGECACHE_TAG_DIRTY) ||
	       mapping_tagged(mapping, PAGECACHE_TAG_WRITEBACK);
}

/**
 * dm_loop_file_invalidate() - drop the pages of a range from the page cache
 * @lf: the backing file
 * @sector: first sector in the file
 * @sectors: how many
 *
 * The pages are clean under our pin, but for those of the last block: when fs-verity
 * is enabled ext4 writes zeroes behind the end of the file to it (ext4_begin_enable_verity(),
 * ext4_block_truncate_page()), and what else is in it may be old.
 *
 * Context: Sleeps.
 * Return: false when such a page was, or is to be, written over the blocks.
 */
bool dm_loop_file_invalidate(struct dm_loop_file *lf, sector_t sector,
			     unsigned int sectors)
{
	struct address_space *mapping = lf->file->f_mapping;
	loff_t pos = (loff_t)sector << SECTOR_SHIFT;
	loff_t last = pos + ((loff_t)sectors << SECTOR_SHIFT) - 1;
	unsigned int shift = max_t(unsigned int, PAGE_SHIFT,
				   lf->inode->i_blkbits);
	bool is_last = last >> shift == (i_size_read(lf->inode) - 1) >> shift;
	bool dirty = is_last && has_dirty(mapping);

	dm_loop_count(lf, DM_LOOP_INVALIDATES);
	trace_dm_loop_invalidate(lf, sector, sectors, 0);
	invalidate_inode_pages2_range(mapping, pos >> PAGE_SHIFT,
				      last >> PAGE_SHIFT);
	return !dirty && !(is_last && has_dirty(mapping));
}

/**
 * dm_loop_file_wrote() - the times of the file are to move, leases to break
 * @lf: the backing file
 *
 * Context: Any; does not sleep.
 */
void dm_loop_file_wrote(struct dm_loop_file *lf)
{
	unsigned long now = jiffies;
	unsigned long next = READ_ONCE(lf->next_touch);

	if (test_bit(0, &lf->times_stale) ||
	    test_and_set_bit(0, &lf->times_stale))
		return;
	queue_delayed_work(lf->wq, &lf->touch,
			   time_before(now, next) ? next - now : 0);
}

/**
 * dm_loop_file_touch_now() - move the times if a write is not yet in them
 * @lf: the backing file
 *
 * Context: Any; does not sleep.
 */
void dm_loop_file_touch_now(struct dm_loop_file *lf)
{
	if (lf->mode == DM_LOOP_MODE_MAPPED && test_bit(0, &lf->times_stale))
		mod_delayed_work(lf->wq, &lf->touch, 0);
}

/*
 * A filesystem that was shut down, or gave up after an error, does not always
 * become read-only as all can see.  Then xfs refuses a getattr
 * (xfs_vn_getattr()), and ext4 a write, also of no bytes
 * (ext4_file_write_iter()).
 */
static bool is_alive(struct dm_loop_file *lf)
{
	const struct file_operations *fop = lf->file->f_op;
	struct iov_iter nothing;
	struct kstat stat;
	struct kiocb iocb;
	int r;

	r = vfs_getattr(&lf->file->f_path, &stat, STATX_INO,
			AT_STATX_DONT_SYNC);
	if (!r && fop->write_iter) {
		iov_iter_kvec(&nothing, ITER_SOURCE, NULL, 0, 0);
		init_sync_kiocb(&iocb, lf->file);
		r = fop->write_iter(&iocb, &nothing);
	}
	return r != -EIO && r != -EROFS;
}

/**
 * dm_loop_file_failed() - the filesystem does not take writes any more
 * @lf: the backing file
 *
 * Writes fail from now on until the file is pinned anew, and whoever waits
 * for an event of our devices is woken, once.
 *
 * Context: Any; does not sleep.
 */
void dm_loop_file_failed(struct dm_loop_file *lf)
{
	if (!test_and_set_bit(DM_LOOP_NO_WRITES, &lf->failed))
		queue_work(lf->wq, &lf->event);
}

/*
 * To a file that nobody can open for writing read leases are given, as to one
 * that nobody writes (lease_open_conflict(), check_conflicting_open() before 7.2;
 * nfsd4_check_conflicting_opens()).  Their owners, such as clients of NFS, are
 * told to look again.
 */
static void break_leases(struct dm_loop_file *lf)
{
	break_lease(lf->inode, O_WRONLY | O_NONBLOCK);
}

/* In mode mapped the caller keeps the filesystem from freezing. */
static void touch(struct dm_loop_file *lf)
{
	bool mapped = lf->mode == DM_LOOP_MODE_MAPPED;

	/* First: a write that comes later must find its own way here. */
	clear_bit(0, &lf->times_stale);
	break_leases(lf);
	if (mapped && !file_update_time(lf->file))
		dm_loop_count(lf, DM_LOOP_TIMES);
	if (IS_VERITY(lf->inode) || (mapped && !is_alive(lf)))
		dm_loop_file_failed(lf);
}

/**
 * dm_loop_file_touch() - the file was written: do what a write call does
 * @lf: the backing file, open for writing
 *
 * Moves mtime, ctime and i_version (in file mode the filesystem does), breaks
 * leases, and ends writes when the filesystem takes no more, or when somebody
 * has enabled fs-verity: that asks only that nobody can open the file for
 * writing.  A frozen filesystem is left alone, and asked again in a second.
 *
 * Context: Sleeps; starts a transaction of the filesystem.  The caller keeps
 *	reclaim from coming back here (memalloc_noio_save()).
 */
void dm_loop_file_touch(struct dm_loop_file *lf)
{
	struct super_block *sb = lf->inode->i_sb;

	WRITE_ONCE(lf->next_touch, jiffies + HZ);
	if (lf->mode == DM_LOOP_MODE_FILE) {
		touch(lf);
	} else if (sb_start_write_trylock(sb)) {
		touch(lf);
		sb_end_write(sb);
	} else {
		queue_delayed_work(lf->wq, &lf->touch, HZ);
	}
}
