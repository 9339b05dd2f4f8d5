// SPDX-License-Identifier: GPL-2.0-only
/*
 * A file with very many extents, in no time: every second block of it is
 * written, the others are holes. To let the filesystem make such a file takes a
 * millisecond for each extent; here the tree is written by hand.
 *
 * fragments tree ext4|xfs DISK FILE TREE N ROOT
 *	FILE is allocated, 2 * N blocks of 4 KiB, and TREE, a file of N / 200 blocks.
 *	Writes the nodes of a new tree for FILE into the blocks of TREE, which must
 *	be on the disk already, and its root into the file ROOT.
 * fragments root ext4|xfs DISK INODE ROOT
 *	Makes ROOT the root of the inode. The filesystem is not mounted, and an
 *	ext4 has no metadata_csum.
 * fragments stamp FILE|DEVICE N COUNT SEED
 *	Writes COUNT blocks, at random, that have data.
 * fragments check FILE|DEVICE N COUNT SEED
 *	Reads the same blocks, and the hole after each, and compares.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 4096
#define MAX_FIEMAP 512
#define ROOT_MAX 512

static void die(const char *what)
{
	fprintf(stderr, "fragments: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	if (fd < 0)
		die(path);
	return fd;
}

static void put(int fd, const void *data, size_t len, off_t pos)
{
	if (pwrite(fd, data, len, pos) != (ssize_t)len)
		die("write");
}

static void get(int fd, void *data, size_t len, off_t pos)
{
	if (pread(fd, data, len, pos) != (ssize_t)len)
		die("read");
}

/* --- where the blocks of a file are --- */

struct map {
	struct fiemap head;
	struct fiemap_extent extents[MAX_FIEMAP];
};

static void read_map(int fd, struct map *map)
{
	memset(map, 0, sizeof(*map));
	map->head.fm_length = ~0ULL;
	map->head.fm_flags = FIEMAP_FLAG_SYNC;
	map->head.fm_extent_count = MAX_FIEMAP;
	if (ioctl(fd, FS_IOC_FIEMAP, &map->head))
		die("FIEMAP");
}

/* In blocks of the disk. */
static uint64_t place(const struct map *map, uint64_t block)
{
	uint64_t pos = block * BLOCK;
	unsigned int i;

	for (i = 0; i < map->head.fm_mapped_extents; i++) {
		const struct fiemap_extent *fe = &map->extents[i];

		if (pos >= fe->fe_logical && pos < fe->fe_logical + fe->fe_length)
			return (fe->fe_physical + pos - fe->fe_logical) / BLOCK;
	}
	errno = ENODATA;
	die("a block is not allocated");
	return 0;
}

/* --- ext4 --- */

struct ext4_node {
	uint16_t magic;
	uint16_t entries;
	uint16_t max;
	uint16_t depth;
	uint32_t generation;
	struct {
		uint32_t logical;
		uint32_t word[2];
	} entry[(BLOCK - 12) / 12];
	uint32_t rest;
};

static void ext4_header(struct ext4_node *node, unsigned int n, unsigned int max,
			unsigned int depth)
{
	memset(node, 0, sizeof(*node));
	node->magic = htole16(0xf30a);
	node->entries = htole16(n);
	node->max = htole16(max);
	node->depth = htole16(depth);
}

/* A pointer has the low half of the block first, an extent its length. */
static void ext4_pointer(struct ext4_node *node, unsigned int i,
			 uint64_t logical, uint64_t block)
{
	node->entry[i].logical = htole32(logical);
	node->entry[i].word[0] = htole32(block);
	node->entry[i].word[1] = htole32(block >> 32);
}

static void ext4_extent(struct ext4_node *node, unsigned int i,
			uint64_t logical, uint64_t block)
{
	node->entry[i].logical = htole32(logical);
	node->entry[i].word[0] = htole32(1 | (block >> 32) << 16);
	node->entry[i].word[1] = htole32(block);
}

