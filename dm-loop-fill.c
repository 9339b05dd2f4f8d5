// SPDX-License-Identifier: GPL-2.0-only
/*
 * The worker: everything that map() must not do because it may sleep.  It
 * fills holes and unwritten ranges, gives blocks back, commits, and does the
 * file I/O of files that cannot be mapped.
 *
 * One worker for each backing file does the bios that wait for something, in
 * rounds: it takes all there are, sends those that turn out to be mapped on
 * their way, merges the others into runs and lets the filesystem write them,
 * waits, and enters the blocks into the extent table.  As nobody else fills
 * the file or gives blocks back, fills, punches and writes need no lock between
 * them: lf->worker_lock only keeps out the message "check" for a round.  Flushes
 * have a work item of their own, so that a commit does not hold up fills.
 */
#include <linux/blk-cgroup.h>
#include <linux/completion.h>
#include <linux/falloc.h>
#include <linux/fileattr.h>
#include <linux/iomap.h>
#include <linux/kthread.h>
#include <linux/list_sort.h>
#include <linux/magic.h>
#include <linux/memcontrol.h>
#include <linux/pagemap.h>
#include <linux/sched/clock.h>
#include <linux/sched/mm.h>
#include <linux/sched/stat.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/uio.h>
#include <linux/wait_bit.h>

#include "dm-loop.h"
#include "dm-loop-trace.h"
#include "compat/block-ops.h"
#include "compat/punch.h"

/* Blocks written but not committed wait for a flush no longer than this. */
#define COMMIT_DELAY HZ

/* As many bios as one round merges into runs. */
#define ROUND 64

/* A run has so many segments; some are kept for the zeroes around the data. */
#define RUN_SEGMENTS BIO_MAX_VECS
#define RUN_ZEROES 64
#define RUN_SECTORS (SZ_1M >> SECTOR_SHIFT)

/*
 * What is written at once when a piece of it is written for the second time:
 * zeroes around the data make the neighbours mapped before they are written.
 */
#define DENSE_SECTORS (SZ_64K >> SECTOR_SHIFT)

/* Up to this size, what is only copied is done before somebody else could be woken. */
#define QUICK_SECTORS (SZ_64K >> SECTOR_SHIFT)

/* About what it costs to sleep and be woken, in nanoseconds. */
#define LINGER_NS (20 * NSEC_PER_USEC)

/* So many bios of file I/O wait before it is tried again without waiting. */
#define NOWAIT_SKIP 64

/* How high trees of ext4 are at most, and blocks in a cluster as a rule (bigalloc). */
#define EXT_LEVELS 5
#define EXT_CLUSTER 16

/* Where blocks were filled is asked for when no more come, a little at a time. */
#define LOCATE_DELAY (HZ / 10)
#define LOCATE_SECTORS (SZ_1M >> SECTOR_SHIFT)
#define LOCATE_LOOKUPS 1024

/* From so many writes on a flush is done by several, each a piece of the file. */
#define WRITEBACK_MANY 64
#define WRITEBACK_HELPERS 3U
#define WRITEBACK_BYTES SZ_4M
#define WRITEBACK_PAGES (WRITEBACK_BYTES >> PAGE_SHIFT)

/* All but the first run of a round: cheap, if there is memory. */
static struct bio_set dm_loop_more_runs;

/* Parts of bios that lie in several extents, if there is memory. */
static struct bio_set dm_loop_pieces;

/**
 * struct dm_loop_plan - blocks that are to be filled by one write
 * @ext: the extent that holds them
 * @start: first sector in the file
 * @end: one past the last sector
 * @dense: a neighbour was written before, so that others are likely to follow
 * @segments: how many the data and the zeroes around it are in
 * @bios: whose data it is
 */
struct dm_loop_plan {
	struct dm_loop_range ext;
	sector_t start;
	sector_t end;
	bool dense;
	unsigned int segments;
	struct bio_list bios;
};

/**
 * struct dm_loop_run - a plan that is carried out
 * @node: entry of the list of the round
 * @lf: the backing file
 * @round: wakes the worker when all its runs are done
 * @plan: what is written
 * @iocb: when the filesystem writes it
 * @error: 0 or a negative errno, when done
 * @bio: the data; last, its segments follow in memory
 */
struct dm_loop_run {
	struct list_head node;
	struct dm_loop_file *lf;
	struct dm_loop_round *round;
	struct dm_loop_plan plan;
	struct kiocb iocb;
	int error;
	struct bio bio;
};

/**
 * struct dm_loop_round - runs under way together
 * @runs: in the order in which they were sent
 * @pending: how many are not done, and one for the worker
 * @done: all are
 * @done_bios: what can be ended, with its status
 */
struct dm_loop_round {
	struct list_head runs;
	atomic_t pending;
	struct completion done;
	struct bio_list done_bios;
};

/**
 * struct dm_loop_pending - blocks written but not committed (xfs)
 * @node: entry of lf->pending
 * @start: first sector in the file
 * @end: one past the last sector
 */
struct dm_loop_pending {
	struct list_head node;
	sector_t start;
	sector_t end;
};

/**
 * struct dm_loop_writeback - a flush that several work at
 * @mapping: of the file
 * @next: first page that nobody has taken
 * @error: 0 or the first negative errno
 */
struct dm_loop_writeback {
	struct address_space *mapping;
	unsigned long next;
	int error;
};

/**
 * struct dm_loop_helper - one of those who work at a flush
 * @work: of the workqueue of the file
 * @wb: what is done
 */
struct dm_loop_helper {
	struct work_struct work;
	struct dm_loop_writeback *wb;
};

/**
 * struct dm_loop_fs - how a kind of filesystem is filled
 * @name: of the filesystem type
 * @supported: can this inode be filled?
 * @prepare: give a place to a plan whose extent is a hole; what it gets is
 *	entered into the table, or is one extent, and the plan's from then on
 * @locate: say where the block at a sector is, and how far that goes on
 * @one_by_one: may a run not be written while another one is?
 * @submit: start to write a run; run_done() is called when it is written
 * @written: a range was written and has to be committed
 * @commit: make what was written known to the filesystem, before fsync
 *
 * @prepare, @one_by_one, @written and @commit may be NULL.  All may sleep.  The
 * worker calls them, for writes with the filesystem kept from freezing; others
 * call @supported and @locate under lf->lock, and @commit under lf->sync_lock.
 */
struct dm_loop_fs {
	const char *name;
	bool (*supported)(struct dm_loop_file *lf);
	int (*prepare)(struct dm_loop_file *lf, struct dm_loop_plan *plan);
	int (*locate)(struct dm_loop_file *lf, sector_t sector,
		      struct dm_loop_range *r);
	bool (*one_by_one)(struct dm_loop_file *lf);
	void (*submit)(struct dm_loop_run *run);
	int (*written)(struct dm_loop_file *lf, sector_t start, sector_t end);
	int (*commit)(struct dm_loop_file *lf);
};

static sector_t bio_start(const struct bio *bio)
{
	return bio->bi_iter.bi_sector;
}

static sector_t bio_end(const struct bio *bio)
{
	return bio_end_sector(bio);
}

static sector_t block_sectors(const struct dm_loop_file *lf)
{
	return i_blocksize(lf->inode) >> SECTOR_SHIFT;
}

/*
 * What went wrong with a piece that was split off is there already, and stays.
 * For the block layer, over quota is no space.
 */
static void set_error(struct bio *bio, int error)
{
	if (error)
		bio->bi_status = errno_to_blk_status(error == -EDQUOT ?
						     -ENOSPC : error);
}

static void end_bio(struct bio *bio, int error)
{
	set_error(bio, error);
	bio_endio(bio);
}

static unsigned int count_segments(struct bio *bio)
{
	struct bvec_iter iter;
	struct bio_vec bv;
	unsigned int n = 0;

	bio_for_each_bvec(bv, bio, iter)
		n++;
	return n;
}

/* The data of @bio, where it is, for the read_iter() or write_iter() of a file. */
static void bio_to_iter(struct bio *bio, unsigned int direction,
			struct iov_iter *iter)
{
	iov_iter_bvec(iter, direction,
		      __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter),
		      count_segments(bio), bio->bi_iter.bi_size);
	iter->iov_offset = bio->bi_iter.bi_bvec_done;
}

static bool lookup(struct dm_loop_file *lf, sector_t sector,
		   struct dm_loop_range *r)
{
	bool found;

	rcu_read_lock();
	found = dm_loop_extents_lookup(&lf->extents, sector, r);
	rcu_read_unlock();
	return found;
}

/* Called with lf->lock. */
static int set_range_locked(struct dm_loop_file *lf, sector_t start,
			    sector_t end, enum dm_loop_state state,
			    sector_t phys)
{
	int r;

	r = dm_loop_extents_set(&lf->extents, start, end - start, state, phys,
				GFP_KERNEL);
	if (state == DM_LOOP_MAPPED)
		trace_dm_loop_promote(lf, start, end - start, r);
	return r;
}

static int set_range(struct dm_loop_file *lf, sector_t start, sector_t end,
		     enum dm_loop_state state, sector_t phys)
{
	int r;

	mutex_lock(&lf->lock);
	r = set_range_locked(lf, start, end, state, phys);
	mutex_unlock(&lf->lock);
	return r;
}

/*
 * The next flush must commit what the filesystem has done for us.  Called
 * before the end of the bio that it was done for.
 */
static void need_fsync(struct dm_loop_file *lf)
{
	/* Pairs with dm_loop_sync(): who sees the number sees what was done. */
	smp_mb__before_atomic();
	atomic64_inc(&lf->dirtied);
}

/* The filesystem must not wait for us, in any way, while it works for us. */
static unsigned int enter_fs(void)
{
	unsigned int flags = memalloc_noio_save();

	current->flags |= PF_LOCAL_THROTTLE;
	return flags;
}

static void leave_fs(unsigned int flags)
{
	current->flags &= ~PF_LOCAL_THROTTLE;
	memalloc_noio_restore(flags);
}

/* --- where filled blocks are -------------------------------------------- */

/*
 * Nobody else gives back blocks that the table calls filled while lf->lock is
 * held: punch_blocks() takes them out of it first.
 */
static int locate_piece(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	struct dm_loop_range piece, next;
	int err;

	err = lf->fs->locate(lf, start, &piece);
	if (err)
		return err;
	if (piece.state != DM_LOOP_MAPPED)
		return -EIO;
	while (start + piece.len < end) {
		cond_resched();
		err = lf->fs->locate(lf, start + piece.len, &next);
		if (err || next.phys != piece.phys + piece.len)
			break;
		piece.len += next.len;
	}
	return set_range_locked(lf, start, min(start + piece.len, end),
				DM_LOOP_MAPPED, piece.phys);
}

/**
 * dm_loop_locate() - ask where the filled blocks in a range are
 * @lf: the backing file, mapped
 * @start: first sector
 * @end: one past the last sector
 *
 * Context: Sleeps; asks the filesystem.  Called with lf->lock.
 * Return: 0 or a negative errno; then some stay as they are.
 */
int dm_loop_locate(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	sector_t pos = round_down(start, block_sectors(lf));
	struct dm_loop_range r;
	int err = 0;

	end = round_up(end, block_sectors(lf));
	while (!err && pos < end && lookup(lf, pos, &r)) {
		if (r.state == DM_LOOP_FILLED)
			err = locate_piece(lf, pos,
					   min(end, r.start + r.len));
		else
			pos = r.start + r.len;
	}
	return err;
}

static int locate(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	int r;

	mutex_lock(&lf->lock);
	r = dm_loop_locate(lf, start, end);
	mutex_unlock(&lf->lock);
	return r;
}

/* When nothing was filled for a while.  Called with lf->lock. */
static void locate_later(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	if (!lf->filled_end || start < lf->filled_start)
		lf->filled_start = start;
	lf->filled_end = max(lf->filled_end, end);
	lf->filled_at = jiffies;
	queue_delayed_work(lf->wq, &lf->locator, LOCATE_DELAY);
}

/* Where the next filled range begins, or @end; or before it, if that is far. */
static sector_t next_filled(struct dm_loop_file *lf, sector_t pos, sector_t end)
{
	struct dm_loop_range r;
	unsigned int i;

	for (i = 0; i < LOCATE_LOOKUPS && pos < end; i++) {
		if (!lookup(lf, pos, &r) || r.state == DM_LOOP_FILLED)
			return pos;
		pos = r.start + r.len;
	}
	return min(pos, end);
}

