// SPDX-License-Identifier: GPL-2.0-only
/*
 * Suspends a device, so that its file may be changed, and resumes it whatever
 * happens: at the end, or by the guard when this process is killed or hangs.
 * If the device cannot be resumed with what was changed, it gets its old
 * table again. A kill of both processes at once is all that is left.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"

/* tried again after 10, 20, 40 ... ms: by the guard for half a minute, by us for two seconds */
#define FIRST_PAUSE	10000000L
#define LAST_PAUSE	500000000L
#define GUARD_TRIES	64
#define OWN_TRIES	9
#define SYNC_STEP	16777216
/* seconds */
#define SAY_AFTER	2
#define GIVE_UP_AFTER	60

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Locks @path, unless another command has it: -EWOULDBLOCK. */
static int try_lock(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int err;

	if (fd < 0)
		return -errno;
	if (!flock(fd, LOCK_EX | LOCK_NB))
		return fd;
	err = errno;
	close(fd);
	return -err;
}

/*
 * Returns 0 to try again after a moment. Not for ever: whoever may read a file can
 * lock it.
 */
static int wait_for_lock(const char *path, double began, bool *said)
{
	const struct timespec pause = { .tv_nsec = FIRST_PAUSE };
	double waited = now() - began;

	if (signals_pending())
		return -EINTR;
	if (waited > GIVE_UP_AFTER)
		return -EBUSY;
	if (waited > SAY_AFTER && !*said) {
		*said = true;
		complain("waiting for another program that has %s locked",
			 shown(path));
	}
	nanosleep(&pause, NULL);
	return 0;
}

/*
 * One dmlosetup at a time has a device suspended: the end of another would
 * resume it under the first. The guard has the lock too, until it is done.
 * Returns a descriptor or a negative errno. May wait a minute.
 */
int device_lock(const struct loop_device *dev)
{
	double began = now();
	bool said = false;
	int fd, err = 0;

	do {
		fd = try_lock(dev->id.node);
		if (fd == -EWOULDBLOCK)
			err = wait_for_lock(dev->id.node, began, &said);
	} while (fd == -EWOULDBLOCK && !err);
	return err ? err : fd;
}

/* As device_open(), and it must be active: another command that has it suspended is waited for. */
int device_open_active(const char *arg, const char *what,
		       struct loop_device **devs, size_t *nr)
{
	int lock, err;

	err = device_open(arg, what, devs, nr);
	if (err || !(*devs)->suspended)
		return err;
	lock = device_lock(*devs);
	/* it may be quite another by now */
	device_free(*devs, *nr);
	err = device_open(arg, what, devs, nr);
	if (!err && (*devs)->suspended) {
		complain("cannot %s %s: %s", what, shown(arg), lock == -EBUSY ?
			 "another program has it locked" :
			 "it is suspended; use --refresh first");
		err = TOLD;
	}
	if (lock >= 0)
		close(lock);
	return err;
}

static void unlock_files(struct hold *h)
{
	while (h->nr_file_locks)
		close(h->file_locks[--h->nr_file_locks]);
}

static bool is_file_of_earlier(const struct loop_device *lines, size_t i)
{
	size_t j;

	for (j = 0; j < i; j++) {
		if (lines[j].back_dev == lines[i].back_dev &&
		    lines[j].back_ino == lines[i].back_ino)
			return true;
	}
	return false;
}

/* All or none, so that it does not matter in which order others want them. */
static int try_lock_files(struct hold *h, const struct loop_device *lines,
			  size_t nr, const char **busy)
{
	size_t i;
	int fd;

	for (i = 0; i < nr; i++) {
		if (!device_has_file(&lines[i]) || is_file_of_earlier(lines, i))
			continue;
		fd = try_lock(lines[i].table.path);
		if (fd == -EWOULDBLOCK) {
			*busy = lines[i].table.path;
			unlock_files(h);
			return fd;
		}
		/* a filesystem may know no such locks */
		if (fd >= 0)
			h->file_locks[h->nr_file_locks++] = fd;
	}
	return 0;
}

/*
 * A file may have several devices. As long as one of them is active it is the
 * kernel's; if all are suspended, what one command does to it is in the way of the
 * other.
 */
