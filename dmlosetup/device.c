// SPDX-License-Identifier: GPL-2.0-only
/*
 * The dm-loop devices of this machine: every device with a line of target
 * type "loop", whoever made it (dmsetup, an older dmlosetup), one entry for
 * each such line.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "dmlosetup.h"

static bool status_file(const struct status_line *status, dev_t *dev,
			uint64_t *ino)
{
	uint64_t major_nr, minor_nr;

	if (!status_pair(status, "ino", ino) ||
	    !status_pair(status, "major", &major_nr) ||
	    !status_pair(status, "minor", &minor_nr))
		return false;
	*dev = makedev(major_nr, minor_nr);
	return true;
}

/*
 * Which file: the kernel's word where its status has one, because a path can
 * be renamed or mounted over after the file was opened.
 */
static void find_backing(struct loop_device *dev)
{
	dev_t back_dev;
	uint64_t ino;
	struct stat st;

	if (!stat(dev->table.path, &st) && S_ISREG(st.st_mode)) {
		dev->has_backing = true;
		dev->back_dev = st.st_dev;
		dev->back_ino = st.st_ino;
		dev->back_size = st.st_size;
	}
	if (dev->has_status && status_file(&dev->status, &back_dev, &ino)) {
		if (dev->back_dev != back_dev || dev->back_ino != ino)
			dev->back_size = 0;
		dev->has_backing = true;
		dev->back_dev = back_dev;
		dev->back_ino = ino;
	}
}

static void id_copy(struct dm_id *dst, const struct dm_id *src)
{
	dst->name = xstrdup(src->name);
	dst->node = xstrdup(src->node);
	dst->uuid = xstrdup(src->uuid);
	dst->major = src->major;
	dst->minor = src->minor;
}

static struct loop_device *append(struct loop_device **devs, size_t *nr,
				  const struct dm_state *state)
{
	struct loop_device *dev;

	*devs = reallocarray(*devs, *nr + 1, sizeof(**devs));
	if (!*devs) {
		complain("out of memory");
		exit(EXIT_FAILURE);
	}
	dev = &(*devs)[(*nr)++];
	memset(dev, 0, sizeof(*dev));
	id_copy(&dev->id, &state->id);
	dev->read_only = state->read_only;
	dev->suspended = state->suspended;
	dev->deferred = state->deferred;
	return dev;
}

static void fill_line(struct loop_device *dev, const struct dm_line *table,
		      const struct dm_line *status)
{
	dev->start = table->start;
	dev->length = table->length;
	if (table_parse(table->params, &dev->table)) {
		/* newer than this program: show what there is */
		dev->table.path = xstrdup(table->params);
		dev->table.options = xstrdup("");
	}
	if (status && status->start == table->start &&
	    !strcmp(status->type, TARGET_NAME))
		dev->has_status = !status_parse(status->params, &dev->status);
	find_backing(dev);
}

/*
 * Appends the lines of one device. -ENXIO: there is none; -ENOTTY: not a
 * dm-loop device. A device of ours without any table (left by a SIGKILL
 * between two ioctls) is one entry without a path.
 */
int device_read(const char *name, struct loop_device **devs, size_t *nr)
{
	struct dm_state table, status;
	bool ours = false;
	size_t i;
	int err;

	err = dm_read(name, true, &table);
	if (err) {
		dm_state_free(&table);
		return err;
	}
	if (!table.nr_lines &&
	    !strncmp(table.id.uuid, UUID_PREFIX, strlen(UUID_PREFIX))) {
		append(devs, nr, &table);
		dm_state_free(&table);
		return 0;
	}
	for (i = 0; i < table.nr_lines; i++)
		ours |= !strcmp(table.lines[i].type, TARGET_NAME);
	if (!ours) {
		dm_state_free(&table);
		return -ENOTTY;
	}
	/* it may be gone by now; then the table alone is shown */
	memset(&status, 0, sizeof(status));
	if (dm_read(name, false, &status))
		status.nr_lines = 0;
	for (i = 0; i < table.nr_lines; i++) {
		if (strcmp(table.lines[i].type, TARGET_NAME))
			continue;
		fill_line(append(devs, nr, &table), &table.lines[i],
			  i < status.nr_lines ? &status.lines[i] : NULL);
	}
	dm_state_free(&status);
	dm_state_free(&table);
	return 0;
}