/* Called with lf->lock.  Return: in how many jiffies to go on, 0 when done. */
static unsigned long locate_some(struct dm_loop_file *lf)
{
	sector_t start, end;

	if (lf->mode != DM_LOOP_MODE_MAPPED)
		return 0;
	if (time_before(jiffies, lf->filled_at + LOCATE_DELAY))
		return LOCATE_DELAY;
	start = next_filled(lf, lf->filled_start, lf->filled_end);
	end = min(start + LOCATE_SECTORS, lf->filled_end);
	if (dm_loop_locate(lf, start, end))
		return 0;
	lf->filled_start = end;
	if (end < lf->filled_end)
		return 1;
	lf->filled_end = 0;
	return 0;
}

static void dm_loop_locator(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(to_delayed_work(work),
					       struct dm_loop_file, locator);
	unsigned int flags = enter_fs();
	unsigned long delay = 1;

	/* Whoever holds it may wait for us to end. */
	if (mutex_trylock(&lf->lock)) {
		delay = locate_some(lf);
		mutex_unlock(&lf->lock);
	}
	leave_fs(flags);
	if (delay)
		queue_delayed_work(lf->wq, &lf->locator, delay);
}

/* --- runs --------------------------------------------------------------- */

static void round_put(struct dm_loop_round *round)
{
	if (atomic_dec_and_test(&round->pending))
		complete(&round->done);
}

static long run_bytes(const struct dm_loop_run *run)
{
	return (run->plan.end - run->plan.start) << SECTOR_SHIFT;
}

static void run_done(struct dm_loop_run *run, long ret)
{
	if (ret < 0)
		run->error = ret;
	else if (ret != run_bytes(run))
		run->error = -EIO;
	round_put(run->round);
}

static unsigned int zero_segments(sector_t sectors)
{
	return DIV_ROUND_UP(sectors, PAGE_SECTORS);
}

/* Has any block around @sector, within what is filled at once, got data? */
static bool is_dense(struct dm_loop_file *lf, const struct dm_loop_range *ext,
		     sector_t sector)
{
	sector_t pos = round_down(sector, DENSE_SECTORS);
	sector_t end = pos + DENSE_SECTORS;
	struct dm_loop_range r;

	if (ext->start <= pos && ext->start + ext->len >= end)
		return false;
	for (; pos < end && lookup(lf, pos, &r); pos = r.start + r.len)
		if (r.state == DM_LOOP_MAPPED || r.state == DM_LOOP_FILLED)
			return true;
	return false;
}

/* Blocks around the data that have none are filled with it. */
static void widen_plan(struct dm_loop_plan *plan, sector_t unit)
{
	sector_t ext_end = plan->ext.start + plan->ext.len;

	plan->start = max(round_down(plan->start, unit), plan->ext.start);
	plan->end = min(round_up(plan->end, unit), ext_end);
}

/* Can @bio be written too, after @pos, where the data ends so far? */
static bool plan_takes(const struct dm_loop_plan *plan, struct bio *bio,
		       sector_t pos)
{
	sector_t ext_end = plan->ext.start + plan->ext.len;

	if (bio_start(bio) >= ext_end)
		return false;
	/* A gap is filled with zeroes only where one is meant to be small. */
	if (bio_start(bio) > plan->end &&
	    round_down(bio_start(bio), DENSE_SECTORS) !=
	    round_down(pos - 1, DENSE_SECTORS))
		return false;
	return bio_end(bio) - plan->start <= RUN_SECTORS &&
	       plan->segments + count_segments(bio) <=
	       RUN_SEGMENTS - RUN_ZEROES;
}

/* Give a place to what @bio is in; its neighbours get one too if they can. */
static int prepare_place(struct dm_loop_file *lf, struct dm_loop_plan *plan,
			 struct bio *bio)
{
	int r = -ENOSPC;

	if (plan->dense) {
		widen_plan(plan, DENSE_SECTORS);
		r = lf->fs->prepare(lf, plan);
	}
	if (r) {
		plan->dense = false;
		plan->start = bio_start(bio);
		plan->end = bio_end(bio);
		widen_plan(plan, block_sectors(lf));
		r = lf->fs->prepare(lf, plan);
	}
	if (!r && plan->ext.state == DM_LOOP_HOLE)
		lookup(lf, bio_start(bio), &plan->ext);
	return r;
}

/* @plan->ext: where @bio begins.  @floor: the run before this one ends there. */
static int begin_plan(struct dm_loop_file *lf, struct dm_loop_plan *plan,
		      struct bio *bio, sector_t floor)
{
	int r = 0;

	plan->start = bio_start(bio);
	plan->end = bio_end(bio);
	plan->dense = is_dense(lf, &plan->ext, plan->start);
	if (plan->ext.state == DM_LOOP_HOLE && lf->fs->prepare)
		r = prepare_place(lf, plan, bio);
	widen_plan(plan, plan->dense ? DENSE_SECTORS : block_sectors(lf));
	plan->start = max(plan->start, floor);
	return r;
}

static void plan_bio(struct dm_loop_plan *plan, struct bio *bio, sector_t pos)
{
	plan->segments += zero_segments(bio_start(bio) - pos) +
			  count_segments(bio);
	bio_list_add(&plan->bios, bio);
}

/*
 * Plan a run of the sorted bios, from the first on.  A bio that overlaps
 * the run without being part of it goes to @later: after the run it finds its
 * blocks mapped.  So does the first bio if it reaches past its extent, which may be
 * smaller by now than map() saw: route() cuts it again.
 * Return: how many bios were used up, at least one, or a negative errno.
 */
static int plan_run(struct dm_loop_file *lf, struct dm_loop_plan *plan,
		    struct bio **bios, unsigned int n, sector_t floor,
		    struct bio_list *later)
{
	sector_t block = block_sectors(lf);
	sector_t ext_end, pos;
	unsigned int i;
	int r;

	/* It may have got data after map() had looked. */
	if (!lookup(lf, bio_start(bios[0]), &plan->ext) ||
	    !dm_loop_has_no_data(plan->ext.state)) {
		bio_list_add(later, bios[0]);
		return 1;
	}
	/* Before the floor there is data soon, even if the table says hole. */
	if (plan->ext.state == DM_LOOP_HOLE && plan->ext.start < floor) {
		plan->ext.len -= floor - plan->ext.start;
		plan->ext.start = floor;
	}
	r = begin_plan(lf, plan, bios[0], floor);
	if (r)
		return r;
	pos = plan->start;
	ext_end = plan->ext.start + plan->ext.len;
	/* It has got data for xfs, where a punch had failed. */
	if (bio_end(bios[0]) > ext_end ||
	    !dm_loop_has_no_data(plan->ext.state)) {
		bio_list_add(later, bios[0]);
		return 1;
	}
	for (i = 0; i < n; i++) {
		struct bio *bio = bios[i];
		bool takes = !i || plan_takes(plan, bio, pos);

		if (i && !takes && bio_start(bio) >= plan->end)
			break;
		/* The filesystem gave less in one piece than was asked for. */
		if (!takes || bio_start(bio) < pos || bio_end(bio) > ext_end) {
			bio_list_add(later, bio);
			continue;
		}
		plan_bio(plan, bio, pos);
		pos = bio_end(bio);
		plan->end = max(plan->end, min(round_up(pos, block), ext_end));
	}
	plan->segments += zero_segments(plan->end - pos);
	/* For what lies behind the end of the file, see behind_end(). */
	if (plan->end & (block - 1))
		plan->segments += zero_segments(block);
	return i;
}

static void add_zeroes(struct bio *to, sector_t sectors)
{
	while (sectors) {
		unsigned int n = min_t(sector_t, sectors, PAGE_SECTORS);

		__bio_add_page(to, ZERO_PAGE(0), n << SECTOR_SHIFT, 0);
		sectors -= n;
	}
}

static void add_data(struct bio *to, struct bio *bio)
{
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_bvec(bv, bio, iter)
		__bio_add_page(to, bv.bv_page, bv.bv_len, bv.bv_offset);
}

static struct bio *alloc_run(struct dm_loop_file *lf, unsigned int segments,
			     bool first)
{
	if (first)
		return bio_alloc_bioset(NULL, segments, REQ_OP_WRITE, GFP_NOIO,
					&lf->first_runs);
	return bio_alloc_bioset(NULL, segments, REQ_OP_WRITE | REQ_ALLOC_CACHE,
				GFP_NOWAIT, &dm_loop_more_runs);
}

/* NULL when there is no memory and others are under way that will free some. */
static struct dm_loop_run *make_run(struct dm_loop_file *lf,
				    struct dm_loop_round *round,
				    const struct dm_loop_plan *plan)
{
	sector_t pos = plan->start;
	struct dm_loop_run *run;
	struct bio *bio, *to;

	to = alloc_run(lf, plan->segments, list_empty(&round->runs));
	if (!to)
		return NULL;
	bio_list_for_each(bio, &plan->bios) {
		add_zeroes(to, bio_start(bio) - pos);
		add_data(to, bio);
		pos = bio_end(bio);
	}
	add_zeroes(to, plan->end - pos);
	/* For who throttles and schedules it, as the one it begins with. */
	bio = plan->bios.head;
	to->bi_opf |= bio->bi_opf & (REQ_SYNC | REQ_IDLE | REQ_META | REQ_PRIO);
	to->bi_ioprio = bio->bi_ioprio;
	run = container_of(to, struct dm_loop_run, bio);
	run->lf = lf;
	run->round = round;
	run->plan = *plan;
	run->error = 0;
	list_add_tail(&run->node, &round->runs);
	dm_loop_took(DM_LOOP_OWN_RUN);
	return run;
}

/*
 * After chattr +j writes go to the journal, which would bring them to the disk
 * over later ones of ours.  To be asked before a write, for a good error, and
 * after, as it may have waited for chattr.
 */
static bool has_same_aops(const struct dm_loop_file *lf)
{
	return lf->limited->a_ops == lf->aops;
}

/* Through overlayfs it would be opened for that: no. */
static bool has_extents(const struct dm_loop_file *lf)
{
	struct dentry *dentry = lf->file->f_path.dentry;
	struct file_kattr attr = { };

	return d_real_inode(dentry) == lf->inode &&
	       !vfs_fileattr_get(dentry, &attr) && (attr.flags & FS_EXTENT_FL);
}

/* Is each block from @pos on what @state says? */
static bool all_are(struct dm_loop_file *lf, sector_t pos, sector_t end,
		    enum dm_loop_state state)
{
	struct dm_loop_range r;

	for (; pos < end; pos = r.start + r.len) {
		if (lf->fs->locate(lf, pos, &r) || r.state != state)
			return false;
		cond_resched();
	}
	return true;
}

/*
 * What goes through the page cache after all, as the holes of files without
 * extents do, is written back by ext4_dio_write_iter(), which forgets an error
 * of that.  One that came before is not ours.  The fsync of the file is told
 * of both.  Where no block was found for a page (mpage_map_and_submit_extent())
 * nobody is.
 */
static ssize_t ext_write(struct dm_loop_file *lf, struct kiocb *iocb,
			 struct iov_iter *iter)
{
	errseq_t *wb_err = &lf->inode->i_mapping->wb_err;
	sector_t start = iocb->ki_pos >> SECTOR_SHIFT;
	errseq_t since = 0;
	ssize_t n;

	errseq_check_and_advance(wb_err, &since);
	n = lf->file->f_op->write_iter(iocb, iter);
	if (n == -EIOCBQUEUED)
		return n;
	/* This may write back what is dirty, so the error comes after. */
	if (n > 0 && !has_extents(lf) &&
	    !all_are(lf, round_down(start, block_sectors(lf)),
		     start + (n >> SECTOR_SHIFT), DM_LOOP_MAPPED))
		n = -EIO;
	return errseq_check_and_advance(wb_err, &since) ?: n;
}

/* The bio ran into an error in company: see whether it is its own fault. */
static int write_alone(struct dm_loop_file *lf, struct bio *bio)
{
	struct iov_iter iter;
	struct kiocb iocb;
	ssize_t n = 1;

	if (!has_same_aops(lf))
		return -EIO;
	bio_to_iter(bio, ITER_SOURCE, &iter);
	init_sync_kiocb(&iocb, lf->file);
	iocb.ki_pos = bio_start(bio) << SECTOR_SHIFT;
	iocb.ki_flags |= IOCB_DIRECT;
	/* A short write comes before the error that cut it. */
	while (n > 0 && iov_iter_count(&iter)) {
		n = ext_write(lf, &iocb, &iter);
		/*
		 * To older kernels each piece of memory must be whole sectors
		 * of the disk (iov_iter_is_aligned()), and a disk may want
		 * more (bio_split_io_at()); the page cache copies.  All
		 * again: nobody says how much was written.
		 */
		if (n == -EINVAL && (iocb.ki_flags & IOCB_DIRECT)) {
			bio_to_iter(bio, ITER_SOURCE, &iter);
			iocb.ki_pos = bio_start(bio) << SECTOR_SHIFT;
			iocb.ki_flags &= ~IOCB_DIRECT;
			n = 1;
		}
	}
	return n > 0 ? 0 : n ?: -EIO;
}

