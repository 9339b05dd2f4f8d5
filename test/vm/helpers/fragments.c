// SPDX-License-Identifier: GPL-2.0-only
/*
 * fragments write FILE N BLOCK         write every second block, N of them
 * fragments read DEV N BLOCK READS SEED  read at random; blocks between are zeroes
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BLOCK 65536

static uint64_t buf[MAX_BLOCK / 8], want[MAX_BLOCK / 8];

static void fill(uint64_t block, size_t size)
{
	size_t i;

	for (i = 0; i < size / 8; i++)
		want[i] = block % 2 ? 0 : (block + 1) * 0x9e3779b97f4a7c15ULL + i;
}

static int die(const char *what)
{
	fprintf(stderr, "fragments: %s: %s\n", what, strerror(errno));
	return 1;
}

static int write_all(const char *path, uint64_t n, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	uint64_t i;

	if (fd < 0 || ftruncate(fd, 2 * n * size))
		return die(path);
	for (i = 0; i < 2 * n; i += 2) {
		fill(i, size);
		if (pwrite(fd, want, size, i * size) != (ssize_t)size)
			return die("write");
	}
	return fsync(fd) ? die("fsync") : 0;
}

static int read_some(const char *path, uint64_t n, size_t size,
		     unsigned long reads, uint64_t seed)
{
	int fd = open(path, O_RDONLY);
	uint64_t block;

	if (fd < 0)
		return die(path);
	while (reads--) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		block = (seed >> 20) % (2 * n);
		fill(block, size);
		if (pread(fd, buf, size, block * size) != (ssize_t)size)
			return die("read");
		if (memcmp(buf, want, size)) {
			fprintf(stderr, "fragments: block %llu is wrong\n",
				(unsigned long long)block);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t n = argc > 3 ? strtoull(argv[3], NULL, 0) : 0;
	size_t size = argc > 4 ? strtoull(argv[4], NULL, 0) : 0;

	if (!n || !size || size > MAX_BLOCK || size % 8)
		return 2;
	if (argc == 5 && !strcmp(argv[1], "write"))
		return write_all(argv[2], n, size);
	if (argc == 7 && !strcmp(argv[1], "read"))
		return read_some(argv[2], n, size, strtoul(argv[5], NULL, 0),
				 strtoull(argv[6], NULL, 0));
	return 2;
}
