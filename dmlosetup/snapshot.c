// SPDX-License-Identifier: GPL-2.0-only
/*
 * --snapshot: a second file with what the image is at one moment. By FICLONE,
 * which takes milliseconds; where the filesystem cannot, by copying, for as
 * long as that takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "dmlosetup.h"

/* It may not have a name; then another file may. */
static void drop(int fd, const char *file)
{
	struct stat st;

	if (fd < 0)
		return;
	if (!fstat(fd, &st) && st.st_nlink)
		unlink(file);
	close(fd);
}

static mode_t mask(void)
{
	mode_t is = umask(0);

	umask(is);
	return is;
}

static int copy(const struct hold *h, int from, int to, uint64_t size)
{
	struct copy c = { .from = from, .to = to, .size = size, .hold = h };
	int err;

	if (ftruncate(to, size))
		return -errno;
	copy_init(&c);
	err = copy_pass(&c, "copying", false);
	copy_free(&c);
	return err;
}

/* The device is suspended. */
static int clone_held(struct hold *h, const struct loop_device *dev,
		      int to, bool *copied)
{
	struct stat st;
	int from, err;

	/* of one moment: nobody resumes it meanwhile */
	err = hold_file(h);
	if (err)
		return err;
	from = open(dev->table.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (from < 0)
		return -errno;
	if (fstat(from, &st) || !device_on_file(dev, &st)) {
		err = -ESTALE;
	} else if (ioctl(to, FICLONE, from)) {
		*copied = true;
		if (errno == EOPNOTSUPP || errno == EXDEV || errno == EINVAL ||
		    errno == ENOTTY)
			err = copy(h, from, to, st.st_size);
		else
			err = -errno;
	}
	if (!err)
		err = copy_mode(from, to, st.st_mode & 0777 & ~mask());
	close(from);
	/* had the guard resumed the device, this is not one moment */
	return err ? err : hold_ask(h);
}

/* A file without one is gone when we are killed. */
static int give_name(int fd, const char *file)
{
	struct stat st;

	if (fstat(fd, &st))
		return -1;
	if (st.st_nlink)
		return 0;
	return linkat(fd, "", AT_FDCWD, file, AT_EMPTY_PATH);
}

static int write_clone(const struct loop_device *dev, const char *file, int to)
{
	bool copied = false;
	struct hold h;
	int err;

	err = hold_begin(&h, dev);
	if (err)
		return err;
	err = clone_held(&h, dev, to, &copied);
	/* the device has not changed, whatever became of the copy */
	if (hold_end(&h, 0))
		return TOLD;
	if (!err && (fsync(to) || give_name(to, file)))
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
	printf("%s: %s of %s, which was suspended for %.1f ms\n", shown(file),
	       copied ? "copy" : "clone", shown(dev->id.node), h.seconds * 1000);
	return fflush(stdout) ? TOLD : 0;
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

static int new_file(const struct loop_device *dev, const char *file)
{
	struct stat from, st;
	int fd;

	if (stat(dev->table.path, &from) || !device_on_file(dev, &from)) {
		complain("cannot take a snapshot: %s is not the file of %s any more",
			 shown(dev->table.path), shown(dev->id.node));
		return -1;
	}
	fd = create(file);
	if (fd < 0) {
		complain_errno(-errno, "cannot create the snapshot %s",
			       shown(file));
		return -1;
	}
	if (!fstat(fd, &st) &&
	    !stacked_on(&dev->id, st.st_dev))
		return fd;
	complain("cannot write the snapshot %s onto %s itself", shown(file),
		 shown(dev->id.node));
	drop(fd, file);
	return -1;
}

int do_snapshot(const struct options *opts)
{
	struct loop_device *devs;
	size_t nr;
	int err, fd;

	err = device_open(opts->name, "take a snapshot of", &devs, &nr);
	if (!err && (nr != 1 || !devs->table.path || devs->suspended)) {
		complain("cannot take a snapshot of %s: %s", shown(opts->name),
			 devs->suspended ? "it is suspended; use --refresh first" :
			 "it has not one file");
		err = TOLD;
	}
	if (!err) {
		/* from the moment on that there is a file to be removed */
		signals_hold();
		fd = new_file(devs, opts->file);
		err = fd < 0 ? TOLD : write_clone(devs, opts->file, fd);
		if (err)
			drop(fd, opts->file);
		else
			close(fd);
		signals_release();
	}
	device_free(devs, nr);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