/*
 * Enter what was written into the extent table.  The place of an unwritten
 * block is known and does not change when it is written.  That of a hole can
 * be asked for each block; unless @soon it is, that waits for a quiet moment.
 */
static int promote(struct dm_loop_file *lf, const struct dm_loop_range *ext,
		   sector_t start, sector_t end, bool soon)
{
	int r;

	if (lf->fs->written) {
		r = lf->fs->written(lf, start, end);
		if (r)
			return r;
	}
	/* Before the table: a FUA write may find the blocks there at once. */
	need_fsync(lf);
	/* After it, or the flusher could find nothing to do. */
	if (lf->fs->commit)
		queue_delayed_work(lf->wq, &lf->flusher, COMMIT_DELAY);
	if (!has_same_aops(lf))
		return -EIO;
	dm_loop_count(lf, DM_LOOP_PROMOTES);
	if (ext->state != DM_LOOP_HOLE)
		return set_range(lf, start, end, DM_LOOP_MAPPED,
				 ext->phys + (start - ext->start));
	mutex_lock(&lf->lock);
	r = set_range_locked(lf, start, end, DM_LOOP_FILLED, 0);
	/* If that fails, who comes there asks again. */
	if (!r && (!soon || dm_loop_locate(lf, start, end)))
		locate_later(lf, start, end);
	mutex_unlock(&lf->lock);
	return r;
}

/*
 * Direct I/O may fall back to the page cache (holes of files without extents),
 * and readers may have cached what was there before.
 */
static int write_back(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	int r;

	if (!dm_loop_file_cached(lf, start, end - start))
		return 0;
	r = filemap_write_and_wait_range(lf->inode->i_mapping,
					 start << SECTOR_SHIFT,
					 (end << SECTOR_SHIFT) - 1);
	dm_loop_file_invalidate(lf, start, end - start);
	return r;
}

/* The blocks were written directly. */
static int drop_pages(struct dm_loop_file *lf, sector_t start,
		      unsigned int sectors)
{
	if (!dm_loop_file_cached(lf, start, sectors) ||
	    dm_loop_file_invalidate(lf, start, sectors))
		return 0;
	dm_loop_file_failed(lf);
	return -EIO;
}

/* What was allocated, or is left after an error.  0 or a negative errno. */
static int relocate(struct dm_loop_file *lf, sector_t pos, sector_t end)
{
	struct dm_loop_range r;
	int err = 0;

	for (; !err && pos < end; pos = r.start + r.len) {
		err = lf->fs->locate(lf, pos, &r);
		if (err)
			break;
		r.len = min(r.len, end - pos);
		if (r.state != DM_LOOP_HOLE)
			err = set_range(lf, pos, pos + r.len, r.state, r.phys);
		cond_resched();
	}
	return err;
}

static int zero_file(struct dm_loop_file *lf, int how, sector_t start,
		     sector_t end)
{
	return lf->file->f_op->fallocate(lf->file, how | FALLOC_FL_KEEP_SIZE,
					 start << SECTOR_SHIFT,
					 (end - start) << SECTOR_SHIFT);
}

static int punch_file(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	return zero_file(lf, FALLOC_FL_PUNCH_HOLE, start, end);
}

/*
 * The blocks that a failed write got.  Without extents they would show what was
 * on the disk before, also around a part of one that is written next.  With
 * them they are unwritten, but not those that the page cache was used for where
 * ext4 is mounted with nodelalloc or dioread_lock (ext4_should_dioread_nolock()).
 * What was unwritten keeps its place, where others of the run are promoted.
 */
static int give_back(struct dm_loop_file *lf, enum dm_loop_state was,
		     sector_t start, sector_t end)
{
	bool none, extents;
	int r;

	start = round_down(start, block_sectors(lf));
	end = round_up(end, block_sectors(lf));
	if (lf->fs->prepare || start >= end || !has_same_aops(lf))
		return 0;
	extents = has_extents(lf);
	/* Of an error here bmap() would make a hole (iomap_bmap()). */
	if (extents)
		filemap_write_and_wait(lf->inode->i_mapping);
	/* Also where it has found no memory, so a hole is punched all the same. */
	none = all_are(lf, start, end, DM_LOOP_HOLE);
	if (was == DM_LOOP_HOLE && end <= dm_loop_file_punch_end(lf))
		r = punch_file(lf, start, end);
	else if (extents && !none)
		r = zero_file(lf, FALLOC_FL_ZERO_RANGE, start, end);
	else
		r = none ? 0 : -EIO;
	/* Read-only by now, perhaps, but it had got none. */
	if (extents && none)
		r = 0;
	if (r)
		dm_loop_file_failed(lf);
	need_fsync(lf);
	return r;
}

/*
 * An error of what is written back is told to whoever asks first
 * (filemap_check_errors()), and its blocks stay unwritten.
 */
static int retry_alone(struct dm_loop_run *run, struct bio *bio)
{
	struct dm_loop_file *lf = run->lf;
	errseq_t *wb_err = &lf->inode->i_mapping->wb_err;
	sector_t block = block_sectors(lf);
	errseq_t since = 0;
	int r;

	/* Where we write the blocks ourselves the error is the device's. */
	if (lf->fs->prepare)
		return run->error;
	errseq_check_and_advance(wb_err, &since);
	r = write_alone(lf, bio) ?:
	    write_back(lf, bio_start(bio), bio_end(bio)) ?:
	    errseq_check_and_advance(wb_err, &since);
	if (!r && !all_are(lf, round_down(bio_start(bio), block),
			   round_up(bio_end(bio), block), DM_LOOP_MAPPED))
		r = -EIO;
	return r;
}

/* @alone: what became of each bio of the run */
static void retry_each(struct dm_loop_run *run, int *alone)
{
	struct dm_loop_plan *plan = &run->plan;
	/* What lies before has the data of a bio. */
	sector_t pos = plan->start;
	enum dm_loop_state was = plan->ext.state;
	struct bio *bio;
	int r;

	r = give_back(run->lf, was, plan->start, plan->end);
	bio_list_for_each(bio, &plan->bios) {
		*alone = r ? run->error : retry_alone(run, bio);
		if (!*alone++)
			pos = round_up(bio_end(bio), block_sectors(run->lf));
		else if (!r)
			r = give_back(run->lf, was, max(pos, bio_start(bio)),
				      bio_end(bio));
	}
}

static int promote_alone(struct dm_loop_run *run, struct bio *bio)
{
	const struct dm_loop_range *ext = &run->plan.ext;
	sector_t block = block_sectors(run->lf);

	return promote(run->lf, ext, round_down(bio_start(bio), block),
		       min(round_up(bio_end(bio), block),
			   ext->start + ext->len), false);
}

/*
 * Full or over quota, or, told but once, another error of the filesystem: an
 * event for whoever waits for one.  ext4 with an aborted journal need not show
 * in any other way that it has failed.
 */
static void say_error(struct dm_loop_file *lf, int r)
{
	if (r == -ENOSPC || r == -EDQUOT)
		dm_loop_count(lf, DM_LOOP_NOSPC);
	else if (!r || test_and_set_bit(DM_LOOP_SAID_ERROR, &lf->failed))
		return;
	queue_work(lf->wq, &lf->event);
}

/* @done: bios that can be ended, with their status */
static void end_later(struct dm_loop_file *lf, struct bio *bio, int error,
		      struct bio_list *done)
{
	say_error(lf, error);
	set_error(bio, error);
	bio_list_add(done, bio);
}

static void end_run(struct dm_loop_run *run, struct bio_list *done)
{
	struct dm_loop_plan *plan = &run->plan;
	struct dm_loop_file *lf = run->lf;
	unsigned int i = 0;
	bool failed = false;
	int alone[ROUND];
	struct bio *bio;
	int r = 0;

	if (!run->error)
		run->error = write_back(lf, plan->start, plan->end);
	trace_dm_loop_fill(lf, plan->start, plan->end - plan->start, run->error);
	/*
	 * All before any: where a block is mapped others may write to it, and of
	 * a block with several bios the page cache writes all for each.
	 */
	if (run->error)
		retry_each(run, alone);
	else
		r = promote(lf, &plan->ext, plan->start, plan->end, plan->dense);
	while ((bio = bio_list_pop(&plan->bios))) {
		if (run->error)
			r = alone[i++] ?: promote_alone(run, bio);
		failed |= r;
		end_later(lf, bio, r, done);
	}
	/*
	 * A part of what could not be written may have got blocks, and those
	 * that the table does not know no discard gives back.  Nor may it show
	 * those that give_back() could not.
	 */
	if (failed && has_same_aops(lf)) {
		write_back(lf, plan->start, plan->end);
		need_fsync(lf);
		if (!test_bit(DM_LOOP_NO_WRITES, &lf->failed) &&
		    relocate(lf, plan->start, plan->end))
			dm_loop_file_failed(lf);
	}
}

/* Sorted.  They are few, and often in order already. */
static unsigned int take_bios(struct bio_list *fills, struct bio **bios)
{
	unsigned int n, i;
	struct bio *bio;

	for (n = 0; n < ROUND && (bio = bio_list_pop(fills)); n++) {
		for (i = n; i && bio_start(bios[i - 1]) > bio_start(bio); i--)
			bios[i] = bios[i - 1];
		bios[i] = bio;
	}
	return n;
}

/*
 * Without a plug: the device has work while the filesystem allocates the next,
 * and what it has done by then is completed here, without a work item.
 */
static void start_runs(struct dm_loop_file *lf, struct dm_loop_round *round,
		       struct bio **bios, unsigned int n,
		       struct bio_list *later)
{
	bool alone = n > 1 && lf->fs->one_by_one && lf->fs->one_by_one(lf);
	struct dm_loop_run *run;
	sector_t floor = 0;
	unsigned int i = 0;

	while (i < n) {
		struct dm_loop_plan plan = { };
		int used = plan_run(lf, &plan, bios + i, n - i, floor, later);

		if (used < 0) {
			trace_dm_loop_fill(lf, bio_start(bios[i]),
					   bio_sectors(bios[i]), used);
			end_later(lf, bios[i++], used, &round->done_bios);
			continue;
		}
		i += used;
		if (bio_list_empty(&plan.bios))
			continue;
		run = make_run(lf, round, &plan);
		if (!run) {
			bio_list_merge(later, &plan.bios);
			break;
		}
		floor = plan.end;
		dm_loop_count(lf, DM_LOOP_FILLS);
		atomic_inc(&round->pending);
		kthread_associate_blkcg(bio_blkcg_css(run->plan.bios.head));
		lf->fs->submit(run);
		kthread_associate_blkcg(NULL);
		if (alone)
			break;
	}
	while (i < n)
		bio_list_add(later, bios[i++]);
}

static void fill_round(struct dm_loop_file *lf, struct bio_list *fills,
		       struct bio_list *later)
{
	struct dm_loop_round round = {
		.runs = LIST_HEAD_INIT(round.runs),
		.pending = ATOMIC_INIT(1),
		.done = COMPLETION_INITIALIZER_ONSTACK(round.done),
	};
	struct dm_loop_run *run, *next;
	struct bio *bios[ROUND];
	struct bio *bio;
	unsigned int n;

	n = take_bios(fills, bios);
	start_runs(lf, &round, bios, n, later);
	round_put(&round);
	wait_for_completion_io(&round.done);
	list_for_each_entry_safe(run, next, &round.runs, node) {
		end_run(run, &round.done_bios);
		bio_put(&run->bio);
		dm_loop_gave(DM_LOOP_OWN_RUN);
	}
	/* All at once: each end may wake somebody who wants our processor. */
	while ((bio = bio_list_pop(&round.done_bios)))
		bio_endio(bio);
}

/* --- ext2, ext3, ext4 --------------------------------------------------- */

static bool ext_supported(struct dm_loop_file *lf)
{
	return lf->file->f_op->write_iter && lf->file->f_op->fallocate &&
	       !lf->swapfile && has_same_aops(lf);
}

static int ext_locate(struct dm_loop_file *lf, sector_t sector,
		      struct dm_loop_range *r)
{
	unsigned int shift = lf->inode->i_blkbits - SECTOR_SHIFT;
	sector_t block = sector >> shift;
	int err;

	err = bmap(lf->inode, &block);
	r->start = sector;
	r->len = block_sectors(lf);
	r->state = block ? DM_LOOP_MAPPED : DM_LOOP_HOLE;
	r->phys = block << shift;
	return err;
}

