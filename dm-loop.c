// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device-mapper target "loop": a block device on a regular file.
 *
 *	<start> <len> loop <path> <offset> [<n> <options>]
 *
 * This file is what device-mapper calls.  map() finds the blocks of the bio
 * in the extent table and sends it to the filesystem's device; it never
 * sleeps and never calls the filesystem.  What cannot be done like that goes
 * to the worker in dm-loop-fill.c.
 */
#include <linux/ctype.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "dm-loop.h"

const char *const dm_loop_count_names[] = {
	[DM_LOOP_ZERO_READS] = "zero_reads",
	[DM_LOOP_INVALIDATES] = "invalidates",
	[DM_LOOP_HELD] = "held",
	[DM_LOOP_TIMES] = "times",
};

static int parse_option(struct dm_loop_target *lt, const char *name)
{
	if (!strcasecmp(name, "mapped"))
		lt->mapped = true;
	else
		return -EINVAL;
	return 0;
}

static int parse_options(struct dm_loop_target *lt, struct dm_arg_set *as)
{
	static const struct dm_arg number = {
		0, 16, "Invalid number of options"
	};
	struct dm_target *ti = lt->ti;
	unsigned int n;
	int r;

	if (!as->argc)
		return 0;
	r = dm_read_arg_group(&number, as, &n, &ti->error);
	if (r)
		return r;
	if (n != as->argc) {
		ti->error = "Number of options does not match";
		return -EINVAL;
	}
	while (as->argc) {
		r = parse_option(lt, dm_shift_arg(as));
		if (r) {
			ti->error = "Unknown option";
			return r;
		}
	}
	return 0;
}

static int parse_table(struct dm_loop_target *lt, unsigned int argc, char **argv)
{
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	struct dm_target *ti = lt->ti;
	const char *path;
	u64 offset;

	if (argc < 2) {
		ti->error = "Invalid argument count: need <path> <offset>";
		return -EINVAL;
	}
	path = dm_shift_arg(&as);
	/* A reload must find the same file, whatever folder it runs in. */
	if (*path != '/') {
		ti->error = "Path is not absolute";
		return -EINVAL;
	}
	if (kstrtou64(dm_shift_arg(&as), 10, &offset)) {
		ti->error = "Invalid offset";
		return -EINVAL;
	}
	if (offset % SECTOR_SIZE) {
		ti->error = "Offset is not a multiple of 512 bytes";
		return -EINVAL;
	}
	lt->start = offset >> SECTOR_SHIFT;
	lt->path = kstrdup(path, GFP_KERNEL);
	if (!lt->path) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	return parse_options(lt, &as);
}

static void free_target(struct dm_loop_target *lt)
{
	kfree(lt->path);
	kfree(lt);
}

static int loop_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_loop_target *lt;
	int r;

	lt = kzalloc(sizeof(*lt), GFP_KERNEL);
	if (!lt) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	lt->ti = ti;
	r = parse_table(lt, argc, argv);
	if (!r)
		r = dm_loop_file_attach(lt);
	if (r) {
		if (lt->path)
			pr_err("%s: %s (%d)\n", lt->path, ti->error, r);
		free_target(lt);
		return r;
	}
	lt->dev.bdev = lt->lf->bdev;
	lt->dev.mode = dm_table_get_mode(ti->table);

	ti->num_flush_bios = 1;
	ti->per_io_data_size = sizeof(struct dm_loop_io);
	ti->private = lt;
	return 0;
}

static struct gendisk *target_disk(const struct dm_loop_target *lt)
{
	return dm_disk(dm_table_get_md(lt->ti->table));
}

static void loop_dtr(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;

	if (lt->linked)
		bd_unlink_disk_holder(lt->lf->bdev, target_disk(lt));
	dm_loop_file_deactivate(lt);
	dm_loop_file_detach(lt);
	free_target(lt);
}

/**
 * dm_loop_start_write() - keep the host filesystem from freezing under a write
 * @lf: the backing file
 * @bio: a write that is about to go to the device
 *
 * The other half is in loop_end_io(), in another context, as with aio.
 *
 * Context: Any; does not sleep.
 * Return: false when the filesystem is frozen or about to be.
 */
bool dm_loop_start_write(struct dm_loop_file *lf, struct bio *bio)
{
	struct super_block *sb = lf->inode->i_sb;

	if (!sb_start_write_trylock(sb))
		return false;
	__sb_writers_release(sb, SB_FREEZE_WRITE);
	dm_loop_io(bio)->flags |= DM_LOOP_IO_WRITER;
	return true;
}

