// SPDX-License-Identifier: GPL-2.0-only
/*
 * A model of a disk, and threads that compare a device with it.
 *
 * model run [OPTIONS] DEVICE STATE: threads read, write, zero, discard and flush
 *	ranges of 512 B to 1 MiB with direct I/O, and check all that they read. A
 *	range that is being written while it is read may have its old or its new
 *	content in each sector, and nothing else. At the end the whole device is
 *	read, and what it must contain is written to STATE.
 * model check FILE STATE: the same for a file, or a device, that nobody writes.
 *
 *	-s SEED		start of the random numbers
 *	-t SECONDS	how long (10), or until a SIGTERM, and longer if by then not each
 *			thing was done
 *	-j THREADS	how many (8)
 *	-c		go on from STATE: that is what the device contains now
 *	-d BLOCK	discards give zeroes in whole blocks of that many bytes, and
 *			do not touch the rest; without it they may do both
 *	-n		no discards, no zeroing
 *	-e		writes may fail for want of space, but not where there is data
 *	-h MIB		only the first MiB, so that the threads meet more often
 *	-a BYTES	all ranges begin and end at a multiple of that
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 512
#define MAX_IO 2048		/* sectors */
#define MAX_DISCARD 8192
#define MAX_THREADS 32
#define MAGIC 0x6c6f6f702d6d646cULL

/*
 * A sector has had many contents, one after the other; they are numbered. What
 * it has now is one of @oldest to @newest: more than one while it is written,
 * and after a write that failed. @zero is the newest of them that is zeroes.
 */
struct sector {
	uint32_t oldest;
	uint32_t newest;
	uint32_t zero;
};

struct header {
	uint64_t seed;
	uint64_t sectors;
};

struct range {
	uint32_t start;
	uint32_t end;
};

enum { WRITE, ZERO, DISCARD };
static const char *const names[] = { "write", "zero", "discard" };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sector *model;
static struct range changing[MAX_THREADS];
static struct header head;
static const char *path;
static uint32_t limit, last, block, unit = 1;
static int fd, seconds = 10, threads = 8, go_on, only_write, may_fail;
static unsigned long counts[5], meetings, refused, tears;
static volatile int stop;
static struct timespec end_time;
static volatile sig_atomic_t told;

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static void stamp(uint64_t *w, uint64_t sector, uint32_t number)
{
	uint64_t x = mix(head.seed ^ sector ^ ((uint64_t)number << 32));
	int i;

	w[0] = MAGIC;
	w[1] = sector;
	w[2] = number;
	for (i = 3; i < SECTOR / 8; i++)
		w[i] = x += 0x9e3779b97f4a7c15ULL;
}

/* Word by word: quicker than memcmp() where the processor is emulated. */
static int differ(const uint64_t *a, const uint64_t *b)
{
	uint64_t d = 0;
	int i;

	for (i = 0; i < SECTOR / 8; i++)
		d |= a[i] ^ b[i];
	return d != 0;
}

/* Is it one of the contents @oldest to @newest? */
static const char *judge(const uint64_t *w, uint32_t sector,
			 const struct sector *s)
{
	static const uint64_t zeroes[SECTOR / 8];
	uint64_t want[SECTOR / 8];

	if (!w[0] && !differ(w, zeroes))
		return s->zero >= s->oldest ? NULL : "zeroes instead of data";
	if (w[0] != MAGIC)
		return "no data of this test";
	if (w[1] != sector)
		return "data of another sector";
	if (w[2] < s->oldest)
		return "old data";
	if (w[2] > s->newest)
		return "data that was not written yet";
	stamp(want, sector, w[2]);
	return differ(w, want) ? "a torn sector" : NULL;
}

/* Is each word of the sector from one of the contents it may have? */
static int is_mix(const uint64_t *w, uint32_t sector, const struct sector *s)
{
	uint64_t want[SECTOR / 8];
	uint32_t number;
	int i, right[SECTOR / 8] = { };

	for (i = 0; i < SECTOR / 8; i++)
		right[i] = !w[i] && s->zero >= s->oldest;
	for (number = s->oldest; number <= s->newest; number++) {
		stamp(want, sector, number);
		for (i = 0; i < SECTOR / 8; i++)
			right[i] |= w[i] == want[i];
	}
	for (i = 0; i < SECTOR / 8 && right[i]; i++)
		;
	return i == SECTOR / 8;
}

/*
 * The emulated disk copies a sector that is read and written at the same time as
 * it likes. That passes; what the device has done wrong stays.
 */
