// SPDX-License-Identifier: GPL-2.0-only
/*
 * dmfail CALL NAME FILE SECTORS TRIES SEED: let an allocation of memory fail that a
 * call of device-mapper makes: each in turn, or TRIES of them by chance if there are more.
 * The call is for the device NAME and its table "0 SECTORS loop FILE 0". CALL is one of
 *
 *	load	of that table; a device of the target zero is active
 *	first	the first resume of it; the same
 *	check	the message; the device is active
 *	suspend	the same; before each a block of its own is written, the Nth from FIRST_BLOCK on
 *	resume	the same
 *	remove	the device has no table
 *
 * Each call has to fail with ENOMEM, or to do without that memory. Then the state of
 * the device and who has FILE are looked at, and all is as before for the next time.
 *
 * The kernel has /proc/PID/fail-nth for that, see its fault-injection.rst. Programs
 * would make the same calls, but to start one takes a debug kernel a second.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define BLOCK		4096
/* Where the blocks are that are written before a suspend; the file has a hole there. */
#define FIRST_BLOCK	256
/* More allocations than any call makes. */
#define MANY		10000

static union {
	struct dm_ioctl dmi;
	char space[8192];
} u;

static const char *name, *file;
static unsigned long long sectors;
static unsigned int needed, blocks;
static int control, nth;

/* --- the calls ---------------------------------------------------------- */

static int call(unsigned long request, unsigned int flags)
{
	u.dmi.version[0] = 4;
	u.dmi.data_size = sizeof(u);
	u.dmi.data_start = sizeof(u.dmi);
	u.dmi.flags = flags;
	snprintf(u.dmi.name, sizeof(u.dmi.name), "%s", name);
	return ioctl(control, request, &u) ? errno : 0;
}

static int simple(unsigned long request, unsigned int flags)
{
	memset(&u, 0, sizeof(u));
	return call(request, flags);
}

static int create(void)
{
	return simple(DM_DEV_CREATE, 0);
}

static int delete(void)
{
	return simple(DM_DEV_REMOVE, 0);
}

static int clear(void)
{
	return simple(DM_TABLE_CLEAR, 0);
}

static int suspend(void)
{
	return simple(DM_DEV_SUSPEND, DM_SUSPEND_FLAG);
}

static int resume(void)
{
	return simple(DM_DEV_SUSPEND, 0);
}

static int load(const char *target, const char *params)
{
	struct dm_target_spec *spec;

	memset(&u, 0, sizeof(u));
	u.dmi.target_count = 1;
	spec = (struct dm_target_spec *)(u.space + sizeof(u.dmi));
	spec->length = sectors;
	snprintf(spec->target_type, sizeof(spec->target_type), "%s", target);
	snprintf((char *)(spec + 1), 4096, "%s", params);
	spec->next = sizeof(*spec) + 4096;
	return call(DM_TABLE_LOAD, 0);
}

static int load_zero(void)
{
	return load("zero", "");
}

static int load_loop(void)
{
	char params[4096];

	snprintf(params, sizeof(params), "%s 0", file);
	return load("loop", params);
}

static int check(void)
{
	struct dm_target_msg *msg;

	memset(&u, 0, sizeof(u));
	msg = (struct dm_target_msg *)(u.space + sizeof(u.dmi));
	memcpy(msg->message, "check", sizeof("check"));
	return call(DM_TARGET_MSG, 0);
}

/* --- before and after --------------------------------------------------- */

static void must(const char *what, int error)
{
	if (error)
		errx(1, "%s: %s", what, strerror(error));
}

static void file_is_free(int wanted)
{
	int fd = open(file, O_WRONLY);

	if (wanted && fd < 0)
		err(1, "the file is not free");
	if (!wanted && (fd >= 0 || errno != ETXTBSY))
		errx(1, "the file is free");
	close(fd);
}

static void is_suspended(int wanted)
{
	must("status", simple(DM_DEV_STATUS, 0));
	if (!!(u.dmi.flags & DM_SUSPEND_FLAG) != wanted)
		errx(1, "the device is %s", wanted ? "active" : "suspended");
}

static void nothing(void)
{
}

static void is_same(int error)
{
	(void)error;
	file_is_free(0);
	is_suspended(0);
}

static void loaded(int error)
{
	file_is_free(error);
	is_suspended(0);
	must("clear", clear());
	file_is_free(1);
}

