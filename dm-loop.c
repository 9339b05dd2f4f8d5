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
#include <linux/log2.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "dm-loop.h"

#define CREATE_TRACE_POINTS
#include "dm-loop-trace.h"
#include "compat/limits.h"

/* What the option chunk may be, in bytes. */
#define CHUNK_MIN SZ_64K
#define CHUNK_MAX SZ_64M

static const char *const count_names[] = {
	[DM_LOOP_ZERO_READS] = "zero_reads",
	[DM_LOOP_FILLS] = "fills",
	[DM_LOOP_PROMOTES] = "promotes",
	[DM_LOOP_PUNCHES] = "punches",
	[DM_LOOP_COMMITS] = "commits",
	[DM_LOOP_FSYNCS] = "fsyncs",
	[DM_LOOP_FILE_IOS] = "file_ios",
	[DM_LOOP_NOSPC] = "nospc",
	[DM_LOOP_INVALIDATES] = "invalidates",
	[DM_LOOP_HELD] = "held",
	[DM_LOOP_TIMES] = "times",
};

static int parse_chunk(struct dm_loop_target *lt, struct dm_arg_set *as)
{
	u64 bytes;

	if (!as->argc || kstrtou64(dm_shift_arg(as), 10, &bytes))
		return -EINVAL;
	if (!is_power_of_2(bytes) || bytes < CHUNK_MIN || bytes > CHUNK_MAX)
		return -EINVAL;
	lt->chunk = bytes >> SECTOR_SHIFT;
	return 0;
}

static int parse_option(struct dm_loop_target *lt, struct dm_arg_set *as)
{
	const char *name = dm_shift_arg(as);

	if (!strcasecmp(name, "mapped"))
		lt->mapped = true;
	else if (!strcasecmp(name, "no_discard"))
		lt->no_discard = true;
	else if (!strcasecmp(name, "unshare"))
		lt->unshare = true;
	else if (!strcasecmp(name, "chunk"))
		return parse_chunk(lt, as);
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
		r = parse_option(lt, as);
		if (r) {
			ti->error = "Unknown option or invalid value";
			return r;
		}
	}
	return 0;
}

/* No path has the byte 0. */
static bool is_octal(const char *s)
{
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' &&
	       s[2] >= '0' && s[2] <= '7' && strncmp(s, "000", 3);
}

/*
 * dm_split_args() cuts at blanks, and libdevmapper doubles every backslash
 * that would quote one.  So a path comes, and is shown, with the octal code
 * of such bytes, as in /proc/mounts; any other backslash is part of a name.
 */
static char *decode_path(const char *word)
{
	char *path = kmalloc(strlen(word) + 1, GFP_KERNEL);
	char *out = path;

	if (!path)
		return NULL;
	while (*word) {
		if (*word == '\\' && is_octal(word + 1)) {
			*out++ = (word[1] - '0') << 6 | (word[2] - '0') << 3 |
				 (word[3] - '0');
			word += 4;
		} else {
			*out++ = *word++;
		}
	}
	*out = '\0';
	return path;
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
	lt->path = decode_path(path);
	if (!lt->path) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	return parse_options(lt, &as);
}

static struct gendisk *target_disk(const struct dm_loop_target *lt)
{
	return dm_disk(dm_table_get_md(lt->ti->table));
}

static void link_target(struct work_struct *work)
{
	struct dm_loop_target *lt = container_of(work, struct dm_loop_target,
						 link);

	if (!lt->linked)
		lt->linked = !bd_link_disk_holder(lt->lf->bdev,
						  target_disk(lt));
}

static void free_target(struct dm_loop_target *lt)
{
	dm_loop_gave(DM_LOOP_OWN_TARGET);
	kfree(lt->path);
	kfree(lt);
}

