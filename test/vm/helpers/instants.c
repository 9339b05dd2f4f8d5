// SPDX-License-Identifier: GPL-2.0-only
/*
 * instants run FILE BYTES THREADS LOG SEED [PACE]: write to FILE, which is a device or a file
 *	full of zeroes, at random until SIGTERM; PACE is a pause in microseconds (500)
 * instants check FILE BYTES LOG [last]: is FILE what it was at one instant of the
 *	run (or at the end of it)? If not, says where.
 * instants count LOG: how many writes are complete
 *
 * Each thread has a part of FILE to itself and does one write after the other. Each
 * block that it writes says who wrote it, in which write. The log has a stamp from
 * before and one from after each write. So a copy of FILE is the state of one instant
 * when each part holds exactly the first n writes of its thread, and perhaps a part of
 * the next, and no write that it has was begun after one that it has not was complete.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define WORDS (BLOCK / 8)
#define MAX_THREADS 8
#define MAX_BLOCKS 8		/* of one write */
#define RECORDS (1UL << 20)
#define MAGIC 0x6c6f6f7077726974ULL

/* A write; end is 0 until it is complete. */
struct record {
	uint32_t block;
	uint32_t blocks;
	uint64_t start;
	uint64_t end;
};

struct log {
	uint64_t magic;
	uint64_t seed;
	uint64_t bytes;
	uint64_t threads;
	uint64_t clock;		/* the last stamp */
	uint64_t begun[MAX_THREADS];
	uint64_t done[MAX_THREADS];
	struct record records[][RECORDS];
};

struct writer {
	pthread_t thread;
	uint64_t number;
	int fd;
	uint64_t random;
	uint64_t *wrote;	/* of each block, the last write; 0: none */
};

static struct log *run_log;
static const char *file_name;
static uint64_t part;		/* blocks of each thread */
static useconds_t pace = 500;
static volatile sig_atomic_t stop;

