// SPDX-License-Identifier: GPL-2.0-only
/*
 * Detach. It is done when this returns success, and not otherwise: a device
 * in use stays, and the message says who uses it.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "dmlosetup.h"

/* udev looks at a new device for some milliseconds */
#define RETRIES	8

/* The first line of a file below /sys/dev/block/M:N/. */
static char *sysfs_line(const char *path)
{
	char *line = NULL;
	size_t room = 0;
	FILE *f;

	f = fopen(path, "re");
	if (!f)
		return NULL;
	if (getline(&line, &room, f) <= 0) {
		free(line);
		line = NULL;
	} else {
		line[strcspn(line, "\n")] = '\0';
	}
	fclose(f);
	return line;
}

/* "dm-3 (crypt-disk)", or NULL */
static char *holder(const struct loop_device *dev)
{
	char *path = xasprintf("/sys/dev/block/%u:%u/holders",
			       dev->id.major, dev->id.minor);
	char *found = NULL, *file, *name;
	struct dirent *entry;
	DIR *dir = opendir(path);

	while (dir && !found && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		file = xasprintf("%s/%s/dm/name", path, entry->d_name);
		name = sysfs_line(file);
		if (name)
			found = xasprintf("%s (%s) is on top of it",
					  entry->d_name, shown(name));
		else
			found = xasprintf("%s is on top of it", entry->d_name);
		free(name);
		free(file);
	}
	if (dir)
		closedir(dir);
	free(path);
	return found;
}

/* mountinfo writes a blank as \040 */
static void unescape_octal(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' &&
		    s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
			*out++ = (s[1] - '0') << 6 | (s[2] - '0') << 3 |
				 (s[3] - '0');
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
}

static bool is_device(const char *node, const struct loop_device *dev)
{
	struct stat st;

	return node[0] == '/' && !stat(node, &st) && S_ISBLK(st.st_mode) &&
	       st.st_rdev == makedev(dev->id.major, dev->id.minor);
}

static char *mount_of(const struct loop_device *dev)
{
	char *line = NULL, *found = NULL, *where, *tail, *save, *source;
	unsigned int major, minor;
	size_t room = 0;
	int at = 0;
	FILE *f;

	f = fopen("/proc/self/mountinfo", "re");
	if (!f)
		return NULL;
	while (!found && getline(&line, &room, f) > 0) {
		if (sscanf(line, "%*u %*u %u:%u %*s %n", &major, &minor, &at) < 2)
			continue;
		/* btrfs has a device number of its own: ask for the source */
		tail = strstr(line, " - ");
		source = NULL;
		if (tail && strtok_r(tail + 3, " ", &save))
			source = strtok_r(NULL, " ", &save);
		if (source)
			unescape_octal(source);
		if ((major != dev->id.major || minor != dev->id.minor) &&
		    !(source && is_device(source, dev)))
			continue;
		where = line + at;
		where[strcspn(where, " ")] = '\0';
		unescape_octal(where);
		found = xasprintf("it is mounted on %s", shown(where));
	}
	free(line);
	fclose(f);
	return found;
}

static char *swap_space(const struct loop_device *dev)
{
	char *line = NULL, *found = NULL;
	size_t room = 0;
	FILE *f;

	f = fopen("/proc/swaps", "re");
	if (!f)
		return NULL;
	while (!found && getline(&line, &room, f) > 0) {
		line[strcspn(line, " \t\n")] = '\0';
		unescape_octal(line);
		if (is_device(line, dev))
			found = xstrdup("it is used as swap space");
	}
	free(line);
	fclose(f);
	return found;
}

static char *who_uses(const struct loop_device *dev)
{
	char *who = holder(dev);

	if (!who)
		who = mount_of(dev);
	if (!who)
		who = swap_space(dev);
	return who;
}

static void complain_busy(const struct loop_device *dev, char *who)
{
	if (!who)
		who = xasprintf("something has it open (see fuser -v %s)",
				shown(dev->id.node));
	complain("cannot detach %s: %s; end that first, or use --deferred",
		 shown(dev->id.node), who);
	free(who);
}

static int remove_device(const struct loop_device *dev, bool deferred)
{
	struct timespec nap = { .tv_nsec = 10000000 };
	char *who = NULL;
	unsigned int tries;
	int err;

	for (tries = 0; ; tries++) {
		err = dm_remove(dev->id.name, deferred);
		if (err != -EBUSY)
			break;
		/* what is there to stay is not waited for */
		who = who_uses(dev);
		if (who || tries == RETRIES)
			break;
		nanosleep(&nap, NULL);
		nap.tv_nsec = nap.tv_nsec * 2 > 160000000 ? 160000000 :
			      nap.tv_nsec * 2;
	}
	if (err == -EBUSY)
		complain_busy(dev, who);
	else if (err == -ENXIO)
		complain("cannot detach %s: it is gone already",
			 shown(dev->id.node));
	else if (err)
		complain_errno(err, "cannot detach %s", shown(dev->id.node));
	return err;
}

static int detach_one(const char *arg, bool deferred)
{
	struct loop_device *devs = NULL;
	size_t nr = 0;
	char *name;
	int err;

	err = dm_resolve(arg, &name);
	if (!err)
		err = device_read(name, &devs, &nr);
	if (!err)
		err = remove_device(&devs[0], deferred);
	else if (err == -ENXIO || err == -ENOENT)
		complain("cannot detach %s: no such device; see dmlosetup -l",
			 shown(arg));
	else if (err == -ENOTTY)
		complain("cannot detach %s: it is not a dm-loop device; see dmsetup table",
			 shown(arg));
	else if (err == -ENOTBLK)
		complain("cannot detach %s: it is no device; see dmlosetup -j",
			 shown(arg));
	else
		complain_errno(err, "cannot detach %s", shown(arg));
	device_free(devs, nr);
	free(name);
	return err;
}

int do_detach(const struct options *opts)
{
	int status = EXIT_SUCCESS;
	char **arg;

	for (arg = opts->devices; *arg; arg++) {
		if (detach_one(*arg, opts->deferred))
			status = EXIT_FAILURE;
	}
	return status;
}

int do_detach_all(const struct options *opts)
{
	struct loop_device *devs;
	int status = EXIT_SUCCESS;
	size_t nr, i;
	int err;

	err = device_read_all(&devs, &nr);
	if (err) {
		complain_errno(err, "cannot list the devices of device-mapper");
		status = EXIT_FAILURE;
	}
	for (i = 0; i < nr; i++) {
		/* several lines are one device */
		if (i && !strcmp(devs[i].id.name, devs[i - 1].id.name))
			continue;
		if (remove_device(&devs[i], opts->deferred))
			status = EXIT_FAILURE;
	}
	device_free(devs, nr);
	return status;
}
