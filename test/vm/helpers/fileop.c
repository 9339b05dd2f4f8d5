// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the tests need of system calls that no program of the guest makes.
 * "holds" means: says "ready" on stdout, and goes on until stdin ends.
 *
 * fileop map FILE                     holds a shared writable mapping, and no descriptor
 * fileop verity FILE                  enables fs-verity
 * fileop hsm FILE                     holds a watch as a storage manager has it
 * fileop nowait-read DEV OFFSET BYTES   RWF_NOWAIT, direct
 * fileop nowait-write DEV OFFSET BYTES  the same, of bytes 0x5a
 * fileop scattered DEV OFFSET BYTES   writes 0x5a, direct, from pages that are no neighbours
 * fileop memory MIB                   fills as much memory, and checks it twice
 * fileop tail FILE                    what a mapping shows behind the end, to stdout
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fsverity.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef FAN_PRE_ACCESS
#define FAN_PRE_ACCESS 0x00100000
#endif

static int fail(const char *what)
{
	fprintf(stderr, "fileop: %s: %s\n", what, strerror(errno));
	return 1;
}

static int hold(void)
{
	char byte;

	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}

static int map(const char *path)
{
	int fd = open(path, O_RDWR);
	void *p;

	if (fd < 0)
		return fail(path);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return fail("mmap");
	close(fd);
	return hold();
}

static int verity(const char *path)
{
	struct fsverity_enable_arg arg = {
		.version = 1,
		.hash_algorithm = FS_VERITY_HASH_ALG_SHA256,
		.block_size = 4096,
	};
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return fail(path);
	if (ioctl(fd, FS_IOC_ENABLE_VERITY, &arg))
		return fail("FS_IOC_ENABLE_VERITY");
	return 0;
}

static int hsm(const char *path)
{
	int fd = fanotify_init(FAN_CLASS_PRE_CONTENT, O_RDONLY);

	if (fd < 0)
		return fail("fanotify_init");
	if (fanotify_mark(fd, FAN_MARK_ADD, FAN_PRE_ACCESS, AT_FDCWD, path))
		return fail("fanotify_mark");
	return hold();
}

static int nowait(const char *path, int write, off_t offset, size_t bytes)
{
	int fd = open(path, (write ? O_WRONLY : O_RDONLY) | O_DIRECT);
	struct iovec iov = { .iov_len = bytes };
	ssize_t n;

	if (fd < 0)
		return fail(path);
	if (posix_memalign(&iov.iov_base, 4096, bytes))
		return fail("memory");
	memset(iov.iov_base, 0x5a, bytes);
	n = write ? pwritev2(fd, &iov, 1, offset, RWF_NOWAIT) :
		    preadv2(fd, &iov, 1, offset, RWF_NOWAIT);
	if (n != (ssize_t)bytes) {
		if (n >= 0)
			errno = EIO;
		return fail("RWF_NOWAIT");
	}
	return 0;
}

static int memory(size_t bytes)
{
	uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t n = bytes / 8, step = 4096 / 8, i;
	int round;

	if (words == MAP_FAILED)
		return fail("mmap");
	for (i = 0; i < n; i += step)
		words[i] = i * 0x9e3779b97f4a7c15ULL + 1;
	for (round = 0; round < 2; round++) {
		for (i = 0; i < n; i += step) {
			if (words[i] == i * 0x9e3779b97f4a7c15ULL + 1)
				continue;
			fprintf(stderr, "fileop: memory is wrong at %zu\n", i * 8);
			return 1;
		}
	}
	return 0;
}

/* One page, seen again and again; and a sector less of the first. */
static int scattered(const char *path, off_t offset, size_t bytes)
{
	size_t pages = bytes / 4096 + 1, i;
	int mem = memfd_create("page", MFD_CLOEXEC);
	int fd = open(path, O_WRONLY | O_DIRECT);
	char *p;

	if (fd < 0)
		return fail(path);
	p = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		 -1, 0);
	if (mem < 0 || ftruncate(mem, 4096) || p == MAP_FAILED)
		return fail("memory");
	for (i = 0; i < pages; i++) {
		if (mmap(p + i * 4096, 4096, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, mem, 0) == MAP_FAILED)
			return fail("mmap");
	}
	memset(p, 0x5a, 4096);
	if (pwrite(fd, p + 512, bytes, offset) != (ssize_t)bytes)
		return fail("pwrite");
	return 0;
}

/* The rest of the last page, which must be zeroes. */
static int tail(const char *path)
{
	int fd = open(path, O_RDONLY);
	off_t size, start;
	char *p;

	if (fd < 0)
		return fail(path);
	size = lseek(fd, 0, SEEK_END);
	start = size & ~4095L;
	if (start == size)
		return 0;
	p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, start);
	if (p == MAP_FAILED)
		return fail("mmap");
	size -= start;
	if (write(1, p + size, 4096 - size) != 4096 - size)
		return fail("write");
	return 0;
}

int main(int argc, char **argv)
{
	const char *op = argc > 1 ? argv[1] : "";

	if (argc == 3 && !strcmp(op, "map"))
		return map(argv[2]);
	if (argc == 3 && !strcmp(op, "verity"))
		return verity(argv[2]);
	if (argc == 3 && !strcmp(op, "hsm"))
		return hsm(argv[2]);
	if (argc == 5 && !strncmp(op, "nowait-", 7))
		return nowait(argv[2], !strcmp(op, "nowait-write"),
			      strtoull(argv[3], NULL, 0),
			      strtoull(argv[4], NULL, 0));
	if (argc == 5 && !strcmp(op, "scattered"))
		return scattered(argv[2], strtoull(argv[3], NULL, 0),
				 strtoull(argv[4], NULL, 0));
	if (argc == 3 && !strcmp(op, "memory"))
		return memory(strtoull(argv[2], NULL, 0) << 20);
	if (argc == 3 && !strcmp(op, "tail"))
		return tail(argv[2]);
	fprintf(stderr, "fileop: see its source\n");
	return 2;
}