static int lock_files(struct hold *h)
{
	struct loop_device *lines = NULL;
	const char *busy;
	double began = now();
	bool said = false;
	size_t nr = 0;
	int err;

	err = device_read(h->dev->id.name, &lines, &nr);
	if (!err) {
		h->file_locks = xcalloc(nr, sizeof(*h->file_locks));
		while (!err && try_lock_files(h, lines, nr, &busy))
			err = wait_for_lock(busy, began, &said);
	}
	device_free(lines, nr);
	return err;
}

/* Has it still the files of its table? The kernel takes no others. */
static bool has_files(const struct hold *h)
{
	size_t i;

	for (i = 0; i < h->nr_lines; i++) {
		if (!device_has_file(&h->lines[i]))
			return false;
	}
	return true;
}

/*
 * Never over the table of a device that somebody else has resumed meanwhile: it
 * is in use, with the old table or with the new one.
 */
static int load_old(const struct hold *h)
{
	struct dm_state is;
	int err;

	err = dm_read(h->old.id.name, true, &is);
	if (!err && !is.suspended)
		err = -EBUSY;
	dm_state_free(&is);
	if (!err && !has_files(h))
		err = -ESTALE;
	return err ? err : dm_load(h->old.id.name, h->old.lines,
				   h->old.nr_lines, h->old.read_only);
}

/*
 * The kernel takes no file that is open for writing, and closes those of a
 * process that dies in no certain order: the file may be open for a moment
 * after the guard was told by the end of its socket. Others may pass by, too.
 */
static int resume_patiently(const char *name, unsigned int tries, double *when)
{
	struct timespec pause = { .tv_nsec = FIRST_PAUSE };
	int err;

	for (;;) {
		err = dm_resume(name, when);
		/* -EAGAIN: to unshare, and frozen */
		if ((err != -ETXTBSY && err != -EAGAIN) || !--tries)
			break;
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < LAST_PAUSE)
			pause.tv_nsec *= 2;
	}
	return err;
}

/* Without the change if it is not complete; with it if it is. */
static bool resume(const struct hold *h)
{
	const char *name = h->old.id.name;
	int err;

	err = resume_patiently(name, GUARD_TRIES, NULL);
	if (err) {
		err = load_old(h);
		if (!err)
			err = resume_patiently(name, GUARD_TRIES, NULL);
	}
	return !err || err == -EBUSY;
}

/* The file as it was planned with, and no other that is at its path by now. */
int device_truncate(const struct loop_device *dev, uint64_t size)
{
	int fd = open(dev->table.path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int err = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || !device_on_file(dev, &st))
		err = -ESTALE;
	else if (ftruncate(fd, size))
		err = -errno;
	close(fd);
	return err;
}

/*
 * What a resize was at when it was killed is finished if all that is left is
 * to resume, and undone otherwise. A larger file comes before the table for
 * it, a shorter one after.
 */
static int settle_size(const struct hold *h, const struct dm_state *is)
{
	const struct loop_device *dev = h->lines;
	uint64_t size;
	struct stat st;

	if (h->old_size == h->new_size ||
	    stat(dev->table.path, &st) || !device_on_file(dev, &st))
		return 0;
	size = st.st_size;
	if (is->inactive_table && size > h->new_size)
		return dm_clear(is->id.name);
	if (!is->inactive_table && size > h->old_size && size <= h->new_size)
		return device_truncate(dev, h->old_size);
	return 0;
}

/* In the guard. The device may be another one of the same name by now. */
static bool undo_hold(void *arg, enum guard_when when)
{
	const struct hold *h = arg;
	struct dm_state is;
	bool done = true;

	if (!dm_read(h->old.id.name, true, &is) &&
	    is.id.major == h->old.id.major && is.id.minor == h->old.id.minor &&
	    !strcmp(is.id.uuid, h->old.id.uuid)) {
		if (is.suspended && when != PARENT_GONE_LATE) {
			/* a resume may be under way, which has taken the table */
			if (when == PARENT_GONE)
				settle_size(h, &is);
			done = resume(h);
		} else if (is.inactive_table && !h->old.inactive_table) {
			/* one that it has loaded and not resumed */
			dm_clear(is.id.name);
		}
	}
	dm_state_free(&is);
	return done;
}

/* What is written back now need not be while the device is suspended. */
static void write_back(const struct loop_device *dev)
{
	char *where = device_mountpoint(dev);
	int fd = where ? open(where, O_RDONLY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		syncfs(fd);
		close(fd);
	}
	free(where);
}

