// SPDX-License-Identifier: GPL-2.0-only
/*
 * A table that begins as one extent takes 100,000 first writes of single
 * blocks here and there, and none of them takes long.
 *
 * Each call is timed by the processor time of its thread, in several runs of
 * the same calls: what is slow in most of them is ours and not the machine's.
 * What a call allocates is the same on every machine, and says sooner that it
 * has to do with the whole table.
 *
 * SEED=n repeats a run.
 */
#include <time.h>

#include "rnd.h"
#include "table.h"

#define BLOCK		8		/* sectors in 4 KiB */
#define BLOCKS		(1U << 20)
#define PROMOTIONS	100000
#define RUNS		5		/* odd, for the one in the middle */

#define MAX_NS		1000000		/* of one call */
#define MAX_MEAN_NS	20000
#define MAX_BYTES	(256 << 10)	/* of one call; the table is some MiB */
#define MAX_LARGE	(PROMOTIONS / 10)	/* calls that copy more than a leaf */

struct promotion {
	u32 block;
	u32 sector;	/* to be looked up after it */
	u64 phys;
};

/* The blocks in the order in which they are written, each once. */
struct plan {
	enum dm_loop_state from;
	struct promotion promotion[PROMOTIONS];
	u32 nr_of[BLOCKS];	/* which promotion it is, from 1 on; 0: none */
};

/* What one run of a plan has cost. */
struct run {
	u64 ns[PROMOTIONS];
	u64 sum_ns;
	u64 max_bytes;
	u64 large;
};

static struct plan plan;
static struct run runs[RUNS];
static u64 rnd_state;

static u64 rnd(u64 below)
{
	return rnd_next(&rnd_state, below);
}

static u64 cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* Where an unwritten block is, which it keeps. */
static u64 own_place(u32 block)
{
	return 1000 + (u64)block * BLOCK;
}

static void make_plan(enum dm_loop_state from)
{
	struct promotion *p;
	u32 i;

	memset(&plan, 0, sizeof(plan));
	plan.from = from;
	for (i = 0; i < PROMOTIONS; i++) {
		p = &plan.promotion[i];
		do {
			p->block = rnd(BLOCKS);
		} while (plan.nr_of[p->block]);
		plan.nr_of[p->block] = i + 1;
		p->phys = from == DM_LOOP_HOLE ? rnd(1ULL << 40) * BLOCK :
						 own_place(p->block);
		p->sector = rnd(BLOCKS * BLOCK);
	}
}

/* Is the answer for a sector that of the plan after its first @done steps? */
static bool is_right(const struct dm_loop_extents *t, u32 sector, u32 done)
{
	u32 block = sector / BLOCK, nr = plan.nr_of[block];
	bool mapped = nr && nr <= done;
	struct dm_loop_range r;
	u64 first = 0;

	if (!look_up(t, sector, &r) || sector < r.start ||
	    sector - r.start >= r.len)
		return false;
	if (mapped)
		first = plan.promotion[nr - 1].phys;
	else if (plan.from == DM_LOOP_UNWRITTEN)
		first = own_place(block);
	else
		return r.state == DM_LOOP_HOLE && !r.phys;
	return r.state == (mapped ? DM_LOOP_MAPPED : plan.from) &&
	       r.phys + (sector - r.start) == first + sector % BLOCK;
}

/* Nothing is freed meanwhile: the kernel does that elsewhere too. */
static const char *promote(struct dm_loop_extents *t, u32 i, struct run *run)
{
	const struct promotion *p = &plan.promotion[i];
	u64 bytes = shim_live_bytes(), ns = cpu_ns();
	int err;

	err = dm_loop_extents_set(t, (u64)p->block * BLOCK, BLOCK,
				  DM_LOOP_MAPPED, p->phys, GFP_KERNEL);
	ns = cpu_ns() - ns;
	bytes = shim_live_bytes() - bytes;
	if (err)
		return "a promotion failed";
	run->ns[i] = ns;
	run->sum_ns += ns;
	run->max_bytes = max(run->max_bytes, bytes);
	run->large += bytes > 1024;
	if (run->sum_ns > (u64)PROMOTIONS * MAX_MEAN_NS)
		return "it takes too long";
	if (!is_right(t, p->block * BLOCK + p->sector % BLOCK, i + 1) ||
	    !is_right(t, p->sector, i + 1))
		return "a wrong answer";
	return NULL;
}

static const char *check_all(const struct dm_loop_extents *t)
{
	u32 i;

	for (i = 0; i < BLOCKS; i++)
		if (!is_right(t, i * BLOCK, PROMOTIONS))
			return "a wrong answer at the end";
	return check_table(t);
}

static const char *do_run(struct run *run)
{
	struct dm_loop_extents t = {};
	struct dm_loop_builder b;
	const char *bad = NULL;
	u32 i;

	memset(run, 0, sizeof(*run));
	dm_loop_builder_init(&b, BLOCKS * BLOCK, GFP_KERNEL);
	if (dm_loop_builder_append(&b, 0, BLOCKS * BLOCK, plan.from,
				   own_place(0)) ||
	    dm_loop_builder_finish(&b, &t))
		abort();
	for (i = 0; i < PROMOTIONS && !bad; i++) {
		bad = promote(&t, i, run);
		if (i % 500 == 0)
			rcu_barrier();
	}
	if (bad)
		tap_diag("promotion %u: %s", i, bad);
	else
		bad = check_all(&t);
	dm_loop_extents_destroy(&t);
	rcu_barrier();
	return bad;
}

static int compare(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* The call that took longest, by the middle one of all runs. */
static u64 worst_ns(void)
{
	u64 ns[RUNS], worst = 0;
	u32 i, k;

	for (i = 0; i < PROMOTIONS; i++) {
		for (k = 0; k < RUNS; k++)
			ns[k] = runs[k].ns[i];
		qsort(ns, RUNS, sizeof(*ns), compare);
		worst = max(worst, ns[RUNS / 2]);
	}
	return worst;
}

static void test_plan(const char *name, enum dm_loop_state from)
{
	const char *bad = NULL;
	u64 worst;
	u32 k;

	make_plan(from);
	for (k = 0; k < RUNS && !bad; k++)
		bad = do_run(&runs[k]);
	tap_ok(!bad, "%s: %u promotions, and right answers meanwhile%s%s",
	       name, PROMOTIONS, bad ? ": " : "", bad ?: "");
	tap_ok(runs->max_bytes <= MAX_BYTES && runs->large <= MAX_LARGE,
	       "%s: %llu of them copy more than a leaf, none more than %llu bytes",
	       name, (unsigned long long)runs->large,
	       (unsigned long long)runs->max_bytes);
	if (bad)
		return;
	worst = worst_ns();
	tap_ok(worst <= MAX_NS, "%s: the longest takes %llu ns, the mean is %llu",
	       name, (unsigned long long)worst,
	       (unsigned long long)runs->sum_ns / PROMOTIONS);
}

int main(void)
{
	u64 seed = tap_env("SEED", (u64)time(NULL));

	tap_diag("SEED=%llu", (unsigned long long)seed);
	rnd_state = seed * 2 + 1;
	shim_rcu_batch(-1);
	test_plan("one hole", DM_LOOP_HOLE);
	test_plan("one unwritten extent", DM_LOOP_UNWRITTEN);
	return tap_done();
}