/*
 * A run whose unwritten extent ext4 cannot split, for want of a block for its
 * tree, is written all the same: ext4_split_extent_zeroout() of 7.2 makes the
 * whole extent written, with zeroes around the run.  Another run there would
 * be done already or on its way, and lost.  Each run may need a block on each
 * level.  Other files take no more in the meantime than ext4 leaves for its
 * trees (s_resv_clusters), and what it calls a block may be a cluster of some.
 */
static bool ext_one_by_one(struct dm_loop_file *lf)
{
	struct kstatfs st;

	return vfs_statfs(&lf->file->f_path, &st) ||
	       st.f_bfree < clamp_t(u64, st.f_blocks / 64, ROUND * EXT_LEVELS,
				    ROUND * EXT_LEVELS * EXT_CLUSTER);
}

static void ext_complete(struct kiocb *iocb, long ret)
{
	run_done(container_of(iocb, struct dm_loop_run, iocb), ret);
}

/*
 * These filesystems cannot remap, so S_SWAPFILE is not set and their own
 * direct I/O is open to us, the one writer.
 */
static void ext_submit(struct dm_loop_run *run)
{
	struct iov_iter iter;
	ssize_t n;

	if (!has_same_aops(run->lf)) {
		run_done(run, -EIO);
		return;
	}
	iov_iter_bvec(&iter, ITER_SOURCE, run->bio.bi_io_vec, run->bio.bi_vcnt,
		      run->bio.bi_iter.bi_size);
	init_sync_kiocb(&run->iocb, run->lf->file);
	run->iocb.ki_ioprio = run->bio.bi_ioprio;
	run->iocb.ki_pos = run->plan.start << SECTOR_SHIFT;
	run->iocb.ki_flags |= IOCB_DIRECT;
	run->iocb.ki_complete = ext_complete;
	n = ext_write(run->lf, &run->iocb, &iter);
	if (n != -EIOCBQUEUED)
		run_done(run, n);
}

/* --- xfs ---------------------------------------------------------------- */

/*
 * S_SWAPFILE keeps clones out and stays set, so xfs does not write for us.
 * As a pNFS client does it: space is allocated ahead, we write the unwritten
 * blocks, and commit_blocks() tells xfs that they hold data.  Until then xfs
 * shows zeroes there, before and after a power cut.
 */
static bool xfs_supported(struct dm_loop_file *lf)
{
	struct dm_loop_range r;

	return lf->file->f_op->fallocate && dm_loop_has_block_ops(lf->inode) &&
	       !lf->fs->locate(lf, 0, &r);
}

static int xfs_locate(struct dm_loop_file *lf, sector_t sector,
		      struct dm_loop_range *r)
{
	loff_t pos = sector << SECTOR_SHIFT;
	struct iomap iomap = { };
	int err;

	err = dm_loop_map_blocks(lf->inode, pos, lf->chunk << SECTOR_SHIFT,
				 &iomap);
	if (err)
		return err;
	/*
	 * Older kernels give the whole extent, which may begin before.  Before 7.2
	 * xfs_fs_map_blocks() forgets an error and gives what it has not set.
	 */
	if (pos < iomap.offset || pos - iomap.offset >= iomap.length)
		return -EIO;
	r->start = sector;
	r->len = (iomap.offset + iomap.length - pos) >> SECTOR_SHIFT;
	r->phys = 0;
	switch (iomap.type) {
	case IOMAP_MAPPED:
		r->state = DM_LOOP_MAPPED;
		break;
	case IOMAP_UNWRITTEN:
		r->state = DM_LOOP_UNWRITTEN;
		break;
	default:
		r->state = DM_LOOP_HOLE;
		return 0;
	}
	r->phys = (iomap.addr + (pos - iomap.offset)) >> SECTOR_SHIFT;
	return 0;
}

static int xfs_allocate(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	sector_t block = block_sectors(lf);

	start = round_down(start, block);
	end = round_up(end, block);
	return lf->file->f_op->fallocate(lf->file, FALLOC_FL_KEEP_SIZE,
					 start << SECTOR_SHIFT,
					 (end - start) << SECTOR_SHIFT);
}

/*
 * A small write far from all others: more than its own blocks would cost
 * space, and two more extents, for neighbours that may never come.
 */
static bool is_lone(const struct dm_loop_file *lf,
		    const struct dm_loop_plan *plan)
{
	const struct dm_loop_range *hole = &plan->ext;

	return plan->end - plan->start < DENSE_SECTORS &&
	       plan->start != hole->start &&
	       hole->start <= round_down(plan->start, lf->chunk) &&
	       hole->start + hole->len >= round_up(plan->end, lf->chunk);
}

/*
 * To enter the place into the table before it holds data would cost as much as
 * to enter it after.  What is in more than one piece has to be entered: the bio
 * is put off to be cut, and would meet the same hole again.
 */
static int prepare_lone(struct dm_loop_file *lf, struct dm_loop_plan *plan)
{
	struct dm_loop_range r;
	int err, relocated;

	err = xfs_allocate(lf, plan->start, plan->end);
	if (err || xfs_locate(lf, plan->start, &r) ||
	    r.state != DM_LOOP_UNWRITTEN || r.len < plan->end - plan->start) {
		relocated = relocate(lf, plan->start, plan->end);
		return err ?: relocated;
	}
	r.len = plan->end - plan->start;
	plan->ext = r;
	return 0;
}

/*
 * Space for a whole chunk, within the hole; if that fails, for the run.  What
 * fails may have got a part, which a discard shall find.
 */
static int xfs_prepare(struct dm_loop_file *lf, struct dm_loop_plan *plan)
{
	sector_t hole_end = plan->ext.start + plan->ext.len;
	sector_t start, end;
	int err, relocated;

	if (is_lone(lf, plan))
		return prepare_lone(lf, plan);
	start = max(round_down(plan->start, lf->chunk), plan->ext.start);
	end = min(round_up(plan->end, lf->chunk), hole_end);
	err = xfs_allocate(lf, start, end);
	if (err && (start < plan->start || end > plan->end))
		err = xfs_allocate(lf, plan->start, plan->end);
	relocated = relocate(lf, start, end);
	return err ?: relocated;
}

static void xfs_end_io(struct bio *bio)
{
	struct dm_loop_run *run = container_of(bio, struct dm_loop_run, bio);

	if (bio->bi_status)
		run_done(run, blk_status_to_errno(bio->bi_status));
	else
		run_done(run, run_bytes(run));
}

/*
 * The last block goes on behind the end of the file.  Once it is written a
 * mapping of the file, and the filesystem's read of the block, show all of it.
 */
static sector_t behind_end(const struct dm_loop_run *run)
{
	sector_t end = run->plan.end;

	return round_up(end, block_sectors(run->lf)) - end;
}

static void xfs_submit(struct dm_loop_run *run)
{
	const struct dm_loop_plan *plan = &run->plan;
	struct bio *bio = &run->bio;

	/* The allocation gave less than the whole run in one piece. */
	if (plan->ext.state == DM_LOOP_HOLE) {
		run_done(run, -EIO);
		return;
	}
	add_zeroes(bio, behind_end(run));
	bio_set_dev(bio, run->lf->bdev);
	bio->bi_iter.bi_sector = plan->ext.phys + (plan->start - plan->ext.start);
	bio->bi_end_io = xfs_end_io;
	submit_bio(bio);
}

/*
 * xfs drops pages before the blocks hold data for it (xfs_fs_commit_blocks()).
 * Who has the file mapped may have brought in zeroes between.
 */
static int commit_maps(struct dm_loop_file *lf, struct iomap *maps, int n)
{
	int r = dm_loop_commit_blocks(lf->inode, maps, n);
	sector_t start, len;
	int i;

	for (i = 0; !r && i < n; i++) {
		start = maps[i].offset >> SECTOR_SHIFT;
		len = maps[i].length >> SECTOR_SHIFT;
		if (dm_loop_file_cached(lf, start, len))
			dm_loop_file_invalidate(lf, start, len);
	}
	return r;
}

static int xfs_commit_one(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	struct iomap map = {
		.offset = start << SECTOR_SHIFT,
		.length = (end - start) << SECTOR_SHIFT,
	};

	return commit_maps(lf, &map, 1);
}

/* Remember what has to be committed; at once when there is no memory. */
static int xfs_written(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	struct dm_loop_pending *p;

	p = kmalloc_obj(*p, GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	if (!p)
		return xfs_commit_one(lf, start, end);
	p->start = start;
	p->end = end;
	spin_lock_irq(&lf->todo_lock);
	list_add_tail(&p->node, &lf->pending);
	spin_unlock_irq(&lf->todo_lock);
	return 0;
}

static int compare_pending(void *priv, const struct list_head *a,
			   const struct list_head *b)
{
	const struct dm_loop_pending *x, *y;

	x = list_entry(a, struct dm_loop_pending, node);
	y = list_entry(b, struct dm_loop_pending, node);
	return x->start > y->start;
}

/* As many as fit what kmalloc() hands out without trouble. */
#define COMMIT_MAPS (SZ_8K / sizeof(struct iomap))

/* Up to COMMIT_MAPS merged ranges; what they were made of moves to @taken. */
static int take_maps(struct list_head *pending, struct list_head *taken,
		     struct iomap *maps)
{
	struct dm_loop_pending *p, *next;
	int n = 0;

	list_for_each_entry_safe(p, next, pending, node) {
		u64 start = p->start << SECTOR_SHIFT;
		u64 end = p->end << SECTOR_SHIFT;

		if (n && start <= maps[n - 1].offset + maps[n - 1].length) {
			start = maps[n - 1].offset;
			end = max(end, start + maps[n - 1].length);
			n--;
		}
		if (n == COMMIT_MAPS)
			break;
		maps[n].offset = start;
		maps[n++].length = end - start;
		list_move_tail(&p->node, taken);
	}
	return n;
}

static void free_pending(struct list_head *pending)
{
	struct dm_loop_pending *p, *next;

	list_for_each_entry_safe(p, next, pending, node)
		kfree(p);
	INIT_LIST_HEAD(pending);
}

/* What cannot be committed stays pending, and the flush fails. */
static int xfs_commit(struct dm_loop_file *lf)
{
	LIST_HEAD(pending);
	LIST_HEAD(taken);
	struct iomap *maps;
	int r = 0;
	int n;

	spin_lock_irq(&lf->todo_lock);
	list_splice_init(&lf->pending, &pending);
	spin_unlock_irq(&lf->todo_lock);
	if (list_empty(&pending))
		return 0;

	list_sort(NULL, &pending, compare_pending);
	maps = kcalloc(COMMIT_MAPS, sizeof(*maps), GFP_NOIO | __GFP_NOFAIL);
	while (!r && (n = take_maps(&pending, &taken, maps))) {
		dm_loop_count(lf, DM_LOOP_COMMITS);
		r = commit_maps(lf, maps, n);
		if (!r)
			free_pending(&taken);
	}
	kfree(maps);
	spin_lock_irq(&lf->todo_lock);
	list_splice(&taken, &lf->pending);
	list_splice(&pending, &lf->pending);
	spin_unlock_irq(&lf->todo_lock);
	return r;
}

static const struct dm_loop_fs filesystems[] = {
	{
		.name = "ext4",
		.supported = ext_supported,
		.locate = ext_locate,
		.one_by_one = ext_one_by_one,
		.submit = ext_submit,
	}, {
		.name = "ext3",
		.supported = ext_supported,
		.locate = ext_locate,
		.submit = ext_submit,
	}, {
		.name = "ext2",
		.supported = ext_supported,
		.locate = ext_locate,
		.submit = ext_submit,
	}, {
		.name = "xfs",
		.supported = xfs_supported,
		.prepare = xfs_prepare,
		.locate = xfs_locate,
		.submit = xfs_submit,
		.written = xfs_written,
		.commit = xfs_commit,
	},
};

/**
 * dm_loop_fill_fs() - how the filesystem of a file is filled
 * @lf: the backing file
 *
 * Context: Any.
 * Return: NULL when this kind of filesystem cannot be.
 */
const struct dm_loop_fs *dm_loop_fill_fs(const struct dm_loop_file *lf)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(filesystems); i++)
		if (!strcmp(filesystems[i].name, lf->inode->i_sb->s_type->name))
			return &filesystems[i];
	return NULL;
}

/**
 * dm_loop_can_fill() - can this file be filled under the pin that it has?
 * @lf: the backing file, pinned
 *
 * Context: Sleeps; asks the filesystem.
 * Return: false also when the filesystem is none that can be filled.
 */
bool dm_loop_can_fill(struct dm_loop_file *lf)
{
	return lf->fs && lf->fs->supported(lf);
}