static int suspend(struct hold *h)
{
	int err;

	messages_keep();
	h->since = now();
	err = dm_suspend(h->old.id.name);
	if (err)
		return err;
	h->suspended = true;
	return guard_keep(&h->guard);
}

/* A table that somebody has loaded for an active device is not ours to take or to clear. */
static int check_staged(const struct hold *h)
{
	if (h->old.suspended || !h->old.inactive_table)
		return 0;
	complain("nothing is changed on %s: a table is loaded for it; %s",
		 shown(h->dev->id.node), "use dmsetup resume or clear first");
	return TOLD;
}

/* What was planned with @dev may not be right any more. */
static int check_changed(const struct hold *h)
{
	const struct loop_device *was = h->dev, *is = h->lines;

	if (h->old.suspended) {
		complain("nothing is changed on %s: it is suspended; use --refresh first",
			 shown(was->id.node));
		return TOLD;
	}
	if (check_staged(h))
		return TOLD;
	if (h->nr_lines == 1 && is->table.path && is->start == was->start &&
	    is->length == was->length &&
	    is->table.offset == was->table.offset &&
	    is->back_dev == was->back_dev && is->back_ino == was->back_ino &&
	    !strcmp(is->table.path, was->table.path) &&
	    !strcmp(is->table.options, was->table.options))
		return 0;
	complain("nothing is changed on %s: it was changed meanwhile",
		 shown(was->id.node));
	return TOLD;
}

/* It could not be resumed. */
static int check_files(const struct hold *h)
{
	if (has_files(h))
		return 0;
	complain("nothing is changed on %s: its file is not at its path any more",
		 shown(h->dev->id.node));
	return TOLD;
}

static int begin(struct hold *h, bool refresh)
{
	const struct loop_device *dev = h->dev;
	int err;

	h->guard.fd = -1;
	h->guard.path = dev->table.path;
	h->kmsg = kmsg_open();
	signals_hold();
	h->lock = device_lock(dev);
	/* what cannot be opened cannot be locked */
	err = h->lock == -EINTR || h->lock == -EBUSY ? h->lock : 0;
	if (!err)
		err = lock_files(h);
	if (!err)
		err = dm_read(dev->id.name, true, &h->old);
	if (!err)
		err = device_read(dev->id.name, &h->lines, &h->nr_lines);
	if (!err)
		err = refresh ? check_staged(h) : check_changed(h);
	if (!err && h->check)
		err = h->check(h->arg, h->lock >= 0);
	if (!err && !h->old.suspended) {
		write_back(dev);
		err = check_files(h);
	}
	if (!err) {
		mlockall(MCL_CURRENT | MCL_FUTURE);
		err = guard_start(&h->guard, undo_hold, h, true);
	}
	if (!err)
		err = suspend(h);
	if (!err)
		return 0;
	if (err == -ECHILD)
		complain("nothing is changed on %s: the guard process was killed",
			 shown(dev->id.node));
	else if (err < 0)
		complain_errno(err, "cannot suspend %s", shown(dev->id.node));
	return hold_end(h, TOLD);
}

/* Says why when it fails; then the device is as it was. */
int hold_begin(struct hold *h, const struct loop_device *dev)
{
	*h = (struct hold) { .dev = dev };
	return begin(h, false);
}

/* The sizes are those of the file, in bytes. @check says why if it is not to be. */
int hold_begin_resize(struct hold *h, const struct loop_device *dev,
		      uint64_t old_size, uint64_t new_size,
		      int (*check)(const void *arg, int own_opens),
		      const void *arg)
{
	*h = (struct hold) {
		.dev = dev, .old_size = old_size, .new_size = new_size,
		.check = check, .arg = arg,
	};
	return begin(h, false);
}

/* Whatever its table is by now. */
int hold_begin_refresh(struct hold *h, const struct loop_device *dev)
{
	*h = (struct hold) { .dev = dev };
	return begin(h, true);
}

/*
 * The file of a device that is suspended is open for writing until hold_end():
 * the kernel does not take it, so nobody resumes the device with its old table.
 * Fails if somebody was quicker, and if the kernel has not given the file back
 * (-ETXTBSY): another device on it is active, or the filesystem frozen. Then what
 * was written may not be in the file yet. Without effect on a file that nobody may
 * write to.
 */
