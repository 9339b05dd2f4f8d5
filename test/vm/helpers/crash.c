// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a power cut may take and what it may not.
 *
 * crash init FILE BYTES: a file whose every sector says which one it is.
 * crash write DEVICE TRACE SEED OPS [LOG [ALIGN]]: threads write, zero and discard parts
 *	of the device and flush it. Each sector written says which write it was.
 *	TRACE gets what is done, before, and what is promised, after: by a flush
 *	all that had ended before it, by a synchronous write what it wrote.
 *	With LOG, a device-mapper device of the target log-writes, each promise
 *	is also a mark in the log: "ack N". SIGTERM ends it early. The device
 *	may also be a file. What is written is in units of ALIGN sectors (1).
 * crash last TRACE: the number of the last promise.
 * crash check FILE TRACE N [base]: has FILE, an image after a power cut, all that
 *	was promised up to number N ("all": all that was written), and nothing
 *	else than what was ever written or zeroes? With base it was made by
 *	crash init.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512
#define THREADS 3
#define MAGIC 0x6c6f6f702d637274ULL
#define MAX_SECTORS 260

/*
 * Stripes belong to the threads by turns. Their lengths are odd, so that blocks
 * of the filesystem and pages are shared by threads.
 */
#define SMALL_STRIPE 17
#define LARGE_STRIPE 257

enum { WRITE, ZERO, DISCARD, ACK, ACK_ONE };

