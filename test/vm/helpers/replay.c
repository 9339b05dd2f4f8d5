// SPDX-License-Identifier: GPL-2.0-only
/*
 * Replays what the device-mapper target log-writes has logged.
 *
 * replay list LOG: the places where the power may be cut: one line for each
 *	flush, FUA write and mark: the number of entries up to it, what it is,
 *	and the text of a mark.
 * replay apply LOG DEVICE FROM TO: write entries FROM to TO-1 to the device.
 * replay some LOG DEVICE FROM TO SEED: of those, all that were FUA and a random
 *	half of the others: a cache that was not flushed and has lost the rest.
 *
 * The log: a sector that names the number of entries and the size of a sector,
 * and then for each entry one sector that says what it is, and the data.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC 0x6a736677736872ULL
#define FLAG_FLUSH 1
#define FLAG_FUA 2
#define FLAG_DISCARD 4
#define FLAG_MARK 8

/* All numbers are little endian, as is the machine that the tests run on. */
struct super {
	uint64_t magic;
	uint64_t version;
	uint64_t nr_entries;
	uint32_t sectorsize;
};

struct entry {
	uint64_t sector;
	uint64_t nr_sectors;
	uint64_t flags;
	uint64_t data_len;
	char data[];
};

struct log {
	int fd;
	uint64_t nr;
	uint32_t sectorsize;
	uint64_t pos;		/* of the next entry, in bytes */
	uint64_t data;		/* of the data of this one */
	struct entry *e;
};

static void read_at(int fd, void *buf, size_t n, uint64_t pos)
{
	if (pread(fd, buf, n, pos) != (ssize_t)n)
		err(1, "cannot read the log at %" PRIu64, pos);
}

static void open_log(struct log *log, const char *path)
{
	static char buf[512];
	struct super *super = (struct super *)buf;

	log->fd = open(path, O_RDONLY);
	if (log->fd < 0)
		err(1, "%s", path);
	read_at(log->fd, buf, sizeof(buf), 0);
	if (super->magic != MAGIC || super->version != 1)
		errx(1, "%s is no log of log-writes", path);
	log->nr = super->nr_entries;
	log->sectorsize = super->sectorsize;
	log->pos = log->sectorsize;
	log->e = malloc(log->sectorsize + 1);
	if (!log->e)
		err(1, "malloc");
}

static void next_entry(struct log *log)
{
	struct entry *e = log->e;

	read_at(log->fd, e, log->sectorsize, log->pos);
	((char *)e)[log->sectorsize] = '\0';
	log->data = log->pos + log->sectorsize;
	log->pos = log->data;
	if (!(e->flags & FLAG_DISCARD))
		log->pos += e->nr_sectors * log->sectorsize;
}

static int list(struct log *log)
{
	uint64_t i;

	for (i = 0; i < log->nr; i++) {
		next_entry(log);
		if (log->e->flags & FLAG_MARK)
			printf("%" PRIu64 " mark %s\n", i + 1, log->e->data);
		else if (log->e->flags & FLAG_FUA)
			printf("%" PRIu64 " fua\n", i + 1);
		else if (log->e->flags & FLAG_FLUSH)
			printf("%" PRIu64 " flush\n", i + 1);
	}
	return 0;
}

static void write_entry(struct log *log, int fd)
{
	static char *buf;
	static size_t size;
	uint64_t n = log->e->nr_sectors * log->sectorsize;

	if (n > size) {
		free(buf);
		buf = malloc(n);
		size = n;
		if (!buf)
			err(1, "malloc");
	}
	/* Devices of these tests do not discard; then it has no effect. */
	if (log->e->flags & FLAG_DISCARD)
		return;
	read_at(log->fd, buf, n, log->data);
	if (pwrite(fd, buf, n, log->e->sector * log->sectorsize) != (ssize_t)n)
		err(1, "cannot write at sector %" PRIu64, log->e->sector);
}

static int apply(struct log *log, const char *device, uint64_t from,
		 uint64_t to, int some)
{
	uint64_t i;
	int fd;

	fd = open(device, O_WRONLY);
	if (fd < 0)
		err(1, "%s", device);
	if (to > log->nr)
		errx(1, "the log has %" PRIu64 " entries only", log->nr);
	for (i = 0; i < to; i++) {
		next_entry(log);
		if (i < from || (log->e->flags & FLAG_MARK))
			continue;
		if (some && !(log->e->flags & FLAG_FUA) && random() % 2)
			continue;
		write_entry(log, fd);
	}
	if (fsync(fd) || close(fd))
		err(1, "%s", device);
	return 0;
}

int main(int argc, char **argv)
{
	struct log log = { };

	if (argc == 3 && !strcmp(argv[1], "list")) {
		open_log(&log, argv[2]);
		return list(&log);
	}
	if ((argc == 6 && !strcmp(argv[1], "apply")) ||
	    (argc == 7 && !strcmp(argv[1], "some"))) {
		open_log(&log, argv[2]);
		if (argc == 7)
			srandom(strtoul(argv[6], NULL, 0));
		return apply(&log, argv[3], strtoull(argv[4], NULL, 0),
			     strtoull(argv[5], NULL, 0), argc == 7);
	}
	fprintf(stderr, "usage: replay list LOG | replay apply LOG DEVICE FROM TO | replay some LOG DEVICE FROM TO SEED\n");
	return 2;
}
