// SPDX-License-Identifier: GPL-2.0-only
/*
 * --set-capacity and --refresh: the file of a device in use gets another
 * size, or only its mapping is read again. The file is free to be changed
 * between suspend and resume only.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "dmlosetup.h"

#define STEP		1073741824ULL
#define ZEROES		1048576U

/* What is to become of a device. */
struct change {
	struct loop_device *dev;
	uint64_t old_size;	/* of the file, in bytes */
	uint64_t new_size;
	uint64_t sectors;	/* of the device */
	uint64_t spare;		/* bytes that are allocated behind the file's end */
	bool sparse;		/* leave what is added a hole */
	bool written;		/* write zeroes into it */
	bool shrink;		/* the device or the file becomes smaller */
};

/* Devices on the same file must end before it does, those that are suspended too. */
static int check_others(const struct change *c)
{
	struct loop_device *devs;
	size_t nr, i;
	int err;

	err = device_read_all(&devs, &nr);
	if (err)
		complain_errno(err, "cannot shrink %s: cannot list the devices",
			       shown(c->dev->id.node));
	for (i = 0; i < nr && !err; i++) {
		const struct loop_device *d = &devs[i];

		if (!strcmp(d->id.name, c->dev->id.name) ||
		    d->back_dev != c->dev->back_dev ||
		    d->back_ino != c->dev->back_ino ||
		    d->table.offset + (d->length << SECTOR_SHIFT) <= c->new_size)
			continue;
		complain("cannot shrink %s: %s is on the same file and would be cut",
			 shown(c->dev->id.node), shown(d->id.node));
		err = TOLD;
	}
	device_free(devs, nr);
	return err;
}

/* @err, @size, @what: of content_size() */
static int check_content(const struct change *c, int err, uint64_t size,
			 const char *what)
{
	const char *node = shown(c->dev->id.node);

	if (err && err != -ENODATA) {
		complain_errno(err, "cannot shrink %s: cannot read it", node);
		return TOLD;
	}
	if (what && size > c->sectors << SECTOR_SHIFT) {
		complain("cannot shrink %s: the %s on it has %ju bytes; shrink that first",
			 node, what, (uintmax_t)size);
		return TOLD;
	}
	return 0;
}