struct op {
	uint32_t kind;
	uint32_t thread;
	uint32_t seq;		/* of the thread; ACK: it is safe up to there, ACK_ONE: this is */
	uint32_t sector;	/* ACK, ACK_ONE: number of the promise */
	uint32_t count;
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

/* Sector @sector as write @seq of its thread leaves it; 0 is crash init. */
static void stamp(uint64_t *w, uint64_t sector, uint64_t seq)
{
	uint64_t x = mix(sector ^ (seq << 32));
	int i;

	w[0] = MAGIC;
	w[1] = sector;
	w[2] = seq;
	for (i = 3; i < SECTOR / 8; i++)
		w[i] = x += 0x9e3779b97f4a7c15ULL;
}

static uint32_t stripe_of(uint32_t sector, uint32_t sectors, uint32_t *start,
			  uint32_t *end)
{
	uint32_t half = sectors / 2, first = 0, len = SMALL_STRIPE, n;

	if (sector >= half) {
		first = half;
		len = LARGE_STRIPE;
	}
	n = (sector - first) / len;
	*start = first + n * len;
	*end = *start + len;
	if (sector < half && *end > half)
		*end = half;
	if (*end > sectors)
		*end = sectors;
	return n % THREADS;
}

/* --- writing ------------------------------------------------------------ */

static uint32_t issued[THREADS], done[THREADS], acks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile sig_atomic_t stop;
static int dev, is_file, trace_fd, control = -1;
static uint32_t dev_sectors;
static const char *log_name;
static unsigned int ops_each, align = 1;
static uint64_t seed;

static void record(uint32_t kind, uint32_t thread, uint32_t seq,
		   uint32_t sector, uint32_t count)
{
	struct op op = { kind, thread, seq, sector, count };

	if (write(trace_fd, &op, sizeof(op)) != sizeof(op))
		err(1, "trace");
}

/* In the log, behind all that is safe: see crash_log() in crash-common.bash. */
static void mark(uint32_t n)
{
	static union {
		struct dm_ioctl dmi;
		char space[1024];
	} u;
	struct dm_target_msg *msg;

	if (control < 0)
		return;
	memset(&u, 0, sizeof(u));
	u.dmi.version[0] = 4;
	u.dmi.data_size = sizeof(u);
	u.dmi.data_start = sizeof(u.dmi);
	snprintf(u.dmi.name, sizeof(u.dmi.name), "%s", log_name);
	msg = (struct dm_target_msg *)(u.space + sizeof(u.dmi));
	snprintf(msg->message, 100, "mark ack\\ %u", n);
	if (ioctl(control, DM_TARGET_MSG, &u))
		err(1, "cannot mark the log");
}

static void flush(void)
{
	uint32_t safe[THREADS];
	int i;

	pthread_mutex_lock(&lock);
	memcpy(safe, done, sizeof(safe));
	pthread_mutex_unlock(&lock);
	if (fsync(dev))
		err(1, "fsync");
	pthread_mutex_lock(&lock);
	acks++;
	for (i = 0; i < THREADS; i++)
		record(ACK, i, safe[i], acks, 0);
	mark(acks);
	pthread_mutex_unlock(&lock);
}

static int punch(const uint64_t *range)
{
	return fallocate(dev, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 range[0], range[1]);
}

static void do_op(uint32_t kind, uint32_t me, uint32_t sector, uint32_t count,
		  char *buf, int flags)
{
	uint64_t range[2] = { (uint64_t)sector * SECTOR, (uint64_t)count * SECTOR };
	struct iovec iov = { buf, range[1] };
	ssize_t n;
	uint32_t seq, i;

	pthread_mutex_lock(&lock);
	seq = ++issued[me];
	record(kind, me, seq, sector, count);
	pthread_mutex_unlock(&lock);
	switch (kind) {
	case WRITE:
		for (i = 0; i < count; i++)
			stamp((uint64_t *)(buf + i * SECTOR), sector + i, seq);
		n = pwritev2(dev, &iov, 1, range[0], flags);
		if (n != (ssize_t)range[1])
			err(1, "write of %u sectors at %u", count, sector);
		break;
	case ZERO:
		if (is_file ? punch(range) : ioctl(dev, BLKZEROOUT, range))
			err(1, "cannot zero %u sectors at %u", count, sector);
		break;
	case DISCARD:
		/* A device need not take them, and may do nothing. */
		if ((is_file ? punch(range) : ioctl(dev, BLKDISCARD, range)) &&
		    errno != EOPNOTSUPP)
			err(1, "cannot discard %u sectors at %u", count, sector);
		break;
	}
	pthread_mutex_lock(&lock);
	done[me] = seq;
	if (flags & RWF_DSYNC) {
		record(ACK_ONE, me, seq, ++acks, 0);
		mark(acks);
	}
	pthread_mutex_unlock(&lock);
}

static void do_random_op(uint32_t r, uint32_t me, uint32_t sector,
			 uint32_t count, char *buf)
{
	uint32_t start, end;

	if (r == 0) {
		do_op(ZERO, me, sector, count, buf, 0);
	} else if (r == 1) {
		stripe_of(sector, dev_sectors, &start, &end);
		do_op(DISCARD, me, start, end - start, buf, 0);
	} else {
		do_op(WRITE, me, sector, count, buf, r < 4 ? RWF_DSYNC : 0);
	}
}

static void *writer(void *arg)
{
	uint32_t me = (uintptr_t)arg, owner, sector, count, start, end, least;
	struct random_data rd = { };
	char state[64], *buf;
	unsigned int i;
	int32_t r;

#define RANDOM(n) ({ random_r(&rd, &r); (uint32_t)r % (n); })
	initstate_r(mix(seed + me), state, sizeof(state), &rd);
	if (posix_memalign((void **)&buf, 4096, MAX_SECTORS * SECTOR))
		errx(1, "no memory");
	for (i = 0; i < ops_each && !stop; i++) {
		do {
			sector = RANDOM(dev_sectors) / align * align;
			owner = stripe_of(sector, dev_sectors, &start, &end);
		} while (owner != me || sector + align > end);
		count = 1 + RANDOM(end - sector);
		least = align > 8 ? align : 8;
		if (count > least && RANDOM(2))
			count = 1 + RANDOM(least);
		count = count < align ? align : count / align * align;
		do_random_op(RANDOM(16), me, sector, count, buf);
		if (!RANDOM(6))
			flush();
	}
	return NULL;
}

static void on_term(int sig)
{
	stop = sig;
}

static int crash_write(const char *path, const char *trace_path)
{
	pthread_t threads[THREADS];
	struct stat st;
	uintptr_t i;

	signal(SIGTERM, on_term);
	trace_fd = open(trace_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
	if (trace_fd < 0)
		err(1, "%s", trace_path);
	dev = open(path, O_RDWR | O_DIRECT);
	if (dev < 0 || fstat(dev, &st))
		err(1, "%s", path);
	is_file = S_ISREG(st.st_mode);
	dev_sectors = lseek(dev, 0, SEEK_END) / SECTOR;
	if (log_name) {
		control = open("/dev/mapper/control", O_RDWR);
		if (control < 0)
			err(1, "/dev/mapper/control");
	}
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, writer, (void *)i))
			errx(1, "no thread");
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	printf("%u operations, %u promises\n", issued[0] + issued[1] + issued[2], acks);
	return 0;
}

