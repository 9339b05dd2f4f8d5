// SPDX-License-Identifier: GPL-2.0-only
/*
 * How much of a device its content needs, for --shrink. Only for what is
 * recognized: libblkid of Debian 12 tells no sizes. The superblock says it;
 * for a mounted filesystem the kernel's own figure is asked too, because what
 * is on disk may be older.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "dmlosetup.h"

static uint64_t little(const unsigned char *p, unsigned int bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | p[bytes];
	return value;
}

static uint64_t big(const unsigned char *p, unsigned int bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | *p++;
	return value;
}

static bool has(const unsigned char *head, size_t at, const char *magic)
{
	return !memcmp(head + at, magic, strlen(magic));
}

/* What is damaged is rather too large than too small. */
static uint64_t saturate(uint64_t blocks, uint64_t bytes)
{
	uint64_t size;

	return __builtin_mul_overflow(blocks, bytes, &size) ? UINT64_MAX : size;
}

static uint64_t ext_size(const unsigned char *sb)
{
	uint64_t blocks = little(sb + 4, 4), shift = little(sb + 0x18, 4);

	/* INCOMPAT_64BIT */
	if (little(sb + 0x60, 4) & 0x80)
		blocks |= little(sb + 0x150, 4) << 32;
	return saturate(blocks, shift > 6 ? UINT64_MAX : 1024ULL << shift);
}

/* A partition table in it: the boot sector that an ext4 has room for names none. */
static bool has_partitions(const unsigned char *head)
{
	const unsigned char *entry;

	if (little(head + 510, 2) != 0xaa55)
		return false;
	for (entry = head + 446; entry < head + 510; entry += 16) {
		if (!(entry[0] & 0x7f) && entry[4] && little(entry + 8, 4) &&
		    little(entry + 12, 4))
			return true;
	}
	return false;
}

/*
 * Returns false when @head is not known. Beside partitions a superblock may be
 * what is left of a filesystem, or the partitions a mistake: its @size counts,
 * but there may be more.
 */
static bool superblock(const unsigned char *head, uint64_t *size,
		       const char **what)
{
	if (little(head + 1024 + 0x38, 2) == 0xef53) {
		*what = "ext4";
		*size = ext_size(head + 1024);
	} else if (has(head, 0, "XFSB")) {
		*what = "xfs";
		*size = saturate(big(head + 8, 8), big(head + 4, 4));
	} else if (has(head, 65536 + 64, "_BHRfS_M")) {
		*what = "btrfs";
		/* of this device; the filesystem may have more */
		*size = little(head + 65536 + 0xd1, 8);
	} else if (has(head, 4096 - 10, "SWAPSPACE2")) {
		*what = "swap space";
		*size = (little(head + 1028, 4) + 1) * 4096;
	} else {
		return false;
	}
	return !has_partitions(head);
}

/* struct xfs_fsop_geom_v1: <linux/> has no header for it */
struct xfs_geometry {
	uint32_t blocksize;
	uint32_t other[7];
	uint64_t datablocks;
	unsigned char rest[72];
};

#define XFS_GEOMETRY	_IOR('X', 100, struct xfs_geometry)

static uint64_t mounted_size(const char *where)
{
	struct xfs_geometry geo;
	struct statfs fs;
	uint64_t size = 0;
	int fd;

	fd = open(where, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	if (!fstatfs(fd, &fs))
		size = (uint64_t)fs.f_blocks * fs.f_bsize;
	if (!ioctl(fd, XFS_GEOMETRY, &geo))
		size = geo.datablocks * geo.blocksize;
	close(fd);
	return size;
}

/* What begins at byte @pos. */
static int content_at(const char *path, int flags, uint64_t pos,
		      uint64_t *size, const char **what)
{
	const size_t head_size = 128 << 10;
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
	unsigned char *head;
	int err = 0;

	*what = NULL;
	*size = 0;
	if (fd < 0)
		return -errno;
	head = xaligned(head_size);
	if (pread(fd, head, head_size, (off_t)pos) < 0)
		err = -errno;
	else if (!superblock(head, size, what))
		err = -ENODATA;
	close(fd);
	free(head);
	return err;
}

/*
 * @what: whose superblock there is, of @size bytes, or NULL. -ENODATA: that is not
 * all that is there.
 */
int content_size(const struct loop_device *dev, uint64_t *size,
		 const char **what)
{
	char *where = device_mountpoint(dev);
	uint64_t mounted = where ? mounted_size(where) : 0;
	int err;

	/* past the page cache: what others have read may be older than what is there */
	err = content_at(dev->id.node, O_DIRECT, 0, size, what);
	if (mounted > *size)
		*size = mounted;
	free(where);
	return err;
}

/*
 * The same of a device that is suspended, by its file. A filesystem on it is frozen,
 * wherever it is mounted, and has written its superblock.
 */
int content_size_held(const struct loop_device *dev, uint64_t *size,
		      const char **what)
{
	return content_at(dev->table.path, O_NONBLOCK, dev->table.offset, size,
			  what);
}