/* One index block, the first of TREE; the leaves follow. */
static size_t ext4_tree(const struct map *file, const struct map *tree, int fd,
			uint64_t n, void *root)
{
	enum { MAX = (BLOCK - 12) / 12 };
	static struct ext4_node index, leaf;
	uint64_t leaves = (n + MAX - 1) / MAX, i, j, first;

	if (leaves > MAX)
		die("too many");
	ext4_header(&index, leaves, MAX, 1);
	for (i = 0; i < leaves; i++) {
		first = i * MAX;
		ext4_header(&leaf, n - first < MAX ? n - first : MAX, MAX, 0);
		for (j = first; j < n && j < first + MAX; j++)
			ext4_extent(&leaf, j - first, 2 * j, place(file, 2 * j));
		ext4_pointer(&index, i, 2 * first, place(tree, i + 1));
		put(fd, &leaf, BLOCK, (i + 1) * BLOCK);
	}
	put(fd, &index, BLOCK, 0);
	ext4_header(&leaf, 1, 4, 2);
	ext4_pointer(&leaf, 0, 0, place(tree, 0));
	memcpy(root, &leaf, 60);
	return 60;
}

/* i_block of the inode. */
static void ext4_root(int disk, uint64_t inode, const void *root, size_t len)
{
	uint8_t sb[1024], desc[64];
	uint32_t per_group, incompat;
	uint16_t isize, dsize;
	uint64_t table;

	get(disk, sb, sizeof(sb), 1024);
	per_group = le32toh(*(uint32_t *)(sb + 40));
	isize = le16toh(*(uint16_t *)(sb + 88));
	incompat = le32toh(*(uint32_t *)(sb + 96));
	dsize = incompat & 0x80 ? le16toh(*(uint16_t *)(sb + 254)) : 32;
	inode--;
	get(disk, desc, dsize, BLOCK + inode / per_group * dsize);
	table = le32toh(*(uint32_t *)(desc + 8));
	if (dsize > 32)
		table |= (uint64_t)le32toh(*(uint32_t *)(desc + 40)) << 32;
	put(disk, root, len, table * BLOCK + inode % per_group * isize + 40);
}

/* --- xfs --- */

struct xfs_sb {
	uint8_t uuid[16];
	uint64_t blocks_per_ag;
	unsigned int log_per_ag;
	unsigned int inode_size;
	unsigned int log_inodes;
};

static void xfs_read_sb(int disk, struct xfs_sb *sb)
{
	uint8_t raw[512];

	get(disk, raw, sizeof(raw), 0);
	memcpy(sb->uuid, raw + 32, 16);
	sb->blocks_per_ag = be32toh(*(uint32_t *)(raw + 84));
	sb->inode_size = be16toh(*(uint16_t *)(raw + 104));
	sb->log_inodes = raw[123];
	sb->log_per_ag = raw[124];
}

static uint64_t xfs_fsblock(const struct xfs_sb *sb, uint64_t block)
{
	return (block / sb->blocks_per_ag << sb->log_per_ag) |
	       (block % sb->blocks_per_ag);
}

static void crc32c(void *data, size_t len, size_t where)
{
	static uint32_t table[256];
	uint8_t *p = data;
	uint32_t crc, i, j;

	for (i = 0; i < 256 && !table[255]; i++) {
		for (crc = i, j = 0; j < 8; j++)
			crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
		table[i] = crc;
	}
	memset(p + where, 0, 4);
	for (crc = ~0U, i = 0; i < len; i++)
		crc = crc >> 8 ^ table[(crc ^ p[i]) & 255];
	*(uint32_t *)(p + where) = htole32(~crc);
}

#define XFS_HEADER 72
#define XFS_MAX ((BLOCK - XFS_HEADER) / 16)

struct xfs_node {
	uint32_t magic;
	uint16_t level;
	uint16_t numrecs;
	uint64_t left;
	uint64_t right;
	uint64_t daddr;
	uint64_t lsn;
	uint8_t uuid[16];
	uint64_t owner;
	uint32_t crc;
	uint32_t pad;
	uint64_t word[2 * XFS_MAX];
	uint64_t rest;
};

