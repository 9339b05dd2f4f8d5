// SPDX-License-Identifier: GPL-2.0-only
/*
 * coherence DEV FILE WRITES SEED: a write that DEV has completed must be seen in
 * its backing FILE at once, by read(), by a mapping, and by O_DIRECT, while others
 * read the file into the page cache all the time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define READERS 2
#define MAX_BLOCKS 8
#define BLOCK 4096

static uint64_t state;
static pid_t readers[READERS];

static uint32_t next(uint32_t n)
{
	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(state >> 33) % n;
}

static void die(const char *what)
{
	fprintf(stderr, "coherence: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* As cat(1) does it, again and again. */
static void read_forever(const char *path)
{
	static char buf[1 << 17];
	int fd = open(path, O_RDONLY);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fd < 0)
		die(path);
	for (;;) {
		if (lseek(fd, 0, SEEK_SET))
			die("lseek");
		while (read(fd, buf, sizeof(buf)) > 0)
			;
	}
}

static void compare(const char *how, const void *got, const void *want,
		    off_t pos, size_t len, unsigned long i)
{
	if (!memcmp(got, want, len))
		return;
	fprintf(stderr, "coherence: write %lu at %lld, %zu bytes, is not seen by %s\n",
		i, (long long)pos, len, how);
	exit(1);
}

/* However this ends: they have the file open. */
static void end_readers(void)
{
	int i;

	for (i = 0; i < READERS; i++) {
		if (readers[i] <= 0)
			continue;
		kill(readers[i], SIGKILL);
		waitpid(readers[i], NULL, 0);
	}
}

int main(int argc, char **argv)
{
	unsigned long writes, i;
	int dev, file, direct;
	char *data, *got, *map;
	struct stat st;
	size_t j;

	if (argc != 5) {
		fprintf(stderr, "usage: coherence DEV FILE WRITES SEED\n");
		return 2;
	}
	writes = strtoul(argv[3], NULL, 0);
	state = strtoul(argv[4], NULL, 0);
	file = open(argv[2], O_RDONLY);
	direct = open(argv[2], O_RDONLY | O_DIRECT);
	if (file < 0 || direct < 0 || fstat(file, &st))
		die("open");
	map = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, file, 0);
	if (map == MAP_FAILED ||
	    posix_memalign((void **)&data, BLOCK, MAX_BLOCKS * BLOCK) ||
	    posix_memalign((void **)&got, BLOCK, MAX_BLOCKS * BLOCK))
		die("memory");
	for (j = 0; j < READERS; j++) {
		readers[j] = fork();
		if (readers[j] < 0)
			die("fork");
		if (!readers[j]) {
			memset(readers, 0, sizeof(readers));
			read_forever(argv[2]);
		}
	}
	atexit(end_readers);
	/* Not theirs: after an error they may live on for a moment. */
	dev = open(argv[1], O_RDWR | O_DIRECT);
	if (dev < 0)
		die("open");
	for (i = 0; i < writes; i++) {
		size_t len = (1 + next(MAX_BLOCKS)) * BLOCK;
		off_t pos = (off_t)next(st.st_size / BLOCK - MAX_BLOCKS) * BLOCK;

		for (j = 0; j < len; j += 8)
			*(uint64_t *)(data + j) = i * 0x9e3779b97f4a7c15ULL + pos + j;
		/* Cached and mapped now, whatever the others do. */
		if (memcmp(map + pos, data, len) == 0)
			die("the data was there before");
		if (pwrite(dev, data, len, pos) != (ssize_t)len)
			die("write");
		compare("the mapping", map + pos, data, pos, len, i);
		if (pread(file, got, len, pos) != (ssize_t)len)
			die("read");
		compare("read()", got, data, pos, len, i);
		if (i % 4)
			continue;
		if (pread(direct, got, len, pos) != (ssize_t)len)
			die("direct read");
		compare("O_DIRECT", got, data, pos, len, i);
	}
	return 0;
}