static void end_write(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	struct super_block *sb = lf->inode->i_sb;

	if (!(io->flags & DM_LOOP_IO_WRITER))
		return;
	io->flags &= ~DM_LOOP_IO_WRITER;
	__sb_writers_acquired(sb, SB_FREEZE_WRITE);
	sb_end_write(sb);
}

/* Enter the section that keeps the bio's blocks from being given back. */
static void track(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	io->srcu_idx = srcu_down_read(&lf->inflight);
	io->flags |= DM_LOOP_IO_TRACKED;
}

static void untrack(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	if (!(io->flags & DM_LOOP_IO_TRACKED))
		return;
	io->flags &= ~DM_LOOP_IO_TRACKED;
	srcu_up_read(&lf->inflight, io->srcu_idx);
}

static void remap(struct dm_loop_file *lf, struct bio *bio)
{
	bio_set_dev(bio, lf->bdev);
	bio->bi_iter.bi_sector = dm_loop_io(bio)->phys;
}

/**
 * dm_loop_submit() - send a bio that map deferred to the device
 * @lf: the backing file
 * @bio: with its place in dm_loop_io(bio)->phys
 *
 * Context: May sleep.
 */
void dm_loop_submit(struct dm_loop_file *lf, struct bio *bio)
{
	remap(lf, bio);
	submit_bio_noacct(bio);
}

static int map_defer(struct dm_loop_file *lf, struct bio *bio)
{
	/* Whoever waits for the worker may block there, as with loop. */
	bio->bi_opf &= ~REQ_NOWAIT;
	dm_loop_defer(lf, bio);
	return DM_MAPIO_SUBMITTED;
}

static int map_kill(struct dm_loop_file *lf, struct bio *bio)
{
	/* device-mapper does not call end_io for a bio that map refused. */
	untrack(lf, dm_loop_io(bio));
	return DM_MAPIO_KILL;
}

static int map_zeroes(struct dm_loop_file *lf, struct bio *bio)
{
	dm_loop_count(lf, DM_LOOP_ZERO_READS);
	zero_fill_bio(bio);
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

static int map_flush(struct dm_loop_file *lf, struct bio *bio)
{
	dm_loop_file_touch_now(lf);
	bio_set_dev(bio, lf->bdev);
	return DM_MAPIO_REMAPPED;
}

static int map_write(struct dm_loop_file *lf, struct bio *bio)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	/* After an error the filesystem may go read-only under our writes. */
	if (sb_rdonly(lf->inode->i_sb))
		return map_kill(lf, bio);
	dm_loop_file_wrote(lf);
	if (dm_loop_file_cached(lf, io->sector, io->sectors) ||
	    !dm_loop_start_write(lf, bio))
		return map_defer(lf, bio);
	remap(lf, bio);
	return DM_MAPIO_REMAPPED;
}

static int loop_map(struct dm_target *ti, struct bio *bio)
{
	struct dm_loop_target *lt = ti->private;
	struct dm_loop_file *lf = lt->lf;
	struct dm_loop_io *io = dm_loop_io(bio);
	struct dm_loop_range range;
	sector_t left;
	bool found;

	io->flags = 0;
	if (bio->bi_opf & REQ_PREFLUSH)
		return map_flush(lf, bio);

	io->sector = lt->start + dm_target_offset(ti, bio->bi_iter.bi_sector);
	track(lf, io);
	rcu_read_lock();
	found = dm_loop_extents_lookup(&lf->extents, io->sector, &range);
	rcu_read_unlock();
	if (unlikely(!found))
		return map_kill(lf, bio);

	left = range.start + range.len - io->sector;
	if (unlikely(left < bio_sectors(bio)))
		dm_accept_partial_bio(bio, left);
	io->sectors = bio_sectors(bio);
	io->phys = range.phys + (io->sector - range.start);

	if (op_is_write(bio_op(bio))) {
		if (range.state == DM_LOOP_MAPPED)
			return map_write(lf, bio);
		return map_kill(lf, bio);
	}
	if (range.state == DM_LOOP_HOLE || range.state == DM_LOOP_UNWRITTEN)
		return map_zeroes(lf, bio);
	remap(lf, bio);
	return DM_MAPIO_REMAPPED;
}

static int loop_end_io(struct dm_target *ti, struct bio *bio,
		       blk_status_t *error)
{
	struct dm_loop_target *lt = ti->private;
	struct dm_loop_file *lf = lt->lf;
	struct dm_loop_io *io = dm_loop_io(bio);

	/*
	 * A reader of the file may have brought pages in while the write was
	 * under way.  The worker drops them, and comes here a second time.
	 */
	if ((io->flags & DM_LOOP_IO_WRITER) &&
	    !(io->flags & DM_LOOP_IO_WRITTEN) &&
	    dm_loop_file_cached(lf, io->sector, io->sectors)) {
		io->flags |= DM_LOOP_IO_WRITTEN;
		dm_loop_defer(lf, bio);
		return DM_ENDIO_INCOMPLETE;
	}
	end_write(lf, io);
	untrack(lf, io);
	return DM_ENDIO_DONE;
}

