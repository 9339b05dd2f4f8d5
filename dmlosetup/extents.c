// SPDX-License-Identifier: GPL-2.0-only
/*
 * The parts of a file, in order and without a gap: written data, holes,
 * blocks that were never written, blocks shared with another file. From
 * FIEMAP; where the filesystem has none, from SEEK_DATA and SEEK_HOLE, which
 * know holes only.
 */
#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "dmlosetup.h"

#define BATCH	512

void extents_init(struct extent_map *map, int fd, uint64_t size)
{
	memset(map, 0, sizeof(*map));
	map->fd = fd;
	map->size = size;
	/* twice: each record may have a hole before it */
	map->buf = xcalloc(2 * BATCH + 1, sizeof(*map->buf));
}

/* Go on at @pos, and ask the filesystem again. */
void extents_seek(struct extent_map *map, uint64_t pos)
{
	map->next = pos;
	map->nr = 0;
	map->pos = 0;
}

void extents_free(struct extent_map *map)
{
	free(map->buf);
	map->buf = NULL;
}

static void append(struct extent_map *map, uint64_t end, uint64_t physical,
		   enum extent_state state)
{
	if (end > map->size)
		end = map->size;
	if (end <= map->next)
		return;
	map->buf[map->nr++] = (struct extent) {
		.start = map->next,
		.length = end - map->next,
		.physical = physical,
		.state = state,
	};
	map->next = end;
}

/*
 * Only what is surely without data is called so: a record that is delayed,
 * inline or encoded holds data that must be kept.
 */
static enum extent_state state_of(uint32_t flags)
{
	const uint32_t odd = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC |
			     FIEMAP_EXTENT_DATA_INLINE;

	if ((flags & FIEMAP_EXTENT_UNWRITTEN) && !(flags & odd))
		return EXTENT_UNWRITTEN;
	if (flags & FIEMAP_EXTENT_SHARED)
		return EXTENT_SHARED;
	return EXTENT_MAPPED;
}

static int fill_fiemap(struct extent_map *map)
{
	struct fiemap *fm;
	uint32_t i;
	int err;

	fm = xcalloc(1, sizeof(*fm) + BATCH * sizeof(fm->fm_extents[0]));
	fm->fm_start = map->next;
	fm->fm_length = map->size - map->next;
	/* data that is still in the page cache is data */
	fm->fm_flags = FIEMAP_FLAG_SYNC;
	fm->fm_extent_count = BATCH;
	if (ioctl(map->fd, FS_IOC_FIEMAP, fm)) {
		err = -errno;
		free(fm);
		return err;
	}
	for (i = 0; i < fm->fm_mapped_extents; i++) {
		const struct fiemap_extent *fe = &fm->fm_extents[i];
		uint64_t physical = fe->fe_physical;

		append(map, fe->fe_logical, 0, EXTENT_HOLE);
		/* a record may begin before what was asked for */
		if (map->next > fe->fe_logical)
			physical += map->next - fe->fe_logical;
		append(map, fe->fe_logical + fe->fe_length, physical,
		       state_of(fe->fe_flags));
	}
	if (!fm->fm_mapped_extents)
		append(map, map->size, 0, EXTENT_HOLE);
	free(fm);
	return 0;
}

static int fill_seek(struct extent_map *map)
{
	off_t data = lseek(map->fd, map->next, SEEK_DATA);
	off_t hole;

	if (data < 0) {
		if (errno == ENXIO) {
			append(map, map->size, 0, EXTENT_HOLE);
			return 0;
		}
		/* it cannot tell: then all of it is data */
		append(map, map->size, 0, EXTENT_MAPPED);
		return 0;
	}
	append(map, data, 0, EXTENT_HOLE);
	hole = lseek(map->fd, data, SEEK_HOLE);
	append(map, hole < 0 ? map->size : (uint64_t)hole, 0, EXTENT_MAPPED);
	return 0;
}

/* Returns 1 with the next extent, 0 at the end of the file, or -errno. */
int extents_next(struct extent_map *map, struct extent *ext)
{
	int err;

	while (map->pos == map->nr) {
		if (map->next >= map->size)
			return 0;
		map->nr = 0;
		map->pos = 0;
		err = map->no_fiemap ? 0 : fill_fiemap(map);
		if (err == -EOPNOTSUPP || err == -ENOTTY)
			map->no_fiemap = true;
		else if (err)
			return err;
		if (map->no_fiemap)
			fill_seek(map);
	}
	*ext = map->buf[map->pos++];
	return 1;
}