/* What the device does not show may be anything, another partition too. */
static int check_tail(const struct change *c)
{
	const struct loop_device *dev = c->dev;
	uint64_t end = dev->table.offset + (dev->length << SECTOR_SHIFT);
	uint64_t from = end > c->new_size ? end : c->new_size;
	struct extent_map map;
	struct extent ext;
	int fd, got;

	/* less than a sector it cannot show */
	if (from + SECTOR_SIZE > c->old_size)
		return 0;
	fd = open(dev->table.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	extents_init(&map, fd, c->old_size);
	extents_seek(&map, from);
	do {
		got = extents_next(&map, &ext);
	} while (got > 0 && (ext.state == EXTENT_HOLE ||
			     ext.state == EXTENT_UNWRITTEN));
	extents_free(&map);
	if (fd >= 0)
		close(fd);
	/* it was looked at to the end */
	if (!got)
		return 0;
	complain("cannot shrink %s: it does not show the last %ju bytes of its file, %s",
		 shown(dev->id.node), (uintmax_t)(c->old_size - end),
		 "and they would be cut");
	return TOLD;
}

/* The content must end before the device does; @own_opens: how often we have it open. */
static int check_shrink(const void *arg, int own_opens)
{
	const struct change *c = arg;
	const char *node = shown(c->dev->id.node);
	uint64_t size;
	const char *what;
	bool known;
	char *user;
	int err;

	err = check_others(c);
	if (err)
		return TOLD;
	err = content_size(c->dev, &size, &what);
	known = !err;
	err = check_content(c, err, size, what);
	if (err)
		return err;
	/* what is stacked on it may need more than what the first blocks say */
	user = known ? device_holder(c->dev) : device_user(c->dev);
	if (!user && !known)
		user = device_opener(c->dev, own_opens);
	if (user) {
		complain("cannot shrink %s: %s, and how much it needs is not known",
			 node, user);
		err = TOLD;
	} else {
		err = check_tail(c);
	}
	free(user);
	return err;
}

/* In bytes: what the file needs to have all of its blocks, and what there is. */
static bool has_room(const struct change *c, uint64_t *need, uint64_t *left)
{
	struct statvfs fs;

	*need = c->new_size - c->old_size;
	*need -= *need < c->spare ? *need : c->spare;
	if (statvfs(c->dev->table.path, &fs) || !fs.f_blocks)
		return true;
	*left = (uint64_t)(geteuid() ? fs.f_bavail : fs.f_bfree) * fs.f_frsize;
	return *need <= *left;
}

/* What is written takes long: better to know before the device is suspended. */
static int check_space(const struct change *c)
{
	uint64_t need, left;

	if (c->new_size <= c->old_size || !c->written ||
	    has_room(c, &need, &left))
		return 0;
	complain("cannot resize %s: its file would need %ju bytes more, and there are %ju left",
		 shown(c->dev->id.node), (uintmax_t)need, (uintmax_t)left);
	return TOLD;
}

static int plan_change(const struct options *opts, struct change *c)
{
	struct loop_device *dev = c->dev;
	const char *node = shown(dev->id.node);
	struct stat st;

	if (stat(dev->table.path, &st) || !device_on_file(dev, &st)) {
		complain("cannot resize %s: %s is not its file any more", node,
			 shown(dev->table.path));
		return TOLD;
	}
	c->old_size = st.st_size;
	c->new_size = opts->has_size ? opts->size : c->old_size;
	/* as the file is now, so is what is added */
	c->sparse = (uint64_t)st.st_blocks * 512 < c->old_size;
	if (!c->sparse)
		c->spare = (uint64_t)st.st_blocks * 512 - c->old_size;
	c->written = table_option(&dev->table, "mapped");
	if (c->new_size < dev->table.offset + SECTOR_SIZE) {
		complain("cannot resize %s: %ju bytes are not enough for its offset",
			 node, (uintmax_t)c->new_size);
		return TOLD;
	}
	c->sectors = (c->new_size - dev->table.offset) >> SECTOR_SHIFT;
	if (c->new_size >= c->old_size && c->sectors >= dev->length)
		return check_space(c);
	if (!opts->shrink) {
		complain("%s would become smaller: %ju bytes, now %ju; say --shrink to cut it",
			 node, (uintmax_t)c->sectors << SECTOR_SHIFT,
			 (uintmax_t)dev->length << SECTOR_SHIFT);
		return TOLD;
	}
	c->shrink = true;
	return check_shrink(c, 0);
}

static int write_zeroes(const struct hold *h, int fd, uint64_t pos,
			uint64_t end)
{
	char *zeroes = xcalloc(1, ZEROES);
	int err = 0;

	while (!err && pos < end) {
		size_t len = end - pos < ZEROES ? end - pos : ZEROES;
		ssize_t n = pwrite(fd, zeroes, len, pos);

		if (n < 0) {
			err = -errno;
			break;
		}
		err = signals_pending() ? -EINTR : hold_keep(h);
		pos += n;
	}
	free(zeroes);
	return err;
}

/*
 * What the device gets is to hold data. Some of it may have been in the file
 * already, in blocks that are not written.
 */
static int write_unwritten(const struct hold *h, const struct change *c, int fd)
{
	const struct loop_device *dev = c->dev;
	uint64_t start = dev->table.offset + (dev->length << SECTOR_SHIFT);
	struct extent_map map;
	struct extent ext;
	int got, err = 0;

	if (start >= c->new_size)
		return 0;
	extents_init(&map, fd, c->new_size);
	extents_seek(&map, start);
	while (!err && (got = extents_next(&map, &ext))) {
		if (got < 0)
			err = got;
		else if (ext.state == EXTENT_HOLE ||
			 ext.state == EXTENT_UNWRITTEN)
			err = write_zeroes(h, fd, ext.start,
					   ext.start + ext.length);
	}
	extents_free(&map);
	return err;
}

static int extend(const struct hold *h, const struct change *c, int fd)
{
	uint64_t pos = c->old_size, len, need, left;

	/* where it can be done: the first block is there */
	if (!c->sparse && !fallocate(fd, 0, 0, 1) && !has_room(c, &need, &left))
		return -ENOSPC;
	/* in steps: the guard must see that we go on */
	while (!c->sparse && pos < c->new_size) {
		len = c->new_size - pos < STEP ? c->new_size - pos : STEP;
		if (fallocate(fd, 0, pos, len)) {
			if (errno != EOPNOTSUPP)
				return -errno;
			break;
		}
		if (signals_pending())
			return -EINTR;
		if (hold_keep(h))
			return -ECHILD;
		pos += len;
	}
	return ftruncate(fd, c->new_size) ? -errno : 0;
}

/* The device is suspended: the file as it was planned with, for writing. */
static int open_file(const struct change *c)
{
	int fd = open(c->dev->table.path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0)
		return -errno;
	if (!fstat(fd, &st) && device_on_file(c->dev, &st) &&
	    (uint64_t)st.st_size == c->old_size)
		return fd;
	close(fd);
	return -ESTALE;
}

/* What the new table needs. On an error the file has its old size again. */
static int add_to_file(const struct hold *h, const struct change *c)
{
	bool longer = c->new_size > c->old_size;
	bool zeroes = c->written && c->sectors > c->dev->length;
	int fd, err = 0;

	if (!longer && !zeroes)
		return 0;
	fd = open_file(c);
	if (fd < 0)
		return fd;
	if (longer)
		err = extend(h, c, fd);
	if (!err && zeroes)
		err = write_unwritten(h, c, fd);
	if (!err)
		err = hold_sync(h, fd, zeroes ? c->dev->table.offset +
				(c->dev->length << SECTOR_SHIFT) : c->old_size);
	if (err && longer && ftruncate(fd, c->old_size))
		note("the file keeps what was added to it");
	close(fd);
	return err;
}

/* What the new table needs no more; from here on the old one cannot be resumed. */
static int cut_file(const struct change *c)
{
	int fd, err = 0;

	if (c->new_size >= c->old_size)
		return 0;
	fd = open_file(c);
	if (fd < 0)
		return fd;
	if (ftruncate(fd, c->new_size))
		err = -errno;
	else if (fsync(fd))
		note("cannot sync %s: %s", shown(c->dev->table.path),
		     strerror(errno));
	close(fd);
	return err;
}

/*
 * Every moment in between is one that a resume can take: the file is never
 * shorter than the table that would be resumed says. The guard knows the order.
 */
static int change_held(const struct hold *h, const struct change *c)
{
	const char *what;
	uint64_t size;
	int err = 0;

	if (c->shrink) {
		err = content_size_held(c->dev, &size, &what);
		err = check_content(c, err, size, what);
	}
	if (!err)
		err = add_to_file(h, c);
	if (err)
		return err;
	err = hold_load(h, c->sectors);
	if (!err)
		return cut_file(c);
	if (c->new_size > c->old_size && device_truncate(c->dev, c->old_size))
		note("the file keeps what was added to it");
	return err;
}

static int apply(const struct change *c)
{
	const char *node = c->dev->id.node;
	struct hold h;
	char *reason;
	int err;

	/* once more: others may have been waited for */
	err = hold_begin_resize(&h, c->dev, c->old_size, c->new_size,
				c->shrink ? check_shrink : NULL, c);
	if (err)
		return err;
	err = change_held(&h, c);
	if (err && err != TOLD) {
		reason = kmsg_reason(h.kmsg, c->dev->id.major, c->dev->id.minor,
				     c->dev->table.path);
		complain("cannot resize %s: %s (%s)%s", shown(node),
			 reason ? reason : shown(c->dev->table.path),
			 strerror(-err), err == -ETXTBSY ?
			 "; another device or program uses the file" : "");
		free(reason);
		err = TOLD;
	}
	err = hold_end(&h, err);
	if (!err)
		note("%s has %ju bytes now; it was suspended for %.1f ms",
		     shown(node), (uintmax_t)c->sectors << SECTOR_SHIFT,
		     h.seconds * 1000);
	return err;
}

int do_set_capacity(const struct options *opts)
{
	struct change c = { 0 };
	struct loop_device *devs;
	size_t nr;
	int err;

	err = device_open_active(opts->name, "resize", &devs, &nr);
	if (!err && !device_one_line(devs, nr)) {
		complain("cannot resize %s: its table is not one line of dm-loop",
			 shown(opts->name));
		err = TOLD;
	}
	c.dev = devs;
	if (!err)
		err = plan_change(opts, &c);
	if (!err)
		err = apply(&c);
	device_free(devs, nr);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* A device that is suspended already is resumed: its file has been mended. */
static int resume_only(const struct loop_device *dev)
{
	int kmsg = kmsg_open();
	int lock = device_lock(dev);
	char *reason;
	int err;

	/* what cannot be opened cannot be locked */
	err = lock == -EBUSY || lock == -EINTR ? lock :
	      dm_resume(dev->id.name, NULL);
	if (err) {
		reason = kmsg_reason(kmsg, dev->id.major, dev->id.minor,
				     dev->table.path);
		complain("cannot resume %s: %s (%s)", shown(dev->id.node),
			 lock == -EBUSY ? "another program has it locked" :
			 reason ? reason : "see dmesg", strerror(-err));
		free(reason);
	}
	if (lock >= 0)
		close(lock);
	if (kmsg >= 0)
		close(kmsg);
	return err;
}

/* A device that could not be resumed is better not suspended. */
static int check_refresh(const struct loop_device *devs, size_t nr)
{
	const char *node = shown(devs->id.node);
	size_t i;

	if (!devs->table.path) {
		complain("cannot refresh %s: it has no table", node);
		return TOLD;
	}
	for (i = 0; i < nr && !devs->suspended; i++) {
		if (device_has_file(&devs[i]))
			continue;
		complain("cannot refresh %s: %s is not its file any more", node,
			 shown(devs[i].table.path));
		return TOLD;
	}
	return 0;
}

static int refresh_one(const char *arg)
{
	struct loop_device *devs;
	struct hold h;
	size_t nr;
	int err;

	err = device_open(arg, "refresh", &devs, &nr);
	if (!err)
		err = check_refresh(devs, nr);
	if (!err && devs->suspended) {
		err = resume_only(devs);
	} else if (!err) {
		err = hold_begin_refresh(&h, devs);
		if (!err)
			err = hold_end(&h, 0);
		if (!err)
			note("%s was suspended for %.1f ms",
			     shown(devs->id.node), h.seconds * 1000);
	}
	device_free(devs, nr);
	return err;
}

int do_refresh(const struct options *opts)
{
	int status = EXIT_SUCCESS;
	char **arg;

	for (arg = opts->devices; *arg; arg++) {
		if (refresh_one(*arg))
			status = EXIT_FAILURE;
	}
	return status;
}
