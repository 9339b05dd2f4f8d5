/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dm-loop: a block device on a regular file.
 *
 * dm-loop.c         the target: what device-mapper calls
 * dm-loop-extent.c  the extent table
 * dm-loop-file.c    the backing file: pin, mapping, page cache, times
 * dm-loop-fill.c    the worker: what a bio needs that may sleep
 */
#ifndef DM_LOOP_H
#define DM_LOOP_H

#include <linux/atomic.h>
#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/workqueue.h>

#include "dm-loop-extent.h"

/* What the status line counts; count_names[] has the words. */
enum dm_loop_count {
	DM_LOOP_ZERO_READS,	/* reads without blocks, answered with zeroes */
	DM_LOOP_FILLS,		/* runs of blocks written for the first time */
	DM_LOOP_PROMOTES,	/* ranges that have data from now on */
	DM_LOOP_PUNCHES,	/* ranges given back to the filesystem */
	DM_LOOP_COMMITS,	/* calls of commit_blocks() for all that wait for it (xfs) */
	DM_LOOP_FSYNCS,		/* calls of fsync, but for those of a pin */
	DM_LOOP_FILE_IOS,	/* bios done by file I/O */
	DM_LOOP_INVALIDATES,	/* times that pages of the file were dropped */
	DM_LOOP_HELD,		/* bios that a frozen host held, at each look */
	DM_LOOP_NOSPC,		/* writes that found no space */
	DM_LOOP_TIMES,		/* updates of mtime and ctime */
	DM_LOOP_NR_COUNTS
};

/* What must all have been given back when the module goes. */
enum dm_loop_owned {
	DM_LOOP_OWN_FILE,	/* a backing file */
	DM_LOOP_OWN_PIN,	/* nobody else may write to the file */
	DM_LOOP_OWN_SWAPFILE,	/* S_SWAPFILE is set, by us */
	DM_LOOP_OWN_TARGET,	/* a line of a table */
	DM_LOOP_OWN_WRITER,	/* DM_LOOP_IO_WRITER: the host may not freeze */
	DM_LOOP_OWN_RUN,	/* a fill */
	DM_LOOP_OWN_MEMCG,	/* the memory cgroup of a bio */
	DM_LOOP_NR_OWNED
};

#ifdef DEBUG
extern atomic_t dm_loop_owned[DM_LOOP_NR_OWNED];

/**
 * dm_loop_took() - one more is to be given back before the module is unloaded
 * @o: of what
 *
 * Context: Any.
 */
static inline void dm_loop_took(enum dm_loop_owned o)
{
	atomic_inc(&dm_loop_owned[o]);
}

/**
 * dm_loop_gave() - one is given back
 * @o: of what
 *
 * Context: Any.
 */
static inline void dm_loop_gave(enum dm_loop_owned o)
{
	atomic_dec(&dm_loop_owned[o]);
}
#else
static inline void dm_loop_took(enum dm_loop_owned o) { }
static inline void dm_loop_gave(enum dm_loop_owned o) { }
#endif

struct dm_loop_fs;

/* How the bios of a backing file are done. */
enum dm_loop_mode {
	DM_LOOP_MODE_RELEASED,	/* not at all: the file is its owner's */
	DM_LOOP_MODE_MAPPED,	/* by the extent table */
	DM_LOOP_MODE_FILE,	/* by file I/O */
};

/* Bits that stay until the file is pinned anew. */
enum dm_loop_failed {
	DM_LOOP_NO_WRITES,	/* the filesystem takes no writes any more */
	DM_LOOP_SAID_ERROR,	/* an event has told of an error */
};