static void before_first(void)
{
	must("load", load_loop());
}

static void back_to_zero(int error)
{
	/* One that failed before the tables were changed has kept it. */
	must("clear", clear());
	file_is_free(error);
	must("load zero", load_zero());
	must("resume zero", resume());
	file_is_free(1);
}

static void write_block(void)
{
	static char block[BLOCK] __attribute__((aligned(BLOCK)));
	char path[64];
	int fd;

	is_suspended(0);
	snprintf(path, sizeof(path), "/dev/dm-%u", minor(u.dmi.dev));
	fd = open(path, O_WRONLY | O_DIRECT);
	if (fd < 0)
		err(1, "%s", path);
	memset(block, ++blocks, BLOCK);
	if (pwrite(fd, block, BLOCK, (off_t)(FIRST_BLOCK + blocks) * BLOCK) != BLOCK)
		err(1, "write %u", blocks);
	close(fd);
}

static void suspended(int error)
{
	file_is_free(!error);
	is_suspended(!error);
	if (!error)
		must("resume", resume());
	file_is_free(0);
}

static void before_resume(void)
{
	must("suspend", suspend());
}

static void resumed(int error)
{
	file_is_free(error);
	is_suspended(!!error);
	if (error)
		must("resume again", resume());
	file_is_free(0);
}

static void before_remove(void)
{
	must("load", load_loop());
	must("resume", resume());
}

static void removed(int error)
{
	if (error)
		must("remove again", delete());
	file_is_free(1);
	must("create", create());
}

static const struct {
	const char *name;
	void (*before)(void);
	int (*call)(void);
	void (*after)(int error);
} kinds[] = {
	{ "load", nothing, load_loop, loaded },
	{ "first", before_first, resume, back_to_zero },
	{ "check", nothing, check, is_same },
	{ "suspend", write_block, suspend, suspended },
	{ "resume", before_resume, resume, resumed },
	{ "remove", before_remove, delete, removed },
};

/* --- one after the other ------------------------------------------------ */

static void set_nth(unsigned int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", n);

	if (pwrite(nth, text, len, 0) != len)
		err(1, "fail-nth");
}

/* How many more allocations it would have taken to fail the last. */
static unsigned int nth_left(void)
{
	char text[16] = "";

	if (pread(nth, text, sizeof(text) - 1, 0) <= 0)
		err(1, "fail-nth");
	return strtoul(text, NULL, 10);
}

/* One call, of which allocation @n fails; returns how many more there would have to be. */
static unsigned int try(unsigned int kind, unsigned int n)
{
	unsigned int left;
	int error;

	kinds[kind].before();
	set_nth(n);
	error = kinds[kind].call();
	left = nth_left();
	set_nth(0);
	if (error && (left || error != ENOMEM))
		errx(1, "%s, allocation %u: %s", kinds[kind].name, n, strerror(error));
	needed += !!error;
	kinds[kind].after(error);
	return left;
}

int main(int argc, char **argv)
{
	unsigned int kind, n, total, wanted, step, tries = 0;

	if (argc != 7)
		errx(2, "usage: dmfail CALL NAME FILE SECTORS TRIES SEED");
	for (kind = 0; strcmp(kinds[kind].name, argv[1]); )
		if (++kind == ARRAY_SIZE(kinds))
			errx(2, "no such call: %s", argv[1]);
	name = argv[2];
	file = argv[3];
	sectors = strtoull(argv[4], NULL, 10);
	wanted = atoi(argv[5]);
	srand(atoi(argv[6]));
	control = open("/dev/mapper/control", O_RDWR);
	nth = open("/proc/self/fail-nth", O_RDWR);
	if (control < 0 || nth < 0)
		err(1, "cannot begin");
	total = MANY - try(kind, MANY);
	if (total == MANY)
		errx(1, "%s: %u allocations or more", argv[1], MANY);
	step = total > wanted ? 2 * total / wanted : 1;
	for (n = 1 + rand() % step; n <= total; n += 1 + rand() % step)
		tries += !try(kind, n);
	if (!tries)
		errx(1, "%s: no allocation failed", argv[1]);
	printf("%s: %u of %u allocations failed, and by that the call %u times; %u blocks\n",
	       argv[1], tries, total, needed, blocks);
	return 0;
}