static int crash_init(const char *path, uint64_t sectors)
{
	uint64_t w[SECTOR / 8], i;
	FILE *f = fopen(path, "w");

	if (!f)
		err(1, "%s", path);
	for (i = 0; i < sectors; i++) {
		stamp(w, i, 0);
		if (fwrite(w, sizeof(w), 1, f) != 1)
			err(1, "%s", path);
	}
	if (fflush(f) || fsync(fileno(f)) || fclose(f))
		err(1, "%s", path);
	return 0;
}

/* --- checking ----------------------------------------------------------- */

static struct op *trace;
static unsigned int nr_ops;
static struct op **by_seq[THREADS];
static uint32_t last_seq[THREADS], last_ack;

/* Promises that are about one write alone have a number of their own. */
static uint32_t *one_ack[THREADS];

struct sector {
	uint32_t least;		/* the oldest write that may be seen */
	uint8_t least_ok;	/* it is a write, not zeroes */
	uint8_t zero_ok;
};

static void read_trace(const char *path)
{
	struct stat st;
	FILE *f = fopen(path, "r");
	unsigned int i;

	if (!f || fstat(fileno(f), &st))
		err(1, "%s", path);
	nr_ops = st.st_size / sizeof(*trace);
	trace = malloc(st.st_size + 1);
	if (!trace || fread(trace, sizeof(*trace), nr_ops, f) != nr_ops)
		err(1, "%s", path);
	fclose(f);
	for (i = 0; i < THREADS; i++) {
		by_seq[i] = calloc(nr_ops + 1, sizeof(*by_seq[i]));
		one_ack[i] = calloc(nr_ops + 1, sizeof(*one_ack[i]));
		if (!by_seq[i] || !one_ack[i])
			err(1, "calloc");
	}
	for (i = 0; i < nr_ops; i++) {
		struct op *op = &trace[i];

		if (op->kind == ACK || op->kind == ACK_ONE) {
			last_ack = op->sector;
			if (op->kind == ACK_ONE)
				one_ack[op->thread][op->seq] = op->sector;
			continue;
		}
		by_seq[op->thread][op->seq] = op;
		last_seq[op->thread] = op->seq;
	}
}

static int is_safe(const struct op *op, const uint32_t *safe, uint32_t ack)
{
	uint32_t one = one_ack[op->thread][op->seq];

	return op->seq <= safe[op->thread] || (one && one <= ack);
}

/* What may be in each sector when all up to promise @ack is safe. */
static struct sector *expect(uint32_t sectors, uint32_t ack, int base)
{
	struct sector *s = calloc(sectors, sizeof(*s));
	uint32_t safe[THREADS] = { }, i, j;

	if (!s)
		err(1, "calloc");
	for (i = 0; i < nr_ops; i++)
		if (trace[i].kind == ACK && trace[i].sector <= ack &&
		    trace[i].seq > safe[trace[i].thread])
			safe[trace[i].thread] = trace[i].seq;
	if (ack == UINT32_MAX)
		memset(safe, 0xff, sizeof(safe));
	for (i = 0; i < sectors; i++) {
		s[i].least_ok = base;
		s[i].zero_ok = !base;
	}
	for (i = 0; i < nr_ops; i++) {
		struct op *op = &trace[i];

		if (op->kind == ACK || op->kind == ACK_ONE)
			continue;
		for (j = op->sector; j < op->sector + op->count; j++) {
			if (is_safe(op, safe, ack) && op->kind != DISCARD) {
				s[j].least = op->seq;
				s[j].least_ok = op->kind == WRITE;
				s[j].zero_ok = 0;
			}
			s[j].zero_ok |= op->kind != WRITE;
		}
	}
	return s;
}