static int is_torn(const char *buf, uint32_t start, uint32_t count,
		   const struct sector *allowed)
{
	uint32_t i;

	for (i = 0; i < count; i++) {
		const uint64_t *w = (const uint64_t *)(buf + i * SECTOR);

		if (allowed[i].oldest != allowed[i].newest &&
		    judge(w, start + i, &allowed[i]) &&
		    is_mix(w, start + i, &allowed[i]))
			return 1;
	}
	return 0;
}

/* Ends the program: the device is wrong, and must be left as it is. */
static void compare(const char *buf, uint32_t start, uint32_t count,
		    const struct sector *allowed)
{
	const uint64_t *w;
	uint32_t i, bad = 0;

	for (i = 0; i < count; i++) {
		const char *why;

		w = (const uint64_t *)(buf + i * SECTOR);
		why = judge(w, start + i, &allowed[i]);
		if (!why)
			continue;
		stop = 1;
		if (bad++ < 8)
			fprintf(stderr, "%s: sector %u: %s: has %016" PRIx64
				" sector %" PRIu64 " number %" PRIu64
				", wanted number %u to %u, zeroes %u (read of %u+%u)\n",
				path, start + i, why, w[0], w[1], w[2],
				allowed[i].oldest, allowed[i].newest,
				allowed[i].zero, start, count);
	}
	if (bad)
		errx(1, "%u of %u sectors are wrong", bad, count);
}

/* --- the threads -------------------------------------------------------- */

struct thread {
	pthread_t id;
	int me;
	struct random_data rd;
	char state[64];
	char *buf;
	struct sector allowed[MAX_IO];
};

static uint32_t rnd(struct thread *t, uint32_t n)
{
	int32_t r;

	random_r(&t->rd, &r);
	return (uint32_t)r % n;
}

static uint32_t units(uint32_t count)
{
	return (count + unit - 1) / unit * unit;
}

static uint32_t some_count(struct thread *t)
{
	switch (rnd(t, 8)) {
	case 0:
		return 1 + rnd(t, MAX_IO);
	case 1:
	case 2:
		return 1 + rnd(t, 128);
	case 3:
		return 8 * (1 + rnd(t, 8));
	default:
		return 1 + rnd(t, 8);
	}
}

static uint32_t choose_count(struct thread *t)
{
	return units(some_count(t));
}

/* Anywhere, or next to what somebody has just used. */
static uint32_t choose_start(struct thread *t, uint32_t count)
{
	uint32_t start = rnd(t, limit - count + 1);

	if (rnd(t, 2)) {
		start = last + rnd(t, 64);
		if (start + count > limit)
			start = limit - count;
	} else if (!rnd(t, 4)) {
		start -= start % 8;
	}
	start -= start % unit;
	last = rnd(t, 2) ? start + count : start;
	return start;
}

static int meets(const struct range *r, uint32_t start, uint32_t end)
{
	return start < r->end && r->start < end;
}

static void read_once(struct thread *t, uint32_t start, uint32_t count)
{
	uint32_t i;

	if (pread(fd, t->buf, count * SECTOR, (off_t)start * SECTOR) !=
	    (ssize_t)count * SECTOR)
		err(1, "%s: read of %u+%u", path, start, count);
	/* What was written meanwhile is right too. */
	pthread_mutex_lock(&lock);
	for (i = 0; i < count; i++) {
		t->allowed[i].newest = model[start + i].newest;
		t->allowed[i].zero = model[start + i].zero;
	}
	pthread_mutex_unlock(&lock);
}

static void do_read(struct thread *t)
{
	uint32_t count = choose_count(t), start = choose_start(t, count), i;
	struct range r = changing[rnd(t, threads)];

	/* Rather where somebody writes. */
	if (r.end && rnd(t, 2)) {
		start = r.start;
		if (start + count > limit)
			start = limit - count;
	}
	pthread_mutex_lock(&lock);
	memcpy(t->allowed, model + start, count * sizeof(*model));
	for (i = 0; i < (uint32_t)threads; i++)
		meetings += meets(&changing[i], start, start + count);
	pthread_mutex_unlock(&lock);
	read_once(t, start, count);
	for (i = 0; i < 100 && is_torn(t->buf, start, count, t->allowed); i++) {
		tears++;
		usleep(10000);
		read_once(t, start, count);
	}
	compare(t->buf, start, count, t->allowed);
}