static void die(const char *what)
{
	fprintf(stderr, "instants: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static uint64_t stamp(void)
{
	return __atomic_add_fetch(&run_log->clock, 1, __ATOMIC_SEQ_CST);
}

static void fill_block(uint64_t *words, uint64_t block, uint64_t thread, uint64_t write)
{
	uint64_t key = mix(run_log->seed + mix(block + mix(thread + mix(write))));
	size_t i;

	words[0] = MAGIC;
	words[1] = block;
	words[2] = thread;
	words[3] = write;
	for (i = 4; i < WORDS; i++)
		words[i] = key + i * 0x9e3779b97f4a7c15ULL;
}

static int is_zero(const uint64_t *words)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		if (words[i])
			return 0;
	return 1;
}

/*
 * Which write of the part's thread does the block come from? -1: none.
 */
static int64_t whose(const uint64_t *words, uint64_t block)
{
	uint64_t want[WORDS];
	uint64_t thread = block / part;

	if (is_zero(words))
		return 0;
	fill_block(want, block, thread, words[3]);
	if (!words[3] || memcmp(words, want, BLOCK))
		return -1;
	return words[3];
}

static void say_wrong(uint64_t block, const uint64_t *words, uint64_t want)
{
	fprintf(stderr,
		"instants: %s: wrong at offset %" PRIu64 ": wanted write %" PRIu64
		" of thread %" PRIu64 ", got %016" PRIx64 " block %" PRIu64
		" thread %" PRIu64 " write %" PRIu64 "\n",
		file_name, block * BLOCK, want, block / part,
		words[0], words[1], words[2], words[3]);
}

static uint64_t *alloc_blocks(size_t n)
{
	void *p;

	if (posix_memalign(&p, BLOCK, n * BLOCK))
		die("memory");
	return p;
}

static int open_file(int flags)
{
	int fd = open(file_name, flags | O_DIRECT);

	if (fd < 0 && errno == EINVAL)
		fd = open(file_name, flags);
	if (fd < 0)
		die(file_name);
	return fd;
}

static uint64_t next_random(struct writer *w, uint64_t n)
{
	w->random += 0x9e3779b97f4a7c15ULL;
	return mix(w->random) % n;
}

static void read_back(struct writer *w, uint64_t *buf, uint64_t block, uint64_t n)
{
	uint64_t base = w->number * part, i;

	if (pread(w->fd, buf, n * BLOCK, block * BLOCK) != (ssize_t)(n * BLOCK))
		die("read");
	for (i = 0; i < n; i++) {
		if (whose(buf + i * WORDS, block + i) == (int64_t)w->wrote[block + i - base])
			continue;
		say_wrong(block + i, buf + i * WORDS, w->wrote[block + i - base]);
		exit(1);
	}
}

static void write_once(struct writer *w, uint64_t *buf)
{
	uint64_t number = run_log->begun[w->number] + 1, base = w->number * part, i;
	struct record *r = &run_log->records[w->number][number - 1];

	r->blocks = 1 + next_random(w, MAX_BLOCKS);
	r->block = base + next_random(w, part - r->blocks + 1);
	for (i = 0; i < r->blocks; i++)
		fill_block(buf + i * WORDS, r->block + i, w->number, number);
	r->start = stamp();
	run_log->begun[w->number] = number;
	if (pwrite(w->fd, buf, r->blocks * BLOCK, (uint64_t)r->block * BLOCK) != r->blocks * BLOCK)
		die("write");
	__atomic_store_n(&r->end, stamp(), __ATOMIC_SEQ_CST);
	run_log->done[w->number] = number;
	for (i = 0; i < r->blocks; i++)
		w->wrote[r->block - base + i] = number;
}

static void *writer(void *arg)
{
	struct writer *w = arg;
	uint64_t *buf = alloc_blocks(MAX_BLOCKS);

	w->fd = open_file(O_RDWR);
	w->random = run_log->seed * MAX_THREADS + w->number;
	w->wrote = calloc(part, sizeof(*w->wrote));
	if (!w->wrote)
		die("memory");
	while (!stop && run_log->begun[w->number] < RECORDS) {
		uint64_t n = 1 + next_random(w, MAX_BLOCKS);

		write_once(w, buf);
		if (!next_random(w, 4))
			read_back(w, buf, w->number * part + next_random(w, part - n + 1), n);
		if (!next_random(w, 16) && fdatasync(w->fd))
			die("fdatasync");
		if (pace)
			usleep(pace);
	}
	close(w->fd);
	return NULL;
}

static void on_signal(int number)
{
	(void)number;
	stop = 1;
}

static void open_log(const char *name, int flags, uint64_t threads)
{
	size_t size = sizeof(*run_log) + threads * RECORDS * sizeof(struct record);
	int fd = open(name, flags, 0600);
	struct stat st;

	if (fd < 0 || ((flags & O_CREAT) && ftruncate(fd, size)) || fstat(fd, &st))
		die(name);
	run_log = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (run_log == MAP_FAILED)
		die(name);
	close(fd);
}

static int run(char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	uint64_t threads = strtoull(argv[2], NULL, 0), i;
	struct writer writers[MAX_THREADS] = { };

	if (!threads || threads > MAX_THREADS)
		return 2;
	file_name = argv[0];
	open_log(argv[3], O_RDWR | O_CREAT | O_TRUNC, threads);
	run_log->magic = MAGIC;
	run_log->bytes = strtoull(argv[1], NULL, 0);
	run_log->threads = threads;
	run_log->seed = strtoull(argv[4], NULL, 0);
	if (argv[5])
		pace = strtoul(argv[5], NULL, 0);
	part = run_log->bytes / BLOCK / threads;
	sigaction(SIGTERM, &action, NULL);
	for (i = 0; i < threads; i++) {
		writers[i].number = i;
		if (pthread_create(&writers[i].thread, NULL, writer, &writers[i]))
			die("thread");
	}
	for (i = 0; i < threads; i++)
		pthread_join(writers[i].thread, NULL);
	return 0;
}

/* What each block of a part has after the first @writes writes. */
static void replay(uint64_t thread, uint64_t writes, uint64_t *want)
{
	uint64_t i, k;

	memset(want, 0, part * sizeof(*want));
	for (i = 0; i < writes; i++) {
		const struct record *r = &run_log->records[thread][i];

		for (k = 0; k < r->blocks; k++)
			want[r->block + k - thread * part] = i + 1;
	}
}

/*
 * The newest write may be there in part: it was under way, and a device may
 * take the pieces of one at different times.
 * Return: how many writes the part has as a whole, or -1.
 */
static int64_t check_part(int fd, uint64_t thread)
{
	uint64_t *buf = alloc_blocks(part), *want = calloc(part, sizeof(*want)), i;
	uint64_t *before = calloc(part, sizeof(*before));
	int torn = 0;
	size_t size = part * BLOCK, got = 0;
	int64_t newest = 0;
	ssize_t n;

	while (got < size) {
		n = pread(fd, (char *)buf + got, size - got, thread * size + got);
		if (n <= 0)
			die("read");
		got += n;
	}
	for (i = 0; i < part; i++) {
		int64_t write = whose(buf + i * WORDS, thread * part + i);

		if (write < 0 || (uint64_t)write > run_log->begun[thread]) {
			say_wrong(thread * part + i, buf + i * WORDS, 0);
			return -1;
		}
		if (write > newest)
			newest = write;
	}
	replay(thread, newest, want);
	replay(thread, newest ? newest - 1 : 0, before);
	for (i = 0; i < part; i++) {
		if (buf[i * WORDS + 3] == want[i])
			continue;
		if (buf[i * WORDS + 3] == before[i]) {
			torn = 1;
			continue;
		}
		fprintf(stderr, "instants: the newest write is %" PRId64 ", but:\n", newest);
		say_wrong(thread * part + i, buf + i * WORDS, want[i]);
		return -1;
	}
	free(before);
	free(want);
	free(buf);
	return newest - torn;
}

static int check(char **argv)
{
	int last = argv[3] && !strcmp(argv[3], "last");
	int64_t have[MAX_THREADS];
	uint64_t newest = 0, i;
	int fd;

	file_name = argv[0];
	open_log(argv[2], O_RDWR, 0);
	if (run_log->bytes != strtoull(argv[1], NULL, 0))
		return 2;
	part = run_log->bytes / BLOCK / run_log->threads;
	fd = open_file(O_RDONLY);
	for (i = 0; i < run_log->threads; i++) {
		have[i] = check_part(fd, i);
		if (have[i] < 0)
			return 1;
		if (last && (uint64_t)have[i] != run_log->done[i]) {
			fprintf(stderr, "instants: thread %" PRIu64 " wrote %" PRIu64
				" times, %" PRId64 " are there\n",
				i, run_log->done[i], have[i]);
			return 1;
		}
		if (have[i] && run_log->records[i][have[i] - 1].start > newest)
			newest = run_log->records[i][have[i] - 1].start;
	}
	for (i = 0; i < run_log->threads; i++) {
		uint64_t end = run_log->records[i][have[i]].end;

		if ((uint64_t)have[i] < run_log->done[i] && end < newest) {
			fprintf(stderr, "instants: write %" PRId64 " of thread %" PRIu64
				" was complete at %" PRIu64 " and is missing, another of %" PRIu64 " is there\n",
				have[i] + 1, i, end, newest);
			return 1;
		}
		printf("%s%" PRId64, i ? " " : "", have[i]);
	}
	printf("\n");
	return 0;
}

static int count(char **argv)
{
	uint64_t sum = 0, i;

	open_log(argv[0], O_RDWR, 0);
	for (i = 0; i < run_log->threads; i++)
		sum += run_log->done[i];
	printf("%" PRIu64 "\n", sum);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 7 && argc <= 8 && !strcmp(argv[1], "run"))
		return run(argv + 2);
	if (argc >= 5 && argc <= 6 && !strcmp(argv[1], "check"))
		return check(argv + 2);
	if (argc == 3 && !strcmp(argv[1], "count"))
		return count(argv + 2);
	fprintf(stderr, "usage: instants run FILE BYTES THREADS LOG SEED [PACE]\n"
		"       instants check FILE BYTES LOG [last]\n"
		"       instants count LOG\n");
	return 2;
}
