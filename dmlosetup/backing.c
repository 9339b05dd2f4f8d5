// SPDX-License-Identifier: GPL-2.0-only
/*
 * The regular file of a device, looked at before the kernel is asked, and another
 * that is to stand in for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
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

/*
 * Who may use @to is who may use @from. Where there is an ACL the bits of the group
 * are those that any entry of it may have: without it the group gets nothing.
 */
int copy_mode(int from, int to, mode_t mode)
{
	static const char acl[] = "system.posix_acl_access";
	char value[4096];
	ssize_t n;

	/* one that its folder has given it */
	fremovexattr(to, acl);
	n = fgetxattr(from, acl, value, sizeof(value));
	if (n < 0 && errno != ERANGE)
		return fchmod(to, mode) ? -errno : 0;
	if (fchmod(to, mode & ~(mode_t)0070))
		return -errno;
	if (n < 0 || fsetxattr(to, acl, value, n, 0))
		note("the new file has not the ACL of the old one");
	/* the ACL says who, @mode may say less than it does */
	else if (fchmod(to, mode))
		return -errno;
	return 0;
}

/* What is in the folder of @file, where there is a way to do it. */
int sync_folder(const char *file)
{
	char *copy = xstrdup(file);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int err = 0;

	if ((fd < 0 && errno != EACCES) || (fd >= 0 && fsync(fd) && errno != EINVAL))
		err = -errno;
	if (fd >= 0)
		close(fd);
	free(copy);
	return err;
}

/* Is that file there, and no other? */
bool is_at(const char *path, const struct stat *st)
{
	struct stat is;

	return !lstat(path, &is) && is.st_dev == st->st_dev &&
	       is.st_ino == st->st_ino;
}
