// SPDX-License-Identifier: GPL-2.0-only
/*
 * The worker: everything that map() must not do because it may sleep.  One
 * for each backing file, so that a file on a filesystem on another dm-loop
 * never waits behind its own backing file.
 */
#include <linux/sched/mm.h>

#include "dm-loop.h"

/* How often to look whether the host filesystem has thawed. */
#define THAW_POLL (HZ / 20)

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
	spin_unlock_irqrestore(&lf->todo_lock, flags);
	queue_work(lf->wq, &lf->worker);
}

/*
 * The second half of a write while the file was cached.  bio_endio() has done
 * its part for this bio (accounting, cgroup); what is left is device-mapper's
 * own bi_end_io.
 */
static void finish_write(struct dm_loop_file *lf, struct bio *bio)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	dm_loop_file_invalidate(lf, io->sector, io->sectors);
	bio->bi_end_io(bio);
}

/* Return: false when the host is frozen and the bio has to wait. */
static bool start_write(struct dm_loop_file *lf, struct bio *bio)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	if (!dm_loop_start_write(lf, bio)) {
		dm_loop_count(lf, DM_LOOP_HELD);
		return false;
	}
	if (dm_loop_file_cached(lf, io->sector, io->sectors))
		dm_loop_file_invalidate(lf, io->sector, io->sectors);
	dm_loop_submit(lf, bio);
	return true;
}

static bool work_on(struct dm_loop_file *lf, struct bio *bio)
{
	if (dm_loop_io(bio)->flags & DM_LOOP_IO_WRITTEN) {
		finish_write(lf, bio);
		return true;
	}
	return start_write(lf, bio);
}

static void put_back(struct dm_loop_file *lf, struct bio_list *held)
{
	if (bio_list_empty(held))
		return;
	spin_lock_irq(&lf->todo_lock);
	bio_list_merge_head(&lf->todo, held);
	spin_unlock_irq(&lf->todo_lock);
	queue_delayed_work(lf->wq, &lf->retry, THAW_POLL);
}

static void dm_loop_work(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(work, struct dm_loop_file,
					       worker);
	struct bio_list todo, held = BIO_EMPTY_LIST;
	unsigned int noio = memalloc_noio_save();
	struct bio *bio;

	spin_lock_irq(&lf->todo_lock);
	todo = lf->todo;
	bio_list_init(&lf->todo);
	spin_unlock_irq(&lf->todo_lock);

	while ((bio = bio_list_pop(&todo)))
		if (!work_on(lf, bio))
			bio_list_add(&held, bio);
	put_back(lf, &held);
	memalloc_noio_restore(noio);
}

static void dm_loop_retry(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(to_delayed_work(work),
					       struct dm_loop_file, retry);

	queue_work(lf->wq, &lf->worker);
}

static void dm_loop_touch(struct work_struct *work)
{
	struct dm_loop_file *lf = container_of(to_delayed_work(work),
					       struct dm_loop_file, touch);
	unsigned int noio = memalloc_noio_save();

	dm_loop_file_touch(lf);
	memalloc_noio_restore(noio);
}

/**
 * dm_loop_worker_init() - make the worker of a backing file
 * @lf: the backing file
 *
 * Context: Sleeps.
 * Return: 0 or -ENOMEM.
 */
int dm_loop_worker_init(struct dm_loop_file *lf)
{
	lf->wq = alloc_workqueue("dm-loop", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!lf->wq)
		return -ENOMEM;
	INIT_WORK(&lf->worker, dm_loop_work);
	INIT_DELAYED_WORK(&lf->retry, dm_loop_retry);
	INIT_DELAYED_WORK(&lf->touch, dm_loop_touch);
	spin_lock_init(&lf->todo_lock);
	bio_list_init(&lf->todo);
	return 0;
}

/**
 * dm_loop_worker_exit() - the last of the worker
 * @lf: the backing file, with no bio left
 *
 * Context: Sleeps.
 */
void dm_loop_worker_exit(struct dm_loop_file *lf)
{
	cancel_delayed_work_sync(&lf->retry);
	cancel_delayed_work_sync(&lf->touch);
	destroy_workqueue(lf->wq);
}