/**
 * struct dm_loop_file - the backing file: one for each inode in use
 * @node: entry of the list of all files, under dm_loop_files_lock
 * @refs: one for each of @targets, for a pending @release, and for who has just
 *	found it; the last is given up under dm_loop_files_lock
 * @targets: the targets on this file, under @lock
 * @active: how many of @targets are resumed, under @lock
 * @lock: protects the above, the pin, and changes of @extents.  Taken inside
 *	md->suspend_lock, outside the inode lock; never with dm_loop_files_lock.
 * @inode: the file
 * @file: ours, open read-write if any target may write.  Replaced only while
 *	no target is active, so that the map path reads it without @lock.
 * @bdev: the device of the filesystem; map sends bios there.  NULL for none,
 *	or one that may go while the filesystem is mounted.
 * @mode: not RELEASED means that nobody else can write the file and, if
 *	MAPPED, that @extents is valid and nobody else can change the mapping
 *	Written under @lock, as the rest of what a pin decides, with no bio
 *	on its way; so bios read it without.
 * @swapfile: S_SWAPFILE is set on the inode, and it was us.  Cleared under @lock
 *	also beside bios, for a table that fills.
 * @extents: the mapping; read under RCU, changed under @lock
 * @hints: file mode on xfs: the mapping as it was when the file was pinned,
 *	and what was written since is "filled"; to guess which writes make the
 *	filesystem allocate.  Read under RCU, changed under @hints_lock, and
 *	under @lock when there are no bios.
 * @hints_lock: a leaf.  Not @lock, as a bio waits for it.
 * @fs: how this kind of filesystem is filled, or NULL
 * @chunk: sectors allocated at once when a hole is filled
 * @limited: the page cache of the file, below overlayfs too; its allocations do
 *	not wait for I/O, see limit_page_cache()
 * @gfp: what was taken from it for that, and is given back
 * @aops: what the address space had when it was pinned; chattr +j changes it,
 *	and after that fills would go through the journal
 * @dio_align: file mode: what position and length must be a multiple of for
 *	direct I/O, in bytes; 0 for none
 * @dio_mem_align: the same for addresses in memory
 * @journalled: file mode: ext4 journals the data, see file_punch()
 * @nowait_skip: file mode: how many reads, and writes, are not to be tried
 *	without waiting, because one just now had to wait
 * @inflight: held from map to end_io by each bio sent to @bdev, so that
 *	blocks are given back only when no bio is on its way to them
 * @wq: of its own, with a rescuer: a file on a filesystem on dm-loop must
 *	make progress while the file below waits
 * @busy_start: first sector of a range that map() leaves to the worker
 * @busy_end: one past its last sector, or 0
 * @dirtied: raised when the filesystem has done something that the next
 *	flush must commit
 * @synced: what @dirtied was when the last such commit began
 * @wb_err: file mode: the error of writing back the file that was told last,
 *	see dm_loop_file_commit()
 * @first_runs: where the first run of a round comes from, after a wait.  Of its
 *	own, as @wq is: files on dm-loop wait for the file below, not it for them.
 * @worker: runs dm_loop_work() over @todo
 * @worker_lock: held while @worker changes the file or the table, so that
 *	they can be compared.  Taken inside md->suspend_lock, outside @lock.
 * @sync_lock: held while @dirtied is committed and becomes @synced.  Taken
 *	inside @lock and @worker_lock, outside the inode lock.
 * @writer_thread: file mode: for writes through the page cache, and on xfs for
 *	all.  No workqueue: out of space xfs waits for work of its own
 *	(xfs_flush_inodes()), which may need memory, so that a workqueue with a
 *	rescuer warns.
 * @writer: its work, dm_loop_write() over @writes
 * @flusher: commits, for the bios in @flushes
 * @retry: queues @worker again while the host filesystem is frozen
 * @locator: asks where blocks are that were filled
 * @filled_start: first sector that it has to look at, under @lock
 * @filled_end: one past the last, 0 when there is nothing
 * @filled_at: when the last was filled, in jiffies, under @lock
 * @touch: updates the times of the file
 * @event: wakes those who wait for an event of our devices
 * @release: gives the file back when a frozen host has thawed
 * @next_touch: when the times may be updated next, in jiffies
 * @times_stale: bit 0: written since the times were updated
 * @failed: what is known of errors of the filesystem, enum dm_loop_failed
 * @lost: a commit or a flush failed, and so flushes fail, see tell_lost(): since
 *	when, in jiffies; DM_LOOP_LOST_UNTOLD when none has come yet; or 0
 * @mixed: file mode: not all is direct I/O, see begin_cached()
 * @direct_writes: file mode: how many are under way without the lock of the
 *	filesystem, see begin_direct_write()
 * @todo_lock: protects @cached_ios, @until_flush and the lists below.  A leaf,
 *	taken with interrupts off, because bios come from end_io too.
 * @cached_ios: file mode: how many go through the page cache now, where there
 *	is direct I/O too
 * @until_flush: file mode: @mixed stays when there are none, until it is cleared
 *	by direct_again()
 * @working: @worker runs, or is about to, and looks at @todo before it ends;
 *	under @todo_lock
 * @todo: bios for @worker
 * @worker_left: when it last ended, by local_clock()
 * @writing: the same for @writer and @writes, under @todo_lock
 * @writes: file mode: bios for @writer
 * @writer_left: when it last ended, by local_clock()
 * @flushes: bios that end when everything is committed
 * @pending: blocks that are written and not yet committed (xfs)
 * @counts: what the status line shows
 */