/* Node number @i of a level that has @n, and lies in TREE from @base on. */
static void xfs_node(struct xfs_node *node, const struct xfs_sb *sb,
		     const struct map *tree, unsigned int level, uint64_t base,
		     uint64_t i, uint64_t n, unsigned int numrecs, uint64_t owner)
{
	memset(node, 0, sizeof(*node));
	memcpy(&node->magic, "BMA3", 4);
	node->level = htobe16(level);
	node->numrecs = htobe16(numrecs);
	node->left = i ? htobe64(xfs_fsblock(sb, place(tree, base + i - 1))) : ~0ULL;
	node->right = i + 1 < n ?
		      htobe64(xfs_fsblock(sb, place(tree, base + i + 1))) : ~0ULL;
	node->daddr = htobe64(place(tree, base + i) * (BLOCK / 512));
	node->owner = htobe64(owner);
	memcpy(node->uuid, sb->uuid, 16);
}

/* Leaves first, then the nodes above; their root is what goes into the inode. */
static size_t xfs_tree(const struct map *file, const struct map *tree, int fd,
		       const struct xfs_sb *sb, uint64_t owner, uint64_t n,
		       void *root)
{
	uint64_t leaves = (n + XFS_MAX - 1) / XFS_MAX;
	uint64_t nodes = (leaves + XFS_MAX - 1) / XFS_MAX;
	static struct xfs_node node;
	uint64_t i, j, first, count;
	uint64_t *words = root;

	for (i = 0; i < leaves; i++) {
		first = i * XFS_MAX;
		count = n - first < XFS_MAX ? n - first : XFS_MAX;
		xfs_node(&node, sb, tree, 0, 0, i, leaves, count, owner);
		for (j = 0; j < count; j++) {
			uint64_t b = 2 * (first + j);
			uint64_t fsb = xfs_fsblock(sb, place(file, b));

			node.word[2 * j] = htobe64(b << 9 | fsb >> 43);
			node.word[2 * j + 1] = htobe64(fsb << 21 | 1);
		}
		crc32c(&node, BLOCK, 64);
		put(fd, &node, BLOCK, i * BLOCK);
	}
	/* level, number of records, the number of extents, then pairs */
	words[0] = nodes;
	words[1] = n;
	for (i = 0; i < nodes; i++) {
		first = i * XFS_MAX;
		count = leaves - first < XFS_MAX ? leaves - first : XFS_MAX;
		xfs_node(&node, sb, tree, 1, leaves, i, nodes, count, owner);
		for (j = 0; j < count; j++) {
			node.word[j] = htobe64((first + j) * XFS_MAX * 2);
			node.word[XFS_MAX + j] =
				htobe64(xfs_fsblock(sb, place(tree, first + j)));
		}
		crc32c(&node, BLOCK, 64);
		put(fd, &node, BLOCK, (leaves + i) * BLOCK);
		words[2 + 2 * i] = first * XFS_MAX * 2;
		words[3 + 2 * i] = xfs_fsblock(sb, place(tree, leaves + i));
	}
	return (2 + 2 * nodes) * 8;
}

static void xfs_root(int disk, uint64_t inode, const uint64_t *words)
{
	uint64_t agno, block, pos, nodes = words[0], i;
	uint8_t raw[2048], *fork = raw + 176;
	unsigned int size, max;
	struct xfs_sb sb;

	xfs_read_sb(disk, &sb);
	agno = inode >> (sb.log_per_ag + sb.log_inodes);
	block = (inode >> sb.log_inodes) & ((1ULL << sb.log_per_ag) - 1);
	pos = (agno * sb.blocks_per_ag + block) * BLOCK +
	      (inode & ((1 << sb.log_inodes) - 1)) * sb.inode_size;
	get(disk, raw, sb.inode_size, pos);
	size = raw[82] ? raw[82] * 8U : sb.inode_size - 176;
	max = (size - 4) / 16;
	raw[5] = 3;					/* a tree */
	*(uint32_t *)(raw + 76) = htobe32(words[1]);	/* extents */
	memset(fork, 0, size);
	*(uint16_t *)fork = htobe16(2);
	*(uint16_t *)(fork + 2) = htobe16(nodes);
	for (i = 0; i < nodes; i++) {
		uint64_t key = htobe64(words[2 + 2 * i]);
		uint64_t ptr = htobe64(words[3 + 2 * i]);

		memcpy(fork + 4 + 8 * i, &key, 8);
		memcpy(fork + 4 + 8 * max + 8 * i, &ptr, 8);
	}
	crc32c(raw, sb.inode_size, 100);
	put(disk, raw, sb.inode_size, pos);
}

