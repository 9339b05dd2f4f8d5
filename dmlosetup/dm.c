// SPDX-License-Identifier: GPL-2.0-only
/*
 * libdevmapper, one task at a time. Nothing is said here; the caller knows what
 * it wanted and says so.
 */
#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"

/* udev answers in milliseconds; a device must not hang on one that does not */
#define UDEV_TIMEOUT_MS	30000

static char last_log[512];

static __printf(5, 6)
void log_line(int level, const char *file, int line, int err,
	      const char *fmt, ...)
{
	char text[sizeof(last_log)];
	va_list ap;

	(void)file;
	(void)line;
	(void)err;
	/* the level shares its word with flags */
	level &= 7;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (level <= 3)
		memcpy(last_log, text, sizeof(last_log));
	if (level <= 5)
		note("libdevmapper: %s", text);
}

/* What libdevmapper itself said last, "" if nothing. */
const char *dm_last_log(void)
{
	return last_log;
}

/*
 * udev answers through a System V semaphore, so it must run, and in the same
 * IPC namespace: the first one, whose number is fixed. A container may show
 * the socket of the host's udev and would wait for ever.
 */
static bool udev_answers(void)
{
	static const char first[] = "ipc:[4026531839]";
	char ns[sizeof(first)];
	ssize_t n;

	if (access("/run/udev/control", F_OK))
		return false;
	n = readlink("/proc/self/ns/ipc", ns, sizeof(ns));
	return n < 0 || (n == sizeof(first) - 1 && !memcmp(ns, first, n));
}

void dm_begin(bool noudevsync)
{
	dm_log_with_errno_init(log_line);
	if (noudevsync || !udev_answers())
		dm_udev_set_sync_support(0);
	/* a node that udev has not made is made here, without a warning */
	dm_udev_set_checking(0);
	dm_hold_control_dev(1);
}

void dm_end(void)
{
	dm_hold_control_dev(0);
	dm_lib_release();
}

static int run(struct dm_task *dmt)
{
	if (dm_task_run(dmt))
		return 0;
	return dm_task_get_errno(dmt) ? -dm_task_get_errno(dmt) : -ENODEV;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

/* Like dm_udev_wait(), but not for ever. */
static void udev_wait(uint32_t cookie)
{
	struct timespec nap = { .tv_nsec = 1000000 };
	uint64_t end = now_ms() + UDEV_TIMEOUT_MS;
	int ready = 0;

	if (!cookie) {
		dm_task_update_nodes();
		return;
	}
	while (dm_udev_wait_immediate(cookie, &ready) && !ready) {
		if (now_ms() >= end) {
			note("udev did not answer in %d s; going on without it",
			     UDEV_TIMEOUT_MS / 1000);
			/* answer in its place, which frees the semaphore */
			dm_udev_complete(cookie);
			dm_udev_wait_immediate(cookie, &ready);
			dm_udev_set_sync_support(0);
			break;
		}
		nanosleep(&nap, NULL);
		if (nap.tv_nsec < 16000000)
			nap.tv_nsec *= 2;
	}
	dm_task_update_nodes();
}

/* @when: when it was done, before udev was waited for; may be NULL. */
static int run_with_udev(struct dm_task *dmt, double *when)
{
	uint32_t cookie = 0;
	int err;

	if (!dm_task_set_cookie(dmt, &cookie, 0)) {
		/* no semaphore to be had */
		dm_udev_set_sync_support(0);
		cookie = 0;
		if (!dm_task_set_cookie(dmt, &cookie, 0))
			return -ENOSPC;
	}
	err = run(dmt);
	if (when)
		*when = now();
	udev_wait(cookie);
	return err;
}

static struct dm_task *task_for(int type, const char *name)
{
	struct dm_task *dmt = dm_task_create(type);

	if (dmt && name && !dm_task_set_name(dmt, name)) {
		dm_task_destroy(dmt);
		dmt = NULL;
	}
	return dmt;
}

int dm_check_control(void)
{
	struct dm_task *dmt;
	char path[PATH_MAX];
	int fd, err;

	snprintf(path, sizeof(path), "%s/control", dm_dir());
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0) {
		close(fd);
		return 0;
	}
	if (errno == EACCES || errno == EPERM)
		return -errno;
	/* libdevmapper makes a missing node, if the driver is there */
	dmt = task_for(DM_DEVICE_VERSION, NULL);
	if (!dmt)
		return -ENOMEM;
	err = run(dmt);
	dm_task_destroy(dmt);
	return err;
}