struct dm_loop_file {
	struct list_head node;
	refcount_t refs;
	struct list_head targets;
	unsigned int active;
	struct mutex lock; /* see above */
	struct inode *inode;
	struct file *file;
	struct block_device *bdev;
	enum dm_loop_mode mode;
	bool swapfile;
	struct dm_loop_extents extents;
	struct dm_loop_extents hints;
	struct mutex hints_lock; /* see above */
	const struct dm_loop_fs *fs;
	sector_t chunk;
	struct address_space *limited;
	gfp_t gfp;
	const struct address_space_operations *aops;
	unsigned int dio_align;
	unsigned int dio_mem_align;
	bool journalled;
	atomic_t nowait_skip[2];
	struct srcu_struct inflight;
	sector_t busy_start;
	sector_t busy_end;
	atomic64_t dirtied;
	atomic64_t synced;
	errseq_t wb_err;
	struct workqueue_struct *wq;
	struct bio_set first_runs;
	struct work_struct worker;
	struct mutex worker_lock; /* see above */
	struct mutex sync_lock; /* see above */
	struct kthread_worker *writer_thread;
	struct kthread_work writer;
	struct delayed_work flusher;
	struct delayed_work retry;
	struct delayed_work locator;
	sector_t filled_start;
	sector_t filled_end;
	unsigned long filled_at;
	struct delayed_work touch;
	struct work_struct event;
	struct delayed_work release;
	unsigned long next_touch;
	unsigned long times_stale;
	unsigned long failed;
	unsigned long lost;
	bool mixed;
	atomic_t direct_writes;
	spinlock_t todo_lock; /* see above */
	unsigned int cached_ios;
	bool until_flush;
	bool working;
	struct bio_list todo;
	u64 worker_left;
	bool writing;
	struct bio_list writes;
	u64 writer_left;
	struct bio_list flushes;
	struct list_head pending;
	atomic64_t counts[DM_LOOP_NR_COUNTS];
};

/* No time that lf->lost could have */
#define DM_LOOP_LOST_UNTOLD 1

/* How long a part of a write may be on its way through device-mapper. */
#define DM_LOOP_LOST_TIME (30 * HZ)

/* A guess is not worth more memory: 8 MiB. */
#define DM_LOOP_HINT_LEAVES 8192

/* How often to look whether a frozen host filesystem has thawed. */
#define DM_LOOP_THAW_POLL (HZ / 20)

/* After how many such looks who unloads the module is told what it waits for. */
#define DM_LOOP_TELL_KEPT 100