/**
 * dm_loop_has_clone_mark() - does xfs keep from us where blocks are, because of a clone?
 * @lf: the backing file, pinned
 *
 * -ENXIO is its answer for a file with the reflink flag (xfs_fs_map_blocks()).
 *
 * Context: Sleeps; asks the filesystem.
 * Return: true also when the clone is gone and nothing is shared any more.
 */
bool dm_loop_has_clone_mark(struct dm_loop_file *lf)
{
	struct dm_loop_range r;

	return lf->fs && lf->fs->locate == xfs_locate &&
	       dm_loop_has_block_ops(lf->inode) &&
	       lf->fs->locate(lf, 0, &r) == -ENXIO;
}

/* --- giving blocks back ------------------------------------------------- */

/**
 * dm_loop_file_punch_end() - up to where the filesystem gives back blocks
 * @lf: the backing file
 *
 * ext4 keeps the last block that a file without extents can have, and what is
 * behind it, without an error (ext4_punch_hole()).  The answer is never too
 * much: without huge_file it is just below 2 TiB.
 *
 * Context: May sleep; under lf->lock or with a bio under way, so that lf->file
 * stays.
 * Return: a sector of the file, which may lie behind its end.
 */
sector_t dm_loop_file_punch_end(const struct dm_loop_file *lf)
{
	struct inode *inode = d_real_inode(lf->file->f_path.dentry);
	u64 pointers = i_blocksize(inode) / sizeof(__le32);

	if (inode->i_sb->s_magic != EXT4_SUPER_MAGIC ||
	    (dm_loop_ext4_minds_extents() && has_extents(lf)))
		return MAX_LFS_FILESIZE >> SECTOR_SHIFT;
	return min_t(u64, (pointers * pointers * pointers) << inode->i_blkbits,
		     2 * SZ_1T - SZ_16G) >> SECTOR_SHIFT;
}

/*
 * From here on map() sends what touches the range to the worker, which is
 * us; what it sent to the device before is waited for.
 */
static void block_range(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	/* Pairs with is_busy(): who sees this range sees that the last is over. */
	smp_store_release(&lf->busy_start, start);
	/* Pairs with is_busy(): an end comes with its start. */
	smp_store_release(&lf->busy_end, end);
	synchronize_srcu_expedited(&lf->inflight);
}

static void unblock_range(struct dm_loop_file *lf)
{
	/* Pairs with is_busy(): the table has changed before. */
	smp_store_release(&lf->busy_end, 0);
}

static bool has_blocks(struct dm_loop_file *lf, sector_t pos, sector_t end)
{
	struct dm_loop_range r;

	for (; pos < end && lookup(lf, pos, &r); pos = r.start + r.len)
		if (r.state != DM_LOOP_HOLE)
			return true;
	return false;
}

/*
 * Blocks to give back must not be committed later, not by the flusher either,
 * and a flush must not pass while we commit what it is to wait for.
 */
static int commit_pending(struct dm_loop_file *lf)
{
	int r;

	mutex_lock(&lf->sync_lock);
	r = lf->fs->commit(lf);
	mutex_unlock(&lf->sync_lock);
	return r;
}

/*
 * Whole blocks only: the edges of others would be zeroed through the page
 * cache.  The table first: it must never name blocks that are free.
 */
static int punch_blocks(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	int r = 0;

	if (start >= end || !has_blocks(lf, start, end))
		return 0;
	dm_loop_count(lf, DM_LOOP_PUNCHES);
	block_range(lf, start, end);
	if (lf->fs->commit)
		r = commit_pending(lf);
	if (!r)
		r = set_range(lf, start, end, DM_LOOP_HOLE, 0);
	if (!r) {
		r = punch_file(lf, start, end);
		if (r)
			r = relocate(lf, start, end) ?: r;
		need_fsync(lf);
	}
	unblock_range(lf);
	trace_dm_loop_punch(lf, start, end - start, r);
	return r;
}

/* Part of a block: what has no data reads as zeroes already. */
static int zero_edge(struct dm_loop_file *lf, sector_t start, sector_t end)
{
	struct dm_loop_range r;
	int err = 0, dropped;
	sector_t n;

	for (; !err && start < end; start += n) {
		if (!lookup(lf, start, &r))
			return -EIO;
		n = min(end, r.start + r.len) - start;
		if (r.state == DM_LOOP_FILLED) {
			err = locate(lf, start, start + n);
			n = 0;
			continue;
		}
		if (r.state != DM_LOOP_MAPPED)
			continue;
		err = write_back(lf, start, start + n) ?:
		      blkdev_issue_zeroout(lf->bdev,
					   r.phys + (start - r.start), n,
					   GFP_NOIO, BLKDEV_ZERO_NOUNMAP);
		/* Also after an error, which may have come late. */
		dropped = drop_pages(lf, start, n);
		err = err ?: dropped;
	}
	return err;
}

/*
 * Up to where blocks can be given back and filled again.  0 if they cannot be
 * filled: xfs, when the file got a clone while the device was suspended; ext4, when
 * it journals the data by now.
 */
static sector_t punch_end(struct dm_loop_file *lf)
{
	return dm_loop_can_fill(lf) ? dm_loop_file_punch_end(lf) : 0;
}

static void punch_bio(struct dm_loop_file *lf, struct bio *bio)
{
	sector_t block = block_sectors(lf);
	sector_t start = bio_start(bio);
	sector_t end = bio_end(bio);
	sector_t limit = punch_end(lf);
	sector_t from = round_up(start, block);
	sector_t to = min(round_down(end, block), round_down(limit, block));
	int r = 0;

	if (bio_op(bio) == REQ_OP_WRITE_ZEROES) {
		if (bio->bi_opf & REQ_NOUNMAP || end > limit)
			from = end;
		r = zero_edge(lf, start, min(from, end));
		if (!r && to >= from)
			r = zero_edge(lf, to, end);
	}
	if (!r) {
		r = punch_blocks(lf, from, to);
		/* xfs may need a block for that, and zeroes need none. */
		if (r == -ENOSPC && bio_op(bio) == REQ_OP_WRITE_ZEROES)
			r = zero_edge(lf, from, to);
	}
	say_error(lf, r);
	end_bio(bio, r);
}

/* --- file mode ---------------------------------------------------------- */

static bool can_direct(struct dm_loop_file *lf, const struct iov_iter *iter,
		       loff_t pos)
{
	unsigned int align = READ_ONCE(lf->dio_align);

	return align && !((pos | iov_iter_count(iter)) & (align - 1)) &&
	       !(iov_iter_alignment(iter) & (lf->dio_mem_align - 1));
}

/*
 * Before something goes through the page cache: direct writes that the
 * filesystem has without its lock must not meet it there.  They would leave
 * old pages behind (dio_warn_stale_pagecache()).  No more of them are begun,
 * so the wait ends; inode_dio_wait() would wait for reads too, which go on.
 * @until_flush: nor are any when this is over.
 */
static void begin_cached(struct dm_loop_file *lf, bool until_flush)
{
	spin_lock_irq(&lf->todo_lock);
	lf->cached_ios++;
	if (until_flush)
		WRITE_ONCE(lf->until_flush, true);
	WRITE_ONCE(lf->mixed, true);
	spin_unlock_irq(&lf->todo_lock);
	/* Pairs with begin_direct_write(): one of the two sees the other. */
	smp_mb();
	wait_var_event(&lf->direct_writes, !atomic_read(&lf->direct_writes));
}

static void end_cached(struct dm_loop_file *lf)
{
	spin_lock_irq(&lf->todo_lock);
	if (!--lf->cached_ios)
		WRITE_ONCE(lf->mixed, lf->until_flush);
	spin_unlock_irq(&lf->todo_lock);
}

/* Called before the bio ends, so that the file is still there. */
static void end_direct_write(struct dm_loop_file *lf)
{
	if (atomic_dec_and_test(&lf->direct_writes))
		wake_up_var(&lf->direct_writes);
}

static bool begin_direct_write(struct dm_loop_file *lf)
{
	atomic_inc(&lf->direct_writes);
	/* Pairs with begin_cached(). */
	smp_mb__after_atomic();
	if (!READ_ONCE(lf->mixed))
		return true;
	end_direct_write(lf);
	return false;
}

/*
 * Direct writes that go on by themselves where that is quick, the page cache
 * where it saves copies.  On btrfs not all do: it waits for the write before
 * where they overlap, for the disk where there are several copies, and for
 * space that it does not need (btrfs_direct_write()).
 */
static bool has_both_ways(const struct dm_loop_file *lf)
{
	return lf->inode->i_sb->s_magic == XFS_SUPER_MAGIC &&
	       READ_ONCE(lf->dio_align);
}

/* So that the page cache has nothing to read before it takes them. */
static bool is_whole_pages(const struct dm_loop_file *lf, struct bio *bio)
{
	sector_t unit = max_t(sector_t, PAGE_SECTORS, block_sectors(lf));

	return !((bio_start(bio) | bio_sectors(bio)) & (unit - 1));
}

/* Will the filesystem allocate for it?  As far as is known; it need not be so. */
static bool allocates(const struct dm_loop_file *lf, struct bio *bio)
{
	struct dm_loop_range r;
	bool found;

	rcu_read_lock();
	found = dm_loop_extents_lookup(&lf->hints, bio_start(bio), &r);
	rcu_read_unlock();
	return found && (dm_loop_has_no_data(r.state) ||
			 r.state == DM_LOOP_SHARED);
}

/* @bio will have blocks, or will have none. */
static void hint(struct dm_loop_file *lf, struct bio *bio,
		 enum dm_loop_state state)
{
	mutex_lock(&lf->hints_lock);
	if (dm_loop_extents_leaves(&lf->hints) < DM_LOOP_HINT_LEAVES)
		dm_loop_extents_set(&lf->hints, bio_start(bio),
				    bio_sectors(bio), state, 0, GFP_KERNEL);
	mutex_unlock(&lf->hints_lock);
}

/*
 * To copy a shared block, or to allocate one, costs xfs a transaction for each
 * direct write.  In the page cache neighbours come together before that.  So
 * that is where such a write goes if it is small, and then all others until the
 * next flush, as they would wait for each other.
 */
static bool is_for_cache(const struct dm_loop_file *lf, struct bio *bio)
{
	bool until_flush = READ_ONCE(lf->until_flush);

	if (!has_both_ways(lf))
		return false;
	if (bio_op(bio) == REQ_OP_READ)
		return until_flush && dm_loop_file_cached(lf, bio_start(bio),
							  bio_sectors(bio));
	return is_whole_pages(lf, bio) &&
	       (until_flush ||
		(bio_sectors(bio) < DENSE_SECTORS && allocates(lf, bio)));
}

/* After a flush.  What is left in the page cache xfs drops at a direct write. */
static void direct_again(struct dm_loop_file *lf)
{
	if (!has_both_ways(lf) || !READ_ONCE(lf->until_flush))
		return;
	spin_lock_irq(&lf->todo_lock);
	WRITE_ONCE(lf->until_flush, false);
	if (!lf->cached_ios)
		WRITE_ONCE(lf->mixed, false);
	spin_unlock_irq(&lf->todo_lock);
}

static ssize_t rw_iter(struct dm_loop_file *lf, struct kiocb *iocb,
		       struct iov_iter *iter)
{
	const struct file_operations *fop = lf->file->f_op;

	return iocb->ki_flags & IOCB_WRITE ? fop->write_iter(iocb, iter) :
					     fop->read_iter(iocb, iter);
}

static ssize_t rw_cached(struct dm_loop_file *lf, struct kiocb *iocb,
			 struct iov_iter *iter)
{
	ssize_t n;

	if (!READ_ONCE(lf->dio_align))
		return rw_iter(lf, iocb, iter);
	/* Elsewhere what was not aligned once will not be again. */
	begin_cached(lf, (iocb->ki_flags & IOCB_WRITE) || !has_both_ways(lf));
	n = rw_iter(lf, iocb, iter);
	end_cached(lf);
	return n;
}

/*
 * As much as is done at once of what follows the first @done bytes of the bio.
 * Returns bytes or an error; @direct tells how it was tried.
 */
static ssize_t rw_part(struct dm_loop_file *lf, struct bio *bio, size_t done,
		       bool cached, bool *direct)
{
	bool write = op_is_write(bio_op(bio));
	struct iov_iter iter;
	struct kiocb iocb;

	bio_to_iter(bio, write ? ITER_SOURCE : ITER_DEST, &iter);
	iov_iter_advance(&iter, done);
	init_sync_kiocb(&iocb, lf->file);
	iocb.ki_pos = (bio_start(bio) << SECTOR_SHIFT) + done;
	iocb.ki_ioprio = bio->bi_ioprio;
	if (write)
		iocb.ki_flags |= IOCB_WRITE;
	*direct = !cached && can_direct(lf, &iter, iocb.ki_pos);
	if (!*direct)
		return rw_cached(lf, &iocb, &iter);
	iocb.ki_flags |= IOCB_DIRECT;
	return rw_iter(lf, &iocb, &iter);
}

