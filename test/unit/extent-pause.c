// SPDX-License-Identifier: GPL-2.0-only
/*
 * A table that begins as one extent takes 100,000 first writes of single
 * blocks here and there, and none of them takes long.
 *
 * Each write is timed by the processor time of its thread, in several runs of
 * the same writes: what is slow in most of them is ours and not the machine's.
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

#define MAX_NS		1000000		/* of one write */
#define MAX_SLOW	(RUNS * PROMOTIONS / 10000)	/* the machine's, in all runs */
#define MAX_MEAN_NS	20000
#define MAX_BYTES	(256 << 10)	/* of one call; the table is some MiB */
#define MAX_LARGE	(PROMOTIONS / 10)	/* calls that copy more than a leaf */

struct promotion {
	u32 block;
	u32 sector;	/* to be looked up after it */
	u64 phys;
};

/*
 * The blocks in the order in which they are written, each once.  With @lag
 * they are first filled, and it is learned where they are so many writes later.
 */
struct plan {
	enum dm_loop_state from;
	u32 lag;
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

static void make_plan(enum dm_loop_state from, u32 lag)
{
	struct promotion *p;
	u32 i;

	memset(&plan, 0, sizeof(plan));
	plan.from = from;
	plan.lag = lag;
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

/* What a block is after so many writes. */
static enum dm_loop_state state_of(u32 block, u32 written, u32 located)
{
	u32 nr = plan.nr_of[block];

	if (!nr || nr > written)
		return plan.from;
	return nr <= located ? DM_LOOP_MAPPED : DM_LOOP_FILLED;
}

/* Is the answer for a sector that of the plan? */
static bool is_right(const struct dm_loop_extents *t, u32 sector, u32 written,
		     u32 located)
{
	u32 block = sector / BLOCK;
	enum dm_loop_state state = state_of(block, written, located);
	struct dm_loop_range r;
	u64 first;

	if (!look_up(t, sector, &r) || sector < r.start ||
	    sector - r.start >= r.len || r.state != state)
		return false;
	if (state == DM_LOOP_MAPPED)
		first = plan.promotion[plan.nr_of[block] - 1].phys;
	else if (state == DM_LOOP_UNWRITTEN)
		first = own_place(block);
	else
		return !r.phys;
	return r.phys + (sector - r.start) == first + sector % BLOCK;
}

/* Nothing is freed meanwhile: the kernel does that elsewhere too. */
static const char *set(struct dm_loop_extents *t, const struct promotion *p,
		       enum dm_loop_state state, struct run *run, u32 i)
{
	u64 phys = state == DM_LOOP_MAPPED ? p->phys : 0;
	u64 bytes = shim_live_bytes(), ns = cpu_ns();
	int err;

	err = dm_loop_extents_set(t, (u64)p->block * BLOCK, BLOCK, state, phys,
				  GFP_KERNEL);
	ns = cpu_ns() - ns;
	bytes = shim_live_bytes() - bytes;
	run->ns[i] += ns;
	run->sum_ns += ns;
	run->max_bytes = max(run->max_bytes, bytes);
	run->large += bytes > 1024;
	return err ? "a promotion failed" : NULL;
}

static const char *promote(struct dm_loop_extents *t, u32 i, struct run *run)
{
	const struct promotion *p = &plan.promotion[i];
	u32 located = i + 1;
	const char *bad;

	if (!plan.lag) {
		bad = set(t, p, DM_LOOP_MAPPED, run, i);
	} else {
		located = i + 1 > plan.lag ? i + 1 - plan.lag : 0;
		bad = set(t, p, DM_LOOP_FILLED, run, i);
		if (!bad && located)
			bad = set(t, p - plan.lag, DM_LOOP_MAPPED, run, i);
	}
	if (bad)
		return bad;
	if (run->sum_ns > (u64)PROMOTIONS * MAX_MEAN_NS)
		return "it takes too long";
	if (!is_right(t, p->block * BLOCK + p->sector % BLOCK, i + 1, located) ||
	    !is_right(t, p->sector, i + 1, located))
		return "a wrong answer";
	return NULL;
}

static const char *check_all(const struct dm_loop_extents *t)
{
	u32 i;

	for (i = 0; i < BLOCKS; i++)
		if (!is_right(t, i * BLOCK, PROMOTIONS, PROMOTIONS - plan.lag))
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

/* Those over the limit in any run, in case it is another one each time. */
static u32 slow_ones(void)
{
	u32 i, k, n = 0;

	for (k = 0; k < RUNS; k++)
		for (i = 0; i < PROMOTIONS; i++)
			n += runs[k].ns[i] > MAX_NS;
	return n;
}

/* The write that took longest, by the middle one of all runs. */
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

static void test_plan(const char *name, enum dm_loop_state from, u32 lag)
{
	const char *bad = NULL;
	u64 worst;
	u32 k;

	make_plan(from, lag);
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
	tap_ok(worst <= MAX_NS && slow_ones() <= MAX_SLOW,
	       "%s: the longest takes %llu ns, the mean is %llu; %u of all took over a millisecond",
	       name, (unsigned long long)worst,
	       (unsigned long long)runs->sum_ns / PROMOTIONS, slow_ones());
}

int main(void)
{
	u64 seed = tap_env("SEED", (u64)time(NULL));

	tap_diag("SEED=%llu", (unsigned long long)seed);
	rnd_state = seed * 2 + 1;
	shim_rcu_batch(-1);
	test_plan("one hole", DM_LOOP_HOLE, 0);
	test_plan("one hole, filled and then located", DM_LOOP_HOLE, 64);
	test_plan("one unwritten extent", DM_LOOP_UNWRITTEN, 0);
	return tap_done();
}
