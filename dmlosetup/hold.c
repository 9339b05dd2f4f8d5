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
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"

/* the guard tries again after 10, 20, 40 ... ms, for half a minute */
#define FIRST_PAUSE	10000000L
#define LAST_PAUSE	500000000L
#define RESUME_TRIES	64

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Never with another file that is at the path now. */
static int load_old(const struct hold *h)
{
	size_t i;

	for (i = 0; i < h->nr_lines; i++) {
		if (!device_has_file(&h->lines[i]))
			return -ESTALE;
	}
	return dm_load(h->old.id.name, h->old.lines, h->old.nr_lines,
		       h->old.read_only);
}

/*
 * The kernel takes no file that is open for writing, and closes those of a
 * process that dies in no certain order: the file may be open for a moment
 * after the guard was told by the end of its socket.
 */
static int resume_patiently(const char *name)
{
	struct timespec pause = { .tv_nsec = FIRST_PAUSE };
	unsigned int tries;
	int err;

	for (tries = 0; tries < RESUME_TRIES; tries++) {
		err = dm_resume(name, NULL);
		if (err != -ETXTBSY)
			break;
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < LAST_PAUSE)
			pause.tv_nsec *= 2;
	}
	return err;
}

/* Without the change if it is not complete; with it if it is. */
static void resume(const struct hold *h)
{
	const char *name = h->old.id.name;

	if (resume_patiently(name) && !load_old(h))
		resume_patiently(name);
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
		return truncate(dev->table.path, h->old_size);
	return 0;
}

/* In the guard. The device may be another one of the same name by now. */
static void undo_hold(void *arg)
{
	const struct hold *h = arg;
	struct dm_state is;

	if (!dm_read(h->old.id.name, true, &is) &&
	    is.id.major == h->old.id.major && is.id.minor == h->old.id.minor &&
	    !strcmp(is.id.uuid, h->old.id.uuid)) {
		if (is.suspended) {
			settle_size(h, &is);
			resume(h);
		} else if (is.inactive_table) {
			dm_clear(is.id.name);
		}
	}
	dm_state_free(&is);
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

int hold_begin(struct hold *h, const struct loop_device *dev)
{
	return hold_begin_resize(h, dev, 0, 0);
}

/*
 * Says why when it fails; then the device is as it was. The sizes are those
 * of the file, in bytes, if they differ.
 */
int hold_begin_resize(struct hold *h, const struct loop_device *dev,
		      uint64_t old_size, uint64_t new_size)
{
	int err;

	memset(h, 0, sizeof(*h));
	h->dev = dev;
	h->old_size = old_size;
	h->new_size = new_size;
	h->guard.fd = -1;
	h->kmsg = kmsg_open();
	signals_hold();
	err = dm_read(dev->id.name, true, &h->old);
	if (!err)
		err = device_read(dev->id.name, &h->lines, &h->nr_lines);
	if (!err) {
		write_back(dev);
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
	else
		complain_errno(err, "cannot suspend %s", shown(dev->id.node));
	return hold_end(h, TOLD);
}

/* In a long change, now and then. Fails when the guard has given up. */
int hold_keep(const struct hold *h)
{
	return guard_keep(&h->guard);
}

/* The same line with another length. */
int hold_load(const struct hold *h, uint64_t sectors)
{
	struct dm_line line = h->old.lines[0];

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

	line.params = params;
	err = dm_load(h->old.id.name, &line, 1, h->old.read_only);
	/* from here on the guard would resume with it too; had it before? */
	return err ? err : guard_ask(&h->guard);
}

static void complain_resume(const struct hold *h, int err)
{
	char *reason = kmsg_reason(h->kmsg, h->old.id.major, h->old.id.minor,
				   h->dev->table.path);

	complain("cannot resume %s: %s (%s)", shown(h->old.id.node),
		 reason ? reason : "see dmesg", strerror(-err));
	free(reason);
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
		if (err)
			dm_clear(name);
		resumed = dm_resume(name, &until);
		if (resumed) {
			complain_resume(h, resumed);
			if (!load_old(h) && !dm_resume(name, &until))
				complain("%s is as it was before",
					 shown(h->old.id.node));
			else
				complain("%s stays suspended; %s",
					 shown(h->old.id.node),
					 "mend its file, then dmlosetup --refresh");
		}
		h->seconds = until - h->since;
	}
	guard_done(&h->guard);
	munlockall();
	messages_show();
	if (h->kmsg >= 0)
		close(h->kmsg);
	dm_state_free(&h->old);
	device_free(h->lines, h->nr_lines);
	signals_release();
	return err ? err : resumed ? TOLD : 0;
}