/*
 * @cached: also what could be direct.  Only what is returned tells how much
 * was done: of the iterator FUSE takes more than it writes, when there is an
 * error in between (fuse_perform_write()), and netfs nothing
 * (netfs_unbuffered_write_iter_locked()).
 */
static int file_rw(struct dm_loop_file *lf, struct bio *bio, bool cached)
{
	size_t done = 0;
	bool direct;
	ssize_t n;

	do {
		n = rw_part(lf, bio, done, cached, &direct);
		if (n > 0) {
			done += n;
		} else if (n == -ENOMEM && cached) {
			/* Of pages, which direct I/O needs not. */
			cached = false;
		} else if (n == -EINVAL && direct) {
			/* Some say only now that they cannot; for good. */
			begin_cached(lf, true);
			WRITE_ONCE(lf->dio_align, 0);
			done = 0;
		} else {
			return n ?: -EIO;
		}
	} while (done < bio->bi_iter.bi_size);
	if (op_is_write(bio_op(bio)) && cached && allocates(lf, bio))
		hint(lf, bio, DM_LOOP_FILLED);
	return 0;
}

/*
 * Where ext4 journals data, two things can bring old data back after a power
 * cut.  What it writes in place of a part of an unwritten extent is zeroed
 * without the journal (ext4_issue_zeroout()), which may still have what the
 * blocks held before: no such extents.  And before 6.4 a punch drops the pages
 * from the transaction that a flush may be committing at that moment, and
 * frees the blocks in the next: they have to be safe before.
 */
static int file_punch(struct dm_loop_file *lf, struct bio *bio)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct file *file = lf->file;
	sector_t limit = dm_loop_file_punch_end(lf);
	bool zeroes = bio_op(bio) == REQ_OP_WRITE_ZEROES;
	int r;

	if (zeroes && (bio->bi_opf & REQ_NOUNMAP))
		mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	else if (bio_end(bio) > limit)
		return zeroes ? -EOPNOTSUPP : 0;
	/* after chattr +j, too */
	if (lf->journalled || !has_same_aops(lf)) {
		r = mode & FALLOC_FL_ZERO_RANGE ? -EOPNOTSUPP : dm_loop_sync(lf);
		if (r)
			return r;
	}
	r = file->f_op->fallocate(file, mode, bio_start(bio) << SECTOR_SHIFT,
				  (loff_t)bio_sectors(bio) << SECTOR_SHIFT);
	if (!r && !(mode & FALLOC_FL_ZERO_RANGE) && has_both_ways(lf))
		hint(lf, bio, DM_LOOP_HOLE);
	/* fuse2fs on less than a block: the block layer can write zeroes. */
	return r == -EINVAL ? -EOPNOTSUPP : r;
}

static void end_file_io(struct dm_loop_file *lf, struct bio *bio, int r)
{
	trace_dm_loop_fallback(lf, bio_start(bio), bio_sectors(bio), r);
	if (op_is_write(bio_op(bio))) {
		need_fsync(lf);
		dm_loop_file_wrote(lf);
		/* That it cannot punch is no error of the filesystem. */
		if (r != -EOPNOTSUPP || bio_has_data(bio))
			say_error(lf, r);
	}
	end_bio(bio, r);
}

/*
 * Until act_for_nobody(), what is done is done for the cgroups of who sent the
 * bio: I/O waits for their limits, pages of the file are their memory.  With a
 * reference of our own, as the bio may end before that.
 */
static void act_for_sender(struct bio *bio)
{
	kthread_associate_blkcg(bio_blkcg_css(bio));
	set_active_memcg(dm_loop_io(bio)->memcg);
	get_mem_cgroup_from_mm(NULL);
}

static void act_for_nobody(void)
{
	mem_cgroup_put(set_active_memcg(NULL));
	kthread_associate_blkcg(NULL);
}

static void do_file_io(struct dm_loop_file *lf, struct bio *bio, bool cached)
{
	int r;

	act_for_sender(bio);
	if (bio_op(bio) == REQ_OP_DISCARD ||
	    bio_op(bio) == REQ_OP_WRITE_ZEROES)
		r = file_punch(lf, bio);
	else
		r = file_rw(lf, bio, cached);
	act_for_nobody();
	end_file_io(lf, bio, r);
}

static void dm_loop_file_io(struct work_struct *work)
{
	struct dm_loop_io *io = container_of(work, struct dm_loop_io, work);
	struct bio *bio = dm_bio_from_per_bio_data(io, sizeof(*io));
	struct dm_loop_file *lf = io->lt->lf;
	unsigned int flags = enter_fs();

	/* On xfs lf->writer has chosen the way of a write; else there is one way. */
	do_file_io(lf, bio, bio_op(bio) == REQ_OP_READ && is_for_cache(lf, bio));
	leave_fs(flags);
}

/* The page cache is all that the filesystem has. */
static bool is_memory(const struct dm_loop_file *lf)
{
	unsigned long magic = lf->inode->i_sb->s_magic;

	return magic == TMPFS_MAGIC || magic == RAMFS_MAGIC;
}

/*
 * Where a bio is done sooner than the next is sent, each would wake the worker,
 * which costs who sends it more than the work is.  So a worker that was called
 * back at once, after it @left (by local_clock()), waits a little the next time.
 */
static bool may_linger(const struct dm_loop_file *lf, u64 left)
{
	return lf->mode == DM_LOOP_MODE_FILE && is_memory(lf) &&
	       local_clock() - left < LINGER_NS;
}

/* Wait for a bio, as long as nobody else wants the processor. */
static void linger(const struct bio_list *bios)
{
	u64 began = local_clock();

	while (!READ_ONCE(bios->head) && single_task_running() &&
	       !need_resched() && local_clock() - began < LINGER_NS)
		cpu_relax();
}

static struct bio *next_write(struct dm_loop_file *lf)
{
	struct bio *bio;

	spin_lock_irq(&lf->todo_lock);
	bio = bio_list_pop(&lf->writes);
	lf->writing = bio;
	spin_unlock_irq(&lf->todo_lock);
	return bio;
}

/* In a work of its own, so that it may wait. */
static void queue_whole(struct dm_loop_file *lf, struct bio *bio)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	INIT_WORK(&io->work, dm_loop_file_io);
	queue_work(lf->wq, &io->work);
}

/* One after the other: in the filesystem they would wait for the inode lock. */
static void queue_write(struct dm_loop_file *lf, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&lf->todo_lock, flags);
	bio_list_add(&lf->writes, bio);
	if (!lf->writing)
		kthread_queue_work(lf->writer_thread, &lf->writer);
	lf->writing = true;
	spin_unlock_irqrestore(&lf->todo_lock, flags);
}

/* On xfs one writer does direct writes too: they end by themselves, it waits for none. */
static void queue_file_io(struct dm_loop_file *lf, struct bio *bio)
{
	if (bio_op(bio) == REQ_OP_WRITE &&
	    (!READ_ONCE(lf->dio_align) || has_both_ways(lf)))
		queue_write(lf, bio);
	else
		queue_whole(lf, bio);
}

/*
 * Not all was done, or not in this way: memory that is not aligned as older
 * kernels want it, or no memory to go on with.
 */
static bool needs_whole(long ret)
{
	return ret >= 0 || ret == -EINVAL || ret == -ENOMEM;
}

/*
 * What never waits, one worker can do for all.  What had to wait is sent again
 * by somebody who may.
 */
static void end_async(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	struct bio *bio = dm_bio_from_per_bio_data(io, sizeof(*io));
	bool may_wait = !(io->iocb.ki_flags & IOCB_NOWAIT);
	long ret = io->ret;

	if (io->iocb.ki_flags & IOCB_WRITE)
		end_direct_write(lf);
	if (ret == bio->bi_iter.bi_size) {
		end_file_io(lf, bio, 0);
		return;
	}
	if (may_wait) {
		if (needs_whole(ret))
			queue_whole(lf, bio);
		else
			end_file_io(lf, bio, ret);
		return;
	}
	/* Cached writes hold the lock, but not for long. */
	if (ret < 0 && !(has_both_ways(lf) && READ_ONCE(lf->mixed)))
		atomic_set(&lf->nowait_skip[op_is_write(bio_op(bio))],
			   NOWAIT_SKIP);
	queue_file_io(lf, bio);
}

/*
 * The filesystem may look at the iocb and the bio's pages after it has queued
 * the I/O (ext4_dio_read_iter(), nfs_file_direct_read()), which may have ended
 * by then.
 */
static void put_iocb(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	if (atomic_dec_and_test(&io->iocb_users))
		end_async(lf, io);
}

static void async_done(struct kiocb *iocb, long ret)
{
	struct dm_loop_io *io = container_of(iocb, struct dm_loop_io, iocb);

	io->ret = ret;
	put_iocb(io->lt->lf, io);
}

/*
 * A direct write that goes on by itself (on xfs the lock is given back) must
 * have the file for itself: see begin_cached().  It ends in a worker of the
 * filesystem, out of enter_fs(), as it does for the loop driver.
 */
static void file_async(struct dm_loop_file *lf, struct bio *bio, int flags)
{
	struct dm_loop_io *io = dm_loop_io(bio);
	struct kiocb *iocb = &io->iocb;
	bool write = op_is_write(bio_op(bio));
	struct iov_iter iter;
	ssize_t n;

	bio_to_iter(bio, write ? ITER_SOURCE : ITER_DEST, &iter);
	init_sync_kiocb(iocb, lf->file);
	iocb->ki_pos = bio_start(bio) << SECTOR_SHIFT;
	iocb->ki_ioprio = bio->bi_ioprio;
	iocb->ki_complete = async_done;
	iocb->ki_flags |= flags;
	if (can_direct(lf, &iter, iocb->ki_pos))
		iocb->ki_flags |= IOCB_DIRECT;
	if (READ_ONCE(lf->dio_align) && !(iocb->ki_flags & IOCB_DIRECT)) {
		queue_file_io(lf, bio);
		return;
	}
	if (write && !begin_direct_write(lf)) {
		queue_whole(lf, bio);
		return;
	}
	if (write)
		iocb->ki_flags |= IOCB_WRITE;
	atomic_set(&io->iocb_users, 2);
	act_for_sender(bio);
	n = rw_iter(lf, iocb, &iter);
	act_for_nobody();
	if (n != -EIOCBQUEUED)
		async_done(iocb, n);
	put_iocb(lf, io);
}

/* Where there is direct I/O. */
static void write_either_way(struct dm_loop_file *lf, struct bio *bio)
{
	bool cached = is_for_cache(lf, bio);
	struct iov_iter iter;

	bio_to_iter(bio, ITER_SOURCE, &iter);
	if (cached ||
	    !can_direct(lf, &iter, bio_start(bio) << SECTOR_SHIFT)) {
		do_file_io(lf, bio, cached);
		return;
	}
	if (allocates(lf, bio))
		hint(lf, bio, DM_LOOP_FILLED);
	file_async(lf, bio, 0);
}

static void dm_loop_write(struct kthread_work *work)
{
	struct dm_loop_file *lf = container_of(work, struct dm_loop_file,
					       writer);
	unsigned int flags = enter_fs();
	bool lingers = may_linger(lf, lf->writer_left);
	struct bio *bio;

	while ((bio = next_write(lf))) {
		if (READ_ONCE(lf->dio_align))
			write_either_way(lf, bio);
		else
			do_file_io(lf, bio, false);
		cond_resched();
		if (lingers)
			linger(&lf->writes);
	}
	lf->writer_left = local_clock();
	leave_fs(flags);
}

static bool is_quick(const struct dm_loop_file *lf, struct bio *bio)
{
	return is_memory(lf) && bio_op(bio) == REQ_OP_READ &&
	       bio_sectors(bio) <= QUICK_SECTORS;
}

/*
 * A punch of btrfs waits for a direct read only as long as that has the lock of the
 * inode, and one that goes on by itself gives it back (btrfs_direct_read()).  It
 * would read blocks that are somebody else's by then.
 */
static bool reads_without_lock(const struct dm_loop_file *lf)
{
	return lf->inode->i_sb->s_magic == BTRFS_SUPER_MAGIC;
}

