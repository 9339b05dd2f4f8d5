// SPDX-License-Identifier: GPL-2.0-only
/*
 * --defrag: the file of a device gets blocks that lie one after the other. A
 * file without a name in the same folder, the donor, is given such blocks, and
 * the filesystem changes them for the file's own.
 *
 * ext4 copies the data itself, and only while the file can be written: so
 * this is done in short turns, and the device runs between them. xfs changes
 * the blocks of two files at once: so the donor is a copy, made while the
 * device is in use and completed while it is suspended.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"
#include "fsioctl.h"

/* a turn on ext4 ends after so many seconds or bytes */
#define TURN_SECONDS	0.3
#define TURN_BYTES	(64ULL << 20)
#define PIECE		1048576ULL

struct defrag {
	const struct loop_device *dev;
	int fd;			/* the file, to be read */
	int donor;
	struct stat st;
	uint64_t pos;		/* ext4: how far it has come */
	uint64_t before;	/* how many extents */
	uint64_t best;		/* as many as there are parts between holes */
	double seconds;		/* suspended, altogether */
	double longest;
	struct progress progress;
};

/*
 * The next part of the file from @pos on that has blocks, whatever is in them,
 * not past @end. Returns 0 when there is none.
 */
static int next_blocks(int fd, uint64_t pos, uint64_t end, struct extent *part)
{
	struct extent_map map;
	struct extent ext;
	int got;

	memset(part, 0, sizeof(*part));
	extents_init(&map, fd, end);
	extents_seek(&map, pos);
	while ((got = extents_next(&map, &ext)) > 0) {
		if (ext.state != EXTENT_HOLE && !part->length)
			*part = ext;
		else if (ext.state != EXTENT_HOLE)
			part->length += ext.length;
		else if (part->length)
			break;
	}
	extents_free(&map);
	return got < 0 ? got : part->length != 0;
}

/* What is next to each other both in the file and on the disk is one. */
static int count(int fd, uint64_t size, uint64_t *extents, uint64_t *parts)
{
	struct extent last = { 0 }, ext;
	struct extent_map map;
	int got;

	*extents = 0;
	*parts = 0;
	extents_init(&map, fd, size);
	while ((got = extents_next(&map, &ext)) > 0) {
		if (ext.state != EXTENT_HOLE) {
			bool joined = last.length && last.state != EXTENT_HOLE;

			*parts += !joined;
			*extents += !joined ||
				    ext.physical != last.physical + last.length;
		}
		last = ext;
	}
	extents_free(&map);
	return got;
}

