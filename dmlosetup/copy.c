// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies an image to another file, also while it is being written to. Then it
 * is done in passes: the first writes everything, each later one compares and
 * writes what differs, and the last one is done while the device is suspended,
 * so that nothing can be missed, however it was changed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "dmlosetup.h"

#define PIECE		1048576U
/* what is compared and written at once */
#define BLOCK		4096U
#define STEP		1073741824ULL
/* so much may be left to write when the device is suspended */
#define FEW		(8ULL << 20)
#define PASSES		6

void copy_init(struct copy *c)
{
	c->buf = xcalloc(1, PIECE);
	c->old = xcalloc(1, PIECE);
}

void copy_free(struct copy *c)
{
	free(c->buf);
	free(c->old);
}

static int read_all(int fd, char *buf, uint64_t pos, size_t len)
{
	ssize_t n;

	while (len) {
		n = pread(fd, buf, len, pos);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		/* it was cut */
		if (!n)
			return -ESTALE;
		buf += n;
		pos += n;
		len -= n;
	}
	return 0;
}

static int write_all(int fd, const char *buf, uint64_t pos, size_t len)
{
	ssize_t n;

	while (len) {
		n = pwrite(fd, buf, len, pos);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		buf += n;
		pos += n;
		len -= n;
	}
	return 0;
}

/* How long a block of the piece at @at is. */
static size_t block_size(size_t at, size_t len)
{
	return len - at < BLOCK ? len - at : BLOCK;
}

static bool same_block(const struct copy *c, size_t at, size_t len)
{
	return !memcmp(c->buf + at, c->old + at, block_size(at, len));
}

/* The parts of buf that differ from old, as few writes as may be. */
static int write_changed(struct copy *c, uint64_t pos, size_t len)
{
	size_t at = 0, end;
	int err = 0;

	while (!err && at < len) {
		end = at + block_size(at, len);
		if (!same_block(c, at, len)) {
			while (end < len && !same_block(c, end, len))
				end += block_size(end, len);
			err = write_all(c->to, c->buf + at, pos + at, end - at);
			c->changed += end - at;
		}
		at = end;
	}
	return err;
}

static int copy_piece(struct copy *c, uint64_t pos, size_t len, bool compare)
{
	int err;

	err = read_all(c->from, c->buf, c->offset + pos, len);
	if (err)
		return err;
	if (!compare)
		return write_all(c->to, c->buf, pos, len);
	err = read_all(c->to, c->old, pos, len);
	return err ? err : write_changed(c, pos, len);
}

/* After each piece: shall we go on? */
static int copied(struct copy *c, size_t len)
{
	progress_add(&c->progress, len);
	if (signals_pending())
		return -EINTR;
	return c->hold ? hold_keep(c->hold) : 0;
}

static int copy_data(struct copy *c, uint64_t pos, uint64_t end, bool compare)
{
	int err = 0;

	while (!err && pos < end) {
		size_t len = end - pos < PIECE ? end - pos : PIECE;

		err = copy_piece(c, pos, len, compare);
		if (!err)
			err = copied(c, len);
		pos += len;
	}
	return err;
}

/* What was data in an earlier pass, and has been discarded since. */
static int copy_hole(struct copy *c, uint64_t pos, uint64_t end)
{
	off_t data, hole;

	for (; pos < end; pos = hole) {
		data = lseek(c->to, pos, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		/* it cannot tell: compare with the zeroes that are read */
		if (data < 0)
			return copy_data(c, pos, end, true);
		if ((uint64_t)data >= end)
			break;
		hole = lseek(c->to, data, SEEK_HOLE);
		if (hole < 0 || (uint64_t)hole > end)
			hole = end;
		if (fallocate(c->to, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      data, hole - data))
			return copy_data(c, pos, end, true);
		c->changed += hole - data;
	}
	return 0;
}

/*
 * Not from SEEK_DATA: before 6.9 xfs took data for a hole where a file that
 * shares blocks has some set aside for copies. The new file shares none.
 */
static int next_part(const struct copy *c, struct extent_map *map,
		     uint64_t *end, bool *is_data)
{
	struct extent ext;
	int got;

	*end = c->size;
	*is_data = true;
	if (c->all)
		return 0;
	got = extents_next(map, &ext);
	if (got < 0)
		return got;
	if (!got)
		return -ESTALE;
	*end = ext.start + ext.length - c->offset;
	*is_data = ext.state != EXTENT_HOLE && ext.state != EXTENT_UNWRITTEN;
	return 0;
}

static int copy_part(struct copy *c, uint64_t pos, uint64_t end, bool is_data,
		     bool compare)
{
	int err;

	if (is_data)
		return copy_data(c, pos, end, compare);
	err = compare ? copy_hole(c, pos, end) : 0;
	return err ? err : copied(c, end - pos);
}

/* One pass. @compare: write only what differs. */
int copy_pass(struct copy *c, const char *what, bool compare)
{
	struct extent_map map;
	uint64_t pos = 0, end;
	bool is_data;
	int err = 0;

	extents_init(&map, c->from, c->offset + c->size);
	extents_seek(&map, c->offset);
	progress_start(&c->progress, what, c->size);
	while (!err && pos < c->size) {
		err = next_part(c, &map, &end, &is_data);
		if (!err)
			err = copy_part(c, pos, end, is_data, compare);
		pos = end;
	}
	progress_end(&c->progress);
	extents_free(&map);
	return err;
}

/* All that can be done while the device is in use. */
int copy_live(struct copy *c)
{
	uint64_t before = UINT64_MAX;
	int err, n;

	err = copy_pass(c, "copying", false);
	for (n = 1; !err && n < PASSES; n++) {
		/* nor must much be left for the last fsync */
		if (fsync(c->to))
			return -errno;
		c->changed = 0;
		err = copy_pass(c, "comparing", true);
		note("pass %d: %s had changed", n + 1, human(c->changed));
		if (c->changed <= FEW || c->changed > before / 2)
			break;
		before = c->changed;
	}
	if (!err && fsync(c->to))
		err = -errno;
	return err;
}

/* The device is suspended: afterwards both are the same, and on disk. */
int copy_rest(struct copy *c, const struct hold *h)
{
	int err;

	c->hold = h;
	c->changed = 0;
	err = copy_pass(c, "comparing", true);
	c->hold = NULL;
	return err ? err : hold_sync(h, c->to, 0);
}

/*
 * Where a device is in use, first writes of its own must not find the
 * filesystem full, nor all that is kept for root used up. Of the file @from
 * @most bytes are copied.
 */
int check_room(const struct stat *from, uint64_t most, int to)
{
	uint64_t need = (uint64_t)from->st_blocks * 512;
	struct statvfs fs;
	struct stat st;

	if (fstat(to, &st) || fstatvfs(to, &fs))
		return -errno;
	return st.st_dev == from->st_dev && fs.f_blocks &&
	       (need < most ? need : most) >
	       (uint64_t)fs.f_bavail * fs.f_frsize ? -ENOSPC : 0;
}

/* Blocks for a part of a file, in steps between which it can be stopped. */
int allocate_blocks(int fd, uint64_t pos, uint64_t end)
{
	while (pos < end) {
		uint64_t len = end - pos < STEP ? end - pos : STEP;

		if (signals_pending())
			return -EINTR;
		if (fallocate(fd, 0, pos, len))
			return -errno;
		pos += len;
	}
	return 0;
}