/**
 * struct dm_loop_target - one line of a device-mapper table
 * @node: entry of lf->targets
 * @all: entry of the list of all targets
 * @ti: its device-mapper half
 * @lf: the backing file
 * @start: first sector of the device in the file, in 512-byte sectors
 * @path: the path as the table gave it
 * @dev: stands for the filesystem's device where device-mapper wants to
 *	collect limits; dm_get_device() says EBUSY because the filesystem
 *	holds the device
 * @active: resumed, under lf->lock
 * @used: was resumed once, so that its limits are settled
 * @lost: flushes failed when it was suspended, and go on to when it is resumed
 * @link: shows it in the holders and slaves folders of sysfs
 * @linked: that is done
 * @mapped: option: never send I/O through the filesystem
 * @no_discard: option: never give blocks back
 * @unshare: option: make shared ranges the file's own when it is loaded
 * @chunk: option: sectors allocated at once when a hole is filled, or 0
 * @can_discard: blocks can be given back, for what a load found
 * @can_zero: and zeroes need not be written
 * @by_file: loaded for file mode, and stays there when it is resumed
 */
struct dm_loop_target {
	struct list_head node;
	struct list_head all;
	struct dm_target *ti;
	struct dm_loop_file *lf;
	sector_t start;
	char *path;
	struct dm_dev dev;
	bool active;
	bool used;
	bool lost;
	struct work_struct link;
	bool linked;
	bool mapped;
	bool no_discard;
	bool unshare;
	sector_t chunk;
	bool can_discard;
	bool can_zero;
	bool by_file;
};

/* What a bio carries from map to end_io. */
enum dm_loop_io_flags {
	DM_LOOP_IO_TRACKED = 1 << 0,	/* holds lf->inflight */
	DM_LOOP_IO_WRITER = 1 << 1,	/* holds off a freeze of the host */
	DM_LOOP_IO_DROP = 1 << 2,	/* pages of the file are to be dropped */
	DM_LOOP_IO_ENDED = 1 << 3,	/* has ended; pages are to be dropped */
	DM_LOOP_IO_FUA = 1 << 4,	/* ends only when it is safe */
	DM_LOOP_IO_SYNCED = 1 << 5,	/* on the device; being committed */
	DM_LOOP_IO_FILL = 1 << 6,	/* writes to one extent without data */
	DM_LOOP_IO_LOST = 1 << 7,	/* came when flushes failed */
};

/**
 * struct dm_loop_io - our part of a bio
 * @lt: the target it came to
 * @work: file mode: does it
 * @iocb: file mode: tries to do it without waiting, before that; or writes
 *	it by direct I/O that ends on its own
 * @ret: file mode: what came of @iocb
 * @iocb_users: file mode: who still looks at @iocb: its sender, its completion
 * @memcg: file mode: whose memory it takes; else NULL
 * @sector: first sector in the file
 * @sectors: how many
 * @srcu_idx: of lf->inflight
 * @flags: enum dm_loop_io_flags
 */
struct dm_loop_io {
	struct dm_loop_target *lt;
	union {
		struct work_struct work;
		struct kiocb iocb;
	};
	long ret;
	atomic_t iocb_users;
	struct mem_cgroup *memcg;
	sector_t sector;
	unsigned int sectors;
	int srcu_idx;
	unsigned int flags;
};

/**
 * dm_loop_io() - our part of a bio
 * @bio: one that device-mapper gave to map, or the same one later
 *
 * Context: Any.
 * Return: it lies before the bio.
 */
static inline struct dm_loop_io *dm_loop_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct dm_loop_io));
}

/**
 * dm_loop_writable() - may the device be written?
 * @lt: one of its targets
 *
 * Context: Any.
 * Return: true if its table was not loaded read-only.
 */
static inline bool dm_loop_writable(const struct dm_loop_target *lt)
{
	return dm_table_get_mode(lt->ti->table) & BLK_OPEN_WRITE;
}

/**
 * dm_loop_count() - one more, in the status line
 * @lf: the backing file
 * @c: of what
 *
 * Context: Any.
 */
static inline void dm_loop_count(struct dm_loop_file *lf, enum dm_loop_count c)
{
	atomic64_inc(&lf->counts[c]);
}

/**
 * dm_loop_track() - enter the section that keeps a bio's blocks from being given back
 * @lf: the backing file
 * @io: our part of the bio
 *
 * Context: Any; whoever ends the bio leaves it, on whatever processor.
 */
static inline void dm_loop_track(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	io->srcu_idx = srcu_down_read(&lf->inflight);
	io->flags |= DM_LOOP_IO_TRACKED;
}

