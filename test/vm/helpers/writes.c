// SPDX-License-Identifier: GPL-2.0-only
/*
 * writes DEVICE SECTOR:SECTORS:BYTE...: direct writes, all at once, each by a
 * thread of its own and from memory that is in one piece if there are huge pages.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECTOR	512
#define MIB	(1 << 20)

static int fd;

static void *one(void *arg)
{
	unsigned int sector, sectors, byte;
	size_t bytes;
	void *buf;

	if (sscanf(arg, "%u:%u:%u", &sector, &sectors, &byte) != 3 ||
	    sectors * SECTOR > 2 * MIB)
		errx(1, "not SECTOR:SECTORS:BYTE: %s", (char *)arg);
	bytes = sectors * SECTOR;
	buf = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | (bytes > 65536 ? MAP_HUGETLB : 0),
		   -1, 0);
	if (buf == MAP_FAILED)
		err(1, "mmap");
	memset(buf, byte, bytes);
	if (pwrite(fd, buf, bytes, (off_t)sector * SECTOR) != (ssize_t)bytes)
		err(1, "%s", (char *)arg);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[256];
	int i;

	if (argc < 3 || argc > 256)
		errx(2, "usage: writes DEVICE SECTOR:SECTORS:BYTE...");
	fd = open(argv[1], O_WRONLY | O_DIRECT);
	if (fd < 0)
		err(1, "%s", argv[1]);
	for (i = 2; i < argc; i++)
		if (pthread_create(&threads[i - 2], NULL, one, argv[i]))
			errx(1, "pthread_create");
	for (i = 2; i < argc; i++)
		pthread_join(threads[i - 2], NULL);
	return 0;
}