/* Direct I/O, or what may be in the page cache. */
static bool can_nowait(const struct dm_loop_file *lf, struct bio *bio)
{
	if (!(lf->file->f_mode & FMODE_NOWAIT) || !bio_has_data(bio))
		return false;
	if (!READ_ONCE(lf->dio_align))
		return bio_op(bio) == REQ_OP_READ &&
		       bio_sectors(bio) <= QUICK_SECTORS;
	if (bio_op(bio) == REQ_OP_READ && reads_without_lock(lf))
		return false;
	if (!READ_ONCE(lf->mixed))
		return true;
	return bio_op(bio) == REQ_OP_READ && !is_for_cache(lf, bio);
}

static void take_file_bio(struct dm_loop_file *lf, struct bio *bio)
{
	if (is_quick(lf, bio))
		do_file_io(lf, bio, false);
	else if (can_nowait(lf, bio))
		file_async(lf, bio, IOCB_NOWAIT);
	else
		queue_file_io(lf, bio);
}

/* Where it had to wait, do not ask for a while. */
static bool try_nowait(struct dm_loop_file *lf, struct bio *bio)
{
	return can_nowait(lf, bio) &&
	       atomic_dec_if_positive(&lf->nowait_skip[op_is_write(bio_op(bio))]) < 0;
}

/**
 * dm_loop_defer_file() - do a bio by file I/O
 * @lf: the backing file, in file mode
 * @bio: with its place in dm_loop_io(bio)->sector
 *
 * Context: Any.
 */
void dm_loop_defer_file(struct dm_loop_file *lf, struct bio *bio)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	dm_loop_count(lf, DM_LOOP_FILE_IOS);
	bio->bi_iter.bi_sector = io->sector;
	/* Frozen: the worker holds it. */
	if ((op_is_write(bio_op(bio)) && !dm_loop_start_write(lf, bio)) ||
	    is_quick(lf, bio) || try_nowait(lf, bio))
		dm_loop_defer(lf, bio);
	else
		queue_file_io(lf, bio);
}

/* --- the worker --------------------------------------------------------- */

/**
 * dm_loop_defer() - let the worker go on with a bio
 * @lf: the backing file
 * @bio: dm_loop_io(bio) says what it is
 *
 * Context: Any; takes lf->todo_lock.
 */
void dm_loop_defer(struct dm_loop_file *lf, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&lf->todo_lock, flags);
	bio_list_add(&lf->todo, bio);
	/*
	 * Work that is queued while it runs wakes somebody for nothing.  After
	 * the lock the bio may have ended, and the file be gone.
	 */
	if (!lf->working)
		queue_work(lf->wq, &lf->worker);
	lf->working = true;
	spin_unlock_irqrestore(&lf->todo_lock, flags);
}

/**
 * dm_loop_defer_sync() - end a bio when all that was filled is committed
 * @lf: the backing file
 * @bio: a flush, or a FUA write that is on the device
 *
 * Context: Any; takes lf->todo_lock.
 */
void dm_loop_defer_sync(struct dm_loop_file *lf, struct bio *bio)
{
	unsigned long flags;

	spin_lock_irqsave(&lf->todo_lock, flags);
	bio_list_add(&lf->flushes, bio);
	mod_delayed_work(lf->wq, &lf->flusher, 0);
	spin_unlock_irqrestore(&lf->todo_lock, flags);
}

/* As many sectors as a run has segments for; the rest begins with a block. */
static sector_t fit_sectors(const struct dm_loop_file *lf, struct bio *bio)
{
	sector_t block = max_t(sector_t, PAGE_SECTORS, block_sectors(lf));
	sector_t sectors;
	struct bvec_iter iter;
	struct bio_vec bv;
	unsigned int n = 0, bytes = 0;

	bio_for_each_bvec(bv, bio, iter) {
		if (n++ == RUN_SEGMENTS - RUN_ZEROES)
			break;
		bytes += bv.bv_len;
	}
	sectors = min_t(sector_t, bytes >> SECTOR_SHIFT, RUN_SECTORS);
	if (sectors < bio_sectors(bio) && sectors > block)
		sectors = round_down(sectors, block);
	return sectors;
}

/* @bio lies in one extent, @r: let it go, or keep it to be filled. */
static void send(struct dm_loop_file *lf, struct bio *bio,
		 const struct dm_loop_range *r, struct bio_list *fills)
{
	bool write = op_is_write(bio_op(bio));
	int err;

	if (dm_loop_has_no_data(r->state)) {
		if (write) {
			bio_list_add(fills, bio);
			return;
		}
		zero_fill_bio(bio);
		bio_endio(bio);
		return;
	}
	if (write && r->state == DM_LOOP_SHARED) {
		end_bio(bio, -EIO);
		return;
	}
	err = write ? write_back(lf, bio_start(bio), bio_end(bio)) : 0;
	if (err) {
		end_bio(bio, err);
		return;
	}
	bio_set_dev(bio, lf->bdev);
	bio->bi_iter.bi_sector = r->phys + (bio_start(bio) - r->start);
	submit_bio_noacct(bio);
}

/* The extent where @bio begins, with its place. */
static bool find_place(struct dm_loop_file *lf, struct bio *bio,
		       struct dm_loop_range *r)
{
	if (!lookup(lf, bio_start(bio), r))
		return false;
	if (r->state != DM_LOOP_FILLED)
		return true;
	return !locate(lf, bio_start(bio), bio_end(bio)) &&
	       lookup(lf, bio_start(bio), r) && r->state != DM_LOOP_FILLED;
}

static struct bio *split_piece(struct bio *bio, sector_t n)
{
	struct bio *piece = bio_split(bio, n, GFP_NOWAIT, &dm_loop_pieces);

	/* Before 6.13 it is NULL. */
	if (IS_ERR_OR_NULL(piece))
		return NULL;
	bio_chain(piece, bio);
	return piece;
}

static void piece_done(struct bio *piece)
{
	complete(piece->bi_private);
}

/*
 * Without memory for a piece of @n sectors: do it, and wait.  Nothing is kept
 * in reserve for pieces, as one may wait to be filled, or be cut again, while
 * the next is needed.  Nothing is done if the filesystem gave it a place that
 * is not in one piece: then the caller finds a smaller extent.
 */
static void do_piece(struct dm_loop_file *lf, struct bio *bio, sector_t n,
		     const struct dm_loop_range *r)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct bio_list fills = BIO_EMPTY_LIST, later = BIO_EMPTY_LIST;
	struct bio piece;

	if (bio_init_clone(bio->bi_bdev, &piece, bio, GFP_NOIO)) {
		bio->bi_status = BLK_STS_RESOURCE;
		bio_advance(bio, n << SECTOR_SHIFT);
		return;
	}
	piece.bi_iter.bi_size = n << SECTOR_SHIFT;
	piece.bi_end_io = piece_done;
	piece.bi_private = &done;
	send(lf, &piece, r, &fills);
	/* Alone it is the first run of a round, which can always be had. */
	if (!bio_list_empty(&fills))
		fill_round(lf, &fills, &later);
	if (bio_list_empty(&later)) {
		wait_for_completion_io(&done);
		if (piece.bi_status)
			bio->bi_status = piece.bi_status;
		bio_advance(bio, n << SECTOR_SHIFT);
	}
	bio_uninit(&piece);
}

/* The table may have changed since map(): look again, piece by piece. */
static void route(struct dm_loop_file *lf, struct bio *bio,
		  struct bio_list *fills)
{
	struct dm_loop_range r;
	struct bio *piece;
	sector_t n;

	do {
		if (!find_place(lf, bio, &r)) {
			end_bio(bio, -EIO);
			return;
		}
		n = r.start + r.len - bio_start(bio);
		if (op_is_write(bio_op(bio)) && r.state != DM_LOOP_MAPPED)
			n = min(n, fit_sectors(lf, bio));
		piece = n < bio_sectors(bio) ? split_piece(bio, n) : bio;
		if (piece)
			send(lf, piece, &r, fills);
		else
			do_piece(lf, bio, n, &r);
	} while (piece != bio);
}

/*
 * The second half of a write while the file was cached.  bio_endio() has done
 * its part for this bio (accounting, cgroup); what is left is device-mapper's
 * own bi_end_io.
 */
static void finish_write(struct dm_loop_file *lf, struct bio *bio)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	if (drop_pages(lf, io->sector, io->sectors) && !bio->bi_status)
		bio->bi_status = BLK_STS_IOERR;
	bio->bi_end_io(bio);
}

/* What a round of the worker has to do. */
struct dm_loop_todo {
	struct bio_list data;
	struct bio_list fills;
	struct bio_list punches;
	struct bio_list held;
};

/* Most likely it is as map() found it; plan_run() looks. */
static bool is_fill(const struct dm_loop_file *lf, const struct dm_loop_io *io,
		    struct bio *bio)
{
	return (io->flags & DM_LOOP_IO_FILL) &&
	       bio_sectors(bio) <= fit_sectors(lf, bio);
}

static void take_bio(struct dm_loop_file *lf, struct bio *bio,
		     struct dm_loop_todo *todo)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	if (io->flags & DM_LOOP_IO_ENDED) {
		finish_write(lf, bio);
		return;
	}
	bio->bi_iter.bi_sector = io->sector;
	if (op_is_write(bio_op(bio)) && !(io->flags & DM_LOOP_IO_WRITER) &&
	    !dm_loop_start_write(lf, bio)) {
		bio_list_add(&todo->held, bio);
	} else if (lf->mode == DM_LOOP_MODE_FILE) {
		take_file_bio(lf, bio);
	} else if (bio_op(bio) == REQ_OP_DISCARD ||
		   bio_op(bio) == REQ_OP_WRITE_ZEROES) {
		bio_list_add(&todo->punches, bio);
	} else {
		dm_loop_track(lf, io);
		bio_list_add(is_fill(lf, io, bio) ? &todo->fills : &todo->data,
			     bio);
	}
}

static void work_on_data(struct dm_loop_file *lf, struct dm_loop_todo *todo)
{
	struct bio_list *data = &todo->data, *fills = &todo->fills;
	struct bio_list later = BIO_EMPTY_LIST;
	struct bio *bio;

	do {
		while ((bio = bio_list_pop(data)))
			route(lf, bio, fills);
		if (!bio_list_empty(fills))
			fill_round(lf, fills, &later);
		/* A round may have mapped what the others are to fill. */
		bio_list_merge(data, &later);
		bio_list_init(&later);
		bio_list_merge(data, fills);
		bio_list_init(fills);
	} while (!bio_list_empty(data));
}

/*
 * The host is frozen: bios go back to the list that they came from, or to
 * device-mapper when it suspends without a flush.
 */
static void keep_held(struct dm_loop_file *lf, struct bio_list *held,
		      struct bio_list *list)
{
	struct bio_list keep = BIO_EMPTY_LIST;
	struct bio *bio;

	while ((bio = bio_list_pop(held))) {
		if (dm_noflush_suspending(dm_loop_io(bio)->lt->ti)) {
			bio->bi_status = BLK_STS_DM_REQUEUE;
			bio->bi_end_io(bio);
			continue;
		}
		dm_loop_count(lf, DM_LOOP_HELD);
		bio_list_add(&keep, bio);
	}
	spin_lock_irq(&lf->todo_lock);
	bio_list_merge_head(list, &keep);
	spin_unlock_irq(&lf->todo_lock);
}

/* Return: false when there is nothing to do; then the next bio wakes the worker. */
static bool take_todo(struct dm_loop_file *lf, struct bio_list *bios)
{
	bool any;

	spin_lock_irq(&lf->todo_lock);
	*bios = lf->todo;
	bio_list_init(&lf->todo);
	any = !bio_list_empty(bios);
	lf->working = any;
	spin_unlock_irq(&lf->todo_lock);
	return any;
}

/* The host is frozen.  Reads that have come meanwhile do not wait for the thaw. */
static void hold(struct dm_loop_file *lf, struct bio_list *held)
{
	spin_lock_irq(&lf->todo_lock);
	lf->working = !bio_list_empty(&lf->todo);
	if (lf->working)
		queue_work(lf->wq, &lf->worker);
	spin_unlock_irq(&lf->todo_lock);
	keep_held(lf, held, &lf->todo);
	queue_delayed_work(lf->wq, &lf->retry, DM_LOOP_THAW_POLL);
}

/* Return: false when it is not to go on at once. */
static bool work_round(struct dm_loop_file *lf, struct bio_list *bios)
{
	struct dm_loop_todo todo = { };
	struct bio *bio;

	mutex_lock(&lf->worker_lock);
	while ((bio = bio_list_pop(bios)))
		take_bio(lf, bio, &todo);
	work_on_data(lf, &todo);
	/* Nothing is under way that waits for us: the range can be drained. */
	while ((bio = bio_list_pop(&todo.punches)))
		punch_bio(lf, bio);
	mutex_unlock(&lf->worker_lock);
	if (bio_list_empty(&todo.held))
		return true;
	hold(lf, &todo.held);
	return false;
}