static void loop_postsuspend(struct dm_target *ti)
{
	dm_loop_file_deactivate(ti->private);
}

static int loop_preresume(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;
	const char *why;
	int r;

	r = dm_loop_file_activate(lt, &why);
	if (r)
		pr_err("%s: cannot resume: %s (%d)\n", lt->path, why, r);
	return r;
}

static void loop_resume(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;

	/* Not in ctr: the slaves folder is there only after the first load. */
	if (!lt->linked)
		lt->linked = !bd_link_disk_holder(lt->lf->bdev,
						  target_disk(lt));
}

static int loop_iterate_devices(struct dm_target *ti,
				iterate_devices_callout_fn fn, void *data)
{
	struct dm_loop_target *lt = ti->private;

	/*
	 * The extents lie anywhere on the device: name it from its first
	 * sector, whose alignment is good, and never past its end, where a
	 * sparse file that is larger than its filesystem would reach.
	 */
	return fn(ti, &lt->dev, 0,
		  min(ti->len, bdev_nr_sectors(lt->lf->bdev)), data);
}

/*
 * Quotes for dm_split_args(), which cuts at isspace() and takes the byte
 * after a backslash as it is.  The kernel's isspace() knows Latin-1: 0xa0,
 * the second byte of many UTF-8 letters, is one.
 */
static size_t emit_path(const char *path, char *result, size_t sz,
			unsigned int maxlen)
{
	for (; *path; path++) {
		if (isspace((unsigned char)*path) || *path == '\\')
			DMEMIT("\\");
		DMEMIT("%c", *path);
	}
	return sz;
}

static size_t emit_info(struct dm_loop_target *lt, char *result,
			unsigned int maxlen)
{
	struct dm_loop_file *lf = lt->lf;
	struct dm_loop_counts n = { };
	u64 extents = 0;
	size_t sz = 0;
	unsigned int i;

	if (lf->pinned)
		dm_loop_extents_count(&lf->extents, lt->start, lt->ti->len, &n);
	for (i = 0; i < DM_LOOP_NR_STATES; i++)
		extents += n.extents[i];
	DMEMIT("%s %s %s%s %llu %llu %llu %llu %llu %u",
	       lf->pinned ? "mapped" : "released",
	       lf->inode->i_sb->s_type->name,
	       !lf->pinned ? "none" :
	       lf->file->f_mode & FMODE_WRITE ? "write" : "read",
	       lf->swapfile ? "+swap" : "", extents,
	       n.sectors[DM_LOOP_MAPPED], n.sectors[DM_LOOP_HOLE],
	       n.sectors[DM_LOOP_UNWRITTEN],
	       n.sectors[DM_LOOP_SHARED], 2 * DM_LOOP_NR_COUNTS);
	for (i = 0; i < DM_LOOP_NR_COUNTS; i++)
		DMEMIT(" %s %lld", dm_loop_count_names[i],
		       (s64)atomic64_read(&lf->counts[i]));
	return sz;
}

static void loop_status(struct dm_target *ti, status_type_t type,
			unsigned int status_flags, char *result,
			unsigned int maxlen)
{
	struct dm_loop_target *lt = ti->private;
	u64 offset = (u64)lt->start << SECTOR_SHIFT;
	size_t sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		mutex_lock(&lt->lf->lock);
		emit_info(lt, result, maxlen);
		mutex_unlock(&lt->lf->lock);
		break;
	case STATUSTYPE_TABLE:
		sz = emit_path(lt->path, result, sz, maxlen);
		DMEMIT(" %llu", offset);
		if (lt->mapped)
			DMEMIT(" 1 mapped");
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",path=");
		sz = emit_path(lt->path, result, sz, maxlen);
		DMEMIT(",offset=%llu,mapped=%c;", offset,
		       lt->mapped ? 'y' : 'n');
		break;
	}
}

static struct target_type loop_target = {
	.name = "loop",
	.version = { 1, 0, 0 },
	.features = DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = loop_ctr,
	.dtr = loop_dtr,
	.map = loop_map,
	.end_io = loop_end_io,
	.postsuspend = loop_postsuspend,
	.preresume = loop_preresume,
	.resume = loop_resume,
	.status = loop_status,
	.iterate_devices = loop_iterate_devices,
};
module_dm(loop);

MODULE_DESCRIPTION("device-mapper target: a block device on a regular file");
MODULE_AUTHOR("The dm-loop developers");
MODULE_LICENSE("GPL");