/* Has a thread ever written that there? */
static int was_written(uint32_t thread, uint64_t seq, uint32_t sector)
{
	const struct op *op;

	if (seq > last_seq[thread])
		return 0;
	op = by_seq[thread][seq];
	return op && op->kind == WRITE && sector >= op->sector &&
	       sector < op->sector + op->count;
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

static const char *judge(const uint64_t *w, uint32_t sector, uint32_t sectors,
			 const struct sector *s)
{
	static const uint64_t zeroes[SECTOR / 8];
	uint64_t want[SECTOR / 8];
	uint32_t start, end;

	if (!w[0] && !differ(w, zeroes))
		return s->zero_ok ? NULL : "zeroes instead of data that was promised";
	if (w[0] != MAGIC)
		return "what was on the disk before";
	stamp(want, w[1], w[2]);
	if (differ(w, want))
		return "a torn sector";
	if (w[1] != sector)
		return "data of another sector";
	if (w[2] < s->least || (w[2] == s->least && !s->least_ok))
		return "data older than what was promised";
	if (w[2] && !was_written(stripe_of(sector, sectors, &start, &end), w[2], sector))
		return "data that was never written there";
	return NULL;
}

static int crash_check(const char *path, uint64_t bytes, uint32_t ack, int base)
{
	static uint64_t buf[128][SECTOR / 8];
	uint32_t sectors, i, bad = 0;
	struct sector *s;
	struct stat st;
	FILE *f = fopen(path, "r");

	if (!f || fstat(fileno(f), &st))
		err(1, "%s", path);
	if ((uint64_t)st.st_size != bytes)
		errx(1, "%s: %lld bytes", path, (long long)st.st_size);
	setbuf(f, NULL);
	sectors = bytes / SECTOR;
	s = expect(sectors, ack, base);
	for (i = 0; i < sectors; i++) {
		const uint64_t *w = buf[i % 128];
		const char *why;

		if (!(i % 128) && !fread(buf, SECTOR, 128, f))
			err(1, "%s: sector %u", path, i);
		why = judge(w, i, sectors, &s[i]);
		if (!why)
			continue;
		if (bad++ < 5)
			fprintf(stderr, "%s: sector %u: %s (write %" PRIu64
				", wanted %u%s; %016" PRIx64 " %016" PRIx64 ")\n",
				path, i, why, w[2], s[i].least,
				s[i].zero_ok ? " or zeroes" : "", w[0], w[1]);
	}
	if (bad)
		fprintf(stderr, "%s: %u of %u sectors are wrong after promise %u\n",
			path, bad, sectors, ack);
	return !!bad;
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";

	if (argc == 4 && !strcmp(cmd, "init"))
		return crash_init(argv[2], strtoull(argv[3], NULL, 0) / SECTOR);
	if (argc >= 6 && argc <= 8 && !strcmp(cmd, "write")) {
		seed = strtoull(argv[4], NULL, 0);
		ops_each = strtoul(argv[5], NULL, 0) / THREADS;
		log_name = argv[6];
		if (argc == 8)
			align = strtoul(argv[7], NULL, 0);
		return crash_write(argv[2], argv[3]);
	}
	if (argc == 3 && !strcmp(cmd, "last")) {
		read_trace(argv[2]);
		printf("%u\n", last_ack);
		return 0;
	}
	if ((argc == 6 || argc == 7) && !strcmp(cmd, "check")) {
		read_trace(argv[4]);
		return crash_check(argv[2], strtoull(argv[3], NULL, 0),
				   !strcmp(argv[5], "all") ? UINT32_MAX :
				   strtoul(argv[5], NULL, 0), argc == 7);
	}
	fprintf(stderr, "usage: crash init FILE BYTES | crash write DEVICE TRACE SEED OPS [LOG [ALIGN]] | crash last TRACE | crash check FILE BYTES TRACE N|all [base]\n");
	return 2;
}