/* The lines of the device that @arg means, to do @what; says why not. */
int device_open(const char *arg, const char *what, struct loop_device **devs,
		size_t *nr)
{
	const char *file = shown(arg);
	char *name;
	int err;

	*devs = NULL;
	*nr = 0;
	err = dm_check_control();
	if (err == -EACCES || err == -EPERM) {
		complain("cannot %s %s: %s; run it as root", what, file,
			 strerror(-err));
		return TOLD;
	}
	err = dm_resolve(arg, &name);
	if (!err)
		err = device_read(name, devs, nr);
	free(name);
	switch (err) {
	case 0:
		return 0;
	case -ENXIO:
	case -ENOENT:
		complain("cannot %s %s: no such device; see dmlosetup -l", what,
			 file);
		break;
	case -ENOTTY:
		complain("cannot %s %s: it is not a dm-loop device; see dmsetup table",
			 what, file);
		break;
	case -ENOTBLK:
		complain("cannot %s %s: it is no device; see dmlosetup -j", what,
			 file);
		break;
	default:
		complain_errno(err, "cannot %s %s", what, file);
		break;
	}
	return TOLD;
}

/* Its whole table is one line, ours. */
bool device_one_line(const struct loop_device *devs, size_t nr)
{
	struct dm_state state = { 0 };
	bool one;

	one = nr == 1 && !devs->start && devs->table.path &&
	      !dm_read(devs->id.name, true, &state) && state.nr_lines == 1;
	dm_state_free(&state);
	return one;
}

static void device_clear(struct loop_device *dev)
{
	dm_id_free(&dev->id);
	table_free(&dev->table);
	status_free(&dev->status);
}

/* loop2 before loop10 */
static int by_name(const void *a, const void *b)
{
	const struct loop_device *one = a, *two = b;
	int order = strverscmp(one->id.name, two->id.name);

	if (order)
		return order;
	return one->start < two->start ? -1 : one->start > two->start;
}

/* All devices with a live table. */
int device_read_all(struct loop_device **devs, size_t *nr)
{
	size_t nr_names, i;
	char **names;
	int err;

	*devs = NULL;
	*nr = 0;
	err = dm_list_names(&names, &nr_names);
	for (i = 0; !err && i < nr_names; i++) {
		size_t first = *nr;

		/* gone meanwhile, or not ours: no error */
		if (device_read(names[i], devs, nr))
			continue;
		/* half-made: perhaps another dmlosetup is at it */
		if (*nr > first && !(*devs)[first].table.path) {
			device_clear(&(*devs)[first]);
			*nr = first;
		}
	}
	dm_free_names(names, nr_names);
	if (*nr)
		qsort(*devs, *nr, sizeof(**devs), by_name);
	return err;
}

/* The same for the user: says why not. */
int device_list(struct loop_device **devs, size_t *nr)
{
	int err = dm_check_control();

	*devs = NULL;
	*nr = 0;
	if (err == -EACCES || err == -EPERM) {
		complain("cannot list devices: %s; run it as root",
			 strerror(-err));
		return TOLD;
	}
	/* without the driver there is no device */
	if (err)
		return 0;
	err = device_read_all(devs, nr);
	if (err)
		complain_errno(err, "cannot list the devices of device-mapper");
	return err;
}

void device_free(struct loop_device *devs, size_t nr)
{
	while (nr)
		device_clear(&devs[--nr]);
	free(devs);
}

bool device_on_file(const struct loop_device *dev, const struct stat *st)
{
	return dev->has_backing && dev->back_dev == st->st_dev &&
	       dev->back_ino == st->st_ino;
}

/*
 * Is the file still at its path? The kernel opens what is there, when a table
 * is loaded or the device is resumed.
 */
bool device_has_file(const struct loop_device *dev)
{
	struct stat st;

	return !stat(dev->table.path, &st) && device_on_file(dev, &st);
}

/*
 * Is it this file that the kernel has opened for the table that waits for a
 * resume? It went by the path, where somebody may have put another one.
 */
bool device_loaded_file(const char *name, const struct stat *st)
{
	struct status_line status;
	struct dm_state state;
	bool is = false;
	dev_t back_dev;
	uint64_t ino;

	if (!dm_read_loaded(name, &state) && state.nr_lines == 1 &&
	    !strcmp(state.lines[0].type, TARGET_NAME) &&
	    !status_parse(state.lines[0].params, &status)) {
		is = status_file(&status, &back_dev, &ino) &&
		     back_dev == st->st_dev && ino == st->st_ino;
		status_free(&status);
	}
	dm_state_free(&state);
	return is;
}

/* The node of a device that uses the file, or NULL; the caller frees it. */
char *device_using(const struct stat *st)
{
	struct loop_device *devs;
	char *node = NULL;
	size_t nr, i;

	/* do not load the module just to ask */
	if (dm_check_control())
		return NULL;
	if (device_read_all(&devs, &nr))
		nr = 0;
	for (i = 0; i < nr && !node; i++) {
		if (device_on_file(&devs[i], st))
			node = xstrdup(devs[i].id.node);
	}
	device_free(devs, nr);
	return node;
}