static int loop_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dm_loop_target *lt;
	int r;

	lt = kzalloc_obj(*lt, GFP_KERNEL);
	if (!lt) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	dm_loop_took(DM_LOOP_OWN_TARGET);
	lt->ti = ti;
	INIT_WORK(&lt->link, link_target);
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

	ti->num_flush_bios = 1;
	/*
	 * What a fill leaves in the journal is lost by a power cut unless the
	 * flushes reach us, also when the device below needs none.
	 */
	ti->flush_supported = dm_loop_writable(lt) && !lt->mapped;
	if (lt->can_discard) {
		ti->num_discard_bios = 1;
		ti->discards_supported = true;
		/* Without, the block layer writes them: see file_punch(). */
		ti->num_write_zeroes_bios = lt->can_zero;
	}
	ti->per_io_data_size = sizeof(struct dm_loop_io);
	ti->private = lt;
	return 0;
}

static void loop_dtr(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;

	cancel_work_sync(&lt->link);
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
	dm_loop_took(DM_LOOP_OWN_WRITER);
	return true;
}

static void end_write(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	struct super_block *sb = lf->inode->i_sb;

	if (!(io->flags & DM_LOOP_IO_WRITER))
		return;
	io->flags &= ~DM_LOOP_IO_WRITER;
	dm_loop_gave(DM_LOOP_OWN_WRITER);
	__sb_writers_acquired(sb, SB_FREEZE_WRITE);
	sb_end_write(sb);
}

static void untrack(struct dm_loop_file *lf, struct dm_loop_io *io)
{
	if (!(io->flags & DM_LOOP_IO_TRACKED))
		return;
	io->flags &= ~DM_LOOP_IO_TRACKED;
	srcu_up_read(&lf->inflight, io->srcu_idx);
}

static int map_remap(struct dm_loop_file *lf, struct bio *bio, sector_t phys)
{
	/* A punch waits for it, perhaps in the stopped process that is to poll. */
	bio->bi_opf &= ~REQ_POLLED;
	bio_set_dev(bio, lf->bdev);
	bio->bi_iter.bi_sector = phys;
	return DM_MAPIO_REMAPPED;
}

static void leave_map(struct dm_loop_file *lf, struct bio *bio)
{
	/* A bio that waits for the worker must not be waited for by it. */
	untrack(lf, dm_loop_io(bio));
	/* Whoever waits for the worker may block there, as with loop. */
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
	/* Whose it is: the clone does not say, and the worker cannot tell. */
	bio_associate_blkg(bio);
}

