// SPDX-License-Identifier: GPL-2.0-only
/*
 * --prepare: make a file fully written, so that a device on it never needs
 * the filesystem. What has no data is read and written back in place, which
 * makes holes and unwritten blocks zeroes on disk, copies shared blocks, and
 * can never change what the file reads as. A lease keeps everybody else out
 * while a piece is between its read and its write.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"

#ifndef FALLOC_FL_WRITE_ZEROES
#define FALLOC_FL_WRITE_ZEROES	0x80
#endif

#define PIECE		(4U << 20)
#define STEP		(4ULL << 30)
/* direct I/O wants no more than this on any disk */
#define ALIGNMENT	4096U
#define GO_ON		"its data is as it was; run the same command again to go on"
/* how long somebody else may have the file open before we give up */
#define LEASE_WAIT_MS	10000

struct prepare {
	const char *file;
	int fd;
	uint64_t old_size;
	uint64_t size;
	bool created;
	bool leased;		/* the filesystem has leases, and we hold one */
	bool direct;		/* O_DIRECT is set on fd now */
	bool no_direct;
	bool no_write_zeroes;
	bool no_unshare;
	char *buf;
	struct progress progress;
	/* bytes by state, from the first look */
	uint64_t hole, unwritten, shared;
};

static int complain_in_use(const struct prepare *p, const struct stat *st)
{
	char *node = device_using(st);

	if (node)
		complain("cannot prepare %s: it is in use as %s; detach that first",
			 shown(p->file), shown(node));
	else
		complain("cannot prepare %s: it is open elsewhere; end that first (%s)",
			 shown(p->file), "see fuser -v, losetup -j, swapon");
	free(node);
	return TOLD;
}