bool dm_target_known(void)
{
	struct dm_task *dmt = task_for(DM_DEVICE_LIST_VERSIONS, NULL);
	struct dm_versions *v;
	bool known = false;

	if (!dmt)
		return false;
	v = run(dmt) ? NULL : dm_task_get_versions(dmt);
	while (v && !known) {
		known = !strcmp(v->name, TARGET_NAME);
		v = v->next ? (void *)((char *)v + v->next) : NULL;
	}
	dm_task_destroy(dmt);
	return known;
}

int dm_list_names(char ***names, size_t *nr)
{
	struct dm_task *dmt = task_for(DM_DEVICE_LIST, NULL);
	struct dm_names *n;
	size_t room = 0;
	int err;

	*names = NULL;
	*nr = 0;
	if (!dmt)
		return -ENOMEM;
	err = run(dmt);
	n = err ? NULL : dm_task_get_names(dmt);
	while (n && n->dev) {
		if (*nr == room) {
			room = room ? 2 * room : 64;
			*names = reallocarray(*names, room, sizeof(**names));
			if (!*names) {
				dm_task_destroy(dmt);
				*nr = 0;
				return -ENOMEM;
			}
		}
		(*names)[(*nr)++] = xstrdup(n->name);
		n = n->next ? (void *)((char *)n + n->next) : NULL;
	}
	dm_task_destroy(dmt);
	return err;
}

void dm_free_names(char **names, size_t nr)
{
	while (nr)
		free(names[--nr]);
	free(names);
}

/*
 * The name of the device that a user means by NAME, /dev/mapper/NAME,
 * /dev/dm-N or any other node or link. -ENXIO: no dm device.
 */
int dm_resolve(const char *arg, char **name)
{
	size_t dir = strlen(dm_dir());
	struct dm_info info = { 0 };
	struct dm_task *dmt;
	struct stat st;
	int err;

	*name = NULL;
	if (!strchr(arg, '/')) {
		dmt = task_for(DM_DEVICE_INFO, arg);
	} else if (!stat(arg, &st)) {
		if (!S_ISBLK(st.st_mode))
			return -ENOTBLK;
		dmt = task_for(DM_DEVICE_INFO, NULL);
		if (dmt) {
			dm_task_set_major(dmt, major(st.st_rdev));
			dm_task_set_minor(dmt, minor(st.st_rdev));
		}
	} else if (errno == ENOENT && !strncmp(arg, dm_dir(), dir) &&
		   arg[dir] == '/' && !strchr(arg + dir + 1, '/')) {
		/* the node may be missing where there is no udev */
		dmt = task_for(DM_DEVICE_INFO, arg + dir + 1);
	} else {
		return -errno;
	}
	/* not a name that a device could have */
	if (!dmt)
		return -ENXIO;
	err = run(dmt);
	if (!err && (!dm_task_get_info(dmt, &info) || !info.exists))
		err = -ENXIO;
	if (!err)
		*name = xstrdup(dm_task_get_name(dmt));
	dm_task_destroy(dmt);
	return err;
}

static char *node_of(const struct dm_task *dmt)
{
	char *mangled = dm_task_get_name_mangled(dmt);
	char *node;

	if (!mangled || !*mangled)
		node = xasprintf("%s/%s", dm_dir(), dm_task_get_name(dmt));
	else
		node = xasprintf("%s/%s", dm_dir(), mangled);
	dm_free(mangled);
	return node;
}

static void id_fill(struct dm_id *id, const struct dm_task *dmt,
		    const struct dm_info *info)
{
	const char *uuid = dm_task_get_uuid(dmt);

	id->name = xstrdup(dm_task_get_name(dmt));
	id->node = node_of(dmt);
	id->uuid = xstrdup(uuid ? uuid : "");
	id->major = info->major;
	id->minor = info->minor;
}

void dm_id_free(struct dm_id *id)
{
	free(id->name);
	free(id->node);
	free(id->uuid);
	memset(id, 0, sizeof(*id));
}