static int map_defer(struct dm_loop_file *lf, struct bio *bio)
{
	leave_map(lf, bio);
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
	if (dm_loop_needs_sync(lf)) {
		dm_loop_defer_sync(lf, bio);
		return DM_MAPIO_SUBMITTED;
	}
	if (!lf->bdev) {
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
	return map_remap(lf, bio, 0);
}

static int map_write(struct dm_loop_file *lf, struct bio *bio, sector_t phys,
		     enum dm_loop_state state)
{
	struct dm_loop_io *io = dm_loop_io(bio);

	io->flags |= DM_LOOP_IO_DROP;
	dm_loop_file_wrote(lf);
	if (state == DM_LOOP_MAPPED &&
	    !dm_loop_file_cached(lf, io->sector, io->sectors) &&
	    dm_loop_start_write(lf, bio))
		return map_remap(lf, bio, phys);
	if (dm_loop_has_no_data(state))
		io->flags |= DM_LOOP_IO_FILL;
	return map_defer(lf, bio);
}

/* Where it goes is seen when the blocks there have been given back. */
static int map_busy(struct dm_loop_file *lf, struct bio *bio)
{
	if (op_is_write(bio_op(bio))) {
		dm_loop_io(bio)->flags |= DM_LOOP_IO_DROP;
		dm_loop_file_wrote(lf);
	}
	return map_defer(lf, bio);
}

/*
 * After an error the filesystem may go read-only under our writes.  Of a device
 * that is read-only the block layer lets them pass (bio_check_ro()).
 */
static int map_rdonly(struct dm_loop_target *lt)
{
	if (dm_loop_writable(lt))
		dm_loop_file_failed(lt->lf);
	return DM_MAPIO_KILL;
}

/*
 * Whose page cache it would be if the file was read or written here.  Not that
 * of its blkcg, as loop has it: that may be an ancestor's, where no limits of
 * I/O are in use.
 */
static void take_memcg(struct dm_loop_io *io)
{
	io->memcg = get_mem_cgroup_from_mm(NULL);
	if (io->memcg)
		dm_loop_took(DM_LOOP_OWN_MEMCG);
}

static void give_memcg(struct dm_loop_io *io)
{
	if (!io->memcg)
		return;
	mem_cgroup_put(io->memcg);
	dm_loop_gave(DM_LOOP_OWN_MEMCG);
}

/* No table: file mode, or a bug. */
static int map_file(struct dm_loop_file *lf, struct bio *bio)
{
	if (lf->mode != DM_LOOP_MODE_FILE)
		return map_kill(lf, bio);
	leave_map(lf, bio);
	take_memcg(dm_loop_io(bio));
	dm_loop_defer_file(lf, bio);
	return DM_MAPIO_SUBMITTED;
}

/*
 * Is the worker giving back blocks in this range?  To be asked in the section of
 * @io, before the table is: the worker waits for the sections that began before
 * it announced the range, and who no longer sees the range sees the new table.
 */
static bool is_busy(const struct dm_loop_file *lf, const struct dm_loop_io *io)
{
	/* Pairs with unblock_range() and block_range(). */
	sector_t end = smp_load_acquire(&lf->busy_end);
	sector_t start;

	if (likely(!end))
		return false;
	/* Pairs with block_range(). */
	start = smp_load_acquire(&lf->busy_start);
	return io->sector < end && io->sector + io->sectors > start;
}

static int loop_map(struct dm_target *ti, struct bio *bio)
{
	struct dm_loop_target *lt = ti->private;
	struct dm_loop_file *lf = lt->lf;
	struct dm_loop_io *io = dm_loop_io(bio);
	bool write = op_is_write(bio_op(bio));
	struct dm_loop_range range;
	sector_t left;
	bool found;

	io->lt = lt;
	io->memcg = NULL;
	io->flags = 0;
	/* A flush may have the flags of the write that it belongs to. */
	if ((bio->bi_opf & (REQ_FUA | REQ_PREFLUSH)) == REQ_FUA)
		io->flags |= DM_LOOP_IO_FUA;
	if (unlikely(READ_ONCE(lf->lost)) && dm_loop_is_lost(lf))
		io->flags |= DM_LOOP_IO_LOST;
	if (bio->bi_opf & REQ_PREFLUSH)
		return map_flush(lf, bio);
	if (write && unlikely(!dm_loop_writable(lt) ||
			      sb_rdonly(lf->inode->i_sb) ||
			      test_bit(DM_LOOP_NO_WRITES, &lf->failed)))
		return map_rdonly(lt);

	io->sector = lt->start + dm_target_offset(ti, bio->bi_iter.bi_sector);
	io->sectors = bio_sectors(bio);
	dm_loop_track(lf, io);
	if (is_busy(lf, io))
		return map_busy(lf, bio);
	rcu_read_lock();
	found = dm_loop_extents_lookup(&lf->extents, io->sector, &range);
	rcu_read_unlock();
	if (unlikely(!found))
		return map_file(lf, bio);
	if (bio_op(bio) == REQ_OP_DISCARD ||
	    bio_op(bio) == REQ_OP_WRITE_ZEROES) {
		dm_loop_file_wrote(lf);
		return map_defer(lf, bio);
	}

	left = range.start + range.len - io->sector;
	if (unlikely(left < io->sectors)) {
		dm_accept_partial_bio(bio, left);
		io->sectors = left;
	}
	if (write)
		return map_write(lf, bio, range.phys + (io->sector - range.start),
				 range.state);
	if (dm_loop_has_no_data(range.state))
		return map_zeroes(lf, bio);
	if (range.state == DM_LOOP_FILLED)
		return map_defer(lf, bio);
	return map_remap(lf, bio, range.phys + (io->sector - range.start));
}

static int loop_end_io(struct dm_target *ti, struct bio *bio,
		       blk_status_t *error)
{
	struct dm_loop_target *lt = ti->private;
	struct dm_loop_file *lf = lt->lf;
	struct dm_loop_io *io = dm_loop_io(bio);

	/* On the device, or never to come there: its blocks may go. */
	untrack(lf, io);
	/*
	 * A reader of the file may have brought pages in while the write was
	 * under way.  The worker drops them, and comes here a second time.
	 */
	if ((io->flags & DM_LOOP_IO_DROP) && !(io->flags & DM_LOOP_IO_ENDED) &&
	    dm_loop_file_cached(lf, io->sector, io->sectors)) {
		io->flags |= DM_LOOP_IO_ENDED;
		dm_loop_defer(lf, bio);
		return DM_ENDIO_INCOMPLETE;
	}
	if ((io->flags & DM_LOOP_IO_FUA) && !(io->flags & DM_LOOP_IO_SYNCED) &&
	    !*error && (dm_loop_needs_sync(lf) ||
			(io->flags & DM_LOOP_IO_LOST))) {
		io->flags |= DM_LOOP_IO_SYNCED;
		/* The commit itself holds off a freeze, which waits for us. */
		end_write(lf, io);
		dm_loop_defer_sync(lf, bio);
		return DM_ENDIO_INCOMPLETE;
	}
	/*
	 * What was written before a flush that fails may be lost, see tell_lost().
	 * Not if device-mapper sends it again; and one that fails only because
	 * others have, before it came, is no other loss.
	 */
	if (unlikely(*error) && *error != BLK_STS_DM_REQUEUE &&
	    (bio->bi_opf & REQ_PREFLUSH) &&
	    !(io->flags & DM_LOOP_IO_LOST) && !dm_loop_is_lost(lf))
		dm_loop_file_lost(lf);
	end_write(lf, io);
	give_memcg(io);
	return DM_ENDIO_DONE;
}

/*
 * A suspended device may hold the other half of a write whose flush has failed:
 * remember it for the resume, see tell_lost().
 */
static void loop_presuspend(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;

	lt->lost = dm_loop_is_lost(lt->lf);
}

static void loop_postsuspend(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;

	/* Draining may have begun a loss whose time is over when it is resumed. */
	lt->lost |= dm_loop_is_lost(lt->lf);
	dm_loop_file_deactivate(lt);
	dm_loop_file_release_idle(ti);
}

static int loop_preresume(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;
	const char *why;
	int r;

	r = dm_loop_file_activate(lt, &why);
	if (r) {
		pr_err("%s: cannot resume: %s (%d)\n", lt->path, why, r);
		dm_loop_file_undo_resume(ti);
		dm_table_event(ti->table);
	}
	return r;
}

/*
 * The link is not made in ctr, as the slaves folder is there only after the first
 * load.  Nor here, where I/O to the device still waits: who holds the lock that the
 * link takes may wait for such I/O (sync_bdevs() of 6.1), or memory may.
 */
static void loop_resume(struct dm_target *ti)
{
	struct dm_loop_target *lt = ti->private;

	lt->used = true;
	if (!lt->by_file)
		schedule_work(&lt->link);
}

/*
 * Of a device in use dm asks for reservations (dm_call_pr()) and an identity
 * (dm_blk_get_unique_id()).  Those of the disk are the host's, whose data lies
 * there too; ours is one that has neither.
 */
static const struct block_device_operations nobody_ops;
static struct gendisk nobody_disk = { .fops = &nobody_ops };
static struct block_device nobody_bdev = { .bd_disk = &nobody_disk };
static struct dm_dev nobody = { .bdev = &nobody_bdev };

static int loop_iterate_devices(struct dm_target *ti,
				iterate_devices_callout_fn fn, void *data)
{
	struct dm_loop_target *lt = ti->private;

	if (lt->used)
		return fn(ti, &nobody, 0, ti->len, data);
	/* File mode has no device: limits are the page cache's. */
	if (lt->by_file)
		return 0;
	/*
	 * The extents lie anywhere on the device: name it from its first
	 * sector, whose alignment is good, and never past its end, where a
	 * sparse file that is larger than its filesystem would reach.
	 */
	return fn(ti, &lt->dev, 0,
		  min(ti->len, bdev_nr_sectors(lt->lf->bdev)), data);
}

static void loop_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct dm_loop_target *lt = ti->private;
	unsigned int blocksize = i_blocksize(lt->lf->inode);

	if (lt->by_file)
		dm_loop_file_limits(limits, blocksize, lt->lf->bdev);
	if (ti->num_discard_bios)
		dm_loop_discard_limits(limits, blocksize);
}