static void dm_loop_work(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(work, struct dm_loop_file,
					       worker);
	unsigned int flags = enter_fs();
	bool lingers = may_linger(lf, lf->worker_left);
	struct bio_list bios;

	while (take_todo(lf, &bios) && work_round(lf, &bios)) {
		cond_resched();
		if (lingers)
			linger(&lf->todo);
	}
	lf->worker_left = local_clock();
	leave_fs(flags);
}

static void dm_loop_retry(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(to_delayed_work(work),
					       struct dm_loop_file, retry);

	queue_work(lf->wq, &lf->worker);
}

static void dm_loop_event(struct work_struct *work)
{
	unsigned int flags = enter_fs();

	dm_loop_file_event(container_of(work, struct dm_loop_file, event));
	leave_fs(flags);
}

static void dm_loop_touch(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(to_delayed_work(work),
					       struct dm_loop_file, touch);
	unsigned int flags = enter_fs();

	dm_loop_file_touch(lf);
	leave_fs(flags);
}

/* --- flushes ------------------------------------------------------------ */

/* Take the next piece that has dirty pages; *@pos is where it begins, in bytes. */
static bool take_dirty(struct dm_loop_writeback *wb, loff_t *pos)
{
	unsigned long next = READ_ONCE(wb->next), index;

	do {
		index = next;
		if (!xa_find(&wb->mapping->i_pages, &index, ULONG_MAX,
			     PAGECACHE_TAG_DIRTY))
			return false;
		/* It may be the head of a folio that was taken in part. */
		index = max(index, next);
	} while (!try_cmpxchg(&wb->next, &next, index + WRITEBACK_PAGES));
	*pos = (loff_t)index << PAGE_SHIFT;
	return true;
}

/*
 * Where ext4 finds no place for a page that it has promised one, the page is
 * dropped, and only we are told (mpage_map_and_submit_extent()).
 */
static void write_dirty(struct dm_loop_writeback *wb)
{
	loff_t pos;
	int r;

	while (take_dirty(wb, &pos)) {
		r = filemap_fdatawrite_range(wb->mapping, pos,
					     pos + WRITEBACK_BYTES - 1);
		if (r)
			cmpxchg(&wb->error, 0, r);
	}
}

static void dm_loop_help(struct work_struct *work)
{
	struct dm_loop_helper *helper = container_of(work,
						     struct dm_loop_helper,
						     work);
	unsigned int flags = enter_fs();

	write_dirty(helper->wb);
	leave_fs(flags);
}

/* Not over a network, where each piece may be a commit of its own. */
static bool has_many_dirty(const struct dm_loop_file *lf, s64 writes)
{
	return lf->mode == DM_LOOP_MODE_FILE && writes >= WRITEBACK_MANY &&
	       (lf->inode->i_sb->s_type->fs_flags & FS_REQUIRES_DEV) &&
	       mapping_tagged(lf->file->f_mapping, PAGECACHE_TAG_DIRTY);
}

/*
 * fsync writes one page after the other, on one processor.  Where there is a
 * lot to write it is done in pieces before that, by as many as can help.  Who
 * has not begun when all pieces are taken need not, so that there is no wait
 * for memory to make workers of.
 */
static int write_side_by_side(struct dm_loop_file *lf)
{
	struct dm_loop_writeback wb = { .mapping = lf->file->f_mapping };
	struct dm_loop_helper helpers[WRITEBACK_HELPERS];
	unsigned int n = min(num_online_cpus() - 1, WRITEBACK_HELPERS), i;

	if (!n)
		return 0;
	for (i = 0; i < n; i++) {
		helpers[i].wb = &wb;
		INIT_WORK_ONSTACK(&helpers[i].work, dm_loop_help);
		queue_work(lf->wq, &helpers[i].work);
	}
	write_dirty(&wb);
	for (i = 0; i < n; i++) {
		cancel_work_sync(&helpers[i].work);
		destroy_work_on_stack(&helpers[i].work);
	}
	return wb.error;
}

/*
 * The filesystem tells an error once, but one bio is not enough: of a write with
 * PREFLUSH device-mapper makes a flush and a write, and drops the error of the
 * flush (__dm_io_complete()).  So commits of a journal would go on.  Nothing
 * shows which flushes are such halves; the other halves fail as well if all do
 * that come for a while, to any file of the device.  Returns what to tell those
 * for whom a commit ended with @r.
 */
static int tell_lost(struct dm_loop_file *lf, int r)
{
	unsigned long lost = READ_ONCE(lf->lost);

	if (!lost)
		return r;
	/* Neither 0 nor untold; and more may be lost just now, which stays. */
	if (lost == DM_LOOP_LOST_UNTOLD)
		cmpxchg(&lf->lost, lost, jiffies | 2);
	else if (!dm_loop_is_lost(lf) &&
		 cmpxchg(&lf->lost, lost, 0) == lost)
		return r;
	return r ?: -EIO;
}

/**
 * dm_loop_sync() - commit what the filesystem has done for us
 * @lf: the backing file
 *
 * Context: Sleeps; under memalloc_noio_save(); takes lf->sync_lock.
 * Return: 0 or a negative errno.
 */
int dm_loop_sync(struct dm_loop_file *lf)
{
	s64 dirtied;
	int r = 0, err;

	mutex_lock(&lf->sync_lock);
	dirtied = atomic64_read(&lf->dirtied);
	if (dirtied == atomic64_read(&lf->synced))
		goto out;
	/* Pairs with need_fsync(). */
	smp_mb();
	dm_loop_count(lf, DM_LOOP_FSYNCS);
	if (lf->mode == DM_LOOP_MODE_MAPPED && lf->fs && lf->fs->commit)
		r = lf->fs->commit(lf);
	if (has_many_dirty(lf, dirtied - atomic64_read(&lf->synced)))
		r = write_side_by_side(lf);
	/* Also after an error, so that it is told but once. */
	err = dm_loop_file_commit(lf, 1);
	r = r ?: err;
	/* Only now may a flush that comes meanwhile pass us by. */
	if (!r) {
		atomic64_set(&lf->synced, dirtied);
		direct_again(lf);
	} else if (dm_loop_lost_data(r)) {
		dm_loop_file_lost(lf);
	}
	say_error(lf, r);
	trace_dm_loop_commit(lf, 0, i_size_read(lf->inode) >> SECTOR_SHIFT, r);
out:
	mutex_unlock(&lf->sync_lock);
	return r;
}

/**
 * dm_loop_fill_stop() - commit, and forget what could not be
 * @lf: the backing file, with no bio under way
 *
 * Context: Sleeps; called with lf->lock, under memalloc_noio_save(); takes
 *	lf->sync_lock.
 */
void dm_loop_fill_stop(struct dm_loop_file *lf)
{
	int r;

	cancel_delayed_work_sync(&lf->locator);
	lf->filled_end = 0;
	cancel_delayed_work_sync(&lf->flusher);
	r = dm_loop_sync(lf);
	if (r)
		pr_err("inode %llu: cannot commit what was not flushed (%d)\n",
		       (u64)lf->inode->i_ino, r);
	free_pending(&lf->pending);
	atomic64_set(&lf->synced, atomic64_read(&lf->dirtied));
}

static void end_flush(struct dm_loop_file *lf, struct bio *bio, int r)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	if (io->flags & DM_LOOP_IO_SYNCED) {
		set_error(bio, r);
		bio->bi_end_io(bio);
	} else if (r || !lf->bdev) {
		end_bio(bio, r);
	} else {
		bio_set_dev(bio, lf->bdev);
		/* Where the write goes that it belongs to, which says nothing here. */
		bio->bi_iter.bi_sector = 0;
		submit_bio_noacct(bio);
	}
}

/* A bio that came while flushes failed fails too, even if it ends later than that. */
static int error_of(struct bio *bio)
{
	return dm_loop_io(bio)->flags & DM_LOOP_IO_LOST ? -EIO : 0;
}

static void take_flushes(struct dm_loop_file *lf, struct bio_list *bios)
{
	spin_lock_irq(&lf->todo_lock);
	bio_list_merge(bios, &lf->flushes);
	bio_list_init(&lf->flushes);
	spin_unlock_irq(&lf->todo_lock);
}

static void dm_loop_flush(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(to_delayed_work(work),
					       struct dm_loop_file, flusher);
	struct super_block *sb = lf->inode->i_sb;
	struct bio_list bios;
	unsigned int flags;
	struct bio *bio;
	int r;

	bio_list_init(&bios);
	take_flushes(lf, &bios);
	/* A commit needs a transaction, which a frozen filesystem has not. */
	if (!sb_start_write_trylock(sb)) {
		keep_held(lf, &bios, &lf->flushes);
		queue_delayed_work(lf->wq, &lf->flusher, DM_LOOP_THAW_POLL);
		return;
	}
	flags = enter_fs();
	r = dm_loop_sync(lf);
	if (!bio_list_empty(&bios))
		r = tell_lost(lf, r);
	while ((bio = bio_list_pop(&bios)))
		end_flush(lf, bio, r ?: error_of(bio));
	leave_fs(flags);
	sb_end_write(sb);
}

/* --- beginning and end -------------------------------------------------- */

/**
 * dm_loop_worker_init() - make the worker of a backing file
 * @lf: the backing file
 *
 * Context: Sleeps.
 * Return: 0 or -ENOMEM.
 */
int dm_loop_worker_init(struct dm_loop_file *lf)
{
	if (bioset_init(&lf->first_runs, 1, offsetof(struct dm_loop_run, bio),
			BIOSET_NEED_BVECS))
		return -ENOMEM;
	lf->wq = alloc_workqueue("dm-loop", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!lf->wq)
		goto exit_runs;
	lf->writer_thread = kthread_run_worker(0, "dm-loop-writer");
	if (IS_ERR(lf->writer_thread))
		goto destroy_wq;
	INIT_WORK(&lf->worker, dm_loop_work);
	kthread_init_work(&lf->writer, dm_loop_write);
	INIT_DELAYED_WORK(&lf->retry, dm_loop_retry);
	INIT_DELAYED_WORK(&lf->touch, dm_loop_touch);
	INIT_DELAYED_WORK(&lf->flusher, dm_loop_flush);
	INIT_DELAYED_WORK(&lf->locator, dm_loop_locator);
	INIT_WORK(&lf->event, dm_loop_event);
	mutex_init(&lf->worker_lock);
	mutex_init(&lf->sync_lock);
	mutex_init(&lf->hints_lock);
	spin_lock_init(&lf->todo_lock);
	bio_list_init(&lf->todo);
	bio_list_init(&lf->writes);
	bio_list_init(&lf->flushes);
	INIT_LIST_HEAD(&lf->pending);
	return 0;

destroy_wq:
	destroy_workqueue(lf->wq);
exit_runs:
	bioset_exit(&lf->first_runs);
	return -ENOMEM;
}

/**
 * dm_loop_worker_exit() - the last of the worker
 * @lf: the backing file, with no bio left
 *
 * Context: Sleeps.
 */
void dm_loop_worker_exit(struct dm_loop_file *lf)
{
	/* It may have ended its last bio, and not yet queued retry. */
	flush_work(&lf->worker);
	cancel_delayed_work_sync(&lf->retry);
	cancel_delayed_work_sync(&lf->locator);
	cancel_delayed_work_sync(&lf->touch);
	cancel_delayed_work_sync(&lf->flusher);
	cancel_work_sync(&lf->event);
	kthread_destroy_worker(lf->writer_thread);
	destroy_workqueue(lf->wq);
	bioset_exit(&lf->first_runs);
}

/**
 * dm_loop_fill_init() - what all files share
 *
 * Context: Sleeps; when the module is loaded.
 * Return: 0 or -ENOMEM.
 */
int dm_loop_fill_init(void)
{
	int r;

	r = bioset_init(&dm_loop_pieces, 0, 0, 0);
	if (r)
		return r;
	r = bioset_init(&dm_loop_more_runs, 0,
			offsetof(struct dm_loop_run, bio),
			BIOSET_NEED_BVECS | BIOSET_PERCPU_CACHE);
	if (r)
		bioset_exit(&dm_loop_pieces);
	return r;
}

/**
 * dm_loop_fill_exit() - undo dm_loop_fill_init()
 *
 * Context: Sleeps; when there is no file any more.
 */
void dm_loop_fill_exit(void)
{
	bioset_exit(&dm_loop_more_runs);
	bioset_exit(&dm_loop_pieces);
}
