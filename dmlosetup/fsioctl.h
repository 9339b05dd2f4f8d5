/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What ext4 and xfs offer to give a file other blocks. The kernel's exported
 * headers have none of it, and those of xfsprogs only the newer part in their
 * newer versions. The names are ours, the layouts are the kernel's.
 */
#ifndef FSIOCTL_H
#define FSIOCTL_H

#include <stdint.h>
#include <sys/ioctl.h>

/* ext4: the file takes the donor's blocks; the kernel copies the data */
struct ext4_move {
	uint32_t reserved;
	uint32_t donor_fd;
	uint64_t orig_start;	/* this and the next three: blocks */
	uint64_t donor_start;
	uint64_t len;
	uint64_t moved_len;	/* the answer */
};

#define EXT4_MOVE	_IOWR('f', 15, struct ext4_move)

struct xfs_time {
	long tv_sec;
	int32_t tv_nsec;
};

/* of which a swap looks at the second and the third time only */
struct xfs_old_stat {
	uint64_t ino;
	uint16_t mode;
	uint16_t nlink;
	uint32_t uid;
	uint32_t gid;
	uint32_t rdev;
	int32_t blksize;
	int64_t size;
	struct xfs_time atime;
	struct xfs_time mtime;
	struct xfs_time ctime;
	int64_t blocks;
	uint32_t xflags;
	int32_t extsize;
	int32_t extents;
	uint32_t gen;
	uint16_t projid_lo;
	uint16_t forkoff;
	uint16_t projid_hi;
	uint16_t sick;
	uint16_t checked;
	uint8_t pad[2];
	uint32_t cowextsize;
	uint32_t dmevmask;
	uint16_t dmstate;
	uint16_t aextents;
};

/* xfs: what it knows of one inode */
struct xfs_look {
	uint64_t *ino;
	int32_t count;		/* 1 */
	struct xfs_old_stat *stat;
	int32_t *found;
};

#define XFS_LOOK	_IOWR('X', 102, struct xfs_look)

/* xfs: two whole files of one size change their blocks, unless one was changed */
struct xfs_swap {
	int64_t version;	/* 0 */
	int64_t target_fd;
	int64_t tmp_fd;
	int64_t offset;
	int64_t length;
	char pad[16];
	struct xfs_old_stat stat;	/* of the target */
};

#define XFS_SWAP	_IOWR('X', 109, struct xfs_swap)

/* xfs from Linux 6.10 on, if the filesystem was made with the feature */
struct xfs_exchange {
	int32_t file1_fd;
	uint32_t pad;
	uint64_t file1_offset;
	uint64_t file2_offset;
	uint64_t length;
	uint64_t flags;
};

#define XFS_EXCHANGE	_IOW('X', 129, struct xfs_exchange)

#endif