/*
 * What decode_path() reads.  The kernel's isspace() knows Latin-1: 0xa0, the
 * second byte of many UTF-8 letters, is one.  At a # dmsetup begins a comment.
 */
static size_t emit_path(const char *path, char *result, size_t sz,
			unsigned int maxlen)
{
	for (; *path; path++) {
		unsigned char c = *path;

		if (isspace(c) || iscntrl(c) || c == '\\' || c == '#')
			DMEMIT("\\%03o", c);
		else
			DMEMIT("%c", c);
	}
	return sz;
}

static size_t emit_options(struct dm_loop_target *lt, char *result, size_t sz,
			   unsigned int maxlen)
{
	unsigned int n = lt->mapped + lt->no_discard + lt->unshare +
			 (lt->chunk ? 2 : 0);

	if (n)
		DMEMIT(" %u", n);
	if (lt->mapped)
		DMEMIT(" mapped");
	if (lt->no_discard)
		DMEMIT(" no_discard");
	if (lt->unshare)
		DMEMIT(" unshare");
	if (lt->chunk)
		DMEMIT(" chunk %llu", (u64)lt->chunk << SECTOR_SHIFT);
	return sz;
}

static size_t emit_info(struct dm_loop_target *lt, char *result,
			unsigned int maxlen)
{
	static const char *const modes[] = { "released", "mapped", "file" };
	struct dm_loop_file *lf = lt->lf;
	struct dm_loop_counts n = { };
	struct kstat stat;
	u64 extents = 0;
	size_t sz = 0;
	unsigned int i;

	if (lf->mode == DM_LOOP_MODE_MAPPED)
		dm_loop_extents_count(&lf->extents, lt->start, lt->ti->len, &n);
	for (i = 0; i < DM_LOOP_NR_STATES; i++)
		extents += n.extents[i];
	DMEMIT("%s %s %s%s %llu %llu %llu %llu %llu %u",
	       modes[lf->mode],
	       lf->inode->i_sb->s_type->name,
	       lf->mode == DM_LOOP_MODE_RELEASED ? "none" :
	       lf->file->f_mode & FMODE_WRITE ? "write" : "read",
	       lf->swapfile ? "+swap" : "", extents,
	       n.sectors[DM_LOOP_MAPPED] + n.sectors[DM_LOOP_FILLED],
	       n.sectors[DM_LOOP_HOLE],
	       n.sectors[DM_LOOP_UNWRITTEN],
	       n.sectors[DM_LOOP_SHARED], 2 * (DM_LOOP_NR_COUNTS + 4));
	for (i = 0; i < DM_LOOP_NR_COUNTS; i++)
		DMEMIT(" %s %lld", count_names[i],
		       (s64)atomic64_read(&lf->counts[i]));
	DMEMIT(" dio %d", lf->mode == DM_LOOP_MODE_MAPPED ||
	       (lf->mode == DM_LOOP_MODE_FILE && lf->dio_align));
	dm_loop_file_stat(lf, &stat);
	DMEMIT(" major %u minor %u ino %llu", MAJOR(stat.dev), MINOR(stat.dev),
	       stat.ino);
	return sz;
}