/* --- */

static void make_tree(char **argv)
{
	int disk = open_or_die(argv[1], O_RDONLY);
	int file = open_or_die(argv[2], O_RDONLY);
	int tree = open_or_die(argv[3], O_RDWR);
	uint64_t n = strtoull(argv[4], NULL, 0);
	static uint64_t root[ROOT_MAX / 8];
	static struct map maps[2];
	struct xfs_sb sb;
	struct stat st;
	size_t len;

	read_map(file, &maps[0]);
	read_map(tree, &maps[1]);
	if (!strcmp(argv[0], "ext4")) {
		len = ext4_tree(&maps[0], &maps[1], tree, n, root);
	} else {
		if (fstat(file, &st))
			die("stat");
		xfs_read_sb(disk, &sb);
		len = xfs_tree(&maps[0], &maps[1], tree, &sb, st.st_ino, n, root);
	}
	if (fsync(tree))
		die("fsync");
	put(open_or_die(argv[5], O_WRONLY | O_CREAT | O_TRUNC), root, len, 0);
}

static void set_root(char **argv)
{
	int disk = open_or_die(argv[1], O_RDWR);
	uint64_t inode = strtoull(argv[2], NULL, 0);
	static uint64_t root[ROOT_MAX / 8];
	ssize_t len = read(open_or_die(argv[3], O_RDONLY), root, sizeof(root));

	if (len <= 0) {
		errno = ENODATA;
		die(argv[3]);
	}
	if (!strcmp(argv[0], "ext4"))
		ext4_root(disk, inode, root, len);
	else
		xfs_root(disk, inode, root);
	if (fsync(disk))
		die("fsync");
}

static uint64_t words[BLOCK / 8], got[BLOCK / 8];

static void pattern(uint64_t block, uint64_t key)
{
	size_t i;

	for (i = 0; i < BLOCK / 8; i++)
		words[i] = (block + key + 1) * 0x9e3779b97f4a7c15ULL + i;
}

static void expect(int fd, uint64_t block)
{
	get(fd, got, BLOCK, block * BLOCK);
	if (!memcmp(got, words, BLOCK))
		return;
	fprintf(stderr, "fragments: block %llu is wrong\n",
		(unsigned long long)block);
	exit(1);
}

static void random_blocks(int stamp, char **argv)
{
	int fd = open_or_die(argv[0], stamp ? O_RDWR : O_RDONLY);
	uint64_t n = strtoull(argv[1], NULL, 0);
	unsigned long count = strtoul(argv[2], NULL, 0);
	uint64_t seed = strtoull(argv[3], NULL, 0), state = seed;

	while (count--) {
		uint64_t block;

		state = state * 6364136223846793005ULL + 1442695040888963407ULL;
		block = (state >> 20) % n * 2;
		pattern(block, seed);
		if (stamp) {
			put(fd, words, BLOCK, block * BLOCK);
			continue;
		}
		expect(fd, block);
		memset(words, 0, sizeof(words));
		expect(fd, block + 1);
	}
	if (stamp && fsync(fd))
		die("fsync");
}

int main(int argc, char **argv)
{
	const char *op = argc > 1 ? argv[1] : "";

	if (argc == 8 && !strcmp(op, "tree"))
		make_tree(argv + 2);
	else if (argc == 6 && !strcmp(op, "root"))
		set_root(argv + 2);
	else if (argc == 6 && (!strcmp(op, "stamp") || !strcmp(op, "check")))
		random_blocks(*op == 's', argv + 2);
	else
		return 2;
	return 0;
}