/* Does a discard of that range make zeroes of the sector: 1, 0, or who knows: -1? */
static int discarded(uint32_t sector, uint32_t start, uint32_t end)
{
	uint32_t n = block / SECTOR, first;

	if (!block)
		return -1;
	first = sector - sector % n;
	return first >= start && first + n <= end;
}

static void begin_change(int kind, uint32_t start, uint32_t end)
{
	uint32_t i;

	for (i = start; i < end; i++) {
		if (kind == DISCARD && !discarded(i, start, end))
			continue;
		model[i].newest++;
		if (kind != WRITE)
			model[i].zero = model[i].newest;
	}
}

static void end_change(int kind, uint32_t start, uint32_t end)
{
	uint32_t i;

	for (i = start; i < end; i++)
		if (kind != DISCARD || discarded(i, start, end) == 1)
			model[i].oldest = model[i].newest;
}

static int change_range(struct thread *t, int kind, uint32_t start,
			uint32_t count)
{
	uint64_t bytes[2] = { (uint64_t)start * SECTOR, (uint64_t)count * SECTOR };
	ssize_t n;

	switch (kind) {
	case WRITE:
		n = pwrite(fd, t->buf, bytes[1], bytes[0]);
		if (n >= 0 && n != (ssize_t)bytes[1])
			errno = ENOSPC;
		return n == (ssize_t)bytes[1] ? 0 : errno;
	case ZERO:
		return ioctl(fd, BLKZEROOUT, bytes) ? errno : 0;
	default:
		return ioctl(fd, BLKDISCARD, bytes) ? errno : 0;
	}
}

static void do_change(struct thread *t, int kind)
{
	uint32_t count = choose_count(t), start, end, i;
	int has_data = 1, e;

	if (kind == DISCARD && rnd(t, 2))
		count = units(1 + rnd(t, limit < 4 * MAX_DISCARD ? limit / 4 : MAX_DISCARD));
	if (count > limit)
		count = limit;
	start = choose_start(t, count);
	end = start + count;
	pthread_mutex_lock(&lock);
	for (i = 0; i < (uint32_t)threads; i++) {
		if (meets(&changing[i], start, end)) {
			pthread_mutex_unlock(&lock);
			return;
		}
	}
	changing[t->me] = (struct range){ start, end };
	for (i = start; i < end; i++)
		has_data &= model[i].oldest > model[i].zero;
	begin_change(kind, start, end);
	if (kind == WRITE)
		for (i = start; i < end; i++)
			stamp((uint64_t *)(t->buf + (i - start) * SECTOR), i,
			      model[i].newest);
	pthread_mutex_unlock(&lock);
	e = change_range(t, kind, start, count);
	if (e && !(may_fail && e == ENOSPC && kind == WRITE && !has_data)) {
		stop = 1;
		errx(1, "%s: %s of %u+%u: %s%s", path, names[kind], start, count,
		     strerror(e), has_data ? " (where there is data)" : "");
	}
	pthread_mutex_lock(&lock);
	if (e)
		refused++;
	else
		end_change(kind, start, end);
	changing[t->me] = (struct range){ };
	counts[kind]++;
	pthread_mutex_unlock(&lock);
}

/* On a busy machine seconds may be few operations. */
static int all_done(void)
{
	return counts[WRITE] && counts[4] && (meetings || threads == 1) &&
	       (only_write || (counts[ZERO] && counts[DISCARD]));
}

static void tell(int signal)
{
	(void)signal;
	told = 1;
}

static int over(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return stop || (all_done() &&
			(told || now.tv_sec > end_time.tv_sec ||
			 (now.tv_sec == end_time.tv_sec &&
			  now.tv_nsec >= end_time.tv_nsec)));
}