/* Without a name: whatever happens, nothing is left of it. */
static int open_donor(struct defrag *d)
{
	char *copy = xstrdup(d->dev->table.path);
	int err = 0;

	d->donor = open(dirname(copy), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (d->donor < 0)
		err = -errno;
	free(copy);
	/* for the quota */
	if (!err && fchown(d->donor, d->st.st_uid, d->st.st_gid))
		note("the new blocks count as root's for a while");
	return err;
}

/* Where in the inode the attributes begin; 0 when it has no place for them. */
static int fork_offset(int fd, int *bytes)
{
	struct xfs_old_stat is = { 0 };
	struct stat st;
	uint64_t ino;
	int32_t found = 0;
	struct xfs_look look = {
		.ino = &ino, .count = 1, .stat = &is, .found = &found,
	};

	if (fstat(fd, &st))
		return -errno;
	ino = st.st_ino;
	if (ioctl(fd, XFS_LOOK, &look))
		return -errno;
	*bytes = is.forkoff;
	return 0;
}

/*
 * The inodes must have place for as many extents each
 * (xfs_swap_extents_check_format()). Where there is a security module a file has
 * a place for attributes from the start, and one without a name has not: an
 * attribute of the right length makes it.
 */
static void match_forks(const struct defrag *d)
{
	static const char name[] = "trusted.d", value[512];
	int wanted, is, len = 1, try;

	if (fork_offset(d->fd, &wanted) || !wanted)
		return;
	for (try = 0; try < 5; try++) {
		if (fsetxattr(d->donor, name, value, len, 0) ||
		    fork_offset(d->donor, &is) || is == wanted)
			break;
		fremovexattr(d->donor, name);
		len += is - wanted;
		if (len < 0 || len > (int)sizeof(value))
			break;
	}
}

/* Blocks for the donor where the file has some, as few pieces as may be. */
static int fill_donor(struct defrag *d)
{
	uint64_t pos = 0, size = d->st.st_size;
	struct extent part;
	int got, err;

	err = check_room(&d->st, d->st.st_size, d->donor);
	while (!err && (got = next_blocks(d->fd, pos, size, &part)) != 0) {
		if (got < 0)
			return got;
		err = allocate_blocks(d->donor, part.start,
				      part.start + part.length);
		pos = part.start + part.length;
	}
	if (!err && ftruncate(d->donor, size))
		err = -errno;
	return err;
}

static int check_same(const struct defrag *d, int fd)
{
	struct stat st;

	return fstat(fd, &st) || !device_on_file(d->dev, &st) ||
	       st.st_size != d->st.st_size ? -ESTALE : 0;
}

static int move_blocks(const struct defrag *d, int fd, uint64_t pos,
		       uint64_t end)
{
	uint64_t block = d->st.st_blksize;
	struct ext4_move move = { .donor_fd = d->donor };

	while (pos < end) {
		move.orig_start = pos / block;
		move.donor_start = move.orig_start;
		move.len = (end - pos + block - 1) / block;
		move.moved_len = 0;
		if (ioctl(fd, EXT4_MOVE, &move))
			return -errno;
		if (!move.moved_len)
			return -EOPNOTSUPP;
		pos += move.moved_len * block;
	}
	return 0;
}

/* One piece; it may have got blocks since the donor got its own. */
static int move_piece(struct defrag *d, int fd)
{
	uint64_t size = d->st.st_size, end = d->pos + PIECE, stop;
	struct extent part;
	int got, err = 0;

	if (end > size)
		end = size;
	while (!err && (got = next_blocks(fd, d->pos, end, &part)) != 0) {
		if (got < 0)
			return got;
		stop = part.start + part.length;
		if (fallocate(d->donor, FALLOC_FL_KEEP_SIZE, part.start,
			      part.length))
			return -errno;
		err = move_blocks(d, fd, part.start, stop);
		if (!err) {
			progress_add(&d->progress, stop - d->pos);
			d->pos = stop;
		}
	}
	if (!err) {
		progress_add(&d->progress, end - d->pos);
		d->pos = end;
	}
	return err;
}

static int move_turn(struct defrag *d, const struct hold *h, int fd)
{
	uint64_t size = d->st.st_size, first = d->pos;
	double since = now();
	int err;

	err = check_same(d, fd);
	while (!err && d->pos < size && d->pos - first < TURN_BYTES &&
	       now() - since < TURN_SECONDS) {
		if (signals_pending())
			err = -EINTR;
		if (!err)
			err = move_piece(d, fd);
		if (!err)
			err = hold_keep(h);
	}
	if (fsync(fd) && !err)
		err = -errno;
	return err;
}

static bool has_changed(const struct stat *was, int fd)
{
	struct stat is;

	return fstat(fd, &is) || is.st_size != was->st_size ||
	       is.st_mtim.tv_sec != was->st_mtim.tv_sec ||
	       is.st_mtim.tv_nsec != was->st_mtim.tv_nsec ||
	       is.st_ctim.tv_sec != was->st_ctim.tv_sec ||
	       is.st_ctim.tv_nsec != was->st_ctim.tv_nsec;
}

/* @st: as the file was before it was copied; xfs compares it with its inode. */
static int swap_blocks(const struct defrag *d, int fd, const struct stat *st)
{
	struct xfs_swap swap = {
		.target_fd = fd, .tmp_fd = d->donor, .length = d->st.st_size,
	};
	struct xfs_exchange exchange = {
		.file1_fd = d->donor, .length = d->st.st_size,
	};

	swap.stat.mtime.tv_sec = st->st_mtim.tv_sec;
	swap.stat.mtime.tv_nsec = (int)st->st_mtim.tv_nsec;
	swap.stat.ctime.tv_sec = st->st_ctim.tv_sec;
	swap.stat.ctime.tv_nsec = (int)st->st_ctim.tv_nsec;
	if (!ioctl(fd, XFS_SWAP, &swap))
		return 0;
	/* what the one cannot do, the other may */
	if (errno != EINVAL && errno != EOPNOTSUPP && errno != ENOTTY)
		return errno == EBUSY ? -ESTALE : -errno;
	/* it does not compare */
	if (has_changed(st, fd))
		return -ESTALE;
	return ioctl(fd, XFS_EXCHANGE, &exchange) ? -errno : 0;
}

/* As xfs counts them: blocks that were never written are another extent. */
static int count_records(int fd, uint64_t size, uint64_t *records)
{
	struct extent_map map;
	struct extent ext;
	int got;

	*records = 0;
	extents_init(&map, fd, size);
	while ((got = extents_next(&map, &ext)) > 0)
		*records += ext.state != EXTENT_HOLE;
	extents_free(&map);
	return got;
}

/*
 * xfs_swap_extents_check_format() takes no donor that has more. It can get them
 * from what is written and given back while it is made.
 */
static int check_better(const struct defrag *d, int fd)
{
	uint64_t file, donor;
	int err;

	err = count_records(fd, d->st.st_size, &file);
	if (!err)
		err = count_records(d->donor, d->st.st_size, &donor);
	return err ? err : donor <= file ? 0 : -ENODATA;
}

static int swap_turn(struct defrag *d, struct copy *c, const struct hold *h,
		     int fd)
{
	struct stat st;
	int err;

	err = check_same(d, fd);
	if (!err && fstat(fd, &st))
		err = -errno;
	if (!err)
		err = copy_rest(c, h);
	if (!err)
		err = check_better(d, fd);
	if (!err)
		err = swap_blocks(d, fd, &st);
	if (!err && fsync(fd))
		err = -errno;
	return err;
}

/* Suspends the device, and does a part of it; says why when it fails. */
static int turn(struct defrag *d, struct copy *c)
{
	struct hold h;
	int err, fd;

	err = hold_begin(&h, d->dev);
	if (err)
		return err;
	fd = open(d->dev->table.path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	err = fd < 0 ? -errno : c ? swap_turn(d, c, &h, fd) :
				    move_turn(d, &h, fd);
	/* the kernel takes no file that is open for writing */
	if (fd >= 0)
		close(fd);
	if (hold_end(&h, 0))
		err = TOLD;
	d->seconds += h.seconds;
	if (h.seconds > d->longest)
		d->longest = h.seconds;
	if (err == -ETXTBSY) {
		complain("cannot defragment the file of %s: another device or program uses it",
			 shown(d->dev->id.node));
		err = TOLD;
	}
	return err;
}

/* For as long as it was suspended it is left alone. */
static void rest(double seconds)
{
	struct timespec nap = {
		.tv_sec = (time_t)seconds,
		.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9),
	};

	nanosleep(&nap, NULL);
}

static int defrag_ext4(struct defrag *d)
{
	uint64_t size = d->st.st_size;
	double before;
	int err = 0;

	progress_start(&d->progress, "moving", size);
	while (!err && d->pos < size) {
		before = d->seconds;
		err = turn(d, NULL);
		if (!err && d->pos < size)
			rest(d->seconds - before);
	}
	progress_end(&d->progress);
	return err;
}

static int defrag_xfs(struct defrag *d)
{
	struct copy c = {
		.from = d->fd, .to = d->donor, .size = d->st.st_size,
	};
	int err;

	copy_init(&c);
	err = copy_live(&c);
	if (!err)
		err = turn(d, &c);
	copy_free(&c);
	return err;
}

static int report(struct defrag *d)
{
	const char *node = shown(d->dev->id.node);
	uint64_t extents, parts;
	int err;

	err = count(d->fd, d->st.st_size, &extents, &parts);
	if (err)
		return err;
	printf("%s: %ju extents before, %ju now; it was suspended for %.1f ms",
	       node, (uintmax_t)d->before, (uintmax_t)extents,
	       d->seconds * 1000);
	if (d->longest < d->seconds)
		printf(", %.1f ms at a time", d->longest * 1000);
	putchar('\n');
	flush_report();
	return 0;
}

static int nothing_to_do(const struct defrag *d, const char *why)
{
	printf("%s: %ju extents; %s\n", shown(d->dev->id.node),
	       (uintmax_t)d->before, why);
	flush_report();
	return 0;
}

static int defrag_file(struct defrag *d, int (*way)(struct defrag *))
{
	uint64_t extents, parts;
	int err;

	err = count(d->fd, d->st.st_size, &d->before, &d->best);
	if (!err && d->before <= d->best)
		return nothing_to_do(d, "no two of them could be one");
	if (!err)
		err = open_donor(d);
	if (!err && way == defrag_xfs)
		match_forks(d);
	if (!err)
		err = fill_donor(d);
	if (!err)
		err = count(d->donor, d->st.st_size, &extents, &parts);
	if (!err)
		err = extents < d->before ? way(d) : -ENODATA;
	if (err == -ENODATA)
		return nothing_to_do(d, "the filesystem has no better place for it now");
	return err ? err : report(d);
}

/* Which filesystem offers what. */
static int choose_way(struct defrag *d)
{
	struct statfs fs;

	if (fstatfs(d->fd, &fs))
		return -errno;
	if (fs.f_type == EXT4_SUPER_MAGIC)
		return defrag_file(d, defrag_ext4);
	if (fs.f_type == XFS_SUPER_MAGIC)
		return defrag_file(d, defrag_xfs);
	return -EOPNOTSUPP;
}

static int say_why(const struct defrag *d, int err)
{
	const char *node = shown(d->dev->id.node);

	if (err == -EOPNOTSUPP || err == -ENOTTY)
		complain("cannot defragment %s: its filesystem, %s, offers no way to do it",
			 node, d->dev->has_status ? d->dev->status.fstype : "?");
	else if (err == -ENOSPC || err == -EDQUOT)
		complain("cannot defragment %s: it needs as much free space as the file has (%s)",
			 node, strerror(-err));
	else if (err == -ESTALE)
		complain("cannot defragment the file of %s: %s was changed meanwhile",
			 node, shown(d->dev->table.path));
	else if (err == -EINTR)
		complain("stopped; the data of %s is all there, some blocks are where they were",
			 node);
	else if (err < 0)
		complain_errno(err, "cannot defragment the file of %s", node);
	return err ? TOLD : 0;
}

static int defrag(const struct loop_device *dev)
{
	struct defrag d = { .dev = dev, .donor = -1 };
	int err;

	d.fd = open(dev->table.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (d.fd < 0 || fstat(d.fd, &d.st) || !device_on_file(dev, &d.st)) {
		complain("cannot defragment: %s is not the file of %s any more",
			 shown(dev->table.path), shown(dev->id.node));
		err = TOLD;
	} else {
		signals_hold();
		err = say_why(&d, choose_way(&d));
		signals_release();
	}
	if (d.donor >= 0)
		close(d.donor);
	if (d.fd >= 0)
		close(d.fd);
	return err;
}

int do_defrag(const struct options *opts)
{
	struct loop_device *devs;
	size_t nr;
	int err;

	err = device_open_active(opts->name, "defragment the file of", &devs,
				 &nr);
	if (!err && (nr != 1 || !devs->table.path)) {
		complain("cannot defragment the file of %s: it has not one file",
			 shown(opts->name));
		err = TOLD;
	}
	if (!err)
		err = defrag(devs);
	device_free(devs, nr);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