static void loop_status(struct dm_target *ti, status_type_t type,
			unsigned int status_flags, char *result,
			unsigned int maxlen)
{
	struct dm_loop_target *lt = ti->private;
	u64 offset = (u64)lt->start << SECTOR_SHIFT;
	unsigned int noio;
	size_t sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		noio = memalloc_noio_save();
		mutex_lock(&lt->lf->lock);
		emit_info(lt, result, maxlen);
		mutex_unlock(&lt->lf->lock);
		memalloc_noio_restore(noio);
		break;
	case STATUSTYPE_TABLE:
		sz = emit_path(lt->path, result, sz, maxlen);
		DMEMIT(" %llu", offset);
		sz = emit_options(lt, result, sz, maxlen);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",path=");
		sz = emit_path(lt->path, result, sz, maxlen);
		DMEMIT(",offset=%llu,options=", offset);
		sz = emit_options(lt, result, sz, maxlen);
		DMEMIT(";");
		break;
	}
}

static int loop_message(struct dm_target *ti, unsigned int argc, char **argv,
			char *result, unsigned int maxlen)
{
	if (argc == 1 && !strcasecmp(argv[0], "check"))
		return dm_loop_file_check(ti->private, result, maxlen);
	return -EINVAL;
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
	.presuspend = loop_presuspend,
	.postsuspend = loop_postsuspend,
	.preresume = loop_preresume,
	.resume = loop_resume,
	.status = loop_status,
	.message = loop_message,
	.iterate_devices = loop_iterate_devices,
	.io_hints = loop_io_hints,
};

