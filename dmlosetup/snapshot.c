// SPDX-License-Identifier: GPL-2.0-only
/*
 * --snapshot: a second file with what the image is at one moment. By FICLONE,
 * which takes milliseconds; where the filesystem or the table cannot have it,
 * by copying, for as long as that takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "dmlosetup.h"

/* It may not have a name; then another file may. */
static void drop(int fd, const char *file)
{
	struct stat st;

	if (fd < 0)
		return;
	if (!fstat(fd, &st) && st.st_nlink && is_at(file, &st))
		unlink(file);
	close(fd);
}

static mode_t mask(void)
{
	mode_t is = umask(0);

	umask(is);
	return is;
}

/* How much there is to be copied, in bytes. */
static int data_size(int fd, uint64_t size, uint64_t *bytes)
{
	struct extent_map map;
	struct extent ext;
	int got;

	*bytes = 0;
	extents_init(&map, fd, size);
	while ((got = extents_next(&map, &ext)) > 0)
		if (ext.state != EXTENT_HOLE && ext.state != EXTENT_UNWRITTEN)
			*bytes += ext.length;
	extents_free(&map);
	return got;
}

static int copy(const struct hold *h, int from, int to, const struct stat *st)
{
	struct copy c = {
		.from = from, .to = to, .size = st->st_size, .hold = h,
	};
	uint64_t most;
	int err;

	err = data_size(from, c.size, &most);
	if (!err)
		err = check_room(st, most, to);
	if (err)
		return err;
	if (ftruncate(to, st->st_size))
		return -errno;
	copy_init(&c);
	err = copy_pass(&c, "copying", false);
	copy_free(&c);
	/* the device may need that space as soon as it goes on */
	if (err && ftruncate(to, 0))
		note("cannot empty the unfinished file: %s", strerror(errno));
	return err;
}

/* Not where the resume would refuse blocks that are shared. */
static int clone_file(const struct loop_device *dev, int from, int to)
{
	const struct table_line *line = &dev->table;

	if (dev->read_only || !table_option(line, "mapped") ||
	    table_option(line, "unshare"))
		return ioctl(to, FICLONE, from);
	errno = EOPNOTSUPP;
	return -1;
}

/* The device is suspended. */
static int clone_held(struct hold *h, const struct loop_device *dev, int from,
		      int to, bool *copied)
{
	struct stat st;
	int err;

	/* of one moment: nobody resumes it meanwhile */
	err = hold_file(h);
	/* what could not be written back when it was suspended */
	if (!err)
		err = hold_sync(h, from, 0);
	if (err)
		return err;
	if (fstat(from, &st) || !device_on_file(dev, &st)) {
		err = -ESTALE;
	} else if (clone_file(dev, from, to)) {
		*copied = true;
		if (errno == EOPNOTSUPP || errno == EXDEV || errno == EINVAL ||
		    errno == ENOTTY)
			err = copy(h, from, to, &st);
		else
			err = -errno;
	}
	if (!err)
		err = copy_mode(from, to, st.st_mode & 0777 & ~mask());
	/* had the guard resumed the device, this is not one moment */
	return err ? err : hold_ask(h);
}

/* A file without one is gone when we are killed. */
static int give_name(int fd, const char *file)
{
	char proc[64];
	struct stat st;

	if (fstat(fd, &st))
		return -1;
	if (st.st_nlink || !linkat(fd, "", AT_FDCWD, file, AT_EMPTY_PATH))
		return 0;
	if (errno != ENOENT)
		return -1;
	/* before 6.10 that needs CAP_DAC_READ_SEARCH */
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, proc, AT_FDCWD, file, AT_SYMLINK_FOLLOW);
}

static int write_clone(const struct loop_device *dev, const char *file,
		       int from, int to)
{
	bool copied = false;
	struct hold h;
	int err;

	err = hold_begin(&h, dev);
	if (err)
		return err;
	err = clone_held(&h, dev, from, to, &copied);
	/* the table may have no space to unshare, or refuse what is shared */
	h.clone = &to;
	/* the device has not changed, whatever became of the copy */
	if (hold_end(&h, 0))
		return TOLD;
	if (!err && fsync(to))
		err = -errno;
	if (!err && signals_pending())
		err = -EINTR;
	if (!err && give_name(to, file))
		err = -errno;
	if (!err)
		err = sync_folder(file);
	if (err == -ETXTBSY) {
		complain("cannot take a snapshot of %s: %s",
			 shown(dev->id.node),
			 "another device uses its file, or its filesystem is frozen");
		return TOLD;
	}
	if (err) {
		complain_errno(err, "cannot write the snapshot %s", shown(file));
		return TOLD;
	}
	/* too late to stop it */
	signals_forget();
	printf("%s: %s of %s, which was suspended for %.1f ms\n", shown(file),
	       copied ? "copy" : "clone", shown(dev->id.node), h.seconds * 1000);
	flush_report();
	return 0;
}

/* Without a name until it is complete, where the filesystem can. */
static int create(const char *file)
{
	char *path = xstrdup(file);
	int fd = -1;

	if (!faccessat(AT_FDCWD, file, F_OK, AT_SYMLINK_NOFOLLOW))
		errno = EEXIST;
	else
		fd = open(dirname(path), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR))
		fd = open(file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	free(path);
	return fd;
}

static int open_old(const struct loop_device *dev)
{
	int fd = open(dev->table.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd >= 0 && !fstat(fd, &st) && device_on_file(dev, &st))
		return fd;
	complain("cannot take a snapshot: %s is not the file of %s any more",
		 shown(dev->table.path), shown(dev->id.node));
	if (fd >= 0)
		close(fd);
	return -1;
}

static int new_file(const struct loop_device *dev, const char *file)
{
	struct stat st;
	int fd;

	fd = create(file);
	if (fd < 0) {
		complain_errno(-errno, "cannot create the snapshot %s",
			       shown(file));
		return -1;
	}
	if (!fstat(fd, &st) &&
	    !lies_on(&dev->id, fd, st.st_dev))
		return fd;
	complain("cannot write the snapshot %s onto %s itself", shown(file),
		 shown(dev->id.node));
	drop(fd, file);
	return -1;
}

static int snapshot(const struct loop_device *dev, const char *file)
{
	int from, to, err = TOLD;

	/* from the moment on that there is a file to be removed */
	signals_hold();
	from = open_old(dev);
	to = from < 0 ? -1 : new_file(dev, file);
	if (to >= 0)
		err = write_clone(dev, file, from, to);
	if (err)
		drop(to, file);
	else
		close(to);
	if (from >= 0)
		close(from);
	signals_release();
	return err;
}

int do_snapshot(const struct options *opts)
{
	struct loop_device *devs;
	size_t nr;
	int err;

	err = device_open_active(opts->name, "take a snapshot of", &devs, &nr);
	if (!err && (nr != 1 || !devs->table.path)) {
		complain("cannot take a snapshot of %s: it has not one file",
			 shown(opts->name));
		err = TOLD;
	}
	if (!err)
		err = snapshot(devs, opts->file);
	device_free(devs, nr);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