static void lines_fill(struct dm_state *state, struct dm_task *dmt)
{
	char *type = NULL, *params = NULL;
	struct dm_line *line;
	void *next = NULL;
	uint64_t start, length;

	do {
		next = dm_get_next_target(dmt, next, &start, &length, &type,
					  &params);
		if (!type)
			break;
		state->lines = reallocarray(state->lines, state->nr_lines + 1,
					    sizeof(*state->lines));
		if (!state->lines)
			abort();
		line = &state->lines[state->nr_lines++];
		line->start = start;
		line->length = length;
		line->type = xstrdup(type);
		line->params = xstrdup(params ? params : "");
	} while (next);
}

/* Destroys @dmt. */
static int read_state(struct dm_task *dmt, struct dm_state *state)
{
	struct dm_info info = { 0 };
	int err;

	memset(state, 0, sizeof(*state));
	if (!dmt)
		return -EINVAL;
	/* looking must not cost a flush */
	dm_task_no_flush(dmt);
	err = run(dmt);
	if (!err && (!dm_task_get_info(dmt, &info) || !info.exists))
		err = -ENXIO;
	if (!err) {
		id_fill(&state->id, dmt, &info);
		state->read_only = info.read_only;
		state->suspended = info.suspended;
		state->deferred = info.deferred_remove;
		state->inactive_table = info.inactive_table;
		state->open_count = info.open_count;
		lines_fill(state, dmt);
	}
	dm_task_destroy(dmt);
	return err;
}

/* The table (@table) or the status of a device. */
int dm_read(const char *name, bool table, struct dm_state *state)
{
	return read_state(task_for(table ? DM_DEVICE_TABLE : DM_DEVICE_STATUS,
				   name), state);
}

/* The status of the table that was loaded and waits for a resume. */
int dm_read_loaded(const char *name, struct dm_state *state)
{
	struct dm_task *dmt = task_for(DM_DEVICE_STATUS, name);

	if (dmt)
		dm_task_query_inactive_table(dmt);
	return read_state(dmt, state);
}

void dm_state_free(struct dm_state *state)
{
	size_t i;

	for (i = 0; i < state->nr_lines; i++) {
		free(state->lines[i].type);
		free(state->lines[i].params);
	}
	free(state->lines);
	dm_id_free(&state->id);
	memset(state, 0, sizeof(*state));
}

/* A name without a table yet. -EEXIST: somebody else has the name. */
int dm_create(const char *name, const char *uuid, struct dm_id *id)
{
	struct dm_task *dmt = task_for(DM_DEVICE_CREATE, name);
	struct dm_info info = { 0 };
	int err;

	memset(id, 0, sizeof(*id));
	if (!dmt)
		return -EINVAL;
	if (!dm_task_set_uuid(dmt, uuid)) {
		dm_task_destroy(dmt);
		return -EINVAL;
	}
	err = run(dmt);
	if (!err && !dm_task_get_info(dmt, &info))
		err = -ENXIO;
	if (!err)
		id_fill(id, dmt, &info);
	dm_task_destroy(dmt);
	/* the kernel says busy of a name that is taken */
	return err == -EBUSY ? -EEXIST : err;
}

int dm_load(const char *name, const struct dm_line *lines, size_t nr,
	    bool read_only)
{
	struct dm_task *dmt = task_for(DM_DEVICE_RELOAD, name);
	int err = 0;
	size_t i;

	if (!dmt)
		return -EINVAL;
	if (read_only)
		dm_task_set_ro(dmt);
	for (i = 0; i < nr; i++) {
		if (!dm_task_add_target(dmt, lines[i].start, lines[i].length,
					lines[i].type, lines[i].params))
			err = -ENOMEM;
	}
	if (!err)
		err = run(dmt);
	dm_task_destroy(dmt);
	return err;
}

int dm_resume(const char *name, double *when)
{
	struct dm_task *dmt = task_for(DM_DEVICE_RESUME, name);
	int err;

	if (!dmt)
		return -EINVAL;
	err = run_with_udev(dmt, when);
	dm_task_destroy(dmt);
	return err;
}

static int run_simple(int type, const char *name)
{
	struct dm_task *dmt = task_for(type, name);
	int err;

	if (!dmt)
		return -EINVAL;
	err = run(dmt);
	dm_task_destroy(dmt);
	return err;
}

