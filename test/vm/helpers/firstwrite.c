// SPDX-License-Identifier: GPL-2.0-only
/*
 * firstwrite DEV FILE WRITES SEED: DEV, of zeroes, is written at random places by
 * threads, in pieces of 512 bytes to 64 KiB, while others read it and its
 * backing FILE. All that is read must be zeroes, or what belongs into that
 * sector; in DEV, what belongs there as soon as its write is done.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512
#define WORDS (SECTOR / 8)
#define MAX_IO 128		/* sectors */
#define WRITERS 4

struct reader {
	const char *what;
	int fd;
	int is_dev;
};

static unsigned char *written;	/* one for each sector */
static uint64_t sectors, seed;
static unsigned long writes, started, reads;
static int dev, stop;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static uint64_t word(uint64_t sector, unsigned int i)
{
	return mix(seed ^ (sector * WORDS + i) * 0x9e3779b97f4a7c15ULL) | 1;
}

static uint32_t next(uint64_t *state, uint32_t n)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(*state >> 33) % n;
}

static uint64_t *buffer(void)
{
	void *p;

	if (posix_memalign(&p, 4096, MAX_IO * SECTOR))
		errx(1, "memory");
	return p;
}

/* Few sectors mostly: those share their block with others. */
static uint32_t choose(uint64_t *state, uint64_t *first)
{
	uint32_t n = 1 + next(state, next(state, 8) ? 6 : MAX_IO);

	*first = next(state, sectors);
	return *first + n > sectors ? sectors - *first : n;
}

static void *writer(void *arg)
{
	uint64_t state = seed + (uintptr_t)arg, first;
	uint64_t *data = buffer();
	uint32_t n, i;

	while (__atomic_fetch_add(&started, 1, __ATOMIC_RELAXED) < writes) {
		n = choose(&state, &first);
		for (i = 0; i < n * WORDS; i++)
			data[i] = word(first + i / WORDS, i % WORDS);
		if (pwrite(dev, data, n * SECTOR, first * SECTOR) != n * SECTOR)
			err(1, "write of %u sectors at %" PRIu64, n, first);
		for (i = 0; i < n; i++)
			__atomic_store_n(&written[first + i], 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* @must: whether each sector had been written before it was read. */
static void compare(const char *what, const uint64_t *got, uint64_t first,
		    uint32_t n, const unsigned char *must)
{
	uint32_t i;

	for (i = 0; i < n * WORDS; i++) {
		uint64_t want = word(first + i / WORDS, i % WORDS);

		if (got[i] == want || (!got[i] && !must[i / WORDS]))
			continue;
		errx(1, "%s: sector %" PRIu64 ", byte %u: %016" PRIx64
		     ", wanted %016" PRIx64 "%s", what, first + i / WORDS,
		     i % WORDS * 8, got[i], want,
		     must[i / WORDS] ? "" : " or zeroes");
	}
}

static void check(const struct reader *r, uint64_t *data, uint64_t first,
		  uint32_t n)
{
	unsigned char must[MAX_IO] = { 0 };
	uint32_t i;

	for (i = 0; i < n && r->is_dev; i++)
		must[i] = __atomic_load_n(&written[first + i], __ATOMIC_ACQUIRE);
	if (pread(r->fd, data, n * SECTOR, first * SECTOR) != n * SECTOR)
		err(1, "%s: read of %u sectors at %" PRIu64, r->what, n, first);
	compare(r->what, data, first, n, must);
	__atomic_fetch_add(&reads, 1, __ATOMIC_RELAXED);
}

static void *reader(void *arg)
{
	const struct reader *r = arg;
	uint64_t state = mix(seed + r->fd), first;
	uint64_t *data = buffer();
	uint32_t n;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		n = choose(&state, &first);
		check(r, data, first, n);
	}
	return NULL;
}

static int open_it(const char *path, int flags)
{
	int fd = open(path, flags);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

int main(int argc, char **argv)
{
	pthread_t writing[WRITERS], reading[4];
	struct reader readers[4];
	uint64_t *data, pos;
	uintptr_t i;

	if (argc != 5)
		errx(2, "usage: firstwrite DEV FILE WRITES SEED");
	writes = strtoul(argv[3], NULL, 0);
	seed = mix(strtoull(argv[4], NULL, 0) + 1);
	dev = open_it(argv[1], O_RDWR | O_DIRECT);
	readers[0] = (struct reader){ "device", dev, 1 };
	readers[1] = (struct reader){ "device", open_it(argv[1], O_RDONLY | O_DIRECT), 1 };
	readers[2] = (struct reader){ "file", open_it(argv[2], O_RDONLY | O_DIRECT), 0 };
	readers[3] = (struct reader){ "cached file", open_it(argv[2], O_RDONLY), 0 };
	sectors = lseek(dev, 0, SEEK_END) / SECTOR;
	written = calloc(sectors, 1);
	if (!written)
		errx(1, "memory");
	for (i = 0; i < 4; i++)
		pthread_create(&reading[i], NULL, reader, &readers[i]);
	for (i = 0; i < WRITERS; i++)
		pthread_create(&writing[i], NULL, writer, (void *)(i + 1));
	for (i = 0; i < WRITERS; i++)
		pthread_join(writing[i], NULL);
	__atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
	for (i = 0; i < 4; i++)
		pthread_join(reading[i], NULL);

	data = buffer();
	for (pos = 0; pos < sectors; pos += MAX_IO)
		check(&readers[0], data, pos,
		      sectors - pos < MAX_IO ? sectors - pos : MAX_IO);
	fprintf(stderr, "firstwrite: %lu writes, %lu reads\n", writes, reads);
	return 0;
}