int hold_file(struct hold *h)
{
	struct dm_state is;
	int err;

	err = guard_open(&h->guard);
	if (err)
		return err;
	err = dm_read(h->old.id.name, true, &is);
	if (!err && !is.suspended)
		err = -ESTALE;
	dm_state_free(&is);
	return err;
}

/* In a long change, now and then. Fails when the guard has given up. */
int hold_keep(const struct hold *h)
{
	return guard_keep(&h->guard);
}

/* The same, and surely so: until now nobody else has resumed the device. */
int hold_ask(const struct hold *h)
{
	return guard_ask(&h->guard);
}

/*
 * fsync of what may be much, from @from on in bytes: in steps, as the guard must
 * see that we go on.
 */
int hold_sync(const struct hold *h, int fd, uint64_t from)
{
	double told = now();
	struct stat st;
	off_t pos;

	if (fstat(fd, &st))
		return -errno;
	for (pos = (off_t)from; pos < st.st_size; pos += SYNC_STEP) {
		/* an error that is told here is not told again by fsync */
		if (sync_file_range(fd, pos, SYNC_STEP, SYNC_FILE_RANGE_WRITE |
				    SYNC_FILE_RANGE_WAIT_AFTER))
			return -errno;
		if (now() - told < 1)
			continue;
		told = now();
		if (signals_pending())
			return -EINTR;
		if (hold_keep(h))
			return -ECHILD;
	}
	/* what is on a filesystem that nobody can write has none */
	return fsync(fd) && errno != EINVAL ? -errno : 0;
}

/* The same line with another length. */
int hold_load(const struct hold *h, uint64_t sectors)
{
	struct dm_line line = h->old.lines[0];

	if (h->old.nr_lines != 1)
		return -ESTALE;
	line.length = sectors;
	return dm_load(h->old.id.name, &line, 1, h->old.read_only);
}

/*
 * The same line with other parameters, which lead to other data: the old data
 * must not have been written since it was copied.
 */
int hold_load_params(const struct hold *h, char *params)
{
	struct dm_line line = h->old.lines[0];
	int err;

	if (h->old.nr_lines != 1)
		return -ESTALE;
	line.params = params;
	err = dm_load(h->old.id.name, &line, 1, h->old.read_only);
	/* from here on the guard would resume with it too; had it before? */
	return err ? err : hold_ask(h);
}

static void complain_resume(const struct hold *h, int err)
{
	char *reason = kmsg_reason(h->kmsg, h->old.id.major, h->old.id.minor,
				   h->dev->table.path);

	complain("cannot resume %s: %s (%s)", shown(h->old.id.node),
		 reason ? reason : "see dmesg", strerror(-err));
	free(reason);
}

static void go_back(const struct hold *h, double *when)
{
	const char *node = shown(h->old.id.node);
	int err;

	if (h->clone && ftruncate(*h->clone, 0))
		complain_errno(-errno, "cannot empty the clone");
	err = load_old(h);
	if (err == -EBUSY)
		complain("%s was resumed by somebody else", node);
	else if (!err && !dm_resume(h->old.id.name, when))
		complain("%s is as it was before", node);
	else
		complain("%s stays suspended; mend its file, then dmlosetup --refresh",
			 node);
}

/*
 * @err: how the change went. Not 0, TOLD perhaps: a table that was loaded is
 * forgotten. Returns @err, or what went wrong here.
 */
int hold_end(struct hold *h, int err)
{
	const char *name = h->old.id.name;
	double until = now();
	int resumed = 0;

	if (h->suspended) {
		guard_resume(&h->guard);
		if (err && !h->old.inactive_table)
			dm_clear(name);
		resumed = resume_patiently(name, OWN_TRIES, &until);
		if (resumed) {
			complain_resume(h, resumed);
			go_back(h, &until);
		}
		h->seconds = until - h->since;
	}
	guard_done(&h->guard);
	munlockall();
	messages_show();
	/* the last close of a device writes back what is cached of it */
	if (h->lock >= 0)
		close(h->lock);
	unlock_files(h);
	free(h->file_locks);
	if (h->kmsg >= 0)
		close(h->kmsg);
	dm_state_free(&h->old);
	device_free(h->lines, h->nr_lines);
	signals_release();
	return err ? err : resumed ? TOLD : 0;
}