/* With a freeze of the filesystem above, which makes it clean. */
int dm_suspend(const char *name)
{
	return run_simple(DM_DEVICE_SUSPEND, name);
}

int dm_clear(const char *name)
{
	return run_simple(DM_DEVICE_CLEAR, name);
}

/* Sends @text to the target at @sector; the caller frees the answer. */
int dm_message(const char *name, uint64_t sector, const char *text,
	       char **answer)
{
	struct dm_task *dmt = task_for(DM_DEVICE_TARGET_MSG, name);
	const char *response;
	int err;

	*answer = NULL;
	if (!dmt)
		return -EINVAL;
	dm_task_set_sector(dmt, sector);
	dm_task_set_message(dmt, text);
	err = run(dmt);
	response = err ? NULL : dm_task_get_message_response(dmt);
	if (!err)
		*answer = xstrdup(response ? response : "");
	dm_task_destroy(dmt);
	return err;
}

static bool node_is(const struct dm_id *id)
{
	struct stat st;

	return !stat(id->node, &st) && S_ISBLK(st.st_mode) &&
	       st.st_rdev == makedev(id->major, id->minor);
}

static struct dm_task *task_for_uuid(int type, const char *uuid)
{
	struct dm_task *dmt = dm_task_create(type);

	if (dmt && !dm_task_set_uuid(dmt, uuid)) {
		dm_task_destroy(dmt);
		dmt = NULL;
	}
	return dmt;
}

static int remove_task(struct dm_task *dmt, bool deferred)
{
	int err;

	if (!dmt)
		return -EINVAL;
	if (deferred)
		dm_task_deferred_remove(dmt);
	err = run_with_udev(dmt, NULL);
	dm_task_destroy(dmt);
	return err;
}

static void make_node(const char *name)
{
	struct dm_task *dmt = task_for(DM_DEVICE_MKNODES, name);

	if (!dmt)
		return;
	run(dmt);
	dm_task_destroy(dmt);
	dm_task_update_nodes();
}

static bool is_there(const char *name)
{
	struct dm_task *dmt = task_for(DM_DEVICE_INFO, name);
	struct dm_info info = { 0 };
	bool is;

	is = dmt && !run(dmt) && dm_task_get_info(dmt, &info) && info.exists;
	if (dmt)
		dm_task_destroy(dmt);
	return is;
}

/*
 * Without a name libdevmapper leaves it behind, and where there is no udev so does
 * everybody. A new device may have name and number by now: then it was its node.
 */
static void remove_node(const struct dm_id *id)
{
	if (dm_udev_get_sync_support() || !node_is(id))
		return;
	unlink(id->node);
	if (is_there(id->name))
		make_node(id->name);
}

static int remove_uuid(const struct dm_id *id, bool deferred)
{
	int err = remove_task(task_for_uuid(DM_DEVICE_REMOVE, id->uuid),
			      deferred);

	if (!err)
		remove_node(id);
	return err;
}

/*
 * By its uuid, if it has one, as it may have gone meanwhile and another one have its
 * name. Not so if @deferred: it would lose its node before it goes.
 */
int dm_remove(const struct dm_id *id, bool deferred)
{
	return *id->uuid && !deferred ? remove_uuid(id, false) :
		remove_task(task_for(DM_DEVICE_REMOVE, id->name), deferred);
}

/*
 * Removes what an attach left, if anything. By the random uuid: never
 * somebody else's device of the same name.
 */
int dm_undo_create(const char *uuid)
{
	struct dm_task *dmt = task_for_uuid(DM_DEVICE_INFO, uuid);
	struct dm_info info = { 0 };
	struct dm_id id;
	int err;

	if (!dmt)
		return -EINVAL;
	err = run(dmt);
	if (!err && dm_task_get_info(dmt, &info) && info.exists) {
		id_fill(&id, dmt, &info);
		/* should udev be looking at it right now */
		err = remove_uuid(&id, true);
		dm_id_free(&id);
	}
	dm_task_destroy(dmt);
	return err;
}

/* In a container, or without udev, nobody else makes the node. */
int dm_ensure_node(const struct dm_id *id)
{
	if (node_is(id))
		return 0;
	make_node(id->name);
	return node_is(id) ? 0 : -ENOENT;
}
