// SPDX-License-Identifier: GPL-2.0-only
/* The regular file of a device, looked at before the kernel is asked. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dmlosetup.h"

static const char *kind_of(mode_t mode)
{
	if (S_ISDIR(mode))
		return "a directory";
	if (S_ISBLK(mode))
		return "a block device already";
	if (S_ISCHR(mode))
		return "a character device";
	if (S_ISFIFO(mode))
		return "a FIFO";
	if (S_ISSOCK(mode))
		return "a socket";
	return "special";
}

static int backing_fill(const char *file, struct backing *b)
{
	struct stat st;
	int err;

	/* O_PATH: neither waits for a FIFO nor rewinds a tape */
	b->fd = open(file, O_PATH | O_CLOEXEC);
	if (b->fd < 0 || fstat(b->fd, &b->st)) {
		err = -errno;
		complain_errno(err, "cannot open %s", shown(file));
		return err;
	}
	if (!S_ISREG(b->st.st_mode)) {
		complain("%s is %s, not a regular file",
			 shown(file), kind_of(b->st.st_mode));
		return -EINVAL;
	}
	b->path = realpath(file, NULL);
	if (!b->path) {
		err = -errno;
		complain_errno(err, "cannot find the absolute path of %s",
			       shown(file));
		return err;
	}
	/* the kernel opens the path anew: it must be what was looked at */
	if (lstat(b->path, &st) || st.st_dev != b->st.st_dev ||
	    st.st_ino != b->st.st_ino) {
		complain("%s was replaced meanwhile; try again",
			 shown(file));
		return -EAGAIN;
	}
	/*
	 * Not by an open for writing: that fails while the file serves
	 * another device, and would make a table load of that one fail.
	 */
	b->writable = !faccessat(AT_FDCWD, b->path, W_OK, AT_EACCESS);
	return 0;
}

/* Says why when it fails. */
int backing_open(const char *file, struct backing *b)
{
	int err;

	memset(b, 0, sizeof(*b));
	b->fd = -1;
	err = backing_fill(file, b);
	if (err)
		backing_close(b);
	return err;
}

void backing_close(struct backing *b)
{
	if (b->fd >= 0)
		close(b->fd);
	free(b->path);
	b->path = NULL;
	b->fd = -1;
}
