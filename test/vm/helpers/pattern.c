// SPDX-License-Identifier: GPL-2.0-only
/*
 * pattern write KEY OFFSET BYTES: random-looking bytes to stdout.
 * pattern check KEY OFFSET BYTES: are they what stdin has? If not, says where.
 *	A pipe is read to its end: then who writes to it has closed its file.
 *
 * Every eight bytes depend on the key and on their offset, so data in the wrong
 * place, or of another round, is seen; and the checker needs no copy.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static void fill(uint64_t *words, size_t n, uint64_t key, uint64_t offset)
{
	size_t i;

	for (i = 0; i < n; i++)
		words[i] = mix(key + (offset / 8 + i) * 0x9e3779b97f4a7c15ULL);
}

static void drain(void *buf, size_t size)
{
	struct stat st;

	if (!fstat(0, &st) && S_ISFIFO(st.st_mode))
		while (fread(buf, 1, size, stdin))
			;
}

int main(int argc, char **argv)
{
	static uint64_t want[8192], got[8192];
	uint64_t key, offset, left;
	int write;

	if (argc != 5 || (strcmp(argv[1], "write") && strcmp(argv[1], "check"))) {
		fprintf(stderr, "usage: pattern write|check KEY OFFSET BYTES\n");
		return 2;
	}
	write = argv[1][0] == 'w';
	key = mix(strtoull(argv[2], NULL, 0) + 1);
	offset = strtoull(argv[3], NULL, 0);
	left = strtoull(argv[4], NULL, 0);
	if (offset % 8) {
		fprintf(stderr, "pattern: the offset must be a multiple of 8\n");
		return 2;
	}

	while (left) {
		size_t n = left < sizeof(want) ? left : sizeof(want), i;

		fill(want, (n + 7) / 8, key, offset);
		if (write) {
			if (fwrite(want, 1, n, stdout) != n) {
				perror("pattern: write");
				return 1;
			}
		} else {
			if (fread(got, 1, n, stdin) != n) {
				fprintf(stderr, "pattern: input ends before offset %llu\n",
					(unsigned long long)(offset + n));
				return 1;
			}
			for (i = 0; i < n; i++) {
				if (((char *)got)[i] == ((char *)want)[i])
					continue;
				fprintf(stderr,
					"pattern: wrong at offset %llu: %016llx, wanted %016llx\n",
					(unsigned long long)(offset + i) & ~7ULL,
					(unsigned long long)got[i / 8],
					(unsigned long long)want[i / 8]);
				return 1;
			}
		}
		offset += n;
		left -= n;
	}
	if (!write) {
		drain(got, sizeof(got));
	} else if (fflush(stdout)) {
		perror("pattern: write");
		return 1;
	}
	return 0;
}