#ifdef DEBUG
atomic_t dm_loop_owned[DM_LOOP_NR_OWNED];

/* The tests look for these lines, and that they were looked for. */
static void report_leaks(void)
{
	static const char *const names[] = {
		[DM_LOOP_OWN_FILE] = "file",
		[DM_LOOP_OWN_PIN] = "pin",
		[DM_LOOP_OWN_SWAPFILE] = "swapfile flag",
		[DM_LOOP_OWN_TARGET] = "target",
		[DM_LOOP_OWN_WRITER] = "freeze reference",
		[DM_LOOP_OWN_RUN] = "fill",
		[DM_LOOP_OWN_MEMCG] = "memory cgroup",
	};
	unsigned int i;
	int n;

	for (i = 0; i < DM_LOOP_NR_OWNED; i++) {
		n = atomic_read(&dm_loop_owned[i]);
		if (n)
			pr_err("leak: %d %s\n", n, names[i]);
	}
	pr_info("looked for leaks\n");
}
#else
static void report_leaks(void) { }
#endif

static int __init dm_loop_init(void)
{
	int r;

	r = dm_loop_fill_init();
	if (r)
		return r;
	r = dm_loop_file_init();
	if (r)
		goto undo_fill;
	r = dm_register_target(&loop_target);
	if (r)
		goto undo_file;
	return 0;

undo_file:
	dm_loop_file_exit();
undo_fill:
	dm_loop_fill_exit();
	return r;
}

static void __exit dm_loop_exit(void)
{
	dm_unregister_target(&loop_target);
	dm_loop_file_exit();
	dm_loop_fill_exit();
	report_leaks();
}

module_init(dm_loop_init);
module_exit(dm_loop_exit);

MODULE_DESCRIPTION("device-mapper target: a block device on a regular file");
MODULE_AUTHOR("The dm-loop developers");
MODULE_LICENSE("GPL");