/**
 * dm_loop_needs_sync() - must a flush commit, or fail?
 * @lf: the backing file
 *
 * What is counted in lf->dirtied before the bio ended that the flush follows
 * is seen.
 *
 * Context: Any.
 * Return: false if it has nothing to do here.
 */
static inline bool dm_loop_needs_sync(const struct dm_loop_file *lf)
{
	return atomic64_read(&lf->dirtied) != atomic64_read(&lf->synced) ||
	       READ_ONCE(lf->lost);
}

/**
 * dm_loop_lost_data() - is data lost, when a commit has ended?
 * @r: 0 or a negative errno, with which it ended
 *
 * One that waits for a server can be interrupted; then the data is still dirty.
 *
 * Context: Any.
 * Return: true if it is, or may be.
 */
static inline bool dm_loop_lost_data(int r)
{
	return r && r != -EINTR && r != -ERESTARTSYS;
}

/**
 * dm_loop_is_lost() - do flushes fail that come now?
 * @lf: the backing file
 *
 * Context: Any.
 * Return: true from a failed commit on, until half a minute after a flush has
 *	told of it.
 */
static inline bool dm_loop_is_lost(const struct dm_loop_file *lf)
{
	unsigned long lost = READ_ONCE(lf->lost);

	return lost && (lost == DM_LOOP_LOST_UNTOLD ||
			!time_after(jiffies, lost + DM_LOOP_LOST_TIME));
}

/* dm-loop.c */
bool dm_loop_start_write(struct dm_loop_file *lf, struct bio *bio);

/* dm-loop-file.c */
int dm_loop_file_attach(struct dm_loop_target *lt);
void dm_loop_file_detach(struct dm_loop_target *lt);
int dm_loop_file_commit(struct dm_loop_file *lf, int datasync);
int dm_loop_file_activate(struct dm_loop_target *lt, const char **why);
void dm_loop_file_deactivate(struct dm_loop_target *lt);
void dm_loop_file_undo_resume(struct dm_target *ti);
void dm_loop_file_release_idle(struct dm_target *ti);
bool dm_loop_file_cached(const struct dm_loop_file *lf, sector_t sector,
			 unsigned int sectors);
bool dm_loop_file_invalidate(struct dm_loop_file *lf, sector_t sector,
			     unsigned int sectors);
void dm_loop_file_stat(const struct dm_loop_file *lf, struct kstat *stat);
void dm_loop_file_wrote(struct dm_loop_file *lf);
void dm_loop_file_failed(struct dm_loop_file *lf);
void dm_loop_file_lost(struct dm_loop_file *lf);
void dm_loop_file_touch(struct dm_loop_file *lf);
void dm_loop_file_event(struct dm_loop_file *lf);
int dm_loop_file_check(struct dm_loop_target *lt, char *result,
		       unsigned int maxlen);
int dm_loop_file_init(void);
void dm_loop_file_exit(void);
void dm_loop_file_touch_now(struct dm_loop_file *lf);

/* dm-loop-fill.c */
int dm_loop_worker_init(struct dm_loop_file *lf);
void dm_loop_worker_exit(struct dm_loop_file *lf);
void dm_loop_defer(struct dm_loop_file *lf, struct bio *bio);
void dm_loop_defer_sync(struct dm_loop_file *lf, struct bio *bio);
void dm_loop_defer_file(struct dm_loop_file *lf, struct bio *bio);
int dm_loop_locate(struct dm_loop_file *lf, sector_t start, sector_t end);
int dm_loop_sync(struct dm_loop_file *lf);
void dm_loop_fill_stop(struct dm_loop_file *lf);
const struct dm_loop_fs *dm_loop_fill_fs(const struct dm_loop_file *lf);
bool dm_loop_can_fill(struct dm_loop_file *lf);
bool dm_loop_has_clone_mark(struct dm_loop_file *lf);
sector_t dm_loop_file_punch_end(const struct dm_loop_file *lf);
int dm_loop_fill_init(void);
void dm_loop_fill_exit(void);

#endif