static int open_existing(struct prepare *p)
{
	struct stat st;
	int err;

	if (stat(p->file, &st))
		return -errno;
	if (!S_ISREG(st.st_mode)) {
		complain("cannot prepare %s: it is not a regular file",
			 shown(p->file));
		return TOLD;
	}
	p->fd = open(p->file, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (p->fd >= 0)
		return 0;
	err = -errno;
	/* EWOULDBLOCK: another --prepare has a lease on it */
	return err == -ETXTBSY || err == -EWOULDBLOCK ?
	       complain_in_use(p, &st) : err;
}

static int open_file(const struct options *opts, struct prepare *p)
{
	int err = open_existing(p);

	if (err != -ENOENT || !opts->has_size)
		return err;
	/* an image often holds what only root may read */
	p->fd = open(p->file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (p->fd < 0)
		return errno == EEXIST ? open_existing(p) : -errno;
	p->created = true;
	return 0;
}

/*
 * A write lease is given only while nobody else has the file open; from then
 * on an open by anybody waits until it is given back.
 */
static int lease_take(struct prepare *p)
{
	struct stat st;

	if (!fcntl(p->fd, F_SETLEASE, F_WRLCK)) {
		p->leased = true;
		return 0;
	}
	if (errno == EAGAIN || errno == EBUSY) {
		if (fstat(p->fd, &st))
			return -errno;
		return complain_in_use(p, &st);
	}
	/* there are leases here, but not for us */
	if (errno == EACCES) {
		complain("cannot prepare %s: only its owner or root (CAP_LEASE) keeps others out",
			 shown(p->file));
		return TOLD;
	}
	note("no lease on %s: %s; it must not be in use",
	     shown(p->file), strerror(errno));
	return 0;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

/* Whoever was let in may have cut the file; it is not to be made longer again. */
static int check_size(const struct prepare *p)
{
	struct stat st;

	if (fstat(p->fd, &st))
		return -errno;
	if ((uint64_t)st.st_size == p->size)
		return 0;
	complain("stopped preparing %s: something else has changed its size",
		 shown(p->file));
	return TOLD;
}

/*
 * Between two pieces: when somebody is waiting in open(), let them in and go
 * on when they have closed the file. @again says that the file may have
 * changed.
 */
static int lease_check(struct prepare *p, bool *again)
{
	struct timespec nap = { .tv_nsec = 20000000 };
	uint64_t end;

	*again = false;
	if (!p->leased || fcntl(p->fd, F_GETLEASE) == F_WRLCK)
		return 0;
	*again = true;
	fcntl(p->fd, F_SETLEASE, F_UNLCK);
	end = now_ms() + LEASE_WAIT_MS;
	while (!signals_pending()) {
		nanosleep(&nap, NULL);
		if (!fcntl(p->fd, F_SETLEASE, F_WRLCK))
			return check_size(p);
		if (now_ms() > end) {
			complain("stopped preparing %s: something opened it and keeps it; %s",
				 shown(p->file), GO_ON);
			return TOLD;
		}
	}
	return -EINTR;
}

static int set_direct(struct prepare *p, bool on)
{
	int flags;

	if (p->direct == on || (on && p->no_direct))
		return 0;
	flags = fcntl(p->fd, F_GETFL);
	flags = on ? flags | O_DIRECT : flags & ~O_DIRECT;
	if (fcntl(p->fd, F_SETFL, flags)) {
		if (!on)
			return -errno;
		p->no_direct = true;
		return 0;
	}
	p->direct = on;
	return 0;
}

static int read_piece(struct prepare *p, uint64_t pos, size_t len)
{
	size_t have = 0;
	ssize_t n;

	while (have < len) {
		n = pread(p->fd, p->buf + have, len - have, pos + have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			return -ESTALE;
		have += n;
	}
	return 0;
}

static int write_piece(struct prepare *p, uint64_t pos, size_t len)
{
	size_t done = 0;
	ssize_t n;

	while (done < len) {
		n = pwrite(p->fd, p->buf + done, len - done, pos + done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		done += n;
	}
	return 0;
}

static int rewrite_part(struct prepare *p, uint64_t pos, size_t len,
			bool direct)
{
	int err;

	err = set_direct(p, direct);
	if (!err)
		err = read_piece(p, pos, len);
	/* stopped for so long that others were let in: it may be old */
	if (!err && p->leased && fcntl(p->fd, F_GETLEASE) != F_WRLCK)
		return -EAGAIN;
	if (!err)
		err = write_piece(p, pos, len);
	if (err == -EINVAL && p->direct) {
		p->no_direct = true;
		return rewrite_part(p, pos, len, false);
	}
	return err;
}

/* Reads a piece and writes the same back; the page cache is not filled. */
static int rewrite_piece(struct prepare *p, uint64_t pos, size_t len)
{
	size_t head = -pos % ALIGNMENT;
	size_t middle;
	int err = 0;

	if (head > len)
		head = len;
	middle = (len - head) / ALIGNMENT * ALIGNMENT;
	if (head)
		err = rewrite_part(p, pos, head, false);
	if (!err && middle)
		err = rewrite_part(p, pos + head, middle, true);
	if (!err && head + middle < len)
		err = rewrite_part(p, pos + head + middle,
				   len - head - middle, false);
	return err;
}

/* Linux 6.17: the disk writes the zeroes, and they count as written. */
static bool write_zeroes(struct prepare *p, uint64_t pos, size_t len)
{
	if (p->no_write_zeroes || !p->leased)
		return false;
	if (!fallocate(p->fd, FALLOC_FL_WRITE_ZEROES, pos, len))
		return true;
	p->no_write_zeroes = true;
	return false;
}

static bool unshare(struct prepare *p, uint64_t pos, size_t len)
{
	if (p->no_unshare)
		return false;
	if (!fallocate(p->fd, FALLOC_FL_UNSHARE_RANGE, pos, len))
		return true;
	if (errno != EINTR)
		p->no_unshare = true;
	return false;
}

static int prepare_piece(struct prepare *p, const struct extent *ext,
			 uint64_t pos, size_t len)
{
	if (ext->state == EXTENT_SHARED) {
		if (unshare(p, pos, len))
			return 0;
	} else if (write_zeroes(p, pos, len)) {
		return 0;
	}
	return rewrite_piece(p, pos, len);
}

/* One extent; *@next is where to go on, and @again whether to ask anew. */
static int prepare_extent(struct prepare *p, const struct extent *ext,
			  uint64_t *next, bool *again)
{
	uint64_t pos = ext->start;
	uint64_t left = ext->length;
	int err;

	*again = false;
	while (left) {
		size_t len = left < PIECE ? left : PIECE;

		*next = pos;
		if (signals_pending())
			return -EINTR;
		err = lease_check(p, again);
		if (err || *again)
			return err;
		err = prepare_piece(p, ext, pos, len);
		if (err == -EAGAIN)
			continue;
		if (err)
			return err;
		progress_add(&p->progress, len);
		pos += len;
		left -= len;
	}
	*next = pos;
	return 0;
}

static int prepare_extents(struct prepare *p)
{
	struct extent_map map;
	struct extent ext;
	int got, err = 0;
	uint64_t next;
	bool again;

	extents_init(&map, p->fd, p->size);
	while (!err && (got = extents_next(&map, &ext))) {
		if (got < 0) {
			err = got;
			break;
		}
		if (ext.state == EXTENT_MAPPED)
			continue;
		err = prepare_extent(p, &ext, &next, &again);
		if (again)
			extents_seek(&map, next);
	}
	extents_free(&map);
	return err;
}

/* Counts what is not plain written data. */
static int survey(struct prepare *p)
{
	struct extent_map map;
	struct extent ext;
	int err;

	p->hole = 0;
	p->unwritten = 0;
	p->shared = 0;
	extents_init(&map, p->fd, p->size);
	while ((err = extents_next(&map, &ext)) > 0) {
		if (ext.state == EXTENT_HOLE)
			p->hole += ext.length;
		else if (ext.state == EXTENT_UNWRITTEN)
			p->unwritten += ext.length;
		else if (ext.state == EXTENT_SHARED)
			p->shared += ext.length;
	}
	extents_free(&map);
	return err;
}

static int set_size(const struct options *opts, struct prepare *p)
{
	struct stat st;

	if (fstat(p->fd, &st))
		return -errno;
	p->old_size = st.st_size;
	p->size = opts->has_size ? opts->size : p->old_size;
	if (!p->size) {
		complain("cannot prepare %s: it is empty; give a size with --size",
			 shown(p->file));
		return TOLD;
	}
	if (p->size < p->old_size) {
		complain("cannot prepare %s: it has %ju bytes, and --size would cut data off",
			 shown(p->file), (uintmax_t)p->old_size);
		return TOLD;
	}
	if (p->size > p->old_size && ftruncate(p->fd, p->size))
		return -errno;
	return 0;
}

/* Better no change at all than half of it and a full disk. */
static int check_space(const struct prepare *p)
{
	uint64_t need = p->hole + p->shared;
	struct statvfs fs;
	uint64_t avail;

	/* there are filesystems without a size */
	if (fstatvfs(p->fd, &fs) || !fs.f_blocks)
		return 0;
	avail = (geteuid() ? fs.f_bavail : fs.f_bfree) * fs.f_frsize;
	if (need <= avail)
		return 0;
	complain("cannot prepare %s: it needs %s more, and there are %s left",
		 shown(p->file), human(need), human(avail));
	return TOLD;
}

/* Ahead of the writes, in large steps: the blocks come out in few extents. */
static int allocate(const struct prepare *p)
{
	uint64_t pos = 0, len;

	while (p->hole && pos < p->size) {
		if (signals_pending())
			return -EINTR;
		len = p->size - pos < STEP ? p->size - pos : STEP;
		/* where it cannot be done, the writes allocate */
		if (fallocate(p->fd, 0, pos, len))
			return errno == EOPNOTSUPP ? 0 : -errno;
		pos += len;
	}
	return 0;
}

/* Nothing was written yet: as if we had not come. */
static void undo_size(struct prepare *p)
{
	struct stat st;

	if (p->created && !fstat(p->fd, &st) && is_at(p->file, &st))
		unlink(p->file);
	else if (!p->created && p->size > p->old_size &&
		 ftruncate(p->fd, p->old_size))
		complain_errno(-errno, "cannot cut %s back to its size",
			       shown(p->file));
}

static int begin(const struct options *opts, struct prepare *p)
{
	struct stat st;
	int err;

	err = lease_take(p);
	/* another command may have created it, and taken it away */
	if (!err && (fstat(p->fd, &st) || !st.st_nlink))
		err = -ENOENT;
	if (!err)
		err = set_size(opts, p);
	if (!err)
		err = survey(p);
	if (!err)
		err = check_space(p);
	if (!err)
		err = allocate(p);
	if (err)
		undo_size(p);
	return err;
}

static int finish(struct prepare *p)
{
	uint64_t left;
	int err;

	/*
	 * xfs keeps a mark on a file that was ever cloned, and does not tell
	 * its blocks while it is there; this takes the mark off, unless pages
	 * have been written just now: then the module does, if it has to fill.
	 * Without leases somebody may have cloned it again; never mind.
	 */
	if (fallocate(p->fd, FALLOC_FL_UNSHARE_RANGE, 0, p->size) &&
	    errno == ENOSPC)
		return -errno;
	/* no zeroes from here on: others may come in */
	if (p->leased)
		fcntl(p->fd, F_SETLEASE, F_UNLCK);
	if (fsync(p->fd))
		return -errno;
	err = survey(p);
	if (err)
		return err;
	left = p->hole + p->unwritten + p->shared;
	if (!left)
		return 0;
	complain("%s is not fully written: holes %s, unwritten %s, shared %s are left; %s",
		 shown(p->file), human(p->hole), human(p->unwritten),
		 human(p->shared), "was it changed meanwhile?");
	return TOLD;
}

static int work(struct prepare *p)
{
	uint64_t total = p->hole + p->unwritten + p->shared;
	uint64_t shared = p->shared;
	int err;

	if (posix_memalign((void **)&p->buf, ALIGNMENT, PIECE))
		return -ENOMEM;
	progress_start(&p->progress, "preparing", total);
	err = prepare_extents(p);
	progress_end(&p->progress);
	free(p->buf);
	if (!err)
		err = set_direct(p, false);
	if (!err)
		err = finish(p);
	if (!err)
		note("%s: %s written, %s of them copied from shared blocks",
		     shown(p->file), human(total), human(shared));
	return err;
}

static int say_why(const struct options *opts, int err)
{
	const char *file = shown(opts->file);

	if (!err)
		return EXIT_SUCCESS;
	if (err == -EINTR)
		complain("stopped preparing %s; %s", file, GO_ON);
	else if (err == -ENOSPC || err == -EDQUOT)
		complain("cannot prepare %s: %s; %s", file, strerror(-err), GO_ON);
	else if (err == -ENOENT && !opts->has_size)
		complain("cannot prepare %s: no such file; give --size to create it",
			 file);
	else if (err < 0)
		complain_errno(err, "cannot prepare %s", file);
	return EXIT_FAILURE;
}

int do_prepare(const struct options *opts)
{
	struct prepare p = { .file = opts->file, .fd = -1 };
	int err, status;

	err = open_file(opts, &p);
	if (!err) {
		/* a lease break is looked for between two pieces */
		signal(SIGIO, SIG_IGN);
		signals_hold();
		err = begin(opts, &p);
		if (!err)
			err = work(&p);
		close(p.fd);
	}
	status = say_why(opts, err);
	if (p.fd >= 0)
		signals_release();
	return status;
}
