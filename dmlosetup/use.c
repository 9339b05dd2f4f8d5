// SPDX-License-Identifier: GPL-2.0-only
/* Who uses a device: what is stacked on it, a mount, swap space. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "dmlosetup.h"

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
char *device_holder(const struct loop_device *dev)
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

/* 0: it is no device. */
static dev_t device_number(const char *node)
{
	struct stat st;

	return node[0] == '/' && !stat(node, &st) && S_ISBLK(st.st_mode) ?
	       st.st_rdev : 0;
}

static bool is_device(const char *node, const struct loop_device *dev)
{
	return device_number(node) == makedev(dev->id.major, dev->id.minor);
}

/* What is mounted, of a line of mountinfo, which is cut by that; or NULL. */
static char *mount_source(char *line)
{
	char *tail = strstr(line, " - "), *save, *source;

	source = tail && strtok_r(tail + 3, " ", &save) ?
		 strtok_r(NULL, " ", &save) : NULL;
	if (source)
		unescape_octal(source);
	return source;
}

/* Where the device is mounted, or NULL; the caller frees it. */
char *device_mountpoint(const struct loop_device *dev)
{
	char *line = NULL, *found = NULL, *where, *source;
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
		source = mount_source(line);
		if ((major != dev->id.major || minor != dev->id.minor) &&
		    !(source && is_device(source, dev)))
			continue;
		where = line + at;
		where[strcspn(where, " ")] = '\0';
		unescape_octal(where);
		found = xstrdup(where);
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

/* "it is mounted on /mnt", or NULL; the caller frees it. */
char *device_user(const struct loop_device *dev)
{
	char *who = device_holder(dev);
	char *where;

	if (who)
		return who;
	where = device_mountpoint(dev);
	if (!where)
		return swap_space(dev);
	who = xasprintf("it is mounted on %s", shown(where));
	free(where);
	return who;
}

/* Whoever looks at a new device, as udev does, is soon gone. */
static bool stays_open(const struct loop_device *dev, int own_opens)
{
	const struct timespec nap = { .tv_nsec = 50000000 };
	struct dm_state is;
	int try, opens;

	for (try = 0; try < 40; try++) {
		opens = dm_read(dev->id.name, false, &is) ? 0 : is.open_count;
		dm_state_free(&is);
		if (opens <= own_opens)
			return false;
		nanosleep(&nap, NULL);
	}
	return true;
}

/*
 * "something has it open", or NULL; the caller frees it. Such as a virtual machine.
 * @own_opens: how often we have it open.
 */
char *device_opener(const struct loop_device *dev, int own_opens)
{
	return stays_open(dev, own_opens) ? xstrdup("something has it open") :
					    NULL;
}

/* Whether @dev_nr is the device M:N, or stacked on it. */
static bool holds(unsigned int major_nr, unsigned int minor_nr,
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
			found = holds(up_major, up_minor, dev_nr);
		if (f)
			fclose(f);
		free(file);
	}
	if (dir)
		closedir(dir);
	free(path);
	return found;
}

/* The device that is mounted where the file lies, if its filesystem has a number of its own. */
static dev_t mounted_device(int fd)
{
	char *line = NULL, *source;
	size_t room = 0;
	dev_t dev_nr = 0;
	struct statx stx;
	FILE *f;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &stx) ||
	    !(stx.stx_mask & STATX_MNT_ID))
		return 0;
	f = fopen("/proc/self/mountinfo", "re");
	while (f && !dev_nr && getline(&line, &room, f) > 0) {
		if (strtoull(line, NULL, 10) != stx.stx_mnt_id)
			continue;
		source = mount_source(line);
		dev_nr = source ? device_number(source) : 0;
	}
	free(line);
	if (f)
		fclose(f);
	return dev_nr;
}

/* Is the filesystem of the file, whose st_dev is @dev_nr, on this device or one above? */
bool lies_on(const struct dm_id *id, int fd, dev_t dev_nr)
{
	if (!major(dev_nr))
		dev_nr = mounted_device(fd);
	return dev_nr && holds(id->major, id->minor, dev_nr);
}
