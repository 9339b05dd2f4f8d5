// SPDX-License-Identifier: GPL-2.0-only
/* Load a table, by the ioctl itself. */
#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "dmlosetup.h"

static int control_ioctl(unsigned long cmd, void *data)
{
	char path[PATH_MAX];
	int fd, err = 0;

	snprintf(path, sizeof(path), "%s/control", dm_dir());
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, cmd, data))
		err = -errno;
	close(fd);
	return err;
}

/* One line, from sector 0 to @sectors, into the inactive slot of a device. */
int dm_load(const struct dm_id *id, uint64_t sectors, const char *params,
	    bool read_only)
{
	char *line = table_double(params);
	/* what follows must be 8-byte aligned, or the kernel walks astray */
	size_t size = sizeof(struct dm_ioctl) + sizeof(struct dm_target_spec) +
		      (strlen(line) + 8) / 8 * 8;
	struct dm_ioctl *io = xcalloc(1, size);
	struct dm_target_spec *spec = (void *)(io + 1);
	int err;

	io->version[0] = DM_VERSION_MAJOR;
	io->data_size = size;
	io->data_start = sizeof(*io);
	io->target_count = 1;
	io->flags = read_only ? DM_READONLY_FLAG : 0;
	io->dev = makedev(id->major, id->minor);
	spec->length = sectors;
	spec->next = size - sizeof(*io);
	memcpy(spec->target_type, TARGET_NAME, sizeof(TARGET_NAME));
	memcpy(spec + 1, line, strlen(line));
	err = control_ioctl(DM_TABLE_LOAD, io);
	free(io);
	free(line);
	return err;
}
