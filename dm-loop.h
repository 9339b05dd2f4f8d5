/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dm-loop: a block device on a regular file.
 *
 * dm-loop.c         the target: what device-mapper calls
 * dm-loop-extent.c  the extent table
 * dm-loop-file.c    the backing file: pin, mapping, page cache, times
 * dm-loop-fill.c    the worker: all that may sleep
 */
#ifndef DM_LOOP_H
#define DM_LOOP_H

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/workqueue.h>

#include "dm-loop-extent.h"

/* What the status line counts; dm_loop_count_names[] has the words. */
enum dm_loop_count {
	DM_LOOP_ZERO_READS,	/* reads of holes, answered with zeroes */
	DM_LOOP_INVALIDATES,	/* writes that dropped pages of the file */
	DM_LOOP_HELD,		/* writes held because the host was frozen */
	DM_LOOP_TIMES,		/* updates of mtime and ctime */
	DM_LOOP_NR_COUNTS
};

extern const char *const dm_loop_count_names[DM_LOOP_NR_COUNTS];

/**
 * struct dm_loop_file - the backing file: one for each inode in use
 * @node: entry of the list of all files, under dm_loop_files_lock
 * @refs: one for each of @targets, under dm_loop_files_lock
 * @targets: the targets on this file, under @lock
 * @active: how many of @targets are resumed, under @lock
 * @lock: protects the above, the pin, and changes of @extents.  Taken inside
 *	dm_loop_files_lock and md->suspend_lock, outside the inode lock.
 * @inode: the file
 * @file: ours, open read-write if any target may write.  Replaced only while
 *	no target is active, so that the map path reads it without @lock.
 * @bdev: the device of the filesystem; map sends bios there
 * @pinned: @extents is valid and nobody else can change the mapping
 * @swapfile: S_SWAPFILE is set on the inode, and it was us
 * @extents: the mapping; read under RCU, changed under @lock
 * @inflight: held from map to end_io by each bio sent to @bdev, so that
 *	blocks are given back only when no bio is on its way to them
 * @wq: of its own, with a rescuer: a file on a filesystem on dm-loop must
 *	make progress while the file below waits
 * @worker: runs dm_loop_work() over @todo
 * @retry: queues @worker again while the host filesystem is frozen
 * @touch: updates the times of the file
 * @next_touch: when the times may be updated next, in jiffies
 * @times_stale: bit 0: written since the times were updated
 * @todo_lock: protects @todo.  A leaf, taken with interrupts off, because
 *	bios come from end_io too.
 * @todo: bios that must wait for something
 * @counts: what the status line shows
 */
struct dm_loop_file {
	struct list_head node;
	unsigned int refs;
	struct list_head targets;
	unsigned int active;
	struct mutex lock;
	struct inode *inode;
	struct file *file;
	struct block_device *bdev;
	bool pinned;
	bool swapfile;
	struct dm_loop_extents extents;
	struct srcu_struct inflight;
	struct workqueue_struct *wq;
	struct work_struct worker;
	struct delayed_work retry;
	struct delayed_work touch;
	unsigned long next_touch;
	unsigned long times_stale;
	spinlock_t todo_lock;
	struct bio_list todo;
	atomic64_t counts[DM_LOOP_NR_COUNTS];
};

/**
 * struct dm_loop_target - one line of a device-mapper table
 * @node: entry of lf->targets
 * @ti: its device-mapper half
 * @lf: the backing file
 * @start: first sector of the device in the file, in 512-byte sectors
 * @path: the path as the table gave it
 * @dev: stands for the filesystem's device where device-mapper wants to
 *	collect limits; dm_get_device() says EBUSY because the filesystem
 *	holds the device
 * @active: resumed, under lf->lock
 * @linked: shown in the holders and slaves folders of sysfs
 * @mapped: option: never send I/O through the filesystem
 */
struct dm_loop_target {
	struct list_head node;
	struct dm_target *ti;
	struct dm_loop_file *lf;
	sector_t start;
	char *path;
	struct dm_dev dev;
	bool active;
	bool linked;
	bool mapped;
};

/* What a bio carries from map to end_io. */
enum dm_loop_io_flags {
	DM_LOOP_IO_TRACKED = 1 << 0,	/* holds lf->inflight */
	DM_LOOP_IO_WRITER = 1 << 1,	/* holds off a freeze of the host */
	DM_LOOP_IO_WRITTEN = 1 << 2,	/* on the device; pages to drop */
};

/**
 * struct dm_loop_io - our part of a bio
 * @sector: first sector in the file
 * @phys: first sector on lf->bdev
 * @sectors: how many
 * @srcu_idx: of lf->inflight
 * @flags: enum dm_loop_io_flags
 */
struct dm_loop_io {
	sector_t sector;
	sector_t phys;
	unsigned int sectors;
	int srcu_idx;
	unsigned int flags;
};

static inline struct dm_loop_io *dm_loop_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct dm_loop_io));
}

static inline bool dm_loop_writable(const struct dm_loop_target *lt)
{
	return dm_table_get_mode(lt->ti->table) & BLK_OPEN_WRITE;
}

static inline void dm_loop_count(struct dm_loop_file *lf, enum dm_loop_count c)
{
	atomic64_inc(&lf->counts[c]);
}

/* dm-loop.c */
void dm_loop_submit(struct dm_loop_file *lf, struct bio *bio);
bool dm_loop_start_write(struct dm_loop_file *lf, struct bio *bio);

/* dm-loop-file.c */
int dm_loop_file_attach(struct dm_loop_target *lt);
void dm_loop_file_detach(struct dm_loop_target *lt);
int dm_loop_file_activate(struct dm_loop_target *lt, const char **why);
void dm_loop_file_deactivate(struct dm_loop_target *lt);
bool dm_loop_file_cached(const struct dm_loop_file *lf, sector_t sector,
			 unsigned int sectors);
void dm_loop_file_invalidate(struct dm_loop_file *lf, sector_t sector,
			     unsigned int sectors);
void dm_loop_file_wrote(struct dm_loop_file *lf);
void dm_loop_file_touch(struct dm_loop_file *lf);
void dm_loop_file_touch_now(struct dm_loop_file *lf);

/* dm-loop-fill.c */
int dm_loop_worker_init(struct dm_loop_file *lf);
void dm_loop_worker_exit(struct dm_loop_file *lf);
void dm_loop_defer(struct dm_loop_file *lf, struct bio *bio);

#endif
