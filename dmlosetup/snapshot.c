// SPDX-License-Identifier: GPL-2.0-only
/*
 * --snapshot: a second file with what the image is at one moment. By FICLONE,
 * which takes milliseconds; where the filesystem cannot, by copying, for as
 * long as that takes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dmlosetup.h"

#define PIECE		1048576U

/* Whether a filesystem on @dev_nr may be stacked on the device M:N. */
static bool stacked_on(unsigned int major_nr, unsigned int minor_nr,
		       dev_t dev_nr)
{
	struct dirent *entry;
	unsigned int up_major, up_minor;
	bool found = false;
	char *path, *file;
	DIR *dir;
	FILE *f;

	if (dev_nr == makedev(major_nr, minor_nr))
		return true;
	path = xasprintf("/sys/dev/block/%u:%u/holders", major_nr, minor_nr);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		file = xasprintf("%s/%s/dev", path, entry->d_name);
		f = fopen(file, "re");
		if (f && fscanf(f, "%u:%u", &up_major, &up_minor) == 2)
			found = stacked_on(up_major, up_minor, dev_nr);
		if (f)
			fclose(f);
		free(file);
	}
	if (dir)
		closedir(dir);
	free(path);
	return found;
}

static int copy_piece(int from, int to, char *buf, uint64_t pos, size_t len)
{
	ssize_t n, done, written;

	n = pread(from, buf, len, pos);
	if (n < 0)
		return -errno;
	for (done = 0; done < n; done += written) {
		written = pwrite(to, buf + done, n - done, pos + done);
		if (written < 0)
			return -errno;
	}
	return 0;
}

/* Holes stay holes. */
static int copy(const struct hold *h, int from, int to, uint64_t size)
{
	struct progress progress;
	struct extent_map map;
	struct extent ext;
	char *buf = xcalloc(1, PIECE);
	int err = 0, got = 0;

	if (ftruncate(to, size))
		err = -errno;
	progress_start(&progress, "copying", size);
	extents_init(&map, from, size);
	while (!err && (got = extents_next(&map, &ext)) > 0) {
		uint64_t pos = ext.start, end = ext.start + ext.length;
		bool data = ext.state == EXTENT_MAPPED ||
			    ext.state == EXTENT_SHARED;

		while (!err && pos < end) {
			size_t len = end - pos < PIECE ? end - pos : PIECE;

			if (signals_pending())
				err = -EINTR;
			else if (data)
				err = copy_piece(from, to, buf, pos, len);
			if (!err)
				err = hold_keep(h);
			progress_add(&progress, len);
			pos += len;
		}
	}
	extents_free(&map);
	progress_end(&progress);
	free(buf);
	return err ? err : got;
}

/* The device is suspended. */
static int clone_held(const struct hold *h, const struct loop_device *dev,
		      int to, bool *copied)
{
	struct stat st;
	int from, err = 0;

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
	close(from);
	/* had the guard resumed the device, this is not one moment */
	return err ? err : hold_keep(h);
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
	if (!err && fsync(to))
		err = -errno;
	if (err == -ETXTBSY) {
		complain("cannot take a snapshot of %s: another device uses its file",
			 shown(dev->id.node));
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

static int new_file(const struct loop_device *dev, const char *file)
{
	struct stat from, st;
	int fd;

	if (stat(dev->table.path, &from) || !device_on_file(dev, &from)) {
		complain("cannot take a snapshot: %s is not the file of %s any more",
			 shown(dev->table.path), shown(dev->id.node));
		return -1;
	}
	fd = open(file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
		  from.st_mode & 0777);
	if (fd < 0) {
		complain_errno(-errno, "cannot create the snapshot %s",
			       shown(file));
		return -1;
	}
	if (!fstat(fd, &st) &&
	    !stacked_on(dev->id.major, dev->id.minor, st.st_dev))
		return fd;
	complain("cannot write the snapshot %s onto %s itself", shown(file),
		 shown(dev->id.node));
	close(fd);
	unlink(file);
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
		fd = new_file(devs, opts->file);
		err = fd < 0 ? TOLD : write_clone(devs, opts->file, fd);
		if (fd >= 0)
			close(fd);
		if (fd >= 0 && err)
			unlink(opts->file);
	}
	device_free(devs, nr);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}