static void *work(void *arg)
{
	struct thread *t = arg;
	uint32_t n;

	while (!over()) {
		n = rnd(t, 100);
		if (n < 40) {
			do_read(t);
			__atomic_add_fetch(&counts[3], 1, __ATOMIC_RELAXED);
		} else if (n < 82 || (only_write && n < 96)) {
			do_change(t, WRITE);
		} else if (n < 89) {
			do_change(t, ZERO);
		} else if (n < 96) {
			do_change(t, DISCARD);
		} else {
			if (fsync(fd))
				err(1, "%s: fsync", path);
			__atomic_add_fetch(&counts[4], 1, __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

static void check_all(void)
{
	uint64_t i;
	char *buf;

	if (posix_memalign((void **)&buf, 4096, MAX_IO * SECTOR))
		errx(1, "no memory");
	for (i = 0; i < head.sectors; i += MAX_IO) {
		uint32_t n = head.sectors - i < MAX_IO ? head.sectors - i : MAX_IO;

		if (pread(fd, buf, n * SECTOR, i * SECTOR) != (ssize_t)n * SECTOR)
			err(1, "%s: read at the end, of %" PRIu64 "+%u", path, i, n);
		compare(buf, i, n, model + i);
	}
	free(buf);
}

static void load(const char *state)
{
	FILE *f = fopen(state, "r");

	if (!f || fread(&head, sizeof(head), 1, f) != 1)
		err(1, "%s", state);
	model = malloc(head.sectors * sizeof(*model));
	if (!model || fread(model, sizeof(*model), head.sectors, f) != head.sectors)
		err(1, "%s", state);
	fclose(f);
}

static void save(const char *state)
{
	FILE *f = fopen(state, "w");

	if (!f || fwrite(&head, sizeof(head), 1, f) != 1 ||
	    fwrite(model, sizeof(*model), head.sectors, f) != head.sectors ||
	    fclose(f))
		err(1, "%s", state);
}

static void open_it(int flags)
{
	uint64_t sectors;

	fd = open(path, flags);
	if (fd < 0)
		err(1, "%s", path);
	sectors = lseek(fd, 0, SEEK_END) / SECTOR;
	if (!head.sectors)
		head.sectors = sectors;
	if (head.sectors != sectors)
		errx(1, "%s has %" PRIu64 " sectors, wanted %" PRIu64, path,
		     sectors, head.sectors);
}

static int run(const char *state, uint64_t seed)
{
	static struct thread t[MAX_THREADS];
	int i;

	if (go_on)
		load(state);
	else
		head.seed = seed;
	open_it(O_RDWR | O_DIRECT);
	if (!model)
		model = calloc(head.sectors, sizeof(*model));
	if (!model)
		err(1, "calloc");
	if (!limit || limit > head.sectors)
		limit = head.sectors;
	if (limit < MAX_IO)
		errx(1, "%s is too small", path);
	clock_gettime(CLOCK_MONOTONIC, &end_time);
	end_time.tv_sec += seconds;
	signal(SIGTERM, tell);
	for (i = 0; i < threads; i++) {
		t[i].me = i;
		initstate_r(mix(seed * MAX_THREADS + i), t[i].state,
			    sizeof(t[i].state), &t[i].rd);
		if (posix_memalign((void **)&t[i].buf, 4096, MAX_IO * SECTOR))
			errx(1, "no memory");
		if (pthread_create(&t[i].id, NULL, work, &t[i]))
			errx(1, "no thread");
	}
	for (i = 0; i < threads; i++)
		pthread_join(t[i].id, NULL);
	check_all();
	save(state);
	printf("seed %" PRIu64 ": %lu writes, %lu zeroes, %lu discards, %lu reads (%lu of what is being written, %lu torn), %lu flushes, %lu refused for want of space\n",
	       seed, counts[0], counts[1], counts[2], counts[3], meetings, tears,
	       counts[4], refused);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t seed = 1;
	int c;

	while ((c = getopt(argc, argv, "s:t:j:cd:neh:a:")) != -1) {
		switch (c) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 't':
			seconds = atoi(optarg);
			break;
		case 'j':
			threads = atoi(optarg);
			break;
		case 'c':
			go_on = 1;
			break;
		case 'd':
			block = strtoul(optarg, NULL, 0);
			break;
		case 'n':
			only_write = 1;
			break;
		case 'e':
			may_fail = 1;
			break;
		case 'h':
			limit = strtoul(optarg, NULL, 0) << 11;
			break;
		case 'a':
			unit = strtoul(optarg, NULL, 0) / SECTOR;
			break;
		default:
			return 2;
		}
	}
	if (argc - optind != 3 || !unit || threads < 1 || threads > MAX_THREADS) {
		fprintf(stderr, "usage: model run [-s SEED] [-t SECONDS] [-j THREADS] [-c] [-d BLOCK] [-n] [-e] [-h MIB] [-a BYTES] DEVICE STATE | model check FILE STATE\n");
		return 2;
	}
	path = argv[optind + 1];
	if (!strcmp(argv[optind], "check")) {
		load(argv[optind + 2]);
		open_it(O_RDONLY);
		check_all();
		return 0;
	}
	return run(argv[optind + 2], seed);
}
